//! `hyper://<64 hex>[+<version>][/path]`: the one line people share.

use std::str::FromStr;

use crate::crypto::PublicKey;
use crate::error::{Error, Result};
use crate::path::DrivePath;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveUrl {
    pub key: PublicKey,
    /// A frozen version: the metadata core's length. `None` follows the newest.
    pub version: Option<u64>,
    pub path: DrivePath,
}

impl FromStr for DriveUrl {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self> {
        todo!("trie helper")
    }
}
