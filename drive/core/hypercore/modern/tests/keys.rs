//! Hashes, manifests, signatures and encrypted blocks.

use super::*;

#[test]
fn golden_namespaces_and_capabilities() {
    let vectors = vectors("crypto");
    let of_hypercore = &vectors["namespaces"]["hypercore"];
    for (name, namespace) in [
        ("TREE", Namespace::Tree),
        ("REPLICATE_INITIATOR", Namespace::ReplicateInitiator),
        ("REPLICATE_RESPONDER", Namespace::ReplicateResponder),
        ("MANIFEST", Namespace::Manifest),
        ("DEFAULT_NAMESPACE", Namespace::Signer),
        ("DEFAULT_ENCRYPTION", Namespace::Encryption),
    ] {
        assert_eq!(namespace.hash(), &fixed::<32>(&of_hypercore[name]), "{name}");
    }
    assert_eq!(of_hypercore.as_object().unwrap().len(), 6);
    let one = &vectors["discoveryKey"];
    assert_eq!(key(&one["key"]).discovery_key().as_bytes(), &fixed::<32>(&one["discoveryKey"]));
    let one = &vectors["capability"];
    for (name, side) in [("initiator", Side::Initiator), ("responder", Side::Responder)] {
        let capability = capability(side, &key(&one["key"]), &fixed(&one["handshakeHash"]));
        assert_eq!(capability, fixed(&one[name]), "{name}");
    }
}

#[test]
fn golden_tree() {
    let vectors = vectors("crypto");
    let tree = &vectors["tree"];
    let blocks: Vec<Vec<u8>> = list(&tree["blocks"]).iter().map(buffer).collect();
    let placed: Vec<(u64, &[u8])> = (0..).zip(blocks.iter().map(Vec::as_slice)).collect();
    let leaves = hash::TREE.leaves(&placed);
    assert_eq!(leaves, nodes(&tree["leaves"]));
    assert_eq!(
        leaves,
        placed.iter().map(|(at, bytes)| hash::TREE.leaf(*at, bytes)).collect::<Vec<_>>()
    );
    let (all, roots) = grown(&leaves);
    for parent in nodes(&tree["parents"]) {
        assert_eq!(all[&parent.index], parent);
        let (left, right) = flat_tree::children(parent.index).unwrap();
        assert_eq!(hash::TREE.parent(&all[&right], &all[&left]), Some(parent));
    }
    assert_eq!(roots.nodes(), nodes(&tree["roots"]));
    assert_eq!((roots.length(), roots.tree_hash()), (5, fixed(&tree["treeHash"])));
}

#[test]
fn golden_manifests() {
    let vectors = vectors("crypto");
    for (name, one) in vectors["manifests"].as_object().unwrap() {
        let stated = manifest(&one["manifest"]);
        assert_eq!(hex::encode(encoded(&stated)), one["encoded"].as_str().unwrap(), "{name}");
        assert_eq!(stated.key(), key(&one["key"]), "{name}");
        let discovery_key = stated.key().discovery_key();
        assert_eq!(discovery_key.as_bytes(), &fixed::<32>(&one["discoveryKey"]), "{name}");
        let mut bytes = BytesMut::from(&encoded(&stated)[..]);
        bytes.extend_from_slice(b"rest");
        let mut bytes = bytes.freeze();
        assert_eq!(Manifest::decode(&mut bytes), Ok(stated), "{name}");
        assert_eq!(bytes, "rest");
    }
    let one_signer = Manifest::of_one_signer(pair(1).public_key());
    assert_eq!(one_signer, manifest(&vectors["manifests"]["v1_single"]["manifest"]));
}

