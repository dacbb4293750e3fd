//! Proofs: checked, made, and changed.

use super::*;

/// The core of 11 blocks in `proofs.json`.
struct Golden {
    vectors: Value,
    verifier: Verifier,
    all: Nodes,
    blocks: Vec<Bytes>,
}

fn golden() -> Golden {
    let vectors = vectors("proofs");
    let manifest = manifest(&vectors["manifest"]);
    assert_eq!(manifest, Manifest::of_one_signer(key(&vectors["publicKey"])));
    let verifier = Verifier::new(key(&vectors["key"]), Some(manifest)).unwrap();
    let blocks: Vec<Bytes> =
        list(&vectors["blocks"]).iter().map(|block| buffer(block).into()).collect();
    let leaves: Vec<TreeNode> =
        (0..).zip(&blocks).map(|(at, block)| hash::TREE.leaf(at, block)).collect();
    let (all, roots) = grown(&leaves);
    assert_eq!(all, by_index(nodes(&vectors["treeNodes"])));
    assert_eq!(roots.length(), number(&vectors["length"]));
    let five = roots_at(&all, 5);
    assert_eq!(verifier.verify(&five, 0, &buffer(&vectors["signatureAt5"])), Ok(()));
    Golden { vectors, verifier, all, blocks }
}

#[test]
fn golden_proofs() {
    let Golden { vectors, verifier, all, blocks } = golden();
    let head = roots_at(&all, 11);
    let fork = &vectors["fork"]["before"];
    assert_eq!((head.tree_hash(), 0), (fixed(&fork["treeHash"]), number(&fork["fork"])));
    let signature = list(&vectors["cases"])
        .iter()
        .find_map(|case| proof(&case["data"]).upgrade)
        .map(|upgrade| upgrade.signature)
        .unwrap();
    for case in list(&vectors["cases"]) {
        let note = case["note"].as_str().unwrap();
        let (asked, stated) = (request(&case["request"]), proof(&case["data"]));
        assert_eq!(decode(&buffer(&case["dataEncoded"])).as_ref(), Some(&stated), "{note}");
        let known = believed(&asked, &all);
        let proven =
            check(&verifier, &stated, &known).unwrap_or_else(|flaw| panic!("{note}: {flaw:?}"));
        assert!(proven.nodes.iter().all(|node| all[&node.index] == *node), "{note}");
        assert_eq!(proven.signed.is_some(), asked.upgrade.is_some(), "{note}");
        if let Some(signed) = &proven.signed {
            assert_eq!((signed.length, signed.byte_length), (11, 170), "{note}");
            assert_eq!(signed.roots, head.nodes(), "{note}");
        }
        let block = stated.block.as_ref().map(|part| part.block);
        assert_eq!(proven.leaf.map(|leaf| leaf.index / 2), block, "{note}");
        let value = block.map(|block| blocks[block as usize].clone());
        let held = Held { fork: 0, length: 11, signature: &signature };
        assert_eq!(respond(&asked, held, value, &all), Ok(stated), "{note}");
    }
}

#[test]
fn a_proof_changed_by_one_bit_is_refused_or_proves_the_same() {
    let Golden { vectors, verifier, all, .. } = golden();
    for case in list(&vectors["cases"]) {
        let note = case["note"].as_str().unwrap();
        let known = believed(&request(&case["request"]), &all);
        let bytes = buffer(&case["dataEncoded"]);
        let whole = decode(&bytes).unwrap();
        let proven = check(&verifier, &whole, &known).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let Some(changed) = decode(&changed) else { continue };
                let Ok(verdict) = check(&verifier, &changed, &known) else { continue };
                // Not covered: the number of the request, the fork unless it is signed, the offset that a
                // seek was for, a manifest (checked against the key), a patch that is not allowed.
                let mut same = verdict.clone();
                if let (Some(ours), Some(theirs)) = (&proven.signed, &mut same.signed) {
                    theirs.signature = ours.signature.clone();
                }
                assert_eq!(same, proven, "{note}: byte {at}, bit {bit}");
                assert!(whole.upgrade.is_none() || changed.fork == whole.fork, "{note}");
            }
        }
    }
}

