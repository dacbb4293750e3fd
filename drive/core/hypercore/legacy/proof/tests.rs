use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use super::super::hash::{TREE, sign, signable, signed_by};
use super::*;
use crate::hypercore::HashedBlocks;
use crate::hypercore::bitfield::{Bitfield, PAGE_SIZE};
use hypermount_swarm::crypto::KeyPair;

fn push_leaf(roots: &mut Vec<TreeNode>, leaf: TreeNode) -> Option<Vec<TreeNode>> {
    crate::hypercore::merkle::push_leaf(roots, leaf, |one, other| hash::TREE.parent(one, other))
}

fn vectors(name: &str) -> serde_json::Value {
    let path = format!("{}/../../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn bytes<const N: usize>(value: &serde_json::Value) -> [u8; N] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

/// Every node of a core with these blocks, and its roots.
fn grown(blocks: &[&[u8]]) -> (BTreeMap<u64, TreeNode>, Vec<TreeNode>) {
    let (mut nodes, mut roots) = (BTreeMap::new(), Vec::new());
    for (at, block) in blocks.iter().enumerate() {
        let created = push_leaf(&mut roots, TREE.leaf(at as u64, block)).unwrap();
        nodes.extend(created.into_iter().map(|node| (node.index, node)));
    }
    (nodes, roots)
}

#[test]
fn golden_hashes_and_signatures() {
    let vectors = vectors("crypto");
    let pair = KeyPair::from_seed(&bytes(&vectors["signer"]["seed"]));
    assert_eq!(pair.public_key().as_bytes(), &bytes::<32>(&vectors["signer"]["publicKey"]));
    assert_eq!(pair.secret_key(), bytes::<64>(&vectors["signer"]["secretKey"]));
    assert_eq!(TREE.of_roots(&[]), bytes(&vectors["emptyRootHash"]));
    let mut roots = Vec::new();
    for (at, step) in vectors["steps"].as_array().unwrap().iter().enumerate() {
        let block = hex::decode(step["block"].as_str().unwrap()).unwrap();
        let created = push_leaf(&mut roots, TREE.leaf(at as u64, &block)).unwrap();
        let expected: Vec<TreeNode> = step["newNodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| TreeNode {
                index: number(&node["index"]),
                size: number(&node["size"]),
                hash: bytes(&node["hash"]),
            })
            .collect();
        assert_eq!(created, expected);
        let length = number(&step["length"]);
        assert_eq!(
            roots.iter().map(|root| root.index).collect::<Vec<_>>(),
            numbers(&step["roots"])
        );
        assert_eq!(TREE.of_roots(&roots), bytes(&step["rootHash"]));
        assert_eq!(signable(&roots, length), bytes(&step["signable"]));
        let signature = sign(&pair, &roots, length);
        assert_eq!(signature, Signature::from(bytes(&step["signature"])));
        assert!(signed_by(&pair.public_key(), &roots, length, &signature));
        assert!(!signed_by(&pair.public_key(), &roots, length + 1, &signature));
        let old_form = pair.sign(&TREE.of_roots(&roots));
        assert!(signed_by(&pair.public_key(), &roots, length, &old_form.into()));
    }
    for key in vectors["keys"].as_array().unwrap() {
        let pair = KeyPair::from_seed(&bytes(&key["seed"]));
        assert_eq!(pair.public_key().as_bytes(), &bytes::<32>(&key["publicKey"]));
        let discovery_key = pair.public_key().discovery_key();
        assert_eq!(discovery_key.as_bytes(), &bytes::<32>(&key["discoveryKey"]));
    }
}

fn bits_of(length: u64) -> Bitfield {
    let mut bits = Bitfield::new(PAGE_SIZE);
    for block in 0..length {
        bits.set_node(block * 2);
    }
    bits
}

#[test]
fn golden_proof_plans() {
    let vectors = vectors("tree-index");
    for case in vectors["proofs"].as_array().unwrap() {
        let length = number(&case["blocks"]);
        let bits = bits_of(length);
        let has = |node| bits.has_node(node);
        assert_eq!(claimed_length(&has, bits.tree_capacity()), number(&case["computedBlocks"]));
        for proof in case["proofs"].as_array().unwrap() {
            let node = number(&proof["block"]) * 2;
            for (kind, with_leaf) in [("emptyRemote", false), ("hashOnly", true)] {
                let mut remote = RemoteTree::default();
                let plan = plan_proof(node, 0, with_leaf, &mut remote, &has).unwrap();
                assert_eq!(plan.nodes, numbers(&proof[kind]["nodes"]));
                assert_eq!(plan.verified_by, number(&proof[kind]["verifiedBy"]));
            }
        }
        let mut remote = RemoteTree::default();
        assert_eq!(plan_proof(length * 2, 0, false, &mut remote, &has), None);
    }
}

#[test]
fn golden_digests_of_a_sparse_reader() {
    let vectors = vectors("tree-index");
    let blocks: Vec<Vec<u8>> = (0..10u8).map(|at| vec![at]).collect();
    let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    let (all, roots) = grown(&blocks);
    let pair = KeyPair::from_seed(&[7; 32]);
    let signature = sign(&pair, &roots, 10);
    let (source, mut bits) = (bits_of(10), Bitfield::new(PAGE_SIZE));
    let mut known = BTreeMap::new();
    let mut remote = RemoteTree::default();
    for step in vectors["sparseReaderOf10Blocks"].as_array().unwrap() {
        let block = number(&step["request"]);
        let digest = digest(block * 2, &|node| bits.has_node(node), bits.tree_capacity());
        assert_eq!(digest, number(&step["digest"]));
        let plan = plan_proof(block * 2, digest, false, &mut remote, &|node| source.has_node(node));
        let plan = plan.unwrap();
        assert_eq!(plan.nodes, numbers(&step["nodes"]));
        assert_eq!(plan.verified_by, number(&step["verifiedBy"]));
        let proof = Proof {
            block,
            value: None,
            nodes: plan.nodes.iter().map(|node| all[node]).collect(),
            signature: (plan.verified_by > 0).then(|| signature.clone()),
        };
        let local = |index| Ok::<_, Infallible>(known.get(&index).copied());
        let leaf = Some(all[&(block * 2)]);
        let verified = verify(&pair.public_key(), &proof, leaf, local).unwrap();
        for node in verified.nodes {
            assert_eq!(all[&node.index], node);
            bits.set_node(node.index);
            known.insert(node.index, node);
        }
    }
    let digests: Vec<u64> = (0..10)
        .map(|block| digest(block * 2, &|node| bits.has_node(node), bits.tree_capacity()))
        .collect();
    assert_eq!(digests, numbers(&vectors["finalDigests"]));
}

#[test]
fn golden_proofs() {
    let vectors = vectors("core-storage");
    let key = PublicKey::new(bytes(&vectors["key"]));
    let blocks: [&[u8]; 5] = [b"a", b"b", b"c", b"", b"hello"];
    let (all, _) = grown(&blocks);
    let bits = bits_of(5);
    for case in vectors["proofs"].as_array().unwrap() {
        let block = number(&case["index"]);
        let digest = number(&case["opts"]["digest"]);
        let with_leaf = case["opts"]["hash"].as_bool().unwrap_or(false);
        let mut remote = RemoteTree::default();
        let has = |node| bits.has_node(node);
        let plan = plan_proof(block * 2, digest, with_leaf, &mut remote, &has).unwrap();
        let nodes: Vec<TreeNode> = case["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| TreeNode {
                index: number(&node["index"]),
                size: number(&node["size"]),
                hash: bytes(&node["hash"]),
            })
            .collect();
        assert_eq!(plan.nodes.iter().map(|node| all[node]).collect::<Vec<_>>(), nodes);
        let signature =
            case["signature"].as_str().map(|_| Signature::from(bytes(&case["signature"])));
        assert_eq!(signature.is_some(), plan.verified_by > 0);
        if signature.is_some() {
            let proof = Proof { block, value: None, nodes, signature };
            let leaf = (!with_leaf).then(|| all[&(block * 2)]);
            let local = |_| Ok::<_, Infallible>(None);
            let verified = verify(&key, &proof, leaf, local).unwrap();
            assert_eq!(verified.signed.unwrap().length, 5);
        }
    }
}