#[test]
fn golden_signatures() {
    let vectors = vectors("crypto");
    let all = &vectors["signatures"];
    let roots = signed_roots(&vectors);
    let namespace = *Namespace::Signer.hash();
    let single = named_manifest(&vectors, "v1_single");
    let compat = pair(1).public_key();
    let of_compat = Verifier::new(compat, None).unwrap();
    for (name, verifier, context, fork, signature) in [
        ("v1_single", verifier(&single), Some(*single.key().as_bytes()), 0, "encoded"),
        (
            "v0_namespace",
            verifier(&named_manifest(&vectors, "v0_single")),
            Some(namespace),
            2,
            "ed25519",
        ),
        ("compat", of_compat, None, 0, "ed25519"),
    ] {
        let one = &all[name];
        let signable = Signable { tree_hash: roots.tree_hash(), length: 5, fork };
        assert_eq!(signable.bytes(context.as_ref()), buffer(&one["signable"]), "{name}");
        let ed25519 = pair(1).sign(&signable.bytes(context.as_ref()));
        assert_eq!(ed25519, fixed(&one["ed25519"]), "{name}");
        let signature = buffer(&one[signature]);
        assert_eq!(verifier.verify(&roots, fork, &signature), Ok(()), "{name}");
        assert!(verifier.verify(&roots, fork + 1, &signature).is_err(), "{name}");
        refuses_changes(&verifier, &roots, fork, &signature, &[66]);
    }
    let two_of_three = verifier(&named_manifest(&vectors, "v1_2of3"));
    let signature = buffer(&all["v1_2of3"]["encoded"]);
    assert_eq!(two_of_three.verify(&roots, 0, &signature), Ok(()));
    refuses_changes(&two_of_three, &roots, 0, &signature, &[66, 132]);
}

/// Changes each bit of a signature. Those of the patches, at `patches`, count only where they are allowed.
fn refuses_changes(
    verifier: &Verifier,
    roots: &Roots,
    fork: u64,
    signature: &[u8],
    patches: &[usize],
) {
    for at in 0..signature.len() {
        assert!(verifier.verify(roots, fork, &signature[..at]).is_err(), "cut at {at}");
        let ignored = patches.contains(&at) && signature.len() > 64;
        for bit in (0..8).filter(|_| !ignored) {
            let mut changed = signature.to_vec();
            changed[at] ^= 1 << bit;
            assert!(verifier.verify(roots, fork, &changed).is_err(), "byte {at}, bit {bit}");
        }
    }
    let longer = [signature, &[0]].concat();
    assert_eq!(verifier.verify(roots, fork, &longer), Err(BadSignature::Trailing(1)));
}

#[test]
fn a_manifest_changed_by_one_bit_is_not_that_of_the_core() {
    let vectors = vectors("crypto");
    for (name, one) in vectors["manifests"].as_object().unwrap() {
        let bytes = buffer(&one["encoded"]);
        let of = key(&one["key"]);
        for at in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..at]);
            assert!(Manifest::decode(&mut cut.clone()).is_err(), "{name} cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let Ok(changed) = Manifest::decode(&mut changed.into()) else { continue };
                let refused = Verifier::new(of, Some(changed.clone())).unwrap_err();
                assert_eq!(refused, WrongManifest { of: changed.key(), asked: of }, "{name}");
            }
        }
    }
}

#[test]
fn a_manifest_beyond_what_is_understood_is_refused_with_the_reason() {
    let decode = |bytes: &[u8]| Manifest::decode(&mut Bytes::copy_from_slice(bytes)).unwrap_err();
    let unknown = |field, value| BadManifest::Unknown { field, value };
    assert_eq!(decode(&[4, 0, 0, 1, 0]), BadManifest::Version(4));
    assert_eq!(decode(&[0xfd, 0, 1, 0]), BadManifest::Version(256));
    assert_eq!(decode(&[1, 4, 0, 1, 0]), unknown("flags", 4));
    assert_eq!(decode(&[2, 16, 0, 1, 0]), unknown("flags", 16));
    assert_eq!(decode(&[1, 0, 1, 1, 0]), unknown("hash function", 1));
    assert_eq!(decode(&[1, 0, 0, 1, 1, 1]), unknown("kind of signature", 1));
    assert_eq!(decode(&[0, 0, 3]), unknown("type", 3));
    assert_eq!(decode(&[0, 0, 2, 2]), unknown("flags", 2));
    let most = MAX_SIGNERS;
    let many = BadManifest::TooMany { what: "signers", count: 129, most };
    assert_eq!(decode(&[1, 0, 0, 1, 129]), many);
    assert!(many.to_string().contains("129 signers, more than 128"));
    assert!(matches!(
        decode(&[2, 8, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff]),
        BadManifest::CutOff(_)
    ));
}

