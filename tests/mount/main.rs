//! Real mounts. Needs `/dev/fuse`; says so and passes where there is none.

mod common;
mod lifecycle;
mod remote;
mod view;
