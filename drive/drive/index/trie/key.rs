//! A key's way through the trie: which of five branches it takes at each position.
//!
//! Each path component is hashed to 64 bits, taken two at a time, lowest first: 32 positions per
//! component. Position 0 tells hidden keys from visible ones, the last position is a terminator
//! (hypertrie5.md §2).

use std::cmp::Ordering;
use std::hash::Hasher;
use std::iter::repeat;
use std::ops::Range;

use siphasher::sip::SipHasher24;

use crate::path::MAX_PATH_BYTES;
use hypermount_core::{Error, Result};

/// Positions that one path component takes.
pub(super) const DIGITS_PER_COMPONENT: usize = 32;
/// The branch a key takes at its last position.
pub(super) const END: u8 = 4;
/// Longest key in bytes: the longest path. The reference has no limit, but no filesystem can show a
/// longer one, and hashing and comparing keys must cost little.
pub(super) const MAX_KEY_BYTES: usize = MAX_PATH_BYTES;

/// A normalised key with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrieKey {
    text: String,
    hashes: Vec<u64>,
    hidden: bool,
}

impl TrieKey {
    /// The key of a path, in the hidden name space if `hidden`.
    ///
    /// # Errors
    /// `Malformed` for more than 4096 bytes.
    pub fn new(key: &str, hidden: bool) -> Result<Self> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::Malformed(format!("a key of {} bytes", key.len())));
        }
        let text = key.strip_prefix('/').unwrap_or(key).to_owned();
        let hashes = components(&text).map(component_hash).collect();
        Ok(Self { text, hashes, hidden })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn hidden(&self) -> bool {
        self.hidden
    }

    /// The key's components as the hash sees them: an outer slash makes none, an inner pair of
    /// slashes makes an empty one.
    pub(crate) fn components(&self) -> Vec<&str> {
        components(&self.text).collect()
    }

    /// Number of positions, the terminator included.
    pub(crate) fn length(&self) -> usize {
        self.hashes.len() * DIGITS_PER_COMPONENT + 2
    }

    /// The branch taken at `position`.
    pub(crate) fn digit(&self, position: usize) -> u8 {
        let Some(bit_pair) = position.checked_sub(1) else {
            return u8::from(self.hidden);
        };
        match self.hashes.get(bit_pair / DIGITS_PER_COMPONENT) {
            Some(hash) => (hash >> (2 * (bit_pair % DIGITS_PER_COMPONENT)) & 3) as u8,
            None => END,
        }
    }

    /// Whether both keys take the same branches at all positions before `position`.
    pub(crate) fn shares_way(&self, other: &TrieKey, position: usize) -> bool {
        let Some(bit_pairs) = position.checked_sub(1) else {
            return true;
        };
        let whole = bit_pairs / DIGITS_PER_COMPONENT;
        if self.hidden != other.hidden || self.hashes.get(..whole) != other.hashes.get(..whole) {
            return false;
        }
        (whole * DIGITS_PER_COMPONENT + 1..position).all(|at| self.digit(at) == other.digit(at))
    }

    /// Whether the two keys, alike in hash up to `position`, differ in the component that ends
    /// there: only a collision of the hash brings them together.
    pub(crate) fn collides(&self, other: &TrieKey, position: usize) -> bool {
        let Some(bit_pair) = position.checked_sub(1) else {
            return false;
        };
        if position + 1 == self.length() {
            return self.text != other.text;
        }
        let component = bit_pair / DIGITS_PER_COMPONENT;
        components(&self.text).nth(component) != components(&other.text).nth(component)
    }

    /// The first position of `positions` at which a lookup of this key has to leave a node of key
    /// `other`: another branch is taken there, or a component ends that only has the same hash.
    /// Compares components, not positions, so that its cost is the length of the text.
    pub(crate) fn parting(&self, other: &TrieKey, positions: Range<usize>) -> Option<usize> {
        if positions.start == 0 && positions.end > 0 && self.hidden != other.hidden {
            return Some(0);
        }
        let start = positions.start.max(1);
        let first = (start - 1) / DIGITS_PER_COMPONENT;
        let ours = components(&self.text).zip(&self.hashes).map(Some);
        let theirs = components(&other.text).zip(&other.hashes).map(Some);
        let longest = self.hashes.len().max(other.hashes.len());
        let both = ours.chain(repeat(None)).zip(theirs.chain(repeat(None)));
        for (component, (ours, theirs)) in both.enumerate().take(longest).skip(first) {
            let begin = component * DIGITS_PER_COMPONENT + 1;
            let at = match (ours, theirs) {
                // One key has ended; the other still takes branches.
                (None, _) | (_, None) => begin.max(start),
                (Some((our_name, ours)), Some((their_name, theirs))) => {
                    let before = 2 * start.saturating_sub(begin) as u32;
                    let differing = (ours ^ theirs).checked_shr(before).unwrap_or(0) << before;
                    match differing {
                        0 if our_name == their_name => continue,
                        0 => begin + DIGITS_PER_COMPONENT - 1,
                        bits => begin + bits.trailing_zeros() as usize / 2,
                    }
                }
            };
            return positions.contains(&at).then_some(at);
        }
        None
    }

    /// The order in which the reference iterates: by branches, a key before what lies below it,
    /// keys of equal hash by name.
    #[cfg(test)]
    pub(crate) fn iteration_order(&self, other: &TrieKey) -> Ordering {
        self.hidden.cmp(&other.hidden).then_with(|| self.way_order(other, |hash| hash))
    }

    /// The order in which the reference lists differences: as iteration, but with the branches of
    /// one position descending.
    pub(crate) fn difference_order(&self, other: &TrieKey) -> Ordering {
        self.hidden.cmp(&other.hidden).then_with(|| self.way_order(other, |hash| !hash))
    }

    fn way_order(&self, other: &TrieKey, direction: fn(u64) -> u64) -> Ordering {
        let way = |hash: &u64| direction(first_digit_highest(*hash));
        let hashes = self.hashes.iter().zip(&other.hashes);
        for ((ours, theirs), (our_name, their_name)) in
            hashes.zip(components(&self.text).zip(components(&other.text)))
        {
            let order = way(ours).cmp(&way(theirs)).then_with(|| our_name.cmp(their_name));
            if order.is_ne() {
                return order;
            }
        }
        self.hashes.len().cmp(&other.hashes.len())
    }
}

