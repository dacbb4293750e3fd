//! The crate's locks. Placeholder re-exports until the ranked versions land.
pub use std::sync::{Mutex, MutexGuard, RwLock};
