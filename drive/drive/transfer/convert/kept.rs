//! What an entry of one drive becomes in another, and whether it is there already. File bytes are compared by size and
//! times to the nanosecond: the inode change time is copied as well, and no program can set it back.

use crate::index::DriveFormat;
use crate::link::Link;
use crate::moved;
use crate::path::DrivePath;
use crate::stat::{
    Entry, Extent, Kind, Stat, TYPE_BLOCK_DEVICE, TYPE_CHARACTER_DEVICE, TYPE_DIRECTORY, TYPE_FIFO,
    TYPE_FILE, TYPE_SOCKET, TYPE_SYMLINK,
};

/// Attributes that begin so are none of the file's: formats keep things of their own there, and a publisher's could pass
/// for them in the other format.
const OWN: [&str; 2] = ["hypermount.", "user.hypermount."];
const PERMISSIONS: u32 = 0o7777;

/// The stat of an entry in a drive of the other format. The extent is still that of the old drive; it is the file's bytes
/// that are copied.
pub(super) fn stat_of(entry: &Entry) -> Stat {
    let stat = &entry.stat;
    let is_file = entry.kind == Kind::File;
    Stat {
        mode: type_of(entry.kind) | stat.mode & PERMISSIONS,
        extent: if is_file { stat.extent } else { Extent::default() },
        attributes: attributes(stat),
        linkname: stat.linkname.clone().filter(|_| entry.kind == Kind::Symlink),
        mount: None,
        foreign: None,
        ..stat.clone()
    }
}

fn type_of(kind: Kind) -> u32 {
    match kind {
        Kind::File => TYPE_FILE,
        Kind::Directory | Kind::Mount => TYPE_DIRECTORY,
        Kind::Symlink => TYPE_SYMLINK,
        Kind::Fifo => TYPE_FIFO,
        Kind::Socket => TYPE_SOCKET,
        Kind::CharacterDevice => TYPE_CHARACTER_DEVICE,
        Kind::BlockDevice => TYPE_BLOCK_DEVICE,
    }
}

/// Each attribute once, the last of equal names, and none that was removed.
fn attributes(stat: &Stat) -> Vec<(String, Option<Vec<u8>>)> {
    let mut kept: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for (name, value) in &stat.attributes {
        if OWN.iter().any(|own| name.starts_with(own)) {
            continue;
        }
        kept.retain(|(known, _)| known != name);
        kept.extend(value.clone().map(|value| (name.clone(), Some(value))));
    }
    kept
}

/// Whether an entry of the new drive is what one of the old drive becomes. Only reads change when it was last read.
pub(super) fn is_same(old: &Entry, new: &Entry) -> bool {
    if !old.explicit || !new.explicit {
        return old.kind == Kind::Directory
            && new.kind == Kind::Directory
            && old.explicit == new.explicit;
    }
    if old.kind != new.kind {
        return false;
    }
    let linked = old.stat.link.is_some();
    let what = |stat: Stat| {
        let id = stat.link.map(|link| link.id);
        // When a file got or lost a name, it changed here too.
        let changed = (!linked).then_some(stat.ctime);
        let owner = (stat.mode, stat.uid, stat.gid);
        (
            owner,
            stat.extent.size,
            stat.mtime,
            changed,
            stat.device,
            stat.linkname,
            stat.attributes,
            id,
        )
    };
    what(stat_of(old)) == what(stat_of(new))
}

/// Whether the old drive has the same at a path as it had before, for all that is copied.
pub(super) fn is_unchanged(before: &Entry, now: &Entry) -> bool {
    let what = |entry: &Entry| {
        let stat = stat_of(entry);
        let link = stat.link.map(|link| Link { names: 0, ..link });
        Stat { link, ..stat }
    };
    let same = before.kind == now.kind && before.explicit == now.explicit;
    same && (!now.explicit || what(before) == what(now))
}

/// Whether two entries of one drive have the same bytes.
pub(super) fn has_same_bytes(one: &Entry, other: &Entry) -> bool {
    one.kind == Kind::File
        && other.kind == Kind::File
        && one.stat.mount.is_none()
        && other.stat.mount.is_none()
        && one.stat.extent.is_same_place(&other.stat.extent)
}

/// Why an entry has no place in a drive of this format, if it has none.
pub(super) fn left_out(entry: &Entry, to: DriveFormat) -> Option<String> {
    if let Some(target) = &entry.stat.mount {
        let what = if target.core { "a core" } else { "a drive" };
        return Some(format!("{what} is mounted there: hyper://{}", target.key.to_hex()));
    }
    let foreign = entry.stat.foreign.is_some() && to == DriveFormat::Hyperdrive10;
    foreign.then(|| "what other programs stored with it".to_owned())
}

