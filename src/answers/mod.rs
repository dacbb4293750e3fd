//! What is known of drives and their entries, as the daemon answers it and as `--json` prints it. A
//! command that has the store open computes the answer itself; otherwise it asks the daemon.
//!
//! Not here: words for people (`commands/`), and requests (`model.rs`).

mod check;
mod convert;
mod drives;
mod entries;
mod transfer;

pub use check::{Check, CheckedDrive, Checking, check};
pub use convert::{Convert, Converting, Moved, Note, Plan, TellConverting, convert};
pub use drives::{About, Created, Listed, about, create, list, moved_to};
pub use entries::{Described, DeviceNumbers, EntryKind, Found, entries, entry};
pub use transfer::{
    Export, Import, Progress, StepKind, Summary, Tell, TroubleFound, export, import,
};
