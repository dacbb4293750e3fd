//! Arithmetic of the in-order ("flat") binary tree (hypercore9.md §1): block `i` is node `2 i`,
//! every parent lies between its children.
//!
//! Every function is total: indexes may come from a peer, so arithmetic saturates at `u64::MAX`
//! instead of overflowing. Callers that store by index bound it first (`merkle::MAX_NODE_INDEX`).

fn saturated(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Height above the leaves.
pub(crate) fn depth(node: u64) -> u32 {
    node.trailing_ones()
}

/// Position among the nodes of the same depth, from the left.
pub(crate) fn offset(node: u64) -> u64 {
    saturated(u128::from(node) >> (depth(node) + 1))
}

/// The node at `depth` with `offset`.
pub(crate) fn index(depth: u32, offset: u64) -> u64 {
    let odd = (u128::from(offset) << 1) | 1;
    if depth > odd.leading_zeros() {
        return u64::MAX;
    }
    saturated((odd << depth.min(127)) - 1)
}

pub(crate) fn parent(node: u64) -> u64 {
    index(depth(node) + 1, offset(node) >> 1)
}

pub(crate) fn sibling(node: u64) -> u64 {
    index(depth(node), offset(node) ^ 1)
}

/// Left and right child; `None` for a leaf.
pub(crate) fn children(node: u64) -> Option<(u64, u64)> {
    let below = depth(node).checked_sub(1)?;
    let left = offset(node).saturating_mul(2);
    Some((index(below, left), index(below, left.saturating_add(1))))
}

/// The leftmost leaf below `node` (itself for a leaf).
pub(crate) fn left_span(node: u64) -> u64 {
    saturated(u128::from(offset(node)) << (depth(node) + 1))
}

/// The rightmost leaf below `node` (itself for a leaf).
pub(crate) fn right_span(node: u64) -> u64 {
    saturated(((u128::from(offset(node)) + 1) << (depth(node) + 1)) - 2)
}

/// The blocks below `node`.
pub(crate) fn blocks(node: u64) -> std::ops::Range<u64> {
    left_span(node) / 2..(right_span(node) / 2).saturating_add(1)
}

/// The roots of a log of `length` blocks, left to right: at most 64.
pub(crate) fn full_roots(length: u64) -> impl Iterator<Item = u64> {
    let mut rest = length;
    let mut start: u64 = 0;
    std::iter::from_fn(move || {
        let width = 1u64 << rest.checked_ilog2()?;
        let root = start.saturating_add(width - 1);
        start = start.saturating_add(width.saturating_mul(2));
        rest -= width;
        Some(root)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vectors() -> serde_json::Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/flat-tree.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn golden_vectors() {
        let vectors = vectors();
        for (length, roots) in vectors["fullRoots"].as_object().unwrap() {
            let expected: Vec<u64> =
                roots.as_array().unwrap().iter().map(|root| root.as_u64().unwrap()).collect();
            assert_eq!(full_roots(length.parse().unwrap()).collect::<Vec<_>>(), expected);
        }
        for node in vectors["nodes"].as_array().unwrap() {
            let number = |field: &str| node[field].as_u64().unwrap();
            let at = number("index");
            assert_eq!(u64::from(depth(at)), number("depth"));
            assert_eq!(offset(at), number("offset"));
            assert_eq!(parent(at), number("parent"));
            assert_eq!(sibling(at), number("sibling"));
            assert_eq!(left_span(at), number("leftSpan"));
            assert_eq!(right_span(at), number("rightSpan"));
            let expected = node["children"]
                .as_array()
                .map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap()));
            assert_eq!(children(at), expected);
        }
    }

    /// The tree over leaves `2 start .. 2 end`, built from its definition.
    fn check_subtree(start: u64, width: u64) -> u64 {
        if width == 1 {
            return start * 2;
        }
        let left = check_subtree(start, width / 2);
        let right = check_subtree(start + width / 2, width / 2);
        let middle = start * 2 + width - 1;
        assert_eq!(parent(left), middle);
        assert_eq!(parent(right), middle);
        assert_eq!(sibling(left), right);
        assert_eq!(sibling(right), left);
        assert_eq!(children(middle), Some((left, right)));
        assert_eq!(blocks(middle), start..start + width);
        assert_eq!(index(depth(middle), offset(middle)), middle);
        middle
    }

    #[test]
    fn agrees_with_the_tree_built_by_halving() {
        assert_eq!(check_subtree(0, 1024), 1023);
    }

    #[test]
    fn extremes_saturate() {
        for node in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 1 << 53] {
            let _ = (parent(node), sibling(node), children(node), blocks(node), offset(node));
        }
        assert_eq!(index(200, 1), u64::MAX);
        assert_eq!(full_roots(u64::MAX).count(), 64);
    }

    proptest! {
        #[test]
        fn full_roots_cover_exactly(length in 0u64..1 << 40) {
            let mut next = 0;
            for root in full_roots(length) {
                prop_assert_eq!(blocks(root).start, next);
                next = blocks(root).end;
            }
            prop_assert_eq!(next, length);
        }

        #[test]
        fn any_index_is_safe(node: u64) {
            let (left, right) = (left_span(node), right_span(node));
            prop_assert!(left <= node && node <= right);
            let _ = (parent(node), sibling(node), children(node));
        }
    }
}
