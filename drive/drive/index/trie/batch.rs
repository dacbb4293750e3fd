//! Changing the index (hypertrie5.md §5-7): computes the nodes that puts and deletes append.
//!
//! Byte for byte what the reference would append, except where it corrupts the index: a put in the
//! same batch after the delete of the last key does not point to the node that marks the index
//! empty; a delete does not lose a key that collides with the deleted one; and more colliding keys
//! than a node can hold are an error.

use std::sync::Arc;

use bytes::Bytes;

use super::Trie;
use super::buckets::Buckets;
use super::key::{TrieKey, is_terminator};
use super::node::TrieNode;
use hypermount_core::{Result, Wait};

/// Changes to one version of an index, not yet appended.
pub struct Batch {
    trie: Trie,
    head: Option<Arc<TrieNode>>,
    /// The nodes to append, the first one becoming block `trie.version()`.
    appended: Vec<Arc<TrieNode>>,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    Done,
    /// The key was not there.
    Absent,
    /// The key is there but was reached through a hash collision, which the format's deletion
    /// cannot undo; nothing changed.
    Colliding,
}

impl Batch {
    /// An empty batch on top of `trie`, whose blocks must be on this machine.
    ///
    /// # Errors
    /// Those of [`hypermount_core::Core::get_local`]; `Unavailable`.
    pub async fn new(trie: Trie) -> Result<Self> {
        let head = trie.nodes().get(trie.head(), Wait::Local).await?;
        Ok(Self { trie, head, appended: Vec::new() })
    }

    /// The blocks to append, in order.
    pub fn encode(&self) -> Vec<Bytes> {
        self.appended.iter().map(|node| node.encode()).collect()
    }

    async fn node(&self, seq: u64) -> Result<Option<Arc<TrieNode>>> {
        match seq.checked_sub(self.trie.version()) {
            None => self.trie.nodes().get(seq, Wait::Local).await,
            Some(index) => {
                let node = usize::try_from(index).ok().and_then(|index| self.appended.get(index));
                Ok(node.filter(|node| !node.is_reset()).cloned())
            }
        }
    }

    /// The node of exactly `key`, this batch's changes included.
    pub(crate) async fn get(&self, key: &TrieKey) -> Result<Option<Arc<TrieNode>>> {
        if self.appended.is_empty() {
            return self.trie.get_node(key, Wait::Local).await;
        }
        let mut head = self.head.clone();
        let mut position = 0;
        while let Some(node) = head.take() {
            let Some(parting) = first_parting(key, &node, position) else {
                return Ok((node.key.text() == key.text()).then_some(node));
            };
            head = self.step(key, &node, parting).await?;
            position = parting + 1;
        }
        Ok(None)
    }