#[test]
fn a_quorum_is_of_different_known_signers() {
    let vectors = vectors("crypto");
    let roots = signed_roots(&vectors);
    let manifest = named_manifest(&vectors, "v1_2of3");
    let verifier = verifier(&manifest);
    let signed = |seed| sign(seed, manifest.key().as_bytes(), &roots, 0);
    let verdict = |signatures: &[_]| verifier.verify(&roots, 0, &assemble(signatures, &[]));
    assert_eq!(verdict(&[(0, signed(1), 0), (1, signed(2), 0)]), Ok(()));
    assert_eq!(verdict(&[(2, signed(3), 0), (0, signed(1), 0)]), Ok(()));
    assert_eq!(verdict(&[(0, signed(1), 0), (0, signed(1), 0)]), Err(BadSignature::SignedTwice(0)));
    assert_eq!(verdict(&[(0, signed(1), 0), (1, signed(1), 0)]), Err(BadSignature::Invalid(1)));
    assert_eq!(
        verdict(&[(0, signed(1), 0), (3, signed(1), 0)]),
        Err(BadSignature::UnknownSigner(3))
    );
    assert_eq!(verdict(&[(0, signed(1), 0)]), Err(BadSignature::Quorum { found: 1, quorum: 2 }));
    // The first two count: a third one that does not verify changes nothing, nor does it help.
    let third = (2, signed(1), 0);
    assert_eq!(verdict(&[(0, signed(1), 0), (1, signed(2), 0), third]), Ok(()));
    assert_eq!(
        verdict(&[(0, signed(1), 0), third, (1, signed(2), 0)]),
        Err(BadSignature::Invalid(2))
    );
    let huge = Manifest { quorum: u64::MAX, ..manifest.clone() };
    let none = Manifest { quorum: 0, ..manifest.clone() };
    let whole = assemble(&[(0, signed(1), 0), (1, signed(2), 0)], &[]);
    let verdict = |manifest: &Manifest| self::verifier(manifest).verify(&roots, 0, &whole);
    assert_eq!(verdict(&huge), Err(BadSignature::Quorum { found: 2, quorum: u64::MAX }));
    assert_eq!(verdict(&none), Err(BadSignature::NoSigners));
}

#[test]
fn a_core_whose_key_signs_needs_no_manifest() {
    let (key, other) = (pair(1).public_key(), pair(2).public_key());
    let of_key = Manifest::of_one_signer(key);
    assert_eq!(Verifier::new(key, None).unwrap().manifest(), None);
    assert_eq!(Verifier::new(key, Some(of_key.clone())).unwrap().manifest(), None);
    assert_eq!(verifier(&of_key).manifest(), Some(&of_key));
    let of_other = Manifest::of_one_signer(other);
    let refused = Verifier::new(key, Some(of_other.clone())).unwrap_err();
    assert_eq!(refused, WrongManifest { of: of_other.key(), asked: key });
    assert!(Verifier::new(of_key.key(), Some(of_other)).is_err());
}

#[test]
fn a_prologue_is_signed_by_the_key() {
    let vectors = vectors("crypto");
    let roots = signed_roots(&vectors);
    let fixed_core = verifier(&named_manifest(&vectors, "v1_static_prologue"));
    assert_eq!(fixed_core.verify(&roots, 0, &[]), Ok(()));
    let mut other = roots.nodes().to_vec();
    other[1].hash[0] ^= 1;
    let other = Roots::new(other).unwrap();
    assert_eq!(fixed_core.verify(&other, 0, &[]), Err(BadSignature::Prologue(5)));
    let shorter = Roots::new(roots.nodes()[..1].to_vec()).unwrap();
    assert_eq!(fixed_core.verify(&shorter, 0, &[]), Err(BadSignature::Prologue(5)));
    let mut longer = roots.clone();
    longer.extend(6, |_| Ok(hash::TREE.leaf(5, b"sixth"))).unwrap();
    assert_eq!(fixed_core.verify(&longer, 0, &[]), Err(BadSignature::NoSigners));
    assert!(fixed_core.check_upgrade(0, 5).is_ok() && fixed_core.check_upgrade(5, 6).is_ok());
    for (start, end) in [(0, 4), (1, 5), (4, 6)] {
        let refused = BadSignature::WithinPrologue { start, end, prologue: 5 };
        assert_eq!(fixed_core.check_upgrade(start, end), Err(refused));
    }
    // What version 0 says of a fixed core has no length, and nothing signs it.
    let oldest = verifier(&named_manifest(&vectors, "v0_static_prologue"));
    assert_eq!(oldest.verify(&roots, 0, &[]), Err(BadSignature::NoSigners));
}

