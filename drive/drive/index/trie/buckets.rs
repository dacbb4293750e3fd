//! The pointers of one node: for each position, which other nodes take which branch
//! (hypertrie5.md §3).

use prost::encoding::{decode_varint, encode_varint};

use hypermount_core::{Error, Result};

/// Slots of one position: five branches, and as many again for each further node with the same
/// branch. The encoding marks used slots in one 64-bit number.
pub(super) const MAX_SLOTS: u32 = 64;
const BRANCHES: u32 = 5;

/// One pointer. Packed, as tens of thousands of nodes are kept decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointer {
    position: u32,
    slot: u32,
    target: u64,
}

/// All pointers of a node, by ascending position and slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buckets(Vec<Pointer>);

impl Buckets {
    /// Bytes one pointer takes in memory.
    pub(crate) const POINTER_BYTES: usize = size_of::<Pointer>();

    /// Reads the pointers of block `seq`, whose key has `length` positions. A pointer may only
    /// lead to an older block: that is how every writer makes them, and what makes every walk end.
    pub(crate) fn decode(mut bytes: &[u8], seq: u64, length: usize) -> Result<Self> {
        let bad = |what: &str| Error::Malformed(format!("index block {seq}: {what}"));
        let cut_off = |_| bad("pointers are cut off");
        let mut pointers = Vec::new();
        let mut least = 0;
        if !bytes.is_empty() {
            let _highest_position = decode_varint(&mut bytes).map_err(cut_off)?;
        }
        while !bytes.is_empty() {
            let position = decode_varint(&mut bytes).map_err(cut_off)?;
            let position = u32::try_from(position).map_err(|_| bad("pointer past its key"))?;
            if position < least || position as usize >= length {
                return Err(bad("pointer past its key, or twice at one position"));
            }
            least = position + 1;
            let used = decode_varint(&mut bytes).map_err(cut_off)?;
            for slot in (0..MAX_SLOTS).filter(|slot| used >> slot & 1 == 1) {
                let target = decode_varint(&mut bytes).map_err(cut_off)?;
                if target == 0 || target >= seq {
                    return Err(bad("pointer to a block that is not older"));
                }
                pointers.push(Pointer { position, slot, target });
            }
        }
        pointers.shrink_to_fit();
        Ok(Self(pointers))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut number = |value: u64| encode_varint(value, &mut bytes);
        number(self.0.last().map_or(0, |last| u64::from(last.position) + 1));
        for bucket in self.0.chunk_by(|one, next| one.position == next.position) {
            let Some(first) = bucket.first() else { continue };
            number(u64::from(first.position));
            number(bucket.iter().fold(0, |used, pointer| used | 1 << pointer.slot));
            for pointer in bucket {
                number(pointer.target);
            }
        }
        bytes
    }

    /// Where the pointers of a position begin, or would.
    fn start_of(&self, position: usize) -> usize {
        self.0.partition_point(|pointer| (pointer.position as usize) < position)
    }

    /// The pointers from one position up to but not including another.
    fn range(&self, from: usize, end: usize) -> &[Pointer] {
        self.0.get(self.start_of(from)..self.start_of(end)).unwrap_or_default()
    }

