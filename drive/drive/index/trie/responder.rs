//! Answers a peer that asks which index blocks a lookup or a listing needs (hypertrie5.md §11),
//! from blocks that are here. The bytes of these messages are in `core/wire`.
//!
//! The peer chooses the question and the publisher the index, so the work is counted in steps and
//! ends at [`MAX_STEPS`]: positions without a pointer cost nothing, they are jumped over.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::encoding::decode_varint;

use super::check_branch;
use super::key::{DIGITS_PER_COMPONENT, END, TrieKey, is_terminator};
use super::node::TrieNode;
use hypermount_core::{Answered, Core, ExtensionRequest};

/// Blocks named in answer to one question.
pub(crate) const MAX_ANSWERED: usize = 2176;
/// Blocks named in one message.
pub(crate) const MAX_ANSWERED_AT_ONCE: usize = 128;
/// Places that a question may name as those where its listing continues.
const MAX_CHECKPOINTS: usize = 4096;
/// Steps that one answer may take; what was found by then is the answer. The largest answer to a
/// listing of usual files (2176 nodes of about 300 bytes) takes a quarter of it.
pub(crate) const MAX_STEPS: u64 = 1 << 18;
/// Steps that a node costs: it is looked up, read and decoded.
const STEPS_PER_NODE: u64 = 16;
/// Bytes of a node's block that cost one more step; so does each component of its key.
const BYTES_PER_STEP: u64 = 64;

/// `flags` of a listing.
const RECURSIVE: u64 = 1;
const REVERSE: u64 = 2;
const WITHOUT_PREFIX: u64 = 4;
const HIDDEN: u64 = 8;

/// Answers `request`; stops early once `cancelled` is set. It costs at most [`MAX_STEPS`], and the
/// block that was being read when they ran out.
pub(crate) fn respond(core: &Core, request: &ExtensionRequest, cancelled: &AtomicBool) -> Answered {
    let mut answer = Answer { core, seqs: Vec::new(), seen: HashSet::new(), steps: 0, cancelled };
    match request {
        ExtensionRequest::Get { key, .. } if key.is_empty() => {}
        ExtensionRequest::Get { head, key } => {
            if let Ok(key) = TrieKey::new(key, false) {
                answer.walk(*head, &key, key.length());
            }
        }
        // With a key the reference's responder ignores the checkpoint, too.
        ExtensionRequest::Iterator { flags, key, checkpoint: Some(checkpoint), .. }
            if key.is_empty() =>
        {
            answer.resume(checkpoint, *flags);
        }
        ExtensionRequest::Iterator { head, key, flags, .. } => answer.list(*head, key, *flags),
        // Of another kind of index.
        ExtensionRequest::Entry { .. } | ExtensionRequest::Range(_) => {}
    }
    Answered {
        blocks: answer.seqs.chunks(MAX_ANSWERED_AT_ONCE).map(<[u64]>::to_vec).collect(),
        steps: answer.steps,
    }
}

struct Answer<'a> {
    core: &'a Core,
    seqs: Vec<u64>,
    seen: HashSet<u64>,
    steps: u64,
    cancelled: &'a AtomicBool,
}

struct Frame {
    node: Arc<TrieNode>,
    position: usize,
}