#[test]
fn the_signers_of_version_0_sign_for_their_namespace() {
    let vectors = vectors("crypto");
    let mut manifest = named_manifest(&vectors, "v0_multi_2of3_patch");
    manifest.signers[1].namespace = [7; 32];
    let namespace = manifest.signers[0].namespace;
    let leaves: Vec<TreeNode> =
        (0..9).map(|block| hash::TREE.leaf(block, &[block as u8])).collect();
    let (all, longer) = grown(&leaves);
    let roots = roots_at(&all, 5);
    let patch: Vec<TreeNode> = nodes_between(5, 9).iter().map(|index| all[index]).collect();
    // Signer 0 signed 9 blocks, signer 1 signed 5.
    let blob = |start: u64, places: &[u64]| {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&[2, 1, 0]);
        bytes.extend_from_slice(&sign(1, &namespace, &longer, 3));
        put_uint(start, &mut bytes);
        put_uint(4, &mut bytes);
        put_list(places, &mut bytes, |place, to| put_uint(*place, to));
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&sign(2, &[7; 32], &roots, 3));
        put_list(&patch, &mut bytes, put_node);
        bytes.to_vec()
    };
    let all_places: Vec<u64> = (0..patch.len() as u64).collect();
    let good = blob(5, &all_places);
    assert_eq!(verifier(&manifest).verify(&roots, 3, &good), Ok(()));
    refuses_changes(&verifier(&manifest), &roots, 3, &good, &[]);
    let patched = |reason| Err(BadSignature::Patch { signer: 0, reason });
    let verdict = |blob: &[u8]| verifier(&manifest).verify(&roots, 3, blob);
    assert_eq!(verdict(&blob(4, &all_places)), patched(BadTree::Length(4)));
    let last = *nodes_between(5, 9).last().unwrap();
    assert_eq!(
        verdict(&blob(5, &all_places[1..])),
        patched(BadTree::Unexpected { found: patch[1].index, expected: patch[0].index })
    );
    assert_eq!(verdict(&blob(5, &all_places[..patch.len() - 1])), patched(BadTree::Missing(last)));
    let twice: Vec<u64> = all_places.iter().copied().chain([0]).collect();
    assert_eq!(verdict(&blob(5, &twice)), patched(BadTree::Unused(patch[0].index)));
    let strict = Manifest { allow_patch: false, ..manifest.clone() };
    assert_eq!(verifier(&strict).verify(&roots, 3, &good), Err(BadSignature::Invalid(0)));
}

#[test]
fn golden_patched_signatures() {
    let vectors = vectors("proofs");
    let one = &vectors["patchedMultisig"];
    let all = by_index(nodes(&vectors["treeNodes"]));
    let roots = roots_at(&all, number(&one["length"]));
    let manifest = manifest(&one["manifest"]);
    assert_eq!(manifest.key(), key(&one["key"]));
    let signature = buffer(&one["signature"]);
    assert_eq!(verifier(&manifest).verify(&roots, 0, &signature), Ok(()));
    refuses_changes(&verifier(&manifest), &roots, 0, &signature, &[]);
    // Without permission the patch is ignored, and signer 0 did not sign the shorter tree. The key is
    // another one then, so both sign here.
    let strict = Manifest { allow_patch: false, ..manifest };
    let longer = roots_at(&all, 8);
    let signed = |seed, roots| sign(seed, strict.key().as_bytes(), roots, 0);
    let patch: Vec<TreeNode> = nodes_between(5, 8).iter().map(|index| all[index]).collect();
    let blob = assemble(&[(0, signed(1, &longer), 3), (1, signed(2, &roots), 0)], &patch);
    assert_eq!(verifier(&strict).verify(&roots, 0, &blob), Err(BadSignature::Invalid(0)));
    let blob = assemble(&[(0, signed(1, &roots), 3), (1, signed(2, &roots), 0)], &patch);
    assert_eq!(verifier(&strict).verify(&roots, 0, &blob), Ok(()));
}

#[test]
fn golden_encryption() {
    let vectors = vectors("crypto");
    let one = &vectors["encryption"];
    let (core, secret) = (key(&one["hypercoreKey"]), fixed(&one["encryptionKey"]));
    let keys = BlockKeys::new(&core, false, &secret);
    let expected = (fixed(&one["blockKey"]), fixed(&one["blindingKey"]));
    assert_eq!(keys.halves(), (&expected.0, &expected.1));
    let compat = BlockKeys::new(&core, true, &secret);
    assert_eq!(compat.halves().0, &fixed::<32>(&one["compatBlockKey"]));
    for block in list(&one["blocks"]) {
        let (index, fork) = (number(&block["index"]), number(&block["fork"]));
        let (plain, stored) = (buffer(&block["plain"]), buffer(&block["encrypted"]));
        assert_eq!(keys.encrypt(index, fork, &plain), stored);
        assert_eq!(keys.decrypt(index, &stored), Some(Plain { fork, bytes: plain.clone() }));
        assert_ne!(keys.decrypt(index + 1, &stored).unwrap().bytes, plain);
        assert_ne!(compat.decrypt(index, &stored).unwrap().bytes, plain);
        assert_eq!(keys.decrypt(index, &stored[..7]), None);
    }
}