#[test]
fn a_proof_without_one_of_its_nodes_or_with_another_one_is_refused() {
    let Golden { vectors, verifier, all, .. } = golden();
    for case in list(&vectors["cases"]) {
        let note = case["note"].as_str().unwrap();
        let known = believed(&request(&case["request"]), &all);
        let whole = proof(&case["data"]);
        for place in 0..5 {
            let Some(count) = list_of(&mut whole.clone(), place).map(|list| list.len()) else {
                continue;
            };
            for at in 0..count {
                let mut less = whole.clone();
                list_of(&mut less, place).unwrap().remove(at);
                assert!(check(&verifier, &less, &known).is_err(), "{note}: list {place}, {at}");
            }
            for at in 0..=count {
                for extra in all.values() {
                    let mut more = whole.clone();
                    list_of(&mut more, place).unwrap().insert(at, *extra);
                    assert!(
                        check(&verifier, &more, &known).is_err(),
                        "{note}: list {place}, {at}, {extra:?}"
                    );
                }
            }
        }
    }
}

fn list_of(proof: &mut Proof, place: usize) -> Option<&mut Vec<TreeNode>> {
    match place {
        0 => proof.block.as_mut().map(|part| &mut part.nodes),
        1 => proof.hash.as_mut().map(|part| &mut part.nodes),
        2 => proof.seek.as_mut().map(|part| &mut part.nodes),
        3 => proof.upgrade.as_mut().map(|part| &mut part.nodes),
        _ => proof.upgrade.as_mut().map(|part| &mut part.additional),
    }
}

#[test]
fn golden_fork() {
    let Golden { vectors, verifier, all, mut blocks } = golden();
    let fork = &vectors["fork"];
    let truncated = &fork["truncatedTo7"];
    let seven = roots_at(&all, number(&truncated["length"]));
    assert_eq!(seven.tree_hash(), fixed(&truncated["treeHash"]));
    let signature = buffer(&truncated["signature"]);
    assert_eq!(verifier.verify(&seven, number(&truncated["fork"]), &signature), Ok(()));
    assert!(verifier.verify(&seven, 0, &signature).is_err());
    let appended = &fork["thenAppended"];
    let stated = proof(&appended["data"]);
    assert_eq!(decode(&buffer(&appended["dataEncoded"])).as_ref(), Some(&stated));
    let signed = check(&verifier, &stated, &Nodes::new()).unwrap().signed.unwrap();
    blocks.truncate(7);
    blocks.push(buffer(&appended["block"]).into());
    let leaves: Vec<TreeNode> =
        (0..).zip(&blocks).map(|(at, block)| hash::TREE.leaf(at, block)).collect();
    assert_eq!((signed.length, &signed.roots[..]), (8, grown(&leaves).1.nodes()));
    // At one fork it would be another history than the one that is known here.
    assert_eq!(check(&verifier, &stated, &all), Err(Flaw::Forked { length: 8 }));
    let unchanged = Proof { fork: 0, ..stated };
    assert!(matches!(check(&verifier, &unchanged, &Nodes::new()), Err(Flaw::Invalid(_))));
}

/// A core of `length` blocks of different sizes that seed 1 signs.
struct Own {
    verifier: Verifier,
    all: Nodes,
    blocks: Vec<Bytes>,
    signature: Signature,
}

fn own(length: u64) -> Own {
    let manifest = Manifest::of_one_signer(pair(1).public_key());
    let blocks: Vec<Bytes> =
        (0..length).map(|at| vec![at as u8; (at * 7 % 5) as usize].into()).collect();
    let leaves: Vec<TreeNode> =
        (0..).zip(&blocks).map(|(at, block)| hash::TREE.leaf(at, block)).collect();
    let (all, roots) = grown(&leaves);
    let signed = sign(1, manifest.key().as_bytes(), &roots, 2);
    let signature = assemble(&[(0, signed, 0)], &[]).as_slice().into();
    Own { verifier: verifier(&manifest), all, blocks, signature }
}

impl Own {
    fn answer(&self, asked: &Request) -> Result<Proof, Unanswered<Infallible>> {
        let length = self.blocks.len() as u64;
        let held = Held { fork: 2, length, signature: &self.signature };
        let value = asked.block.and_then(|way| self.blocks.get(way.from as usize).cloned());
        respond(asked, held, value, &self.all)
    }

    /// The answer proves to a reader with the roots of the length it extends what it asked for.
    fn exchange(&self, asked: Request) {
        let proof = self.answer(&asked).unwrap_or_else(|why| panic!("{asked:?}: {why:?}"));
        let known = believed(&asked, &self.all);
        let proven = check(&self.verifier, &proof, &known)
            .unwrap_or_else(|flaw| panic!("{asked:?}: {proof:?}: {flaw:?}"));
        for node in &proven.nodes {
            assert_eq!(self.all[&node.index], *node, "{asked:?}");
        }
        let length = proven.signed.map(|signed| signed.length);
        assert_eq!(length, asked.upgrade.map(|_| self.blocks.len() as u64), "{asked:?}");
        assert_eq!(proven.leaf.map(|leaf| leaf.index / 2), asked.block.map(|way| way.from));
    }
}

