//! What differs between two versions (hypertrie5.md §9). Both are walked side by side; subtrees
//! that both share are the same blocks, so they are neither fetched nor looked at.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::get::Purpose;
use super::iterate::MAX_ITERATED;
use super::key::{END, TrieKey, is_terminator};
use super::node::TrieNode;
use super::nodes::MAX_WANTED_AT_ONCE;
use super::{Trie, check_branch};
use crate::index::budget::Budget;
use hypermount_core::{Error, Result, Wait};

/// One key whose node is not the same block in both versions. A delete writes an unrelated key
/// again, so a difference need not be a change of value.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) old: Option<Arc<TrieNode>>,
    pub(crate) new: Option<Arc<TrieNode>>,
}

impl Difference {
    pub(crate) fn key(&self) -> Option<&TrieKey> {
        self.new.as_ref().or(self.old.as_ref()).map(|node| &node.key)
    }
}

/// One side of a pair: everything below the way of `node` up to the pair's position.
type Side = Option<Arc<TrieNode>>;

/// Two subtrees to compare from `position` on.
struct Pair {
    old: Side,
    new: Side,
    position: usize,
}

/// A subtree that begins at a pointer, or continues in the same node.
enum Branch {
    Same(Arc<TrieNode>),
    Pointer { parent: Arc<TrieNode>, seq: u64 },
}

impl Branch {
    fn seq(&self) -> u64 {
        match self {
            Branch::Same(node) => node.seq,
            Branch::Pointer { seq, .. } => *seq,
        }
    }
}

/// Two lists of subtrees that take `branch` at `position`; longer than one only where hashes
/// collide.
struct DiffStep {
    old: Vec<Branch>,
    new: Vec<Branch>,
    position: usize,
    branch: u8,
}

