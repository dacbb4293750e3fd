//! Ids of nodes and topics, and the distance between them.

/// 32 bytes: a node or a topic.
pub(crate) type Id = [u8; 32];

/// The XOR distance (Kademlia) as a big-endian number; a smaller one is nearer.
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
