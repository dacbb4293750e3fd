//! Which drive a path in a mount belongs to. Decided by the records of the mounts, because access to a
//! mount may hang.

use std::path::{Component, Path, PathBuf};

use super::Target;
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::record::Record;
use crate::source::Source;

/// The drive of a path in a mount, or the drive that a target names, and its store.
pub fn drive_or_mount(what: &Path, store: Option<PathBuf>) -> Result<(Target, Source)> {
    if let Some(found) = drive_of_mount(what)? {
        return Ok(found);
    }
    let target = Target::of_argument(what.into()).context(|| what.display().to_string())?;
    let store = store.filter(|_| !matches!(target, Target::Directory(_)));
    Ok((target, Source::of_store(store)))
}

/// The drive of the mount that a path is in, and its store; `None` if the path is in no mount.
pub fn drive_of_mount(what: &Path) -> Result<Option<(Target, Source)>> {
    let state = directories::records_directory()?;
    let Some((record, inside)) = Record::containing(&state, what) else { return Ok(None) };
    // A single word names a drive, except for a mount point of that name in this directory.
    let is_word =
        matches!(what.components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]);
    let exact = inside.as_os_str().is_empty();
    if record.store.as_os_str().is_empty() || (is_word && !exact) {
        return Ok(None);
    }
    let target = match record.is_of_all() {
        true => among_all(what, &inside)?,
        false => record.url.parse::<Target>().context(|| what.display().to_string())?,
    };
    Ok(Some((target, Source::of_store(Some(record.store)))))
}

/// The drive that a path in a mount of all drives leads to.
fn among_all(what: &Path, inside: &Path) -> Result<Target> {
    let mut names = inside.components().map(|name| name.as_os_str().to_str());
    let none = || {
        Failure::usage(what.display(), "all drives are mounted there")
            .hint("name one of them by a path in the mount, a name or a URL")
    };
    match names.next().flatten().ok_or_else(none)? {
        drivefs::NETWORK => {
            let key = names.next().flatten().ok_or_else(none)?;
            key.parse().map(Target::Url).context(|| what.display().to_string())
        }
        name => Ok(Target::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_mount_of_all_drives_begins_with_its_drive() {
        let at = Path::new("/home/me/Hyperdrive");
        let drive = |inside: &str| among_all(at, Path::new(inside)).ok();
        let key = "ab".repeat(32);
        assert_eq!(drive("notes"), Some(Target::Name("notes".into())));
        assert_eq!(drive("notes/a/b"), Some(Target::Name("notes".into())));
        let expected = Target::Url(format!("hyper://{key}+3").parse().unwrap());
        assert_eq!(drive(&format!("Network/{key}+3/a")), Some(expected));
        assert_eq!((drive(""), drive("Network"), drive("Network/x")), (None, None, None));
    }
}
