//! Marks that tell a store from its copies: where it lies, and how long each core of ours was when
//! it was last safe on the disk.
//!
//! ```text
//! <root>/hypermount.mark          in the store, so that it travels with a copy
//! <state>/marks/<id>              the same, in the user's state directory, so that it does not
//! ```
//!
//! A store that lies elsewhere than its mark says is a copy. One whose mark is older than the one
//! kept outside, or whose cores are shorter than marked, is an old state of itself. In both cases
//! an append could sign a second history, so the cores open read-only until a person says that this
//! is the one to go on with ([`super::Store::adopt`]). Marks never run ahead of the disk: they are
//! written after the cores were synced, and lagging behind does no harm.
//!
//! What this cannot see is a machine that was copied whole; that is left to the peers
//! (`replicate/histories.rs`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::SplitWhitespace;

use super::failed;
use crate::error::{Error, Result};
use crate::hypercore::{Core, StopReason};
use crate::private_files;
use hypermount_swarm::crypto::{self, DiscoveryKey, Hash};
use hypermount_swarm::sync::{Mutex, Rank};

/// The file in the store.
pub(crate) const MARK_FILE: &str = "hypermount.mark";
/// Bytes of the largest mark read back: some 100,000 cores of ours.
pub(super) const MAX_MARK_BYTES: u64 = 16 * 1024 * 1024;
const HEADER: &str = "hypermount mark 1";

/// What distinguishes this machine from others, and where marks are kept outside of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    machine: Hash,
    state: Option<PathBuf>,
}

impl MachineIdentity {
    /// This machine, by its machine-id(5). `state` is the user's state directory, if there is one;
    /// it also keeps a random id for a machine that has none.
    pub fn here(state: Option<&Path>) -> Self {
        let state = state.map(Path::to_owned);
        let id = fs::read("/etc/machine-id").ok().filter(|id| !id.trim_ascii().is_empty());
        let id = id.or_else(|| state.as_deref().and_then(own_machine_id)).unwrap_or_default();
        // Hashed as machine-id(5) asks: the id itself is confidential.
        Self { machine: crypto::blake2b(&[b"hypermount machine", id.trim_ascii()]), state }
    }

    /// A machine with this id; for tests.
    pub fn on_machine(id: &[u8], state: Option<&Path>) -> Self {
        let machine = crypto::blake2b(&[b"hypermount machine", id]);
        Self { machine, state: state.map(Path::to_owned) }
    }
}

fn own_machine_id(state: &Path) -> Option<Vec<u8>> {
    let path = state.join("machine");
    if let Ok(id) = fs::read(&path) {
        return Some(id);
    }
    let id: [u8; 32] = crypto::random_bytes().ok()?;
    private_files::directory(state).ok()?;
    // Another process may be doing the same: the first one counts.
    let _ = private_files::create_shared(&path, &id);
    fs::read(&path).ok()
}

/// Where a store lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    machine: Hash,
    device: u64,
    inode: u64,
    /// Hash of the path.
    path: Hash,
}

impl Place {
    fn of(root: &Path, identity: &MachineIdentity) -> Result<Self> {
        let root = fs::canonicalize(root).map_err(failed("resolve", root))?;
        let found = fs::metadata(&root).map_err(failed("stat", &root))?;
        let path = crypto::blake2b(&[root.as_os_str().as_bytes()]);
        Ok(Self { machine: identity.machine, device: found.dev(), inode: found.ino(), path })
    }

    /// A renamed directory is the same, and so is one whose device got another number at boot.
    fn is_same(&self, other: &Self) -> bool {
        self.machine == other.machine
            && self.inode == other.inode
            && (self.device == other.device || self.path == other.path)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    place: Place,
    /// Grows with every mark written.
    counter: u64,
    /// Length in blocks and root hash of every core of ours.
    cores: BTreeMap<DiscoveryKey, (u64, Hash)>,
    stops: BTreeMap<DiscoveryKey, StopReason>,
}

impl Mark {
    fn encode(&self) -> String {
        let hex = |hash: &Hash| DiscoveryKey::new(*hash).to_hex();
        let Place { machine, device, inode, path } = &self.place;
        let mut text = format!(
            "{HEADER}\nplace {} {device} {inode} {}\ncounter {}\n",
            hex(machine),
            hex(path),
            self.counter
        );
        // Writing to a String cannot fail.
        for (key, (length, root)) in &self.cores {
            let _ = writeln!(text, "core {} {length} {}", key.to_hex(), hex(root));
        }
        for (key, stop) in &self.stops {
            let _ = match stop {
                StopReason::Behind { length } => writeln!(text, "behind {} {length}", key.to_hex()),
                StopReason::Moved => writeln!(text, "moved {}", key.to_hex()),
                StopReason::Restored => writeln!(text, "restored {}", key.to_hex()),
                StopReason::Forked => writeln!(text, "forked {}", key.to_hex()),
            };
        }
        let sum = hex(&crypto::blake2b(&[text.as_bytes()]));
        let _ = writeln!(text, "sum {sum}");
        text
    }

