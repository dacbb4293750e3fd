//! Extended attributes: those stored in an entry, under names that other filesystems accept, and
//! the size protocol of getxattr(2) and listxattr(2).
//!
//! The `user.hypermount.*` attributes describe a file and are not part of it; `metadata.rs` answers
//! them. They are never listed: `cp -a` and `rsync -X` copy what is listed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use hypermount_drive::{Stat, escape, unescape};

use crate::errno::{Error, Result};

/// Longest attribute name, largest value and largest list, in bytes (linux/limits.h).
pub(crate) const MAX_NAME_BYTES: usize = 255;
pub(crate) const MAX_VALUE_BYTES: usize = 64 * 1024;
pub(crate) const MAX_LIST_BYTES: usize = 64 * 1024;
/// Largest total of names and values of one file, in bytes. An entry of a drive can hold a little
/// more.
pub(crate) const MAX_TOTAL_BYTES: usize = 512 * 1024;

/// The namespace that programs may use freely, and the only one that a mount shows (xattr(7)).
const USER: &str = "user.";
/// Namespaces that a kernel interprets. A publisher's values under them are not shown: a publisher
/// must not grant labels and capabilities on this machine.
const SYSTEM_NAMESPACES: [&str; 4] = ["security.", "system.", "trusted.", "os2."];
/// The kernel requests these itself, and remembers that there are none.
const ACL: &str = "system.posix_acl_";
/// Prefix of the attributes with which this program describes a file.
pub(crate) const OWN: &str = "user.hypermount.";

/// The name under which a stored attribute is shown, if any. Names without a namespace, which the
/// format allows, get the prefix `user.`: no other filesystem would accept them.
fn shown_name(stored: &str) -> Option<String> {
    if SYSTEM_NAMESPACES.iter().any(|namespace| stored.starts_with(namespace)) {
        return None;
    }
    let shown =
        if stored.starts_with(USER) { stored.to_owned() } else { format!("{USER}{stored}") };
    let usable = shown.len() > USER.len()
        && unescape(&shown).len() <= MAX_NAME_BYTES
        && !shown.contains('\0')
        && !shown.starts_with(OWN);
    usable.then_some(shown)
}

/// The value shown under `name`. A name stored with its namespace has precedence over one without.
pub(crate) fn value<'a>(stat: &'a Stat, name: &str) -> Result<&'a [u8]> {
    check_namespace(name)?;
    let bare = name.strip_prefix(USER).ok_or(Error::NoAttribute)?;
    [name, bare]
        .into_iter()
        .filter(|stored| shown_name(stored).as_deref() == Some(name))
        .find_map(|stored| stored_value(stat, stored))
        .ok_or(Error::NoAttribute)
}

/// Checks that `name` can exist. For the other namespaces "no such attribute" would be the right
/// answer to getxattr(2), but `ls -l` requests security.selinux of every file until it learns that
/// the filesystem has none.
pub(crate) fn check_namespace(name: &str) -> Result<()> {
    if name.starts_with(USER) {
        Ok(())
    } else if name.starts_with(ACL) {
        Err(Error::NoAttribute)
    } else {
        Err(hypermount_drive::Error::Unsupported(format!("extended attribute {name}")).into())
    }
}

/// The answer for an inode without any attributes.
pub(crate) fn of_nothing(name: &OsStr) -> Result<XattrAnswer> {
    check_namespace(&escape(name.as_bytes()))?;
    Err(Error::NoAttribute)
}

/// The stored value; a later occurrence of a name overrides an earlier one, also if it is a
/// removal.
fn stored_value<'a>(stat: &'a Stat, name: &str) -> Option<&'a [u8]> {
    let (_, value) = stat.attributes.iter().rev().find(|(stored, _)| stored == name)?;
    value.as_deref()
}

/// Checks that programs may change attributes of this name, which excludes those of this program.
pub(crate) fn settable(name: &OsStr) -> Result<Cow<'_, str>> {
    let bytes = name.len();
    let name = escape(name.as_bytes());
    if name.starts_with(OWN) {
        return Err(Error::NotPermitted("attributes that hypermount provides cannot be set"));
    }
    if !name.starts_with(USER) {
        return Err(Error::NotSupported("attributes outside of user."));
    }
    match bytes {
        length if length == USER.len() => Err(Error::InvalidArgument),
        length if length > MAX_NAME_BYTES => Err(Error::BufferTooSmall),
        _ => Ok(name),
    }
}

/// Stores `value` under `name`; `flags` as in setxattr(2).
pub(crate) fn set(stat: &mut Stat, name: &str, value: &[u8], flags: i32) -> Result<()> {
    let exists = self::value(stat, name).is_ok();
    if exists && flags & libc::XATTR_CREATE != 0 {
        return Err(hypermount_drive::Error::AlreadyExists.into());
    }
    if !exists && flags & libc::XATTR_REPLACE != 0 {
        return Err(Error::NoAttribute);
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::AnswerTooLarge);
    }
    let total: usize = stat
        .attributes
        .iter()
        .filter(|(stored, _)| !is_called(stored, name))
        .map(|(stored, value)| stored.len() + value.as_ref().map_or(0, Vec::len))
        .sum();
    if total + name.len() + value.len() > MAX_TOTAL_BYTES {
        return Err(Error::NoSpace);
    }
    match stat.attributes.iter_mut().find(|(stored, _)| stored == name) {
        // Replaced in place: the order of attributes is stored too.
        Some((_, stored)) => *stored = Some(value.to_vec()),
        None => {
            stat.attributes.retain(|(stored, _)| !is_called(stored, name));
            stat.attributes.push((name.to_owned(), Some(value.to_vec())));
        }
    }
    Ok(())
}

