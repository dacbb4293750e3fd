//! The golden vectors of Hypercore 11, and cores made here: what is changed is refused.

mod keys;
mod oplog;
mod proofs;

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::super::flat_tree;
use super::super::merkle::{Flaw, Signature, TreeNode};
use super::answer::{Held, Request, Seek, Unanswered, Upgrade, Way, answer};
use super::encryption::{BlockKeys, Plain};
use super::hash::{self, Namespace, Side, capability};
use super::manifest::{BadManifest, MAX_SIGNERS, Manifest, Prologue, Signer};
use super::proof::{
    BlockPart, HashPart, MAX_PROOF_NODES, Proof, Proven, SeekPart, UpgradePart, verify,
};
use super::roots::{BadTree, Roots, nodes_between};
use super::signature::{BadSignature, MAX_SIGNATURE_BYTES, Signable, Verifier, WrongManifest};
use hypermount_swarm::compact::{
    put_list, put_uint, take_buffer, take_fixed, take_list, take_uint,
};
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey};

fn vectors(name: &str) -> Value {
    let path = format!("{}/../../tests/vectors/modern/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn buffer(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    buffer(value).try_into().unwrap()
}

fn key(value: &Value) -> PublicKey {
    PublicKey::new(fixed(value))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn node(value: &Value) -> TreeNode {
    TreeNode {
        index: number(&value["index"]),
        size: number(&value["size"]),
        hash: fixed(&value["hash"]),
    }
}

fn nodes(value: &Value) -> Vec<TreeNode> {
    list(value).iter().map(node).collect()
}

/// What a part of a vector says, if it is not null.
fn part<'a, T>(value: &'a Value, name: &str, read: impl FnOnce(&'a Value) -> T) -> Option<T> {
    Some(&value[name]).filter(|part| !part.is_null()).map(read)
}

fn manifest(value: &Value) -> Manifest {
    Manifest {
        version: number(&value["version"]).try_into().unwrap(),
        allow_patch: value["allowPatch"].as_bool().unwrap(),
        quorum: number(&value["quorum"]),
        signers: list(&value["signers"])
            .iter()
            .map(|signer| Signer {
                namespace: fixed(&signer["namespace"]),
                public_key: key(&signer["publicKey"]),
            })
            .collect(),
        prologue: part(value, "prologue", |prologue| Prologue {
            tree_hash: fixed(&prologue["hash"]),
            length: number(&prologue["length"]),
        }),
        linked: part(value, "linked", |linked| list(linked).iter().map(fixed).collect()),
        user_data: part(value, "userData", |data| buffer(data).into()),
    }
}

fn encoded(manifest: &Manifest) -> Bytes {
    let mut bytes = BytesMut::new();
    manifest.encode(&mut bytes);
    bytes.freeze()
}

/// The parts that prove something, of a data message as JSON.
fn proof(data: &Value) -> Proof {
    Proof {
        fork: number(&data["fork"]),
        block: part(data, "block", |part| BlockPart {
            block: number(&part["index"]),
            value: buffer(&part["value"]).into(),
            nodes: nodes(&part["nodes"]),
        }),
        hash: part(data, "hash", |part| HashPart {
            index: number(&part["index"]),
            nodes: nodes(&part["nodes"]),
        }),
        seek: part(data, "seek", |part| SeekPart {
            bytes: number(&part["bytes"]),
            nodes: nodes(&part["nodes"]),
        }),
        upgrade: part(data, "upgrade", |part| UpgradePart {
            start: number(&part["start"]),
            length: number(&part["length"]),
            nodes: nodes(&part["nodes"]),
            additional: nodes(&part["additionalNodes"]),
            signature: buffer(&part["signature"]).as_slice().into(),
        }),
    }
}

/// A data message, without its manifest; `None` if it ends early.
fn decode(bytes: &[u8]) -> Option<Proof> {
    let mut from = Bytes::copy_from_slice(bytes);
    let from = &mut from;
    let take_nodes = |from: &mut Bytes| {
        take_list(from, 1000, |from| {
            let (index, size) = (take_uint(from)?, take_uint(from)?);
            Ok(TreeNode { index, size, hash: take_fixed(from)? })
        })
        .ok()
    };
    let flags = take_uint(from).ok()?;
    take_uint(from).ok()?;
    let mut proof = Proof { fork: take_uint(from).ok()?, ..Proof::default() };
    if flags & 1 != 0 {
        let block = take_uint(from).ok()?;
        let value = take_buffer(from).ok()?;
        proof.block = Some(BlockPart { block, value, nodes: take_nodes(from)? });
    }
    if flags & 2 != 0 {
        let index = take_uint(from).ok()?;
        proof.hash = Some(HashPart { index, nodes: take_nodes(from)? });
    }
    if flags & 4 != 0 {
        let bytes = take_uint(from).ok()?;
        proof.seek = Some(SeekPart { bytes, nodes: take_nodes(from)? });
    }
    if flags & 8 != 0 {
        let (start, length) = (take_uint(from).ok()?, take_uint(from).ok()?);
        let (nodes, additional) = (take_nodes(from)?, take_nodes(from)?);
        let signature = take_buffer(from).ok()?.as_ref().into();
        proof.upgrade = Some(UpgradePart { start, length, nodes, additional, signature });
    }
    if flags & 16 != 0 {
        Manifest::decode(from).ok()?;
    }
    from.is_empty().then_some(proof)
}

fn request(value: &Value) -> Request {
    let way = |part: &Value| Way { from: number(&part["index"]), steps: number(&part["nodes"]) };
    Request {
        block: part(value, "block", way),
        hash: part(value, "hash", way),
        seek: part(value, "seek", |part| Seek {
            bytes: number(&part["bytes"]),
            padding: number(&part["padding"]),
        }),
        upgrade: part(value, "upgrade", |part| Upgrade {
            start: number(&part["start"]),
            length: number(&part["length"]),
        }),
    }
}

type Nodes = BTreeMap<u64, TreeNode>;

fn by_index(nodes: impl IntoIterator<Item = TreeNode>) -> Nodes {
    nodes.into_iter().map(|node| (node.index, node)).collect()
}

/// Every node of a core with these leaves, and its roots.
fn grown(leaves: &[TreeNode]) -> (Nodes, Roots) {
    let (mut all, mut roots) = (Nodes::new(), Roots::default());
    for (at, leaf) in leaves.iter().enumerate() {
        // One leaf extends a tree by one block; the parents that it completes follow.
        all.extend(by_index(roots.extend(at as u64 + 1, |_| Ok(*leaf)).unwrap()));
    }
    (all, roots)
}

fn roots_at(all: &Nodes, length: u64) -> Roots {
    Roots::new(flat_tree::full_roots(length).map(|index| all[&index]).collect()).unwrap()
}

/// What a reader believes that sent the request: the roots that it extends, and where its ways end.
fn believed(request: &Request, all: &Nodes) -> Nodes {
    let mut believed = Nodes::new();
    let start = request.upgrade.map_or(0, |upgrade| upgrade.start);
    for index in flat_tree::full_roots(start) {
        believed.insert(index, all[&index]);
    }
    let leaf = request.block.map(|way| Way { from: 2 * way.from, ..way });
    if let Some(way) = leaf.or(request.hash) {
        let inside = flat_tree::blocks(way.from).start >= start && request.upgrade.is_some();
        let top = (0..way.steps).fold(way.from, |node, _| flat_tree::parent(node));
        if !inside {
            believed.insert(top, all[&top]);
        }
    }
    believed
}

fn check(verifier: &Verifier, proof: &Proof, known: &Nodes) -> Result<Proven, Flaw<Infallible>> {
    verify(verifier, proof, None, |index| Ok(known.get(&index).copied()))
}

fn respond(
    request: &Request,
    held: Held<'_>,
    value: Option<Bytes>,
    all: &Nodes,
) -> Result<Proof, Unanswered<Infallible>> {
    answer(request, held, value, |index| Ok(all.get(&index).copied()))
}

fn pair(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

/// The roots of 5 blocks that the signatures of `crypto.json` are over.
fn signed_roots(vectors: &Value) -> Roots {
    Roots::new(nodes(&vectors["tree"]["roots"])).unwrap()
}

fn named_manifest(vectors: &Value, name: &str) -> Manifest {
    manifest(&vectors["manifests"][name]["manifest"])
}

fn verifier(manifest: &Manifest) -> Verifier {
    Verifier::new(manifest.key(), Some(manifest.clone())).unwrap()
}

/// A signature blob of version 1: signer, signature, patch; and the nodes.
fn assemble(signatures: &[(u64, [u8; 64], u64)], patch_nodes: &[TreeNode]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_list(signatures, &mut bytes, |(signer, signature, patch), to| {
        put_uint(*signer, to);
        to.extend_from_slice(signature);
        put_uint(*patch, to);
    });
    put_list(patch_nodes, &mut bytes, put_node);
    bytes.to_vec()
}

fn put_node(node: &TreeNode, to: &mut BytesMut) {
    put_uint(node.index, to);
    put_uint(node.size, to);
    to.extend_from_slice(&node.hash);
}

fn sign(seed: u8, context: &Hash, roots: &Roots, fork: u64) -> [u8; 64] {
    let signable = Signable { tree_hash: roots.tree_hash(), length: roots.length(), fork };
    pair(seed).sign(&signable.bytes(Some(context)))
}