    fn decode(text: &str) -> Option<Self> {
        let (content, sum) = text.trim_end().rsplit_once("\nsum ")?;
        let content = format!("{content}\n");
        let expected = DiscoveryKey::from_hex(sum)?;
        if *expected.as_bytes() != crypto::blake2b(&[content.as_bytes()]) {
            return None;
        }
        let mut lines = content.lines();
        if lines.next()? != HEADER {
            return None;
        }
        let mut mark = Self::default();
        for line in lines {
            let mut words = line.split_whitespace();
            match words.next()? {
                "place" => {
                    let machine = hash(&mut words)?;
                    let (device, inode) = (number(&mut words)?, number(&mut words)?);
                    mark.place = Place { machine, device, inode, path: hash(&mut words)? };
                }
                "counter" => mark.counter = number(&mut words)?,
                "core" => {
                    let key = DiscoveryKey::new(hash(&mut words)?);
                    mark.cores.insert(key, (number(&mut words)?, hash(&mut words)?));
                }
                word => {
                    let key = DiscoveryKey::new(hash(&mut words)?);
                    let stop = match word {
                        "behind" => StopReason::Behind { length: number(&mut words)? },
                        "moved" => StopReason::Moved,
                        "restored" => StopReason::Restored,
                        "forked" => StopReason::Forked,
                        _ => return None,
                    };
                    mark.stops.insert(key, stop);
                }
            }
        }
        Some(mark)
    }
}

fn hash(words: &mut SplitWhitespace) -> Option<Hash> {
    DiscoveryKey::from_hex(words.next()?).map(|key| *key.as_bytes())
}

fn number(words: &mut SplitWhitespace) -> Option<u64> {
    words.next()?.parse().ok()
}

enum Found {
    Nothing,
    Damaged,
    Mark(Mark),
}

fn read(path: &Path) -> Result<Found> {
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_MARK_BYTES => return Ok(Found::Damaged),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed("stat", path)(error)),
    }
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let mark = std::str::from_utf8(&bytes).ok().and_then(Mark::decode);
    Ok(mark.map_or(Found::Damaged, Found::Mark))
}

struct MarkState {
    mark: Mark,
    /// What is in the file.
    saved: Mark,
}

/// The marks of one open store.
pub(super) struct Marks {
    path: PathBuf,
    outside: Option<PathBuf>,
    /// Why nothing in this store may be written.
    stop: Option<StopReason>,
    here: Place,
    /// The highest counter seen anywhere.
    highest: u64,
    state: Mutex<MarkState>,
}

impl Marks {
    /// Reads the marks of the store in `root`, and leaves a first one in a store that has none.
    pub(super) fn open(
        root: &Path,
        master_key: &[u8; 32],
        identity: &MachineIdentity,
    ) -> Result<Self> {
        let path = root.join(MARK_FILE);
        let outside = identity.state.as_deref().map(|state| {
            let id = DiscoveryKey::new(crypto::blake2b(&[b"hypermount store", master_key]));
            state.join("marks").join(id.to_hex())
        });
        let here = Place::of(root, identity)?;
        let outside_counter = match outside.as_deref().map(read) {
            Some(Ok(Found::Mark(mark))) => Some(mark.counter),
            Some(Err(error)) => {
                log::warn!("{error}");
                None
            }
            _ => None,
        };
        let found = read(&path)?;
        let stop = match &found {
            Found::Damaged => Some(StopReason::Restored),
            Found::Nothing => outside_counter.map(|_| StopReason::Restored),
            Found::Mark(mark) if !mark.place.is_same(&here) => Some(StopReason::Moved),
            Found::Mark(mark) if outside_counter.is_some_and(|outside| outside > mark.counter) => {
                Some(StopReason::Restored)
            }
            Found::Mark(_) => None,
        };
        let saved = match found {
            Found::Mark(mark) => mark,
            Found::Nothing | Found::Damaged => Mark::default(),
        };
        let mark = Mark { place: here, ..saved.clone() };
        let highest = saved.counter.max(outside_counter.unwrap_or(0));
        let state = Mutex::new(Rank::LEAF, MarkState { mark, saved });
        let marks = Self { path, outside, stop, here, highest, state };
        marks.save()?;
        Ok(marks)
    }

    /// Why nothing in this store may be written.
    pub(super) fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    /// Why this core may not be written, as far as is known before it is opened.
    pub(crate) fn known_stop(&self, core: &DiscoveryKey) -> Option<StopReason> {
        self.stop.or_else(|| self.state.lock().mark.stops.get(core).copied())
    }