pub(crate) fn remove(stat: &mut Stat, name: &str) -> Result<()> {
    value(stat, name)?;
    stat.attributes.retain(|(stored, _)| !is_called(stored, name));
    Ok(())
}

/// Whether the stored attribute is shown under `name`.
fn is_called(stored: &str, name: &str) -> bool {
    stored == name || shown_name(stored).as_deref() == Some(name)
}

/// The names shown, each followed by NUL, in stored order.
pub(crate) fn list(stat: &Stat) -> Result<Vec<u8>> {
    let last: HashMap<&str, bool> =
        stat.attributes.iter().map(|(name, value)| (name.as_str(), value.is_some())).collect();
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for (stored, _) in &stat.attributes {
        let Some(shown) = shown_name(stored) else { continue };
        let present = last.get(stored.as_str()).is_some_and(|present| *present);
        if !present || !seen.insert(shown.clone()) {
            continue;
        }
        list.extend_from_slice(&unescape(&shown));
        list.push(0);
        if list.len() > MAX_LIST_BYTES {
            return Err(Error::AnswerTooLarge);
        }
    }
    Ok(list)
}

/// The answer to the kernel: the size of the data, or the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrAnswer {
    /// Size of the data in bytes; the caller asked for it with an empty buffer.
    Size(u32),
    /// The data.
    Data(Vec<u8>),
}

/// Fits an answer into the caller's buffer of `room` bytes; 0 asks for the size.
pub(crate) fn answer(data: Vec<u8>, room: u32) -> Result<XattrAnswer> {
    let size = u32::try_from(data.len()).map_err(|_| Error::AnswerTooLarge)?;
    if data.len() > MAX_VALUE_BYTES {
        return Err(Error::AnswerTooLarge);
    }
    match room {
        0 => Ok(XattrAnswer::Size(size)),
        room if room < size => Err(Error::BufferTooSmall),
        _ => Ok(XattrAnswer::Data(data)),
    }
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
    fn stored_names_are_shown_in_the_user_namespace() {
        let stat = stat(&[
            ("user.test", Some(b"1")),
            ("bare", Some(b"2")),
            ("user.gone", None),
            ("security.capability", Some(b"evil")),
            ("trusted.x", Some(b"evil")),
            ("user.hypermount.key", Some(b"forged")),
            ("", Some(b"nameless")),
            ("user.", Some(b"nameless")),
        ]);
        assert_eq!(list(&stat).expect("fits"), b"user.test\0user.bare\0");
        assert_eq!(value(&stat, "user.test").expect("stored"), b"1");
        assert_eq!(value(&stat, "user.bare").expect("stored"), b"2");
        for absent in ["user.gone", OWN, "user.", "user.other", "system.posix_acl_access"] {
            assert!(matches!(value(&stat, absent), Err(Error::NoAttribute)), "{absent}");
        }
        for namespace in ["bare", "security.capability", "trusted.x", "security.selinux"] {
            let error = value(&stat, namespace).expect_err("not shown");
            assert_eq!(crate::errno::errno(&error).code(), libc::EOPNOTSUPP, "{namespace}");
        }
    }

    #[test]
    fn the_last_of_equal_names_counts_and_a_name_shows_once() {
        let stat = stat(&[
            ("user.a", Some(b"old")),
            ("a", Some(b"bare")),
            ("user.a", Some(b"new")),
            ("user.b", Some(b"x")),
            ("user.b", None),
        ]);
        assert_eq!(list(&stat).expect("fits"), b"user.a\0");
        assert_eq!(value(&stat, "user.a").expect("stored"), b"new");
    }

    #[test]
    fn names_and_lists_are_bounded() {
        let longest = format!("user.{}", "n".repeat(MAX_NAME_BYTES - 5));
        let longer = format!("{longest}n");
        let both = stat(&[(&longest, Some(b"1")), (&longer, Some(b"2"))]);
        assert_eq!(list(&both).expect("fits").len(), MAX_NAME_BYTES + 1);

        // 3,000 attributes in one entry, as a hostile publisher may write them.
        let names: Vec<String> = (0..3000).map(|n| format!("user.{n:0>40}")).collect();
        let many: Vec<_> = names.iter().map(|n| (n.as_str(), Some(&b"v"[..]))).collect();
        assert!(matches!(list(&stat(&many)), Err(Error::AnswerTooLarge)));
        assert!(list(&stat(&many[..1000])).is_ok());
    }

    #[test]
    fn the_size_protocol() {
        assert_eq!(answer(b"abc".to_vec(), 0).expect("asks the size"), XattrAnswer::Size(3));
        assert_eq!(answer(b"abc".to_vec(), 3).expect("fits"), XattrAnswer::Data(b"abc".to_vec()));
        assert!(matches!(answer(b"abc".to_vec(), 2), Err(Error::BufferTooSmall)));
        assert!(answer(vec![0; MAX_VALUE_BYTES], 0).is_ok());
        let too_large = answer(vec![0; MAX_VALUE_BYTES + 1], 0);
        assert!(matches!(too_large, Err(Error::AnswerTooLarge)));
    }
}
