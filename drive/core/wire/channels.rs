//! Which cores are open on a session, under which numbers, and which side opened them (§6).
//!
//! Each side numbers its own channels; a core that both have opened has two numbers. Pure
//! bookkeeping: no bytes, no capabilities, no decision what to answer.

use std::collections::HashMap;

use super::error::ProtocolError;
use super::framing::MAX_CHANNEL;
use hypermount_swarm::crypto::{DiscoveryKey, PublicKey};

/// Most cores that can be open on one session at a time, counting those only one side has opened.
pub(super) const MAX_CHANNELS: usize = 1024;
/// Most Opens a remote may send during one session. A store announces each of its cores once, so
/// this is the largest store we talk to. Every one we do not know costs us a number and an
/// answer of at most 40 bytes.
pub(super) const MAX_REMOTE_OPENS: usize = 65_536;

/// Our side of a channel.
pub(super) struct Local {
    pub(crate) key: PublicKey,
    /// `None` until the handshake is done and the Open could be sent.
    pub(crate) id: Option<u32>,
    /// Whether we want stored blocks acknowledged.
    pub(crate) ack: bool,
    /// Sorted; an extension's number is its position.
    pub(crate) extensions: Vec<String>,
}

/// The remote's side of a channel.
pub(super) struct Remote {
    pub(crate) id: u32,
    /// Its claim to know the core's key; not yet looked at while `local` is `None`.
    pub(crate) capability: Option<[u8; 32]>,
    pub(crate) extensions: Vec<String>,
}

/// At least one side is there; with both, the channel is usable.
#[derive(Default)]
pub(super) struct Channel {
    pub(crate) local: Option<Local>,
    pub(crate) remote: Option<Remote>,
}

/// INVARIANT: `remote_ids[id] == core` exactly if `cores[core].remote.id == id`.
pub(super) struct Channels {
    cores: HashMap<DiscoveryKey, Channel>,
    remote_ids: HashMap<u32, DiscoveryKey>,
    last_id: u32,
    /// Numbers up to here have been used by the remote: what arrives late on one of them is
    /// ignored, what arrives beyond is an error.
    highest_remote_id: u32,
    remote_opens: usize,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self {
            cores: HashMap::new(),
            remote_ids: HashMap::new(),
            last_id: 0,
            highest_remote_id: 0,
            remote_opens: 0,
        }
    }

    /// Our next number, never one used before; `None` when the protocol has no more.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        if self.last_id == MAX_CHANNEL {
            return None;
        }
        self.last_id += 1;
        Some(self.last_id)
    }

    pub(super) fn is_full(&self) -> bool {
        self.cores.len() >= MAX_CHANNELS
    }

    pub(super) fn get(&self, core: &DiscoveryKey) -> Option<&Channel> {
        self.cores.get(core)
    }

    pub(super) fn get_mut(&mut self, core: &DiscoveryKey) -> Option<&mut Channel> {
        self.cores.get_mut(core)
    }

    /// The core the remote means by its number `id`.
    pub(super) fn core_of(&self, id: u32) -> Option<DiscoveryKey> {
        self.remote_ids.get(&id).copied()
    }

    /// Whether the remote has ever used its number `id`.
    pub(crate) fn was_used(&self, id: u32) -> bool {
        id <= self.highest_remote_id
    }

    pub(crate) fn insert_local(&mut self, core: DiscoveryKey, local: Local) {
        self.cores.entry(core).or_default().local = Some(local);
        self.check_invariants();
    }

    /// Counts an Open of the remote and checks its number, before anything is kept of it.
    pub(crate) fn admit_remote(
        &mut self,
        core: &DiscoveryKey,
        id: u32,
    ) -> Result<(), ProtocolError> {
        self.remote_opens += 1;
        if self.remote_opens > MAX_REMOTE_OPENS {
            let (count, max) = (self.remote_opens, MAX_REMOTE_OPENS);
            return Err(ProtocolError::TooMany { what: "opens by the remote", count, max });
        }
        if id == 0 || self.remote_ids.contains_key(&id) {
            return Err(ProtocolError::ChannelInUse { channel: id });
        }
        if self.get(core).is_some_and(|channel| channel.remote.is_some()) {
            return Err(ProtocolError::OpenedTwice { discovery_key: *core });
        }
        self.mark_used(id);
        Ok(())
    }

    pub(crate) fn insert_remote(&mut self, core: DiscoveryKey, remote: Remote) {
        self.remote_ids.insert(remote.id, core);
        self.cores.entry(core).or_default().remote = Some(remote);
        self.check_invariants();
    }

    /// Remembers that the remote has used its number `id`.
    pub(crate) fn mark_used(&mut self, id: u32) {
        self.highest_remote_id = self.highest_remote_id.max(id);
    }

    pub(super) fn remove(&mut self, core: &DiscoveryKey) -> Option<Channel> {
        let channel = self.cores.remove(core)?;
        if let Some(remote) = &channel.remote {
            self.remote_ids.remove(&remote.id);
        }
        self.check_invariants();
        Some(channel)
    }

    fn check_invariants(&self) {
        debug_assert!(self.remote_ids.len() <= self.cores.len());
        debug_assert!(self.cores.len() <= MAX_CHANNELS);
    }
}