/// Whether `position` is the last one of a path component, where collisions are told apart.
pub(super) fn is_terminator(position: usize) -> bool {
    position > 0 && position.is_multiple_of(DIGITS_PER_COMPONENT)
}

fn components(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('/').unwrap_or(text);
    let inner = text.strip_suffix('/').unwrap_or(text);
    (!text.is_empty()).then(|| inner.split('/')).into_iter().flatten()
}

/// The branches that a path component takes, as a number that orders as the reference iterates.
pub(super) fn branches_of(component: &str) -> u64 {
    first_digit_highest(component_hash(component))
}

fn component_hash(component: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(component.as_bytes());
    hasher.finish()
}

/// Turns the hash so that comparing numbers compares the branches taken, first one first.
fn first_digit_highest(hash: u64) -> u64 {
    const ODD_BITS: u64 = 0x5555_5555_5555_5555;
    let reversed = hash.reverse_bits();
    (reversed >> 1 & ODD_BITS) | (reversed & ODD_BITS) << 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::trie::vectors;

    #[test]
    fn hashes_and_digits_are_the_references() {
        for vector in vectors::trie()["hashes"].as_array().unwrap() {
            let hidden = vector["hidden"].as_bool().unwrap_or(false);
            let key = TrieKey::new(vector["key"].as_str().unwrap(), hidden).unwrap();
            if let Some(normalised) = vector["normalizedKey"].as_str() {
                assert_eq!(key.text(), normalised);
                let split: Vec<String> = serde_json::from_value(vector["split"].clone()).unwrap();
                assert_eq!(key.components(), split);
            }
            let hash: Vec<u8> = key.hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            assert_eq!(hex::encode(hash), vector["hash"].as_str().unwrap());
            assert_eq!(key.length() as u64, vector["length"].as_u64().unwrap());
            let path: String =
                (0..key.length()).map(|position| char::from(b'0' + key.digit(position))).collect();
            assert_eq!(path, vector["path"].as_str().unwrap(), "{vector}");
        }
    }

    #[test]
    fn the_iteration_order_is_that_of_the_digits() {
        let digits = |key: &TrieKey| -> Vec<u8> {
            (0..key.length()).map(|at| (key.digit(at) + 1) % 5).collect()
        };
        let keys: Vec<TrieKey> = (0..200)
            .map(|i| TrieKey::new(&format!("d{}/f{i}", i % 7), false).unwrap())
            .chain((0..7).map(|i| TrieKey::new(&format!("d{i}"), false).unwrap()))
            .collect();
        for a in &keys {
            for b in &keys {
                assert_eq!(a.iteration_order(b), digits(a).cmp(&digits(b)));
            }
        }
    }

    #[test]
    fn the_first_difference_of_two_keys_is_that_of_a_walk_by_positions() {
        let by_positions = |a: &TrieKey, b: &TrieKey, positions: Range<usize>| {
            positions.into_iter().find(|at| {
                a.digit(*at) != b.digit(*at) || (is_terminator(*at) && a.collides(b, *at))
            })
        };
        let texts = ["", "a", "b", "a/b", "a/b/c", "a/c", "a//b", "/", "//", "a/", "idgcmnmna"]
            .map(str::to_owned)
            .into_iter()
            .chain(["mpomeiehc", "mpomeiehc/x", "idgcmnmna/x", "x/idgcmnmna"].map(str::to_owned))
            .chain((0..20).map(|i| format!("d{}/f{i}", i % 3)));
        let keys: Vec<TrieKey> = texts
            .flat_map(|text| [false, true].map(|hidden| TrieKey::new(&text, hidden).unwrap()))
            .collect();
        for a in &keys {
            for b in &keys {
                for start in [0, 1, 2, 15, 31, 32, 33, 34, 64, 65, 66, 97] {
                    for end in [start, start + 1, a.length().saturating_sub(1), a.length()] {
                        let (found, expected) =
                            (a.parting(b, start..end), by_positions(a, b, start..end));
                        let (a, b) = (a.text(), b.text());
                        assert_eq!(found, expected, "{a:?} {b:?} {start}..{end}");
                    }
                }
            }
        }
    }

    #[test]
    fn known_colliding_keys_collide() {
        let a = TrieKey::new("idgcmnmna", false).unwrap();
        let b = TrieKey::new("mpomeiehc", false).unwrap();
        assert!(a.shares_way(&b, 33) && a.collides(&b, 32));
        assert!(!a.collides(&a, 32) && !a.collides(&b, 0));
    }

    #[test]
    fn a_key_may_be_as_long_as_the_limit_and_no_longer() {
        assert!(TrieKey::new(&"k".repeat(MAX_KEY_BYTES), false).is_ok());
        assert!(TrieKey::new(&"k".repeat(MAX_KEY_BYTES + 1), false).is_err());
    }
}