#[test]
fn what_is_answered_here_is_proven_there() {
    for length in 1..=9 {
        let core = own(length);
        let bytes: u64 = core.blocks.iter().map(|block| block.len() as u64).sum();
        for (start, end) in
            (0..length).flat_map(|start| (start + 1..=length).map(move |end| (start, end)))
        {
            let upgrade = Some(Upgrade { start, length: end - start });
            let whole = Request { upgrade, ..Request::default() };
            core.exchange(whole);
            for at in 0..=bytes {
                let seek = Some(Seek { bytes: at, padding: 0 });
                core.exchange(Request { seek, ..whole });
            }
            for from in 0..end {
                // Blocks of the old tree lead to a root of it.
                let steps = steps_to_root(2 * from, start);
                let block = Some(Way { from, steps });
                core.exchange(Request { block, ..whole });
                core.exchange(Request {
                    block,
                    seek: Some(Seek { bytes: bytes / 2, padding: 0 }),
                    ..whole
                });
            }
            for from in core.all.keys().copied() {
                let hash = Some(Way { from, steps: steps_to_root(from, start) });
                let asked = Request { hash, ..whole };
                let below = |root: u64| {
                    let (root, node) = (flat_tree::blocks(root), flat_tree::blocks(from));
                    root.start <= node.start && node.end <= root.end
                };
                if flat_tree::full_roots(start).chain(nodes_between(start, end)).any(below) {
                    core.exchange(asked);
                }
            }
        }
    }
}

/// How many parents above a node a root of a core of `length` blocks is; 0 if the node is not in it.
fn steps_to_root(node: u64, length: u64) -> u64 {
    let mut top = node;
    for steps in 0..64 {
        if flat_tree::full_roots(length).any(|root| root == top) {
            return steps;
        }
        top = flat_tree::parent(top);
    }
    0
}

#[test]
fn a_seek_meets_the_way_of_a_hash_or_is_answered_without_nodes() {
    let core = own(11);
    for from in core.all.keys().copied() {
        for steps in 0..4 {
            let hash = Some(Way { from, steps });
            for bytes in 0..30 {
                let asked =
                    Request { hash, seek: Some(Seek { bytes, padding: 0 }), ..Request::default() };
                if core.answer(&asked).is_ok() {
                    core.exchange(asked);
                }
            }
        }
    }
}

#[test]
fn padding_is_no_part_of_an_offset() {
    let blocks: Vec<TreeNode> = (0..5).map(|at| hash::TREE.leaf(at, &[at as u8; 8 + 3])).collect();
    let (all, _) = grown(&blocks);
    let asked = Request { seek: Some(Seek { bytes: 7, padding: 8 }), ..Request::default() };
    let signature = Signature::from(&[][..]);
    let held = Held { fork: 0, length: 5, signature: &signature };
    let seek = respond(&asked, held, None, &all).unwrap().seek.unwrap();
    let indexes: Vec<u64> = seek.nodes.iter().map(|node| node.index).collect();
    assert_eq!(indexes, [4, 6, 1]);
}

#[test]
fn requests_that_no_core_can_answer_are_invalid() {
    let core = own(11);
    let way = |from, steps| Some(Way { from, steps });
    let upgrade = |start, length| Some(Upgrade { start, length });
    let none = Request::default();
    for asked in [
        Request { upgrade: upgrade(0, 0), ..none },
        Request { upgrade: upgrade(0, 12), ..none },
        Request { upgrade: upgrade(11, 1), ..none },
        Request { upgrade: upgrade(u64::MAX, u64::MAX), ..none },
        Request { block: way(11, 0), ..none },
        Request { block: way(u64::MAX, 0), ..none },
        Request { block: way(0, 4), ..none },
        Request { block: way(0, u64::MAX), ..none },
        Request { block: way(8, 0), upgrade: upgrade(2, 3), ..none },
        Request { hash: way(23, 0), ..none },
        Request { hash: way(u64::MAX, u64::MAX), ..none },
        Request { hash: way(0, 0), block: way(0, 0), ..none },
    ] {
        assert!(matches!(core.answer(&asked), Err(Unanswered::Invalid(_))), "{asked:?}");
    }
    let far = Request { seek: Some(Seek { bytes: u64::MAX, padding: u64::MAX }), ..none };
    assert_eq!(core.answer(&far).unwrap().seek.unwrap().nodes, []);
    let held = Held { fork: 2, length: 11, signature: &core.signature };
    let asked = Request { block: way(3, 1), ..none };
    assert_eq!(respond(&asked, held, None, &core.all), Err(Unanswered::NoBlock));
    let mut holey = core.all.clone();
    holey.remove(&4);
    let value = Some(core.blocks[3].clone());
    assert_eq!(respond(&asked, held, value, &holey), Err(Unanswered::NoNode(4)));
}

