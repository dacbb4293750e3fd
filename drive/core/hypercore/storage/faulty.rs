//! Storage that fails on purpose, for crash tests in this crate and in others'.
//!
//! A [`World`] is one machine: its files share a count of calls. At the chosen call it stops: that
//! call and all later ones fail, as after `kill -9` (what was written stays) or, after
//! [`World::cut_power`], as after a power cut (of what was not synced, any part may be lost,
//! write by write and sector by sector).
//!
//! A sync that fails keeps nothing: as on Linux the pages count as clean from then on, so that the
//! next sync succeeds and they never reach the device. They stay readable, or, after
//! [`World::evict_what_failed`], are read from the device again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{Pages, Storage};
use hypermount_swarm::sync::{Mutex, Rank};

/// Bytes a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

#[derive(Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    WriteZeros { offset: u64, length: u64 },
    Truncate(u64),
    Punch { offset: u64, length: u64 },
}

impl Change {
    fn apply(&self, to: &mut Pages) {
        match self {
            Self::Write { offset, bytes } => to.write_at(*offset, bytes),
            Self::WriteZeros { offset, length } => to.write_zeros(*offset, *length),
            Self::Truncate(length) => to.truncate(*length),
            Self::Punch { offset, length } => to.punch(*offset, *length),
        }
    }

    /// Applies a part chosen by `random`: nothing, everything, or some sectors.
    fn apply_torn(&self, to: &mut Pages, random: &mut u64) {
        match (next(random) % 3, self) {
            (0, _) => {}
            (1, Self::Write { offset, bytes }) => {
                let mut at = 0;
                while at < bytes.len() {
                    let within = (*offset + at as u64) as usize % SECTOR;
                    let end = bytes.len().min(at + SECTOR - within);
                    if next(random).is_multiple_of(2) {
                        to.write_at(*offset + at as u64, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            _ => self.apply(to),
        }
    }
}

/// Xorshift: tests need no better randomness, but the same one every time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[derive(Clone, Default)]
struct File {
    current: Pages,
    synced: Pages,
    unsynced: Vec<Change>,
}

struct WorldState {
    files: BTreeMap<String, File>,
    calls: u64,
    fail_at: Option<u64>,
    /// Fail only the one call (a full disk, an I/O error) instead of everything from then on.
    once: bool,
    /// What a sync failed to write is no longer readable either.
    evict: bool,
}

/// One machine, whose files share a count of calls and fail at a chosen one.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<WorldState>>,
}

impl Default for World {
    fn default() -> Self {
        let state = WorldState {
            files: BTreeMap::new(),
            calls: 0,
            fail_at: None,
            once: false,
            evict: false,
        };
        Self { state: Arc::new(Mutex::new(Rank::LEAF, state)) }
    }
}

impl World {
    /// A file of this machine; the same one for the same name.
    pub fn file(&self, name: &str) -> Disk {
        Disk { world: self.clone(), name: name.to_owned() }
    }

    /// A machine with a copy of everything on this one.
    pub fn fork(&self) -> Self {
        let (fork, files) = (Self::default(), self.files());
        fork.state.lock().files = files;
        fork
    }

    fn files(&self) -> BTreeMap<String, File> {
        self.state.lock().files.clone()
    }

    /// Stops the machine at the `call`th changing call from now, counted from 0.
    pub fn stop_at(&self, call: u64) {
        let mut state = self.state.lock();
        (state.calls, state.fail_at, state.once) = (0, Some(call), false);
    }

    /// Lets only the `call`th changing call from now fail.
    pub fn fail_once_at(&self, call: u64) {
        let mut state = self.state.lock();
        (state.calls, state.fail_at, state.once) = (0, Some(call), true);
    }

    /// Has what a sync failed to write read from the device from then on.
    pub fn evict_what_failed(&self) {
        self.state.lock().evict = true;
    }

    /// Whether a stop has been reached.
    pub fn stopped(&self) -> bool {
        let state = self.state.lock();
        state.fail_at.is_some_and(|at| state.calls > at)
    }

    /// Starts the machine again after a kill: everything written is there.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        (state.calls, state.fail_at) = (0, None);
    }

    /// Starts the machine again after a power cut. Seed 0 loses all that was not synced; any
    /// other seed loses and tears a part of it.
    pub fn cut_power(&self, seed: u64) {
        let mut state = self.state.lock();
        (state.calls, state.fail_at) = (0, None);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for file in state.files.values_mut() {
            for change in file.unsynced.drain(..) {
                if seed != 0 {
                    change.apply_torn(&mut file.synced, &mut random);
                }
            }
            file.current = file.synced.clone();
        }
    }

    fn change(&self, name: &str, change: Change) -> io::Result<()> {
        let mut state = self.state.lock();
        state.step()?;
        let file = state.files.entry(name.to_owned()).or_default();
        change.apply(&mut file.current);
        file.unsynced.push(change);
        Ok(())
    }
}

impl WorldState {
    fn step(&mut self) -> io::Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.fail_at {
            Some(at) if call == at || (call > at && !self.once) => {
                Err(io::Error::other("stopped on purpose"))
            }
            _ => Ok(()),
        }
    }
}

/// One file of a [`World`].
pub struct Disk {
    world: World,
    name: String,
}

impl Disk {
    /// The file, for a test to look into or to damage; not counted.
    fn with<R>(&self, visit: impl FnOnce(&mut File) -> R) -> R {
        let mut state = self.world.state.lock();
        visit(state.files.entry(self.name.clone()).or_default())
    }

    /// The whole content.
    pub fn bytes(&self) -> Vec<u8> {
        self.with(|file| {
            let mut bytes = vec![0; file.current.length as usize];
            file.current.read_at(0, &mut bytes);
            bytes
        })
    }

    /// Inverts one bit, as failing hardware would: on the medium, past every count.
    pub fn flip(&self, bit: u64) {
        self.with(|file| {
            let mut byte = [0];
            for content in [&mut file.current, &mut file.synced] {
                if content.read_at(bit / 8, &mut byte) == 1 {
                    content.write_at(bit / 8, &[byte[0] ^ (0x80 >> (bit % 8))]);
                }
            }
        });
    }
}

impl Storage for Disk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.with(|file| file.current.read_at(offset, buffer)))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.world.change(&self.name, Change::Write { offset, bytes: bytes.to_vec() })
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        self.world.change(&self.name, Change::WriteZeros { offset, length })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.current.length))
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.world.change(&self.name, Change::Truncate(length))
    }

    fn sync(&self) -> io::Result<()> {
        let (stepped, evict, once) = {
            let mut state = self.world.state.lock();
            (state.step(), state.evict, state.once)
        };
        self.with(|file| match stepped {
            Ok(()) => {
                for change in file.unsynced.drain(..) {
                    change.apply(&mut file.synced);
                }
                Ok(())
            }
            Err(error) if once => {
                file.unsynced.clear();
                if evict {
                    file.current = file.synced.clone();
                }
                Err(error)
            }
            // The machine has stopped: what becomes of the rest, the power cut decides.
            Err(error) => Err(error),
        })
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.world.change(&self.name, Change::Punch { offset, length })
    }
}
