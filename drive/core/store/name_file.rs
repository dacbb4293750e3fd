//! The `name` file of a core: the name from which the store derived its key (corestore5.md).
//!
//! Not here: deriving the key.

use std::fs;
use std::io;
use std::path::Path;

use super::{MAX_NAME_LENGTH, failed};
use crate::error::Result;
use crate::private_files;

/// Decodes a `name` file: the length as a varint, then as many bytes.
pub(super) fn decode_name(bytes: &[u8]) -> Option<&[u8]> {
    let mut length = 0usize;
    for (at, byte) in bytes.iter().enumerate().take(3) {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let name = bytes.get(at + 1..)?;
            return (!name.is_empty() && name.len() == length).then_some(name);
        }
    }
    None
}

pub(super) fn encode_name(name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    let mut length = name.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(name);
    bytes
}

/// The name a core was derived from, if its `name` file is there and whole.
pub(super) fn read_name(directory: &Path) -> Result<Option<Vec<u8>>> {
    let path = directory.join("name");
    match fs::metadata(&path) {
        Ok(found) if found.len() <= (MAX_NAME_LENGTH + 3) as u64 => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("stat", &path)(error)),
    }
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    Ok(decode_name(&bytes).map(<[u8]>::to_vec))
}

pub(super) fn has_name(directory: &Path) -> bool {
    matches!(read_name(directory), Ok(Some(_)))
}

pub(super) fn write_name(directory: &Path, name: &[u8]) -> Result<()> {
    let path = directory.join("name");
    private_files::replace(&path, &encode_name(name)).map_err(failed("write", &path))
}
