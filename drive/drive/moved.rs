//! The note of a drive that has moved: where its readers go on (docs/format/moved.md). An attribute of the root names the
//! new drive to this program, and a file tells it to people and to other programs.
//!
//! Not here: copying a drive into a new one (`transfer/convert.rs`), and telling people (`src`).

use bytes::Bytes;

use crate::hyperdrive::{Drive, Edit, Snapshot};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind, Stat, TYPE_FILE};
use crate::time::Time;
use crate::url::DriveUrl;
use hypermount_core::{Error, Result, Wait};
use hypermount_swarm::crypto::PublicKey;

/// The attribute of the root, and of the file. Mounts do not list it, as all that begin so.
const ATTRIBUTE: &str = "hypermount.moved-to";
/// The attribute of a root that has an entry only for the note.
const MADE: &str = "hypermount.moved-entry";
/// The file in the root.
const FILE: &str = "MOVED.txt";
const FILE_MODE: u32 = TYPE_FILE | 0o644;
/// Longest value that is looked at, in bytes: a URL of a drive has 72.
const MAX_URL_BYTES: usize = 128;

/// What [`Drive::note_move`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The file says so too. Not if the drive has a file of its own of that name.
    pub in_file: bool,
}

/// Whether an attribute is part of a note.
fn is_note(attribute: &str) -> bool {
    [ATTRIBUTE, MADE].contains(&attribute)
}

/// Whether a root has an entry only for the note in it, and that has not been changed since.
pub(crate) fn is_only_note(root: &Entry) -> bool {
    let Stat { mode, uid, gid, attributes, .. } = &root.stat;
    let plain = Entry::implied_directory(Time::default()).stat;
    (*mode, *uid, *gid) == (plain.mode, plain.uid, plain.gid)
        && attributes.iter().any(|(name, _)| name == MADE)
        && attributes.iter().all(|(name, _)| is_note(name))
}

/// Whether the entry at `path` is the file of a note.
pub(crate) fn is_note_file(path: &DrivePath, entry: &Entry) -> bool {
    path.as_str() == FILE && entry.kind == Kind::File && value(&entry.stat).is_some()
}

fn value(stat: &Stat) -> Option<&[u8]> {
    let (_, value) = stat.attributes.iter().rev().find(|(name, _)| name == ATTRIBUTE)?;
    value.as_deref().filter(|value| value.len() <= MAX_URL_BYTES)
}

/// The drive that a note names. A publisher can write anything there: what is no URL of a whole drive is no note.
fn named_by(stat: &Stat) -> Option<PublicKey> {
    let url: DriveUrl = std::str::from_utf8(value(stat)?).ok()?.parse().ok()?;
    (url.version.is_none() && url.path.is_root()).then_some(url.key)
}

fn url(key: &PublicKey) -> String {
    DriveUrl { key: *key, version: None, path: DrivePath::root() }.to_string()
}

fn with_note(stat: Stat, to: &PublicKey) -> Stat {
    let mut stat = without_note(stat);
    stat.attributes.push((ATTRIBUTE.to_owned(), Some(url(to).into_bytes())));
    stat
}

fn without_note(mut stat: Stat) -> Stat {
    stat.attributes.retain(|(name, _)| !is_note(name));
    stat
}

fn file_path() -> Result<DrivePath> {
    DrivePath::root().join(&Name::new(FILE)?)
}

impl Snapshot {
    /// The drive that this one has moved to, if its publisher says so.
    ///
    /// # Errors
    /// Those of [`Snapshot::entry`].
    pub async fn moved_to(&self, wait: Wait) -> Result<Option<PublicKey>> {
        Ok(named_by(&self.entry(&DrivePath::root(), wait).await?.stat))
    }