#[test]
fn golden_encrypted_drive() {
    let vectors = vectors("encrypted");
    let secret = fixed(&vectors["encryptionKey"]);
    let index = BlockKeys::new(&key(&vectors["key"]), false, &secret);
    let plain = |keys: &BlockKeys, at: u64, stored: &Value| {
        let plain = keys.decrypt(at, &buffer(stored)).unwrap();
        assert_eq!(plain.fork, 0);
        plain.bytes
    };
    let blocks = list(&vectors["dbBlocksRaw"]);
    assert_eq!(plain(&index, 0, &blocks[0]), b"\x0a\x08hyperbee\x12\x00");
    let entry = String::from_utf8_lossy(&plain(&index, 1, &blocks[1])).into_owned();
    assert!(entry.contains("files\0/secret.txt"), "{entry}");
    let value = r#"{"executable":false,"linkname":null,"blob":{"blockOffset":0,"byteOffset":0,"blockLength":1,"byteLength":11},"metadata":null}"#;
    assert!(entry.contains(value), "{entry}");
    assert_eq!(serde_json::from_str::<Value>(value).unwrap(), vectors["entry"]["value"]);
    let content = BlockKeys::new(&key(&vectors["blobsKey"]), false, &secret);
    let blocks = list(&vectors["blobBlocksRaw"]);
    assert_eq!(plain(&content, 0, &blocks[0]), vectors["content"].as_str().unwrap().as_bytes());
    let wrong = BlockKeys::new(&key(&vectors["blobsKey"]), false, &[0; 32]);
    assert_ne!(wrong.decrypt(0, &buffer(&blocks[0])).unwrap().fork, 0);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_manifest_or_one_that_encodes_to_itself(
        start in prop::collection::vec(0u8..5, 0..6),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = Bytes::from([start, rest].concat());
        let before = bytes.len();
        if let Ok(manifest) = Manifest::decode(&mut bytes) {
            prop_assert!(bytes.len() < before);
            let mut again = encoded(&manifest);
            prop_assert_eq!(Manifest::decode(&mut again), Ok(manifest));
            prop_assert!(again.is_empty());
        }
    }

    #[test]
    fn any_manifest_decodes_to_itself(
        version in 1u8..=3,
        allow_patch: bool,
        quorum: u64,
        signers in prop::collection::vec(any::<([u8; 32], [u8; 32])>(), 0..5),
        prologue: Option<([u8; 32], u64)>,
        linked in prop::option::of(prop::collection::vec(any::<[u8; 32]>(), 0..3)),
        user_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
    ) {
        let signer = |(namespace, key)| Signer { namespace, public_key: PublicKey::new(key) };
        let manifest = Manifest {
            version,
            allow_patch,
            quorum,
            signers: signers.into_iter().map(signer).collect(),
            prologue: prologue.map(|(tree_hash, length)| Prologue { tree_hash, length }),
            linked: linked.filter(|_| version >= 2),
            user_data: user_data.map(Bytes::from).filter(|_| version >= 2),
        };
        let mut bytes = encoded(&manifest);
        prop_assert_eq!(Manifest::decode(&mut bytes), Ok(manifest));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn arbitrary_bytes_are_no_signature(
        start in prop::collection::vec(0u8..4, 0..4),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let vectors = vectors("crypto");
        let roots = signed_roots(&vectors);
        let bytes = [start, rest].concat();
        for name in ["v0_single", "v0_multi_2of3_patch", "v1_2of3", "v1_single"] {
            let manifest = named_manifest(&vectors, name);
            prop_assert!(verifier(&manifest).verify(&roots, 0, &bytes).is_err());
        }
        let compat = Verifier::new(pair(1).public_key(), None).unwrap();
        prop_assert!(compat.verify(&roots, 0, &bytes).is_err());
    }
}
