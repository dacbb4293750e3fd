//! Extended attributes on their way in and out: those programs may use freely (`user.`), and no
//! others. What a drive stores under a kernel's namespaces is a stranger's word and stays inside.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::{Errno, Result};

use crate::escape::{escape, unescape};
use crate::stat::Stat;

/// By full name, `user.` included, as text (`escape.rs`).
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;
type Stored = Vec<(String, Option<Vec<u8>>)>;

const USER: &str = "user.";
/// Namespaces that mean something to a kernel.
const SYSTEM_NAMESPACES: [&str; 4] = ["security.", "system.", "trusted.", "os2."];
/// What a mount answers about a file; never part of it.
const OWN: &str = "user.hypermount.";
/// Bytes of the longest name, value and list (linux/limits.h).
const MAX_NAME_BYTES: usize = 255;
const MAX_VALUE_BYTES: usize = 64 * 1024;
const MAX_LIST_BYTES: usize = 64 * 1024;

/// The name under which a stored attribute appears outside; names without a namespace, which the
/// format allows, get `user.` in front.
fn outer_name(stored: &str) -> Option<String> {
    if SYSTEM_NAMESPACES.iter().any(|namespace| stored.starts_with(namespace)) {
        return None;
    }
    let name = if stored.starts_with(USER) { stored.to_owned() } else { format!("{USER}{stored}") };
    let usable = name.len() > USER.len()
        && unescape(&name).len() <= MAX_NAME_BYTES
        && !name.contains('\0')
        && !name.starts_with(OWN);
    usable.then_some(name)
}

/// The attributes of a stat that appear outside. A later occurrence of a name overrides an earlier
/// one, also by being removed; a name stored with its namespace wins over one without.
pub(super) fn of_stat(stat: &Stat) -> Attributes {
    let mut found: BTreeMap<String, (bool, Option<Vec<u8>>)> = BTreeMap::new();
    for (stored, value) in &stat.attributes {
        let Some(name) = outer_name(stored) else { continue };
        let whole = *stored == name;
        let value = value.clone().filter(|value| value.len() <= MAX_VALUE_BYTES);
        match found.get(&name) {
            Some((true, Some(_))) if !whole => {}
            _ => drop(found.insert(name, (whole, value))),
        }
    }
    found.into_iter().filter_map(|(name, (_, value))| Some((name, value?))).collect()
}

/// What to store for a file that has `ours` outside: unchanged where it says the same already, and
/// always with those that do not appear outside.
pub(super) fn stored_for(ours: &Attributes, before: Option<&Stat>) -> Stored {
    let Some(before) = before else {
        return ours.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
    };
    if of_stat(before) == *ours {
        return before.attributes.clone();
    }
    let inner = before.attributes.iter().filter(|(stored, _)| outer_name(stored).is_none());
    let outer = ours.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    inner.cloned().chain(outer).collect()
}

/// The `user.` attributes of an open file; none where the file system has no such thing.
pub(super) fn read(file: impl AsFd) -> Result<Attributes> {
    let mut names = vec![0u8; MAX_LIST_BYTES];
    let length = match flistxattr(&file, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Attributes::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = Attributes::new();
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        let text = escape(name);
        if !text.starts_with(USER) || outer_name(&text).is_none() {
            continue;
        }
        let mut value = vec![0u8; MAX_VALUE_BYTES];
        match fgetxattr(&file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.insert(text.into_owned(), value);
            }
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Makes the `user.` attributes of an open file those given.
pub(super) fn write(file: impl AsFd, wanted: &Attributes) -> Result<()> {
    let present = read(&file)?;
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        fremovexattr(&file, &*unescape(name))?;
    }
    for (name, value) in wanted.iter().filter(|(name, value)| present.get(*name) != Some(value)) {
        fsetxattr(&file, &*unescape(name), value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(attributes: &[(&str, Option<&[u8]>)]) -> Stat {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
            .collect();
        Stat { attributes, ..Stat::default() }
    }

    #[test]
    fn only_user_attributes_come_out() {
        let stat = stat(&[
            ("security.capability", Some(b"root")),
            ("bare", Some(b"1")),
            ("user.bare", Some(b"2")),
            ("user.gone", Some(b"x")),
            ("user.gone", None),
            ("user.hypermount.here", Some(b"no")),
            ("user.", Some(b"empty")),
        ]);
        let expected = Attributes::from([("user.bare".to_owned(), b"2".to_vec())]);
        assert_eq!(of_stat(&stat), expected);
    }

    #[test]
    fn unexported_attributes_survive_an_import_and_equal_ones_stay_as_stored() {
        let before = stat(&[("security.x", Some(b"s")), ("bare", Some(b"1"))]);
        let same = Attributes::from([("user.bare".to_owned(), b"1".to_vec())]);
        assert_eq!(stored_for(&same, Some(&before)), before.attributes);
        let other = Attributes::from([("user.new".to_owned(), b"2".to_vec())]);
        let stored = stored_for(&other, Some(&before));
        assert_eq!(
            stored,
            stat(&[("security.x", Some(b"s")), ("user.new", Some(b"2"))]).attributes
        );
    }
}
