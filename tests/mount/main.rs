//! Real mounts. Needs `/dev/fuse`; says so and passes where there is none.

mod common;
mod distant;
mod everything;
mod lifecycle;
mod patience;
mod remote;
mod replaced;
mod stuck;
mod status;
mod view;