#[test]
fn proofs_beyond_every_core_are_refused() {
    let core = own(11);
    let whole = Request { upgrade: Some(Upgrade { start: 0, length: 11 }), ..Request::default() };
    let good = core.answer(&whole).unwrap();
    let refused = |change: &dyn Fn(&mut UpgradePart)| {
        let mut proof = good.clone();
        proof.upgrade.as_mut().map(change).unwrap();
        match check(&core.verifier, &proof, &Nodes::new()) {
            Err(Flaw::Invalid(reason)) => reason,
            verdict => panic!("{verdict:?}"),
        }
    };
    // The additional nodes are the whole tree, and are signed.
    let reason = refused(&|upgrade| {
        upgrade.length = 0;
        upgrade.additional = std::mem::take(&mut upgrade.nodes);
    });
    assert_eq!(reason, "upgrade of 0 by 0 blocks");
    let beyond = (1 << 32) + 1;
    assert!(refused(&|upgrade| upgrade.length = beyond).starts_with("upgrade of 0 by"));
    refused(&|upgrade| (upgrade.start, upgrade.length) = (u64::MAX, u64::MAX));
    let many = MAX_PROOF_NODES + 1;
    assert_eq!(refused(&|upgrade| upgrade.nodes = vec![upgrade.nodes[0]; many]), "73 nodes");
    let far = TreeNode { index: u64::MAX, ..core.all[&0] };
    let reason = refused(&|upgrade| upgrade.additional = vec![far]);
    assert_eq!(reason, "a node beyond every core");
    assert_eq!(refused(&|upgrade| upgrade.nodes[0].size = u64::MAX), reason);
    let long = vec![0; MAX_SIGNATURE_BYTES + 1];
    let reason = refused(&|upgrade| upgrade.signature = long.as_slice().into());
    assert_eq!(reason, "signature too long");
    // The start is not known here.
    refused(&|upgrade| (upgrade.start, upgrade.length) = (4, 7));
    let far = BlockPart { block: u64::MAX, value: Bytes::new(), nodes: Vec::new() };
    let far = Proof { fork: 2, block: Some(far), ..Proof::default() };
    assert!(matches!(check(&core.verifier, &far, &core.all), Err(Flaw::Invalid(_))));
    let empty = check(&core.verifier, &Proof::default(), &Nodes::new()).unwrap();
    assert_eq!((empty.leaf, empty.nodes, empty.signed), (None, Vec::new(), None));
}

#[test]
fn an_upgrade_has_the_whole_prologue() {
    let core = own(5);
    let tree_hash = roots_at(&core.all, 5).tree_hash();
    let manifest = Manifest {
        quorum: 0,
        signers: Vec::new(),
        prologue: Some(Prologue { tree_hash, length: 5 }),
        ..Manifest::of_one_signer(pair(1).public_key())
    };
    let upgrade = |start, length| {
        let asked = Request { upgrade: Some(Upgrade { start, length }), ..Request::default() };
        let proof = core.answer(&asked).unwrap();
        check(&verifier(&manifest), &proof, &believed(&asked, &core.all))
    };
    assert_eq!(upgrade(0, 5).unwrap().signed.unwrap().length, 5);
    // These lead to the prologue by additional nodes, or from a part of it.
    for (start, length) in [(0, 4), (4, 1)] {
        let verdict = upgrade(start, length);
        assert!(matches!(verdict, Err(Flaw::Invalid(_))), "{verdict:?}");
    }
}

#[test]
fn a_hash_beside_a_block_is_refused() {
    let core = own(8);
    let asked = Request { block: Some(Way { from: 1, steps: 1 }), ..Request::default() };
    let mut proof = core.answer(&asked).unwrap();
    assert!(check(&core.verifier, &proof, &core.all).is_ok());
    proof.hash = Some(HashPart { index: 4, nodes: vec![core.all[&4]] });
    let verdict = check(&core.verifier, &proof, &core.all);
    assert_eq!(verdict, Err(Flaw::Invalid(BadTree::Unused(4).to_string())));
}

