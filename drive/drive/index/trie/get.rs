//! Looking one key up (hypertrie5.md §4).

use std::sync::Arc;

use super::key::{TrieKey, is_terminator};
use super::node::TrieNode;
use super::{Trie, check_branch};
use hypermount_core::{Hint, Result, Wait};

/// Where the way of a key ends.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// The key is there.
    Key(Arc<TrieNode>),
    /// The key is not there, but others are below it; this is the newest of them.
    Below(Arc<TrieNode>),
    /// Nothing is there or below; the node where the way parted, if the index is not empty.
    Nothing(Option<Arc<TrieNode>>),
}

/// Where a walk stands: `node` takes the same branches as the key before `position`.
pub(super) struct Place {
    pub(crate) node: Arc<TrieNode>,
    pub(crate) position: usize,
    /// Whether the walk got to where it was to go.
    pub(crate) arrived: bool,
}

/// What a lookup is for: peers are told, so that they send what will be needed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Lookup,
    /// What directly follows the key comes next; with `recursive` all that does.
    Listing {
        recursive: bool,
    },
}

impl Trie {
    /// Looks up `key`. One walk answers whether the key exists and whether anything is below it.
    pub(crate) async fn get(&self, key: &TrieKey, purpose: Purpose, wait: Wait) -> Result<Found> {
        let Some(prefix) = self.walk(key, key.length() - 1, purpose, wait).await? else {
            return Ok(Found::Nothing(None));
        };
        if !prefix.arrived {
            return Ok(Found::Nothing(Some(prefix.node)));
        }
        if let Some(own) = self.own_node(&prefix, key, wait).await? {
            return Ok(Found::Key(own));
        }
        let below = prefix.node.key.components().starts_with(&key.components())
            && prefix.node.key.length() > key.length();
        Ok(if below { Found::Below(prefix.node) } else { Found::Nothing(Some(prefix.node)) })
    }

    /// The value node of `key`, if there is one.
    pub(crate) async fn get_node(
        &self,
        key: &TrieKey,
        wait: Wait,
    ) -> Result<Option<Arc<TrieNode>>> {
        Ok(match self.get(key, Purpose::Lookup, wait).await? {
            Found::Key(node) => Some(node),
            Found::Below(_) | Found::Nothing(_) => None,
        })
    }

    /// The node of exactly `key`, given the place where its last component ends.
    async fn own_node(
        &self,
        prefix: &Place,
        key: &TrieKey,
        wait: Wait,
    ) -> Result<Option<Arc<TrieNode>>> {
        let end = key.length() - 1;
        let branch = key.digit(end);
        let node = if prefix.node.key.digit(end) == branch {
            Some(Arc::clone(&prefix.node))
        } else {
            match prefix.node.buckets.slot(end, u32::from(branch)) {
                Some(seq) => self.follow(&prefix.node, end, branch, seq, wait).await?,
                None => None,
            }
        };
        Ok(node.filter(|node| node.key.text() == key.text()))
    }

    /// Goes along `key` as far as `end`; `None` if the index is empty.
    pub(super) async fn walk(
        &self,
        key: &TrieKey,
        end: usize,
        purpose: Purpose,
        wait: Wait,
    ) -> Result<Option<Place>> {
        let mut hinted = false;
        let mut hint_if_missing = |seq: u64| {
            if !hinted && self.nodes.lacks(seq) {
                hinted = true;
                self.nodes.hint(self.hint(key, purpose), wait);
            }
        };
        hint_if_missing(self.head());
        let Some(mut node) = self.nodes.get(self.head(), wait).await? else {
            return Ok(None);
        };
        let mut from = 0;
        while let Some(position) = key.parting(&node.key, from..end) {
            from = position + 1;
            let branch = key.digit(position);
            let terminator = is_terminator(position);
            let mut next = None;
            let slots: Vec<u64> = match terminator {
                true => node.buckets.branch(position, branch).collect(),
                false => node.buckets.slot(position, u32::from(branch)).into_iter().collect(),
            };
            for seq in slots {
                hint_if_missing(seq);
                let candidate = self.follow(&node, position, branch, seq, wait).await?;
                let candidate = candidate
                    .filter(|candidate| !(terminator && candidate.key.collides(key, position)));
                next = candidate.or(next);
            }
            match next {
                Some(next) => node = next,
                None => return Ok(Some(Place { node, position, arrived: false })),
            }
        }
        Ok(Some(Place { node, position: end, arrived: true }))
    }

    pub(super) fn hint(&self, key: &TrieKey, purpose: Purpose) -> Hint {
        let (head, text) = (self.head(), key.text().to_owned());
        match purpose {
            Purpose::Lookup => Hint::Key { head, key: text },
            Purpose::Listing { recursive } => Hint::List { head, prefix: text, recursive },
        }
    }

    pub(super) async fn follow(
        &self,
        parent: &TrieNode,
        position: usize,
        branch: u8,
        seq: u64,
        wait: Wait,
    ) -> Result<Option<Arc<TrieNode>>> {
        let Some(node) = self.nodes.get(seq, wait).await? else {
            return Ok(None);
        };
        check_branch(parent, position, branch, &node)?;
        Ok(Some(node))
    }
}