    /// The node to go on with where `key` parts from `node` at `position`.
    async fn step(
        &self,
        key: &TrieKey,
        node: &TrieNode,
        position: usize,
    ) -> Result<Option<Arc<TrieNode>>> {
        let branch = key.digit(position);
        if !is_terminator(position) {
            return match node.buckets.slot(position, u32::from(branch)) {
                Some(seq) => self.node(seq).await,
                None => Ok(None),
            };
        }
        let mut next = None;
        for seq in node.buckets.branch(position, branch) {
            let candidate = self.node(seq).await?;
            next = candidate.filter(|node| !node.key.collides(key, position)).or(next);
        }
        Ok(next)
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// `Unavailable`, `Unsupported` where the format has no room for the key.
    pub async fn put(&mut self, key: TrieKey, value: Option<Bytes>, flags: u64) -> Result<()> {
        self.put_without(key, value, flags, 0).await
    }

    /// As `put`; the new node has no pointer to block `without`.
    async fn put_without(
        &mut self,
        key: TrieKey,
        value: Option<Bytes>,
        flags: u64,
        without: u64,
    ) -> Result<()> {
        let buckets = self.pointers(&key, without).await?;
        let seq = self.trie.version() + self.appended.len() as u64;
        let node = Arc::new(TrieNode { seq, key, value, flags, buckets });
        self.head = (!node.is_reset()).then(|| Arc::clone(&node));
        self.appended.push(node);
        Ok(())
    }

    /// The pointers of a new head with this key: to each subtree its way parts from.
    async fn pointers(&self, key: &TrieKey, without: u64) -> Result<Buckets> {
        let mut buckets = Buckets::default();
        let mut head = self.head.clone();
        let mut position = 0;
        while let Some(node) = head.take() {
            let parting = first_parting(key, &node, position);
            let end = parting.map_or(key.length(), |parting| parting + 1);
            for position in position..end {
                let parts = Some(position) == parting && node.seq != without;
                let branch = u32::from(node.key.digit(position));
                // At a terminator the reference adds its head first: what it copies there it has
                // to look into, which takes it a while.
                if parts && is_terminator(position) {
                    buckets.push(position, branch, node.seq)?;
                }
                self.copy_bucket(&mut buckets, key, &node, position, without).await?;
                if parts {
                    buckets.push(position, branch, node.seq)?;
                }
            }
            if let Some(parting) = parting {
                head = self.step(key, &node, parting).await?;
                position = parting + 1;
            }
        }
        Ok(buckets)
    }

    /// Copies what `node` points to at `position`, but for the branch that `key` itself takes.
    async fn copy_bucket(
        &self,
        buckets: &mut Buckets,
        key: &TrieKey,
        node: &TrieNode,
        position: usize,
        without: u64,
    ) -> Result<()> {
        for (slot, seq) in node.buckets.at(position) {
            let copied = match is_terminator(position) {
                _ if seq == without => false,
                false => slot != u32::from(key.digit(position)),
                true => {
                    let other = self.node(seq).await?;
                    other.is_some_and(|other| other.key.collides(key, position))
                }
            };
            if copied {
                buckets.push(position, slot, seq)?;
            }
        }
        Ok(())
    }

    /// Removes `key`: writes the structurally closest other node again, without the pointer to the
    /// removed one. So a delete changes the block number of an unrelated key, but not its value;
    /// the delete of the last key leaves a node that marks the index empty.
    pub(crate) async fn remove(&mut self, key: &TrieKey) -> Result<Removed> {
        let Some(node) = self.get(key).await? else {
            return Ok(Removed::Absent);
        };
        let Some((target, closest)) =
            self.removal(key).await?.filter(|(target, _)| *target == node.seq)
        else {
            return Ok(Removed::Colliding);
        };
        let closest = match closest {
            Some(seq) => self.node(seq).await?,
            None => None,
        };
        match closest {
            Some(other) => {
                let (key, value) = (other.key.clone(), other.value.clone());
                self.put_without(key, value, other.flags, target).await?;
            }
            None => self.put_without(TrieKey::new("", key.hidden())?, None, 0, target).await?,
        }
        Ok(Removed::Done)
    }

    /// The block that holds `key` as the reference's delete finds it, which does not look past
    /// collisions, and the block closest to it.
    async fn removal(&self, key: &TrieKey) -> Result<Option<(u64, Option<u64>)>> {
        let Some(mut node) = self.head.clone() else {
            return Ok(None);
        };
        let mut closest = None;
        for position in 0..key.length() {
            let branch = key.digit(position);
            if node.key.digit(position) == branch {
                // At a terminator the reference overlooks a colliding key in this very branch, and
                // so loses it; it is the closest there.
                let own = |slot: u32| slot == u32::from(branch) && !is_terminator(position);
                let other = node.buckets.at(position).find(|(slot, _)| !own(*slot));
                closest = other.map(|(_, seq)| seq).or(closest);
                continue;
            }
            let Some(seq) = node.buckets.slot(position, u32::from(branch)) else {
                return Ok(None);
            };
            closest = Some(node.seq);
            let Some(next) = self.node(seq).await? else {
                return Ok(None);
            };
            node = next;
        }
        Ok((node.key.text() == key.text()).then_some((node.seq, closest)))
    }
}

/// The first position from `from` on where `key` leaves the way of `node`.
fn first_parting(key: &TrieKey, node: &TrieNode, from: usize) -> Option<usize> {
    (from..key.length()).find(|position| {
        node.key.digit(*position) != key.digit(*position)
            || is_terminator(*position) && key.collides(&node.key, *position)
    })
}