/// Whether the entry itself has no place, and not only a part of it.
pub(super) fn is_left_out_whole(entry: &Entry) -> bool {
    entry.stat.mount.is_some()
}

/// An entry of the old drive without the note that it has moved; `None` for the file of the note.
pub(super) fn without_note(path: &DrivePath, entry: Entry) -> Option<Entry> {
    let explicit = entry.explicit && !(path.is_root() && moved::is_only_note(&entry));
    (!moved::is_note_file(path, &entry)).then_some(Entry { explicit, ..entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LinkId;
    use crate::stat::{Device, MountTarget};
    use crate::time::Time;

    fn file(change: impl FnOnce(&mut Stat)) -> Entry {
        let time = |seconds| Time::new(seconds, 5).unwrap();
        let mut stat = Stat { mode: TYPE_FILE | 0o640, uid: 1, gid: 2, ..Stat::default() };
        (stat.mtime, stat.ctime) = (time(10), time(20));
        stat.extent.size = 7;
        change(&mut stat);
        Entry::stored(stat)
    }

    #[test]
    fn everything_that_a_file_is_counts() {
        let id = LinkId::new([1; 16]);
        let old = file(|_| {});
        assert!(is_same(&old, &old));
        let changes: [fn(&mut Stat); 9] = [
            |stat| stat.mode ^= 1,
            |stat| stat.uid = 9,
            |stat| stat.gid = 9,
            |stat| stat.extent.size = 8,
            |stat| stat.mtime = Time::new(10, 6).unwrap(),
            |stat| stat.ctime = Time::new(20, 6).unwrap(),
            |stat| stat.attributes.push(("user.a".into(), Some(vec![1]))),
            |stat| stat.mode = TYPE_FIFO | 0o640,
            |stat| stat.link = Some(Link { id: LinkId::new([2; 16]), names: 2 }),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert!(!is_same(&old, &file(change)), "change {at}");
        }
        let device = |minor| {
            file(|stat| {
                stat.mode = TYPE_CHARACTER_DEVICE | 0o600;
                stat.device = Some(Device { major: 1, minor });
            })
        };
        assert!(is_same(&device(1), &device(1)) && !is_same(&device(1), &device(2)));
        for change in [
            (|stat| stat.atime = Time::new(99, 0)) as fn(&mut Stat),
            |stat| stat.extent.block = 77,
            |stat| stat.mode = 0o640,
            |stat| stat.attributes.push(("hypermount.moved-to".into(), Some(vec![1]))),
            |stat| stat.attributes.push(("user.gone".into(), None)),
        ] {
            assert!(is_same(&old, &file(change)));
        }
        let linked = |seconds| {
            file(|stat| {
                stat.link = Some(Link { id, names: 2 });
                stat.ctime = Time::new(seconds, 0).unwrap();
            })
        };
        assert!(is_same(&linked(1), &linked(2)), "the record has its own time");
    }

    #[test]
    fn a_directory_that_is_not_stored_is_none_that_is() {
        let stored = Entry::stored(Stat { mode: TYPE_DIRECTORY | 0o755, ..Stat::default() });
        let implied = |seconds| Entry::implied_directory(Time::new(seconds, 0).unwrap());
        assert!(is_same(&implied(1), &implied(2)));
        assert!(!is_same(&stored, &implied(1)) && !is_same(&implied(1), &stored));
        assert!(!is_same(&file(|_| {}), &implied(1)));
    }

    #[test]
    fn names_of_formats_do_not_get_into_the_other_format() {
        let names =
            ["hypermount.stat", "user.hypermount.link", "security.x", "user.a", "user.a", "user.b"];
        let forged = file(|stat| {
            stat.attributes = names
                .iter()
                .zip(0..)
                .map(|(name, at)| ((*name).to_owned(), Some(vec![at])))
                .collect();
            stat.attributes.push(("user.b".into(), None));
        });
        let kept: Vec<_> = stat_of(&forged).attributes;
        let expected =
            [("security.x".to_owned(), Some(vec![2])), ("user.a".to_owned(), Some(vec![4]))];
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_a_format_has_no_place_for_is_named() {
        let mounted = |core| {
            let key = hypermount_swarm::crypto::PublicKey::new([1; 32]);
            file(|stat| stat.mount = Some(MountTarget { key, version: None, core }))
        };
        for core in [false, true] {
            let why = left_out(&mounted(core), DriveFormat::Hyperdrive11).unwrap();
            assert!(why.contains("hyper://0101") && is_left_out_whole(&mounted(core)), "{why}");
        }
        let foreign = file(|stat| stat.foreign = Some(Default::default()));
        assert!(left_out(&foreign, DriveFormat::Hyperdrive10).is_some());
        assert!(left_out(&foreign, DriveFormat::Hyperdrive11).is_none());
        assert!(!is_left_out_whole(&foreign));
    }
}