#[test]
fn a_node_for_another_one_is_refused() {
    let core = own(8);
    let part = HashPart { index: 5, nodes: vec![core.all[&3]] };
    let proof = Proof { fork: 2, hash: Some(part), ..Proof::default() };
    let reason = BadTree::Unexpected { found: 3, expected: 5 }.to_string();
    assert_eq!(check(&core.verifier, &proof, &core.all), Err(Flaw::Invalid(reason)));
}

#[test]
fn a_known_node_with_another_size_teaches_nothing() {
    let core = own(8);
    let mut listed = core.all[&3];
    listed.size += 1;
    let part = HashPart { index: 3, nodes: vec![listed] };
    let proof = Proof { fork: 2, hash: Some(part), ..Proof::default() };
    assert_eq!(check(&core.verifier, &proof, &core.all).unwrap().nodes, []);
}

#[test]
fn errors_of_the_own_nodes_are_not_the_peers() {
    let core = own(3);
    let asked = Request { block: Some(Way { from: 1, steps: 1 }), ..Request::default() };
    let proof = core.answer(&asked).unwrap();
    assert_eq!(verify(&core.verifier, &proof, None, |_| Err("disk")), Err(Flaw::Local("disk")));
    let held = Held { fork: 2, length: 3, signature: &core.signature };
    let failed = answer(&asked, held, Some(Bytes::new()), |_| Err("disk"));
    assert_eq!(failed, Err(Unanswered::Local("disk")));
}

fn any_node() -> impl Strategy<Value = TreeNode> {
    let index = prop_oneof![0u64..40, any::<u64>()];
    (index, prop_oneof![0u64..9, any::<u64>()], any::<[u8; 32]>())
        .prop_map(|(index, size, hash)| TreeNode { index, size, hash })
}

fn any_nodes() -> impl Strategy<Value = Vec<TreeNode>> {
    prop::collection::vec(any_node(), 0..6)
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..30, any::<u64>()]
}

proptest! {
    #[test]
    fn arbitrary_nodes_prove_nothing(
        block in prop::option::of((any_number(), any_nodes())),
        hash in prop::option::of((any_number(), any_nodes())),
        seek in prop::option::of((any_number(), any_nodes())),
        upgrade in prop::option::of((any_number(), any_number(), any_nodes(), any_nodes())),
    ) {
        let core = own(11);
        let proof = Proof {
            fork: 2,
            block: block.map(|(block, nodes)| BlockPart { block, value: "x".into(), nodes }),
            hash: hash.map(|(index, nodes)| HashPart { index, nodes }),
            seek: seek.map(|(bytes, nodes)| SeekPart { bytes, nodes }),
            upgrade: upgrade.map(|(start, length, nodes, additional)| UpgradePart {
                start,
                length,
                nodes,
                additional,
                signature: core.signature.clone(),
            }),
        };
        if let Ok(proven) = check(&core.verifier, &proof, &core.all) {
            prop_assert_eq!((proven.leaf, proven.nodes, proven.signed), (None, Vec::new(), None));
        }
    }

    #[test]
    fn arbitrary_requests_are_answered_by_what_verifies(
        block in prop::option::of((any_number(), any_number())),
        hash in prop::option::of((any_number(), any_number())),
        seek in prop::option::of((any_number(), any_number())),
        upgrade in prop::option::of((any_number(), any_number())),
    ) {
        let core = own(21);
        let way = |(from, steps)| Way { from, steps };
        let asked = Request {
            block: block.map(way),
            hash: hash.map(way),
            seek: seek.map(|(bytes, padding)| Seek { bytes, padding }),
            upgrade: upgrade.map(|(start, length)| Upgrade { start, length }),
        };
        if let Ok(proof) = core.answer(&asked) {
            let verdict = check(&core.verifier, &proof, &core.all);
            prop_assert!(verdict.is_ok(), "{:?}: {:?}", asked, verdict);
        }
    }

    #[test]
    fn nodes_between_lengths_extend_the_roots(from in 0u64..1 << 33, to in 0u64..1 << 33) {
        let (from, to) = (from.min(to) >> 1, from.max(to) >> 1);
        let nodes = nodes_between(from, to);
        prop_assert!(nodes.len() <= MAX_PROOF_NODES);
        let blank = |index| TreeNode { index, size: 0, hash: [0; 32] };
        let mut roots = Roots::new(flat_tree::full_roots(from).map(blank).collect()).unwrap();
        roots.extend(to, |index| Ok(blank(index))).unwrap();
        let indexes = roots.nodes().iter().map(|root| root.index);
        prop_assert!(indexes.eq(flat_tree::full_roots(to)));
        prop_assert_eq!(roots.length(), to);
    }
}