impl Trie {
    /// The differences from `old` to this version in the reference's order, visible keys only; at
    /// most `limit` that `counts` holds for, else `TooLarge`.
    pub(crate) async fn differences(
        &self,
        old: &Trie,
        counts: impl Fn(&Difference) -> bool,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Difference>> {
        let root = TrieKey::new("", false)?;
        let start = root.length() - 1;
        let side = async |trie: &Trie| -> Result<Side> {
            let place = trie.walk(&root, start, Purpose::Lookup, wait).await?;
            Ok(place.filter(|place| place.arrived).map(|place| place.node))
        };
        let first = Pair { old: side(old).await?, new: side(self).await?, position: start };
        let mut pairs = vec![first];
        let mut visited = [HashSet::new(), HashSet::new()];
        let mut budget = Budget::new(self.nodes().core());
        let mut differences: Vec<Difference> = Vec::new();
        while !pairs.is_empty() {
            let mut steps = Vec::new();
            for pair in pairs.drain(..) {
                for found in compare(pair, &mut steps).filter(&counts) {
                    let sides = found.old.iter().chain(&found.new);
                    budget.take(sides.map(|node| node.weight()).sum())?;
                    differences.push(found);
                }
                if differences.len() > limit {
                    return Err(Error::TooLarge(format!("more than {limit} differences")));
                }
            }
            pairs = self.load(steps, &mut visited, wait).await?;
        }
        differences.sort_by(|a, b| match (a.key(), b.key()) {
            (Some(a), Some(b)) => a.difference_order(b),
            _ => Ordering::Equal,
        });
        Ok(differences)
    }

    /// Loads what the steps point to and pairs up what belongs together.
    async fn load(
        &self,
        steps: Vec<DiffStep>,
        visited: &mut [HashSet<u64>; 2],
        wait: Wait,
    ) -> Result<Vec<Pair>> {
        let branches = steps.iter().flat_map(|step| step.old.iter().chain(&step.new));
        let pointers = branches.filter(|branch| matches!(branch, Branch::Pointer { .. }));
        let seqs: Vec<u64> = pointers.map(Branch::seq).collect();
        if seqs.len() + visited.iter().map(HashSet::len).sum::<usize>() > MAX_ITERATED {
            return Err(Error::TooLarge(format!("more than {MAX_ITERATED} index blocks differ")));
        }
        // Fetched together; taken below from the cache, or one by one if it is full.
        for part in seqs.chunks(MAX_WANTED_AT_ONCE) {
            let _wanted = self.nodes().want(part.iter().copied(), wait);
            for seq in part {
                self.nodes().get(*seq, wait).await?;
            }
        }
        let mut pairs = Vec::new();
        // What the last level held is forgotten with it.
        let mut budget = Budget::new(self.nodes().core());
        for step in steps {
            let DiffStep { old, new, position, branch } = step;
            let [visited_old, visited_new] = &mut *visited;
            let old = self.load_side(old, position, branch, visited_old, wait).await?;
            let new = self.load_side(new, position, branch, visited_new, wait).await?;
            budget.take(old.iter().chain(&new).map(|node| node.weight()).sum())?;
            pair_up(old, new, position, &mut pairs);
        }
        Ok(pairs)
    }

    async fn load_side(
        &self,
        branches: Vec<Branch>,
        position: usize,
        branch: u8,
        visited: &mut HashSet<u64>,
        wait: Wait,
    ) -> Result<Vec<Arc<TrieNode>>> {
        let mut nodes = Vec::with_capacity(branches.len());
        for one in branches {
            match one {
                Branch::Same(node) => nodes.push(node),
                Branch::Pointer { parent, seq } => {
                    let node = self.nodes().get(seq, wait).await?;
                    if let Some(node) = node.filter(|_| visited.insert(seq)) {
                        check_branch(&parent, position, branch, &node)?;
                        nodes.push(node);
                    }
                }
            }
        }
        Ok(nodes)
    }
}

/// Compares two subtrees as far as their own nodes tell: the difference if the way ends here, and
/// the steps that lead on.
fn compare(pair: Pair, steps: &mut Vec<DiffStep>) -> impl Iterator<Item = Difference> {
    let Pair { old, new, position } = pair;
    if seq(&old) == seq(&new) {
        return None.into_iter();
    }
    let mut position = position;
    loop {
        let done = |side: &Side| side.as_ref().is_none_or(|node| position >= node.key.length());
        if done(&old) && done(&new) {
            return Some(Difference { old, new }).into_iter();
        }
        let mut goes_on = false;
        for branch in 0..=END {
            let old_branches = branches(&old, position, branch);
            let new_branches = branches(&new, position, branch);
            let same = |side: &[Branch]| matches!(side, [Branch::Same(_)]);
            // Nothing to fetch: stay in this loop instead of a step per position.
            let stays = |side: &[Branch]| side.is_empty() || same(side);
            if old_branches.iter().map(Branch::seq).eq(new_branches.iter().map(Branch::seq)) {
                continue;
            }
            let whole =
                same(&old_branches) == old.is_some() && same(&new_branches) == new.is_some();
            if whole && stays(&old_branches) && stays(&new_branches) && !is_terminator(position) {
                goes_on = true;
                continue;
            }
            steps.push(DiffStep { old: old_branches, new: new_branches, position, branch });
        }
        if !goes_on {
            return None.into_iter();
        }
        position += 1;
    }
}

fn seq(side: &Side) -> Option<u64> {
    side.as_ref().map(|node| node.seq)
}

/// The subtrees of one side that take `branch` at `position`.
fn branches(side: &Side, position: usize, branch: u8) -> Vec<Branch> {
    let Some(node) = side else {
        return Vec::new();
    };
    if position >= node.key.length() {
        return Vec::new();
    }
    let own = (node.key.digit(position) == branch).then(|| Branch::Same(Arc::clone(node)));
    let pointers =
        node.buckets.between(position, position + 1).filter(|(_, taken, _)| *taken == branch);
    let pointers = pointers.map(|(_, _, seq)| Branch::Pointer { parent: Arc::clone(node), seq });
    own.into_iter().chain(pointers).collect()
}

/// Pairs the subtrees of both sides that stand for the same component and drops those that are the
/// same block on both.
fn pair_up(
    old: Vec<Arc<TrieNode>>,
    new: Vec<Arc<TrieNode>>,
    position: usize,
    pairs: &mut Vec<Pair>,
) {
    let mut new: Vec<Side> = new.into_iter().map(Some).collect();
    let next = position + 1;
    for old in old {
        let partner = new.iter_mut().find(|side| {
            side.as_ref().is_some_and(|new| {
                !is_terminator(position) || !old.key.collides(&new.key, position)
            })
        });
        let new = partner.and_then(Option::take);
        if new.as_ref().is_none_or(|new| new.seq != old.seq) {
            pairs.push(Pair { old: Some(old), new, position: next });
        }
    }
    let rest = new.into_iter().flatten();
    pairs.extend(rest.map(|new| Pair { old: None, new: Some(new), position: next }));
}
