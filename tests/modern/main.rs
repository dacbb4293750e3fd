//! Drives of Hyperdrive 11 to 13 with the reference as a living peer: through real kernel mounts, by `export`, over TCP
//! and over a HyperDHT of the test's own; what the reference reads from us; peers and publishers that lie.
//!
//! Each drive is made with a random seed, which a failing test prints.

#[path = "../common/mod.rs"]
mod common;
#[path = "../hostile/fixture.rs"]
#[allow(dead_code)] // only what measures a command
mod fixture;
mod empty;
mod encrypted;
mod everything;
mod evil;
mod forks;
mod histories;
mod live;
mod onward;
mod origin;
mod publisher;
mod routers;
mod shapes;
