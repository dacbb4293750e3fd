//! What readlink(2) returns: the stored target, made safe to follow inside a mount.
//!
//! The publisher of a drive chooses the targets of its links, and must not be able to lead a
//! program out of the mount. So:
//!
//! - a relative target that climbs no higher than the drive's root is shown as stored;
//! - an absolute target means "from the root of this drive" and is shown relative to the link's
//!   directory, so that it works wherever the drive is mounted, also inside another drive;
//! - `..` at the root stays at the root, as it does under chroot(2);
//! - a `..` after a name is folded away when the link is read: the name could be (or become) a
//!   link itself, and then `name/..` would climb from wherever that one leads.
//!
//! The link is always listed and can always be copied (`ls -l`, `tar`, `rsync -l`). A target that
//! no filesystem can hold (empty, NUL, longer than PATH_MAX) is an error of that link alone.

use std::borrow::Cow;

use hypermount_drive::{DrivePath, unescape_path};

use crate::errno::{Error, Result};

/// Longest target in bytes: PATH_MAX without its terminating NUL.
pub(crate) const MAX_TARGET_BYTES: usize = 4095;

/// The target to show for the link at `link` that stores `stored`.
///
/// # Errors
///
/// Fails with `BadContent` if no filesystem can hold the target.
pub(crate) fn target<'a>(link: &DrivePath, stored: &'a str) -> Result<Cow<'a, str>> {
    if stored.is_empty() || stored.contains('\0') || is_too_long(stored) {
        return Err(Error::BadContent(format!("link {link} has an unusable target")));
    }
    let depth = link.components().count().saturating_sub(1);
    if is_contained(stored, depth) {
        return Ok(Cow::Borrowed(stored));
    }
    let contained = contain(stored, depth);
    if is_too_long(&contained) {
        return Err(Error::BadContent(format!("link {link} has too long a target")));
    }
    Ok(Cow::Owned(contained))
}

fn is_too_long(target: &str) -> bool {
    target.len() > MAX_TARGET_BYTES && unescape_path(target).len() > MAX_TARGET_BYTES
}

/// Whether a link `depth` directories below the root may be shown as stored: the target must be
/// relative, climb first and at most `depth` times, and then only descend.
fn is_contained(stored: &str, depth: usize) -> bool {
    if stored.starts_with('/') {
        return false;
    }
    let mut ups = 0;
    let mut named = false;
    for component in stored.split('/') {
        match component {
            "" | "." => {}
            ".." if named => return false,
            ".." => ups += 1,
            _ => named = true,
        }
    }
    ups <= depth
}

fn contain(stored: &str, depth: usize) -> String {
    let mut ups = if stored.starts_with('/') { depth } else { 0 };
    let mut names: Vec<&str> = Vec::new();
    for component in stored.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                if names.pop().is_none() {
                    ups = depth.min(ups + 1);
                }
            }
            name => names.push(name),
        }
    }
    let steps: Vec<&str> = std::iter::repeat_n("..", ups).chain(names).collect();
    if steps.is_empty() { String::from(".") } else { steps.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(link: &str, stored: &str) -> String {
        let link = DrivePath::parse(link).expect("a test path parses");
        target(&link, stored).expect("a usable target").into_owned()
    }

    #[test]
    fn targets_stay_inside_the_drive() {
        let table = [
            // (link, stored, shown)
            ("link", "file", "file"),
            ("link", "./file", "./file"),
            ("link", "dir//file/", "dir//file/"),
            ("a/link", "../file", "../file"),
            ("a/b/link", "../../file", "../../file"),
            ("a/b/link", "./.././../x", "./.././../x"),
            // Absolute: from the drive's root.
            ("link", "/file", "file"),
            ("link", "/", "."),
            ("a/link", "/", ".."),
            ("a/b/link", "/x/y", "../../x/y"),
            ("a/b/link", "/a/b/c", "../../a/b/c"),
            ("a/b/link", "//x/./y/", "../../x/y"),
            // Above the root is the root.
            ("link", "..", "."),
            ("link", "../../../etc/passwd", "etc/passwd"),
            ("a/link", "../../../etc/passwd", "../etc/passwd"),
            ("a/link", "/../../etc/passwd", "../etc/passwd"),
            ("a/link", "/x/../../../y", "../y"),
            // A name before `..` may be a link, so the pair is folded.
            ("link", "x/../y", "y"),
            ("a/link", "s/../../../etc", "../etc"),
            ("link", "x/..", "."),
            // Names that only resemble special ones.
            ("link", "...", "..."),
            ("link", "..x/y", "..x/y"),
            // A link to itself: the kernel answers ELOOP.
            ("link", "link", "link"),
        ];
        for (link, stored, expected) in table {
            assert_eq!(shown(link, stored), expected, "{link} -> {stored}");
        }
    }

    #[test]
    fn unusable_targets_are_errors() {
        let link = DrivePath::parse("a/link").expect("a test path parses");
        let longest = "x".repeat(MAX_TARGET_BYTES);
        assert!(target(&link, &longest).is_ok());
        for stored in ["", "a\0b", &"x".repeat(MAX_TARGET_BYTES + 1)] {
            assert!(matches!(target(&link, stored), Err(Error::BadContent(_))));
        }
        // As long as PATH_MAX allows as stored, longer once it is relative.
        let absolute = format!("/{}", "x".repeat(MAX_TARGET_BYTES - 1));
        assert!(matches!(target(&link, &absolute), Err(Error::BadContent(_))));
    }

    proptest! {
        /// The shown target of any stored one climbs at most to the root and then only descends. So
        /// no chain of links leaves the drive, even if every name on it is a link.
        #[test]
        fn a_shown_target_never_leads_out_of_the_drive(
            parents in proptest::collection::vec("[a-c]", 0..4),
            steps in proptest::collection::vec(prop_oneof!["\\.\\.", "\\.", "[a-c]", ""], 1..12),
            absolute: bool,
        ) {
            let link = DrivePath::parse(&format!("{}/l", parents.join("/"))).expect("parses");
            let stored = format!("{}{}", if absolute { "/" } else { "" }, steps.join("/"));
            prop_assume!(!stored.is_empty());
            let shown = target(&link, &stored).expect("usable").into_owned();
            prop_assert!(!shown.starts_with('/'));
            prop_assert!(is_contained(&shown, parents.len()), "{} shows {}", stored, shown);
        }
    }
}