    /// Slots and the blocks they point to at `position`, ascending.
    pub(crate) fn at(&self, position: usize) -> impl Iterator<Item = (u32, u64)> + '_ {
        let here = self.range(position, position.saturating_add(1));
        here.iter().map(|pointer| (pointer.slot, pointer.target))
    }

    /// The first position from `position` on that has a pointer.
    pub(crate) fn next_position(&self, position: usize) -> Option<usize> {
        self.0.get(self.start_of(position)).map(|pointer| pointer.position as usize)
    }

    /// The block in exactly this slot.
    pub(crate) fn slot(&self, position: usize, slot: u32) -> Option<u64> {
        self.at(position).find(|(used, _)| *used == slot).map(|(_, target)| target)
    }

    /// The blocks that take `branch` at `position`: its slot and those that follow it in steps of
    /// five, up to the first unused one.
    pub(crate) fn branch(&self, position: usize, branch: u8) -> impl Iterator<Item = u64> + '_ {
        (u32::from(branch)..MAX_SLOTS)
            .step_by(BRANCHES as usize)
            .map_while(move |slot| self.slot(position, slot))
    }

    /// Adds a pointer in the first free slot of its branch, unless the position already has it.
    pub(crate) fn push(&mut self, position: usize, slot: u32, target: u64) -> Result<()> {
        if self.at(position).any(|(_, known)| known == target) {
            return Ok(());
        }
        let full = || Error::Unsupported("more keys of equal hash than a node holds".into());
        let free = (slot % BRANCHES..MAX_SLOTS)
            .step_by(BRANCHES as usize)
            .find(|free| self.slot(position, *free).is_none())
            .ok_or_else(full)?;
        let before = self.at(position).take_while(|(used, _)| *used < free).count();
        let place = self.start_of(position) + before;
        let position = u32::try_from(position).map_err(|_| full())?;
        self.0.insert(place, Pointer { position, slot: free, target });
        Ok(())
    }

    /// How many pointers there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Every pointer as (position, branch, block), from `position` up to but not including `end`.
    pub(crate) fn between(
        &self,
        position: usize,
        end: usize,
    ) -> impl Iterator<Item = (usize, u8, u64)> + '_ {
        self.range(position, end).iter().map(|pointer| {
            (pointer.position as usize, (pointer.slot % BRANCHES) as u8, pointer.target)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::index::trie::vectors;

    #[test]
    fn bytes_are_the_references_both_ways() {
        for vector in vectors::trie()["codec"].as_array().unwrap() {
            let mut buckets = Buckets::default();
            let number = |text: &String| text.parse::<u32>().unwrap();
            for (position, slots) in vector["trie"].as_object().unwrap() {
                let slots = slots.as_object().unwrap().iter();
                let slots: BTreeMap<u32, &Value> = slots.map(|(s, seq)| (number(s), seq)).collect();
                for (slot, seq) in slots {
                    buckets.push(number(position) as usize, slot, seq.as_u64().unwrap()).unwrap();
                }
            }
            let encoded = hex::decode(vector["encoded"].as_str().unwrap()).unwrap();
            assert_eq!(buckets.encode(), encoded);
            assert_eq!(Buckets::decode(&encoded, 1000, 34).unwrap(), buckets);
        }
    }

    #[test]
    fn pointers_that_are_not_older_are_refused() {
        let encoded = [1, 0, 4, 7];
        assert_eq!(Buckets::decode(&encoded, 8, 34).unwrap().slot(0, 2), Some(7));
        for seq in [7, 6, 0] {
            assert!(Buckets::decode(&encoded, seq, 34).is_err(), "own block {seq}");
        }
        assert!(Buckets::decode(&[1, 0, 4, 0], 8, 34).is_err(), "pointer to the header");
    }

    #[test]
    fn positions_outside_the_key_or_out_of_order_are_refused() {
        assert!(Buckets::decode(&[34, 33, 4, 1], 8, 34).is_ok());
        assert!(Buckets::decode(&[35, 34, 4, 1], 8, 34).is_err());
        assert!(Buckets::decode(&[4, 3, 4, 1, 3, 4, 1], 8, 34).is_err());
        assert!(Buckets::decode(&[4, 3, 4], 8, 34).is_err(), "cut off");
        assert!(Buckets::decode(&[0xff; 30], 8, 34).is_err());
    }

    #[test]
    fn a_full_branch_is_an_error_not_a_loss() {
        let mut buckets = Buckets::default();
        for target in 1..=13 {
            buckets.push(32, 0, target).unwrap();
        }
        assert_eq!(buckets.branch(32, 0).count(), 13);
        assert!(matches!(buckets.push(32, 0, 14), Err(Error::Unsupported(_))));
    }
}