/// A signed proof of block 2 of five, without its value.
fn proof_of_five() -> (KeyPair, Proof, TreeNode) {
    let pair = KeyPair::from_seed(&[9; 32]);
    let (all, roots) = grown(&[b"a", b"b", b"c", b"dd", b"e"]);
    let nodes = [6, 1, 8].map(|index| all[&index]).to_vec();
    let signature = Some(sign(&pair, &roots, 5));
    (pair, Proof { block: 2, value: None, nodes, signature }, all[&4])
}

proptest::proptest! {
    /// However many at once and of whatever sizes: the lanes of the hash must not mix.
    #[test]
    fn leaves_hashed_together_are_those_hashed_alone(sizes in proptest::collection::vec(0usize..1000, 0..20)) {
        let blocks: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, size)| vec![at as u8; size * 7]).collect();
        let given: Vec<(u64, &[u8])> =
            blocks.iter().enumerate().map(|(at, block)| (at as u64, block.as_slice())).collect();
        let alone: Vec<TreeNode> = given.iter().map(|(at, block)| TREE.leaf(*at, block)).collect();
        proptest::prop_assert_eq!(TREE.leaves(&given), alone);
    }
}

fn check(pair: &KeyPair, proof: &Proof, leaf: TreeNode) -> Result<Verified, Flaw<Infallible>> {
    verify(&pair.public_key(), proof, Some(leaf), |_| Ok(None))
}