impl Answer<'_> {
    fn full(&self) -> bool {
        self.seqs.len() >= MAX_ANSWERED
    }

    /// Whether there are steps left for more work.
    fn may_continue(&self) -> bool {
        self.steps < MAX_STEPS && !self.cancelled.load(Ordering::Relaxed)
    }

    /// The node, if its block is here and makes sense, and if it may still be looked at.
    fn local(&mut self, seq: u64) -> Option<Arc<TrieNode>> {
        if seq == 0 || seq >= self.core.announced_head().length || !self.may_continue() {
            return None;
        }
        self.steps += STEPS_PER_NODE;
        let block = self.core.get_local(seq).ok().flatten()?;
        self.steps += block.len() as u64 / BYTES_PER_STEP;
        let node = TrieNode::decode(block, seq).ok()?;
        // Each component was hashed, however short.
        self.steps += (node.key.length() / DIGITS_PER_COMPONENT) as u64;
        (!node.is_reset()).then(|| Arc::new(node))
    }

    fn name(&mut self, seq: u64) -> bool {
        let new = !self.full() && self.seen.insert(seq);
        if new {
            self.seqs.push(seq);
        }
        new
    }

    /// Goes along `key` up to `end`, naming every block on the way.
    fn walk(&mut self, head: u64, key: &TrieKey, end: usize) -> Option<Frame> {
        self.name(head);
        let mut node = self.local(head)?;
        let mut from = 0;
        while let Some(position) = key.parting(&node.key, from..end) {
            from = position + 1;
            let branch = key.digit(position);
            let terminator = is_terminator(position);
            let slots: Vec<u64> = match terminator {
                true => node.buckets.branch(position, branch).collect(),
                false => node.buckets.slot(position, u32::from(branch)).into_iter().collect(),
            };
            let mut next = None;
            for seq in slots {
                self.name(seq);
                let candidate = self.local(seq)?;
                check_branch(&node, position, branch, &candidate).ok()?;
                if !(terminator && candidate.key.collides(key, position)) {
                    next = Some(candidate);
                }
            }
            node = next?;
        }
        Some(Frame { node, position: end })
    }

    fn list(&mut self, head: u64, prefix: &str, flags: u64) {
        let Ok(prefix) = TrieKey::new(prefix, flags & HIDDEN != 0) else {
            return;
        };
        let start = prefix.length() - 1;
        let end = if flags & RECURSIVE != 0 { usize::MAX } else { start + DIGITS_PER_COMPONENT };
        if let Some(frame) = self.walk(head, &prefix, start) {
            self.descend(vec![frame], flags, start..end);
        }
    }

    /// Goes on with a listing where the peer stands.
    fn resume(&mut self, mut checkpoint: &[u8], flags: u64) {
        let mut stack = Vec::new();
        while !checkpoint.is_empty() && stack.len() < MAX_CHECKPOINTS {
            let (Ok(position), Ok(seq)) =
                (decode_varint(&mut checkpoint), decode_varint(&mut checkpoint))
            else {
                return;
            };
            let (Ok(position), Some(node)) = (usize::try_from(position), self.local(seq)) else {
                return;
            };
            stack.push(Frame { node, position });
        }
        self.descend(stack, flags & !WITHOUT_PREFIX, 0..usize::MAX);
    }

    /// Names the blocks of all frames from and up to these positions, in the order in which the
    /// reference iterates; at the end also the own nodes of what was found, for their stats.
    fn descend(&mut self, mut stack: Vec<Frame>, flags: u64, positions: Range<usize>) {
        let order = if flags & REVERSE != 0 { [END, 0, 1, 2, 3] } else { [3, 2, 1, 0, END] };
        while let Some(Frame { node, position }) = stack.pop() {
            if !self.may_continue() {
                return;
            }
            self.steps += 1;
            // At positions without a pointer there is nothing but the node itself.
            let position = if position == positions.start && flags & WITHOUT_PREFIX != 0 {
                position
            } else {
                let next = node.buckets.next_position(position).unwrap_or(usize::MAX);
                next.min(positions.end.max(position)).min(node.key.length().max(position))
            };
            if position >= positions.end {
                if let Some(own) = node.buckets.slot(position, u32::from(END)) {
                    self.name(own);
                }
                continue;
            }
            if position >= node.key.length() {
                continue;
            }
            let mut missing = false;
            for branch in order {
                if branch == END && flags & WITHOUT_PREFIX != 0 && position == positions.start {
                    continue;
                }
                if node.key.digit(position) == branch {
                    stack.push(Frame { node: Arc::clone(&node), position: position + 1 });
                }
                for (_, taken, seq) in node.buckets.between(position, position + 1) {
                    self.steps += 1;
                    if taken != branch || !self.name(seq) {
                        continue;
                    }
                    match self.local(seq) {
                        Some(next) if check_branch(&node, position, branch, &next).is_ok() => {
                            stack.push(Frame { node: next, position: position + 1 });
                        }
                        _ => missing = true,
                    }
                }
            }
            // The peer learns the rest from one that has it: the reference stops here too.
            if missing || self.full() {
                return;
            }
        }
    }
}