    async fn note_file(&self, path: &DrivePath) -> Result<Option<Entry>> {
        match self.entry(path, Wait::Local).await {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drive {
    /// Writes into this drive that it has moved to `to`, as one version. A note that says so already stays as it is; a
    /// file of the drive's own with the name of the note's is not touched. On return the note is on the disk.
    ///
    /// # Errors
    /// `ReadOnly`; those of [`Drive::apply`].
    pub async fn note_move(&self, to: &PublicKey) -> Result<Noted> {
        let path = file_path()?;
        let there = self.snapshot().note_file(&path).await?;
        let is_free = there.as_ref().is_none_or(|entry| is_note_file(&path, entry));
        let is_written = there.is_some_and(|entry| named_by(&entry.stat) == Some(*to));
        let extent = match is_free && !is_written {
            true => {
                let mut writer = self.content_writer().await?;
                writer.append(&[Bytes::from(text(to))])?;
                Some(writer.finish())
            }
            false => None,
        };
        if extent.is_some() {
            self.content()?.sync()?;
        }
        let turn = self.turn().await;
        let snapshot = self.snapshot();
        let root = snapshot.entry(&DrivePath::root(), Wait::Local).await?;
        let (uid, gid) = (root.stat.uid, root.stat.gid);
        let mut edits = Vec::new();
        if named_by(&root.stat) != Some(*to) {
            let is_made = !root.explicit || is_only_note(&root);
            let mut stat = with_note(root.stat, to);
            if is_made {
                stat.attributes.push((MADE.to_owned(), Some(Vec::new())));
            }
            edits.push(Edit::Put { path: DrivePath::root(), stat });
        }
        // A file may have been made there since.
        let there = snapshot.note_file(&path).await?;
        let is_free = there.as_ref().is_none_or(|entry| is_note_file(&path, entry));
        if let Some(extent) = extent.filter(|_| is_free) {
            let (mode, now) = (FILE_MODE, Time::now());
            let stat = Stat { mode, uid, gid, extent, mtime: now, ctime: now, ..Stat::default() };
            edits.push(Edit::Put { path, stat: with_note(stat, to) });
        }
        self.advance_in(&turn, edits).await?;
        drop(turn);
        self.sync()?;
        Ok(Noted { in_file: is_free })
    }

    /// Takes a note back; whether there was one.
    ///
    /// # Errors
    /// `ReadOnly`; those of [`Drive::apply`].
    pub async fn withdraw_note(&self) -> Result<bool> {
        let path = file_path()?;
        let turn = self.turn().await;
        let snapshot = self.snapshot();
        let root = snapshot.entry(&DrivePath::root(), Wait::Local).await?;
        let mut edits = Vec::new();
        if is_only_note(&root) {
            edits.push(Edit::Remove { path: DrivePath::root() });
        } else if root.stat.attributes.iter().any(|(name, _)| is_note(name)) {
            edits.push(Edit::Put { path: DrivePath::root(), stat: without_note(root.stat) });
        }
        if snapshot.note_file(&path).await?.is_some_and(|entry| is_note_file(&path, &entry)) {
            edits.push(Edit::Remove { path });
        }
        let found = !edits.is_empty();
        self.advance_in(&turn, edits).await?;
        drop(turn);
        self.sync()?;
        Ok(found)
    }
}

fn text(to: &PublicKey) -> String {
    format!("This drive has moved to\n\n    {}\n\nNew versions are published there.\n", url(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperdrive::publisher::FORMATS;
    use hypermount_core::Store;

    fn stat(value: &[u8]) -> Stat {
        let attributes = vec![(ATTRIBUTE.to_owned(), Some(value.to_vec()))];
        Stat { attributes, ..Stat::default() }
    }

    #[test]
    fn only_the_url_of_a_whole_drive_is_a_note() {
        let key = PublicKey::new([7; 32]);
        let url = url(&key);
        assert_eq!(named_by(&stat(url.as_bytes())), Some(key));
        let long = format!("{url}{}", " ".repeat(MAX_URL_BYTES));
        for wrong in [&format!("{url}+3"), &format!("{url}/a"), "https://example.org", "", &long] {
            assert_eq!(named_by(&stat(wrong.as_bytes())), None, "{wrong}");
        }
        assert_eq!(named_by(&stat(&[0xff; 72])), None);
    }

    #[tokio::test]
    async fn a_note_is_written_once_replaced_and_taken_back() {
        for format in FORMATS {
            let store = Store::memory();
            let drive = Drive::create_in(format, &store, "old").unwrap();
            let (one, other) = (PublicKey::new([1; 32]), PublicKey::new([2; 32]));
            assert_eq!(drive.snapshot().moved_to(Wait::Local).await.unwrap(), None);
            for to in [one, other] {
                assert_eq!(drive.note_move(&to).await.unwrap(), Noted { in_file: true });
                let version = drive.snapshot().version();
                assert_eq!(drive.snapshot().moved_to(Wait::Local).await.unwrap(), Some(to));
                drive.note_move(&to).await.unwrap();
                assert_eq!(drive.snapshot().version(), version, "nothing is written twice");
                let path = file_path().unwrap();
                let entry = drive.snapshot().entry(&path, Wait::Local).await.unwrap();
                let extent = entry.stat.extent;
                let bytes = drive.read(&extent, 0..extent.size, Wait::Local).await.unwrap();
                assert!(String::from_utf8(bytes.concat()).unwrap().contains(&url(&to)));
            }
            assert!(drive.withdraw_note().await.unwrap());
            let root = drive.snapshot().entry(&DrivePath::root(), Wait::Local).await.unwrap();
            assert!(!root.explicit, "as it was before");
            assert!(!drive.withdraw_note().await.unwrap());
            assert_eq!(drive.snapshot().moved_to(Wait::Local).await.unwrap(), None);
            let left = drive.snapshot().list(&DrivePath::root(), Wait::Local).await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[tokio::test]
    async fn a_root_with_an_entry_is_afterwards_what_it_was() {
        for format in FORMATS {
            let drive = Drive::create_in(format, &Store::memory(), "old").unwrap();
            let time = Time::from_milliseconds(7);
            let plain = Entry::implied_directory(time).stat;
            let edit = Edit::Put { path: DrivePath::root(), stat: plain.clone() };
            drive.apply(vec![edit]).await.unwrap();
            for to in [1, 2] {
                drive.note_move(&PublicKey::new([to; 32])).await.unwrap();
            }
            drive.withdraw_note().await.unwrap();
            let root = drive.snapshot().entry(&DrivePath::root(), Wait::Local).await.unwrap();
            assert_eq!((root.explicit, root.stat), (true, plain), "{format}");
        }
    }

    #[tokio::test]
    async fn a_file_of_the_users_is_not_touched() {
        for format in FORMATS {
            let store = Store::memory();
            let drive = Drive::create_in(format, &store, "old").unwrap();
            let path = file_path().unwrap();
            let extent = drive.append_content(&[Bytes::from_static(b"mine")]).unwrap();
            let stat = Stat { mode: 0o100_600, extent, ..Stat::default() };
            drive.apply(vec![Edit::Put { path: path.clone(), stat: stat.clone() }]).await.unwrap();
            let key = PublicKey::new([1; 32]);
            assert_eq!(drive.note_move(&key).await.unwrap(), Noted { in_file: false });
            assert_eq!(drive.snapshot().moved_to(Wait::Local).await.unwrap(), Some(key));
            drive.withdraw_note().await.unwrap();
            let kept = drive.snapshot().entry(&path, Wait::Local).await.unwrap();
            assert_eq!((kept.stat.extent, kept.stat.mode), (stat.extent, stat.mode));
        }
    }
}
