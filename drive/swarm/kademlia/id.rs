//! Names of nodes and of topics, and how near they are to each other.

/// A node's own choice, or a topic.
pub(crate) type Id = [u8; 32];

/// The bits in which two ids differ, first ones first: smaller is nearer.
pub(crate) fn distance(a: &Id, b: &Id) -> Id {
    std::array::from_fn(|n| a[n] ^ b[n])
}

/// How many bits two ids have in common before they differ; 256 for equal ones.
pub(crate) fn common_bits(a: &Id, b: &Id) -> usize {
    let distance = distance(a, b);
    let Some(at) = distance.iter().position(|byte| *byte != 0) else { return 256 };
    at * 8 + distance[at].leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_ids_share_more_bits() {
        let (zero, mut other) = ([0; 32], [0; 32]);
        assert_eq!(common_bits(&zero, &zero), 256);
        other[31] = 1;
        assert_eq!(common_bits(&zero, &other), 255);
        other[1] = 0x10;
        assert_eq!(common_bits(&zero, &other), 11);
        assert!(distance(&zero, &other) > distance(&zero, &[0; 32]));
    }
}