    /// What was found out about cores earlier.
    pub(super) fn stops(&self) -> Vec<(DiscoveryKey, StopReason)> {
        self.state.lock().mark.stops.iter().map(|(key, stop)| (*key, *stop)).collect()
    }

    /// The cores that were marked.
    pub(super) fn cores(&self) -> Vec<DiscoveryKey> {
        self.state.lock().mark.cores.keys().copied().collect()
    }

    /// How many blocks of the core were marked.
    pub(super) fn length(&self, core: &DiscoveryKey) -> Option<u64> {
        self.state.lock().mark.cores.get(core).map(|(length, _)| *length)
    }

    /// Whether the core holds at least what was marked. It does not where damage keeps that from being
    /// told.
    pub(super) fn holds(&self, core: &Core) -> Result<bool> {
        let marked = self.state.lock().mark.cores.get(core.discovery_key()).copied();
        let Some((length, root)) = marked else { return Ok(true) };
        match core.root_hash_at(length) {
            Err(Error::Corrupt { .. }) => Ok(false),
            found => Ok(found? == Some(root)),
        }
    }

    /// Marks the core as it is; it must have been synced.
    pub(super) fn record(&self, core: &Core) -> Result<()> {
        let length = core.announced_head().length;
        if let Some(root) = core.root_hash_at(length)? {
            self.state.lock().mark.cores.insert(*core.discovery_key(), (length, root));
        }
        Ok(())
    }

    /// Remembers across restarts that the core may not be written.
    pub(crate) fn record_stop(&self, core: &DiscoveryKey, stop: StopReason) -> Result<()> {
        self.state.lock().mark.stops.insert(*core, stop);
        self.save()
    }

    /// Writes what changed, in the store first: seen alone there it is merely newer. The marks of a
    /// store that must not be written stay as they are.
    pub(super) fn save(&self) -> Result<()> {
        match self.stop {
            Some(_) => Ok(()),
            None => self.write(),
        }
    }

    fn write(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.mark == state.saved {
            return Ok(());
        }
        state.mark.counter = state.mark.counter.max(self.highest) + 1;
        let text = state.mark.encode();
        private_files::replace(&self.path, text.as_bytes()).map_err(failed("write", &self.path))?;
        state.saved = state.mark.clone();
        if let Some(outside) = &self.outside {
            let parent = outside.parent().unwrap_or(outside);
            // Copies of a store have one mark here, and may be open at the same time.
            let made = private_files::directory(parent);
            let written =
                made.and_then(|()| private_files::replace_shared(outside, text.as_bytes()));
            if let Err(error) = written {
                let outside = outside.display();
                log::warn!("{outside}: {error}; an old backup of this store will not be noticed");
            }
        }
        Ok(())
    }

    /// Makes this store, as it is, the one to go on with: `cores` are all of ours in it.
    pub(super) fn adopt(&self, cores: &[Core]) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.mark.place = self.here;
            state.mark.cores.clear();
            state.mark.stops.clear();
            // Else a second adoption of an unchanged store would not outdo the first.
            state.saved = Mark::default();
        }
        cores.iter().try_for_each(|core| self.record(core))?;
        self.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_file_and_no_altered_byte() {
        let key = |byte| DiscoveryKey::new([byte; 32]);
        let mark = Mark {
            place: Place { machine: [1; 32], device: 2, inode: u64::MAX, path: [3; 32] },
            counter: 7,
            cores: [(key(4), (9, [5; 32])), (key(6), (0, [0; 32]))].into(),
            stops: [
                (key(1), StopReason::Forked),
                (key(2), StopReason::Behind { length: 12 }),
                (key(3), StopReason::Restored),
            ]
            .into(),
        };
        let text = mark.encode();
        assert_eq!(Mark::decode(&text), Some(mark));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let altered = String::from_utf8(bytes).unwrap();
            // The case of hex digits is free; everything else counts.
            if !altered.eq_ignore_ascii_case(&text) {
                assert_eq!(Mark::decode(&altered), None, "byte {at}");
            }
        }
        assert_eq!(Mark::decode(""), None);
        assert_eq!(Mark::decode(&text[..text.len() / 2]), None);
    }

    #[test]
    fn a_renamed_directory_is_the_same_and_a_copied_one_is_not() {
        let place = Place { machine: [1; 32], device: 2, inode: 3, path: [4; 32] };
        assert!(place.is_same(&Place { path: [5; 32], ..place }));
        assert!(place.is_same(&Place { device: 9, ..place }));
        assert!(!place.is_same(&Place { device: 9, path: [5; 32], ..place }));
        assert!(!place.is_same(&Place { inode: 9, ..place }));
        assert!(!place.is_same(&Place { machine: [9; 32], ..place }));
    }
}