#[test]
fn no_changed_proof_verifies() {
    let (pair, good, leaf) = proof_of_five();
    check(&pair, &good, leaf).unwrap();
    let refused = |proof: &Proof, leaf| {
        assert!(matches!(check(&pair, proof, leaf), Err(Flaw::Invalid(_))), "{proof:?}");
    };
    refused(&good, TreeNode { size: leaf.size + 1, ..leaf });
    refused(&good, TreeNode { hash: [0; 32], ..leaf });
    refused(&Proof { signature: None, ..good.clone() }, leaf);
    refused(&Proof { signature: Some([0; 64].into()), ..good.clone() }, leaf);
    for at in 0..good.nodes.len() {
        let mut changed = good.clone();
        changed.nodes[at].hash[5] ^= 1;
        refused(&changed, leaf);
        let mut changed = good.clone();
        changed.nodes[at].size += 1;
        refused(&changed, leaf);
        let mut changed = good.clone();
        changed.nodes[at].index += 2;
        refused(&changed, leaf);
        let mut changed = good.clone();
        changed.nodes.remove(at);
        refused(&changed, leaf);
    }
}

#[test]
fn limits_hold_at_and_past() {
    let (pair, good, leaf) = proof_of_five();
    let spare = TreeNode { index: 100, hash: [1; 32], size: 1 };
    let reason = |proof: &Proof| match check(&pair, proof, leaf) {
        Err(Flaw::Invalid(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let mut many = good.clone();
    many.nodes.resize(MAX_PROOF_NODES, spare);
    assert!(!reason(&many).contains(" nodes"));
    many.nodes.push(spare);
    assert_eq!(reason(&many), format!("{} nodes", MAX_PROOF_NODES + 1));

    let far = |index, size| {
        let nodes = vec![TreeNode { index, size, hash: [1; 32] }];
        reason(&Proof { nodes, ..good.clone() })
    };
    assert!(!far(MAX_NODE_INDEX, 1).contains("beyond"));
    assert!(far(MAX_NODE_INDEX + 1, 1).contains("beyond"));
    assert!(far(u64::MAX, 1).contains("beyond"));
    assert!(far(6, MAX_BYTE_LENGTH + 1).contains("beyond"));
    assert!(far(6, MAX_BYTE_LENGTH).contains("beyond"), "with the leaf it is too much");
    for block in [MAX_CORE_LENGTH, 1 << 53, u64::MAX] {
        assert!(reason(&Proof { block, ..good.clone() }).contains("beyond"));
    }
    let last = Proof { block: MAX_CORE_LENGTH - 1, ..good };
    let leaf = TreeNode { index: last.block * 2, ..leaf };
    assert!(matches!(check(&pair, &last, leaf), Err(Flaw::Invalid(_))));
}

#[test]
fn a_signed_contradiction_is_a_fork_and_an_unsigned_one_is_not() {
    let (pair, good, leaf) = proof_of_five();
    let ours = TreeNode { hash: [3; 32], ..good.nodes[1] };
    let local = |index| Ok::<_, Infallible>((index == ours.index).then_some(ours));
    let key = pair.public_key();
    assert_eq!(verify(&key, &good, Some(leaf), local), Err(Flaw::Forked { length: 5 }));
    let unsigned = Proof { signature: None, ..good };
    assert!(matches!(verify(&key, &unsigned, Some(leaf), local), Err(Flaw::Invalid(_))));
}

#[test]
fn hostile_digests_are_walked_and_stored_within_bounds() {
    let bits = bits_of(9);
    let has = |node| bits.has_node(node);
    let mut remote = RemoteTree::default();
    for digest in [u64::MAX, u64::MAX - 1, 1 << 63, 3, 2, 0, 0xaaaa_aaaa_aaaa_aaaa] {
        for block in 0..9 {
            assert!(plan_proof(block * 2, digest, false, &mut remote, &has).is_some());
        }
    }
    assert!(remote.nodes.len() <= 17);
    let mut remote = RemoteTree::default();
    for node in 0..2 * MAX_REMOTE_NODES as u64 {
        remote.insert(node * 4);
        assert!(remote.nodes.len() <= MAX_REMOTE_NODES);
    }
}

#[test]
fn a_digest_is_defined_for_every_block() {
    let bits = bits_of(9);
    let has = |node| bits.has_node(node);
    let mut seen = BTreeSet::new();
    for node in [0, 18, 1 << 33, 1 << 54, u64::MAX - 1, u64::MAX] {
        seen.insert(digest(node, &has, bits.tree_capacity()));
    }
    assert!(seen.contains(&1));
}

#[test]
fn blocks_hashed_before_they_are_appended_have_the_same_leaves() {
    for count in [0, 1, 2, 3, 4, 5, 9, 33] {
        let length = |n: usize| [0, 1, 118, 119, 120, 127, 128, 129, 4096, 65_536][n * 7 % 10];
        let blocks: Vec<Bytes> = (0..count).map(|n| vec![n as u8; length(n)].into()).collect();
        let alone: Vec<TreeNode> =
            (5..).zip(&blocks).map(|(block, bytes)| TREE.leaf(block, bytes)).collect();
        let together: Vec<TreeNode> = HashedBlocks::new(blocks).leaves(5).collect();
        assert_eq!(together, alone);
    }
}
