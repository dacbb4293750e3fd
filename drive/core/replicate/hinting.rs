//! Hints about an index, of either kind: telling peers what a reader is about to look up, and taking their
//! answers.
//!
//! Not here: answering the hints of peers (`sharing/hints.rs`), and the messages (`wire/`).

use bytes::Bytes;
use tokio::time::Instant;

use super::peer::{LISTING_WITHIN, MAX_CACHES_PER_HINT, MAX_NEAR_BLOCKS, PeerId};
use super::{Action, ForDemand, NEAR_INDEX_BYTES, Replicator, View};
use crate::hypercore::demand::Hint;
use crate::wire::bee_extension::{self, BeeMessage};
use crate::wire::extension::{self, TrieMessage};
use crate::wire::message::Message;

impl<V: View> Replicator<V> {
    pub(super) fn send_hint(&mut self, hint: &Hint, now: Instant) {
        let near = self.core.head().byte_length <= NEAR_INDEX_BYTES;
        let payloads = encode_hint(hint, near);
        let listing = matches!(hint, Hint::List { .. });
        let speakers: Vec<PeerId> = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| peer.takes_hints && peer.uploading)
            .map(|(id, peer)| {
                peer.caches_allowed = MAX_CACHES_PER_HINT;
                if listing {
                    peer.listing_until = Some(now + LISTING_WITHIN);
                }
                *id
            })
            .collect();
        for id in speakers {
            for (name, payload) in &payloads {
                let (name, payload) = ((*name).to_owned(), payload.clone());
                self.send(id, Message::Extension { name, payload });
            }
        }
    }

    /// A peer answered a hint with the blocks we will need.
    pub(super) fn cache(&mut self, id: PeerId, name: &str, payload: Bytes, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(blocks) = named_blocks(name, payload) else { return };
        if peer.caches_allowed == 0 {
            return;
        }
        peer.caches_allowed -= 1;
        if blocks.len() > MAX_NEAR_BLOCKS && peer.listing_until.is_none_or(|until| until < now) {
            return;
        }
        let length = self.core.head().length;
        let missing: Vec<u64> =
            blocks.into_iter().filter(|block| *block < length && !self.core.has(*block)).collect();
        self.actions.push_back(Action::Demand(ForDemand::Ahead(missing)));
    }
}

/// Whether an extension with this name carries hints about an index.
pub(super) fn is_of_index(name: &str) -> bool {
    name == extension::NAME || name == bee_extension::NAME
}

/// The blocks that an answer to a hint names.
fn named_blocks(name: &str, payload: Bytes) -> Option<Vec<u64>> {
    if name == bee_extension::NAME {
        return match BeeMessage::decode(payload).ok()?? {
            BeeMessage::Cache { blocks, .. } => Some(blocks),
            _ => None,
        };
    }
    match TrieMessage::decode(payload).ok()?? {
        TrieMessage::Cache { blocks, .. } => Some(blocks),
        _ => None,
    }
}

/// The messages of a hint, each with the name of its extension.
fn encode_hint(hint: &Hint, near: bool) -> Vec<(&'static str, Bytes)> {
    let messages = match hint {
        // What is looked up may be a directory on the way to a file: what lies in it is asked about in
        // the same breath, as its answer would cost the next lookup a round trip or two.
        Hint::Key { head, key } if !near => {
            vec![TrieMessage::Get { head: *head, key: key.clone() }]
        }
        Hint::Key { head, key } => {
            let inside = key.clone();
            vec![
                TrieMessage::Get { head: *head, key: key.clone() },
                TrieMessage::Iterator { head: *head, key: inside, flags: 0, checkpoint: None },
            ]
        }
        Hint::Entry { version, key, keys, inside } => {
            let from = |key: &Bytes, keys: u64| bee_extension::Range {
                version: *version,
                gte: Some(key.clone()),
                limit: keys,
                ..Default::default()
            };
            let inside = inside.as_ref().filter(|_| near);
            let ranges = [Some(from(key, *keys)), inside.map(|(key, keys)| from(key, *keys))];
            let message = |range| (bee_extension::NAME, BeeMessage::Iterator(range).encode());
            return ranges.into_iter().flatten().map(message).collect();
        }
        Hint::List { head, prefix, recursive } => vec![TrieMessage::Iterator {
            head: *head,
            key: prefix.clone(),
            flags: if *recursive { extension::flags::RECURSIVE } else { 0 },
            checkpoint: None,
        }],
    };
    messages.into_iter().map(|message| (extension::NAME, message.encode())).collect()
}
