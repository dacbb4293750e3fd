//! Whose signatures count for a core, what they cover, and whether one stands for a tree.
//!
//! Not here: making the signatures of several signers.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::super::merkle::{Head, Signature, TreeNode};
use super::hash::{self, Namespace};
use super::manifest::{MAX_SIGNERS, Manifest, Signer};
use super::roots::{BadTree, Roots};
use hypermount_swarm::compact::{CutOff, take_fixed, take_uint};
use hypermount_swarm::crypto::{Hash, KeyPair, PublicKey, SIGNATURE_LENGTH, SignatureBytes};

/// Nodes that come with the signatures of one head, for all signers that signed a longer core.
pub(crate) const MAX_PATCH_NODES: usize = 4096;
/// Nodes that one signer of version 0 may refer to: those from any length to any other are fewer.
const MAX_PATCH_REFERENCES: usize = 72;
/// Bytes of the signatures of one head: [`MAX_PATCH_NODES`] nodes of up to 50 bytes, and
/// [`MAX_SIGNERS`] signatures of up to 760 with their references.
pub(crate) const MAX_SIGNATURE_BYTES: usize = 320 * 1024;

/// Why a manifest is not that of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manifest is that of core {of}, not of {asked}")]
pub(crate) struct WrongManifest {
    pub(crate) of: PublicKey,
    pub(crate) asked: PublicKey,
}

/// Why a signature does not stand for a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSignature {
    #[error("the signature ends early")]
    CutOff(#[from] CutOff),
    #[error("the signature has {count} {what}, more than {most}")]
    TooMany { what: &'static str, count: u64, most: usize },
    #[error("the signature states {0} instead of whether a signer signed a longer core (0 or 1)")]
    HasPatch(u64),
    #[error("{0} bytes follow the signature")]
    Trailing(usize),
    #[error("the manifest has no signers")]
    NoSigners,
    #[error("{found} of {quorum} signatures")]
    Quorum { found: usize, quorum: u64 },
    #[error("signer {0} is not in the manifest")]
    UnknownSigner(u64),
    #[error("signer {0} signed twice")]
    SignedTwice(u64),
    #[error("the tree that signer {signer} signed: {reason}")]
    Patch { signer: u64, reason: BadTree },
    #[error("the signature of signer {0} does not verify")]
    Invalid(u64),
    #[error("the first {0} blocks are not those that the manifest states")]
    Prologue(u64),
    #[error("an upgrade from {start} to {end} blocks, but the first {prologue} come at once")]
    WithinPrologue { start: u64, end: u64, prologue: u64 },
}

/// What a signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signable {
    pub(crate) tree_hash: Hash,
    /// Number of blocks.
    pub(crate) length: u64,
    /// How often the core was truncated.
    pub(crate) fork: u64,
}

impl Signable {
    fn of(roots: &Roots, fork: u64) -> Self {
        Self { tree_hash: roots.tree_hash(), length: roots.length(), fork }
    }

    /// The signed bytes. `context` is the key of the core, in version 0 the namespace of the signer, and
    /// absent in a compat core.
    pub(crate) fn bytes(&self, context: Option<&Hash>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(112);
        bytes.extend_from_slice(Namespace::Tree.hash());
        bytes.extend_from_slice(context.map_or(&[][..], |context| &context[..]));
        bytes.extend_from_slice(&self.tree_hash);
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.fork.to_le_bytes());
        bytes
    }
}

/// Whose signatures count for a core.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    key: PublicKey,
    /// `None` for a compat core, whose key signs.
    manifest: Option<Manifest>,
}

impl Verifier {
    /// For the core `key`, of which a peer or a disk says that it has this manifest. Without one it can only
    /// be a compat core.
    ///
    /// # Errors
    /// The manifest is that of another core.
    pub(crate) fn new(key: PublicKey, manifest: Option<Manifest>) -> Result<Self, WrongManifest> {
        let manifest = manifest.filter(|manifest| !manifest.is_compat(&key));
        match manifest.as_ref().map(Manifest::key) {
            Some(of) if of != key => Err(WrongManifest { of, asked: key }),
            _ => Ok(Self { key, manifest }),
        }
    }

    /// The manifest; `None` for a compat core, which needs none.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The bytes of the manifest, if there is one.
    pub(crate) fn encoded_manifest(&self) -> Option<Bytes> {
        self.manifest.as_ref().map(Manifest::bytes)
    }

    /// Whether a core may be extended from `start` to `end` blocks: those of a prologue come at once.
    ///
    /// # Errors
    /// `WithinPrologue`.
    pub(crate) fn check_upgrade(&self, start: u64, end: u64) -> Result<(), BadSignature> {
        let prologue = self.manifest.as_ref().and_then(|manifest| manifest.prologue);
        match prologue.map(|prologue| prologue.length) {
            Some(prologue) if start < prologue && (start != 0 || end < prologue) => {
                Err(BadSignature::WithinPrologue { start, end, prologue })
            }
            _ => Ok(()),
        }
    }

    /// Verifies that the signers of the core signed these roots at this fork.
    ///
    /// # Errors
    /// Why the signature does not stand for them.
    pub(crate) fn verify(
        &self,
        roots: &Roots,
        fork: u64,
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let signable = Signable::of(roots, fork);
        let Some(manifest) = &self.manifest else {
            return verify_one(0, &self.key, &signable.bytes(None), bare(signature)?);
        };
        if let Some(prologue) = manifest.prologue.filter(|_| manifest.version > 0)
            && signable.length <= prologue.length
        {
            let same =
                (prologue.length, prologue.tree_hash) == (signable.length, signable.tree_hash);
            return if same { Ok(()) } else { Err(BadSignature::Prologue(prologue.length)) };
        }
        if manifest.quorum == 0 {
            return Err(BadSignature::NoSigners);
        }
        if let [signer] = &manifest.signers[..]
            && manifest.version == 0
            && manifest.is_single()
        {
            let bytes = signable.bytes(Some(&signer.namespace));
            return verify_one(0, &signer.public_key, &bytes, bare(signature)?);
        }
        self.verify_quorum(manifest, roots, signable, signature)
    }

    /// Whether the signature of this key alone stands for the core.
    pub(crate) fn is_signed_alone_by(&self, signer: &PublicKey) -> bool {
        match &self.manifest {
            None => self.key == *signer,
            Some(manifest) => manifest.is_of(signer),
        }
    }

    /// The signature of `pair`, which signs alone, over these roots.
    pub(crate) fn sign(&self, pair: &KeyPair, roots: &[TreeNode], head: Head) -> Signature {
        let tree_hash = hash::TREE.of_roots(roots);
        let signable = Signable { tree_hash, length: head.length, fork: head.fork };
        let (context, version) = match &self.manifest {
            None => (None, 0),
            Some(manifest) => {
                let signer = manifest.signers.first();
                (signer.map(|signer| self.context(manifest, signer)), manifest.version)
            }
        };
        let signature = pair.sign(&signable.bytes(context));
        if version == 0 {
            return Signature::from(&signature[..]);
        }
        // One signature, of signer 0, over this length; no nodes.
        let mut bytes = vec![1, 0];
        bytes.extend_from_slice(&signature);
        bytes.extend_from_slice(&[0, 0]);
        Signature::from(&bytes[..])
    }

    /// As [`Verifier::verify`], for roots that are stored.
    pub(crate) fn signed(&self, roots: &[TreeNode], fork: u64, signature: &Signature) -> bool {
        let roots = Roots::new(roots.to_vec());
        roots.is_some_and(|roots| self.verify(&roots, fork, signature.as_bytes()).is_ok())
    }

    fn verify_quorum(
        &self,
        manifest: &Manifest,
        roots: &Roots,
        signable: Signable,
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let signatures = Signatures::decode(manifest.version, signature)?;
        let quorum = usize::try_from(manifest.quorum).unwrap_or(usize::MAX);
        let Some(counted) = signatures.each.get(..quorum) else {
            let found = signatures.each.len();
            return Err(BadSignature::Quorum { found, quorum: manifest.quorum });
        };
        let mut seen = HashSet::new();
        for one in counted {
            let place = usize::try_from(one.signer).unwrap_or(usize::MAX);
            let signer =
                manifest.signers.get(place).ok_or(BadSignature::UnknownSigner(one.signer))?;
            if !seen.insert(one.signer) {
                return Err(BadSignature::SignedTwice(one.signer));
            }
            // Without permission a patch is ignored, and the signature has to be over this tree.
            let signable = match &one.patch {
                Some(patch) if manifest.allow_patch => {
                    let longer = signatures
                        .patched(roots, patch)
                        .map_err(|reason| BadSignature::Patch { signer: one.signer, reason })?;
                    Signable::of(&longer, signable.fork)
                }
                _ => signable,
            };
            let bytes = signable.bytes(Some(self.context(manifest, signer)));
            verify_one(one.signer, &signer.public_key, &bytes, one.signature)?;
        }
        Ok(())
    }

    fn context<'a>(&'a self, manifest: &Manifest, signer: &'a Signer) -> &'a Hash {
        if manifest.version == 0 { &signer.namespace } else { self.key.as_bytes() }
    }
}

fn verify_one(
    signer: u64,
    key: &PublicKey,
    bytes: &[u8],
    signature: SignatureBytes,
) -> Result<(), BadSignature> {
    if key.verifies(bytes, &signature) { Ok(()) } else { Err(BadSignature::Invalid(signer)) }
}

/// A signature that has no list around it.
fn bare(signature: &[u8]) -> Result<SignatureBytes, BadSignature> {
    let (bytes, rest) = signature.split_first_chunk::<SIGNATURE_LENGTH>().ok_or(CutOff)?;
    if rest.is_empty() { Ok(*bytes) } else { Err(BadSignature::Trailing(rest.len())) }
}

/// How much longer the tree is that a signer signed.
#[derive(Debug)]
enum Patch {
    /// Number of blocks between the two lengths; the nodes are found by their index.
    Blocks(u64),
    /// In version 0: by `length` blocks from `start`, by nodes in this order.
    Listed { start: u64, length: u64, places: Vec<u64> },
}

#[derive(Debug)]
struct OneSignature {
    signer: u64,
    signature: SignatureBytes,
    patch: Option<Patch>,
}

/// The signatures of several signers, and the nodes of the longer trees that some of them signed.
#[derive(Debug)]
struct Signatures {
    each: Vec<OneSignature>,
    nodes: Vec<TreeNode>,
    /// Index to place in `nodes`. Of several with one index the last counts, and a wrong one makes a tree
    /// that its signer did not sign.
    by_index: HashMap<u64, usize>,
}

impl Signatures {
    fn decode(version: u8, bytes: &[u8]) -> Result<Self, BadSignature> {
        within("bytes", bytes.len() as u64, MAX_SIGNATURE_BYTES)?;
        let mut from = Bytes::copy_from_slice(bytes);
        let take_one = if version == 0 { take_oldest } else { take_newer };
        let each = take_all("signatures", MAX_SIGNERS, &mut from, take_one)?;
        let nodes = take_all("nodes", MAX_PATCH_NODES, &mut from, take_node)?;
        if !from.is_empty() {
            return Err(BadSignature::Trailing(from.len()));
        }
        let by_index = nodes.iter().enumerate().map(|(at, node)| (node.index, at)).collect();
        Ok(Self { each, nodes, by_index })
    }

    /// The longer tree that a signer signed.
    fn patched(&self, roots: &Roots, patch: &Patch) -> Result<Roots, BadTree> {
        let mut longer = roots.clone();
        match patch {
            Patch::Blocks(blocks) => {
                let to = roots.length().checked_add(*blocks).ok_or(BadTree::TooLarge)?;
                longer.extend(to, |index| {
                    let found = self.by_index.get(&index).and_then(|at| self.nodes.get(*at));
                    found.copied().ok_or(BadTree::Missing(index))
                })?;
            }
            Patch::Listed { start, length, places } => {
                if *start != roots.length() {
                    return Err(BadTree::Length(*start));
                }
                let to = start.checked_add(*length).ok_or(BadTree::TooLarge)?;
                let node = |place: &u64| self.nodes.get(usize::try_from(*place).ok()?).copied();
                let mut listed = places.iter().map(node);
                longer
                    .extend(to, |index| listed.next().flatten().ok_or(BadTree::Missing(index)))?;
                if let Some(node) = listed.next() {
                    return Err(BadTree::Unused(node.map_or(u64::MAX, |node| node.index)));
                }
            }
        }
        Ok(longer)
    }
}

fn take_newer(from: &mut Bytes) -> Result<OneSignature, BadSignature> {
    let signer = take_uint(from)?;
    let signature = take_fixed(from)?;
    let patch = match take_uint(from)? {
        0 => None,
        blocks => Some(Patch::Blocks(blocks)),
    };
    Ok(OneSignature { signer, signature, patch })
}

fn take_oldest(from: &mut Bytes) -> Result<OneSignature, BadSignature> {
    let has_patch = match take_uint(from)? {
        0 => false,
        1 => true,
        other => return Err(BadSignature::HasPatch(other)),
    };
    let signer = take_uint(from)?;
    let signature = take_fixed(from)?;
    let mut patch = None;
    if has_patch {
        let (start, length) = (take_uint(from)?, take_uint(from)?);
        let take_place = |from: &mut Bytes| Ok(take_uint(from)?);
        let places = take_all("references to nodes", MAX_PATCH_REFERENCES, from, take_place)?;
        patch = Some(Patch::Listed { start, length, places });
    }
    Ok(OneSignature { signer, signature, patch })
}

fn take_node(from: &mut Bytes) -> Result<TreeNode, BadSignature> {
    let (index, size) = (take_uint(from)?, take_uint(from)?);
    Ok(TreeNode { index, size, hash: take_fixed(from)? })
}

fn within(what: &'static str, count: u64, most: usize) -> Result<(), BadSignature> {
    if count > most as u64 { Err(BadSignature::TooMany { what, count, most }) } else { Ok(()) }
}

/// Decodes a list of at most `most` elements that follows its length.
fn take_all<T>(
    what: &'static str,
    most: usize,
    from: &mut Bytes,
    mut take_one: impl FnMut(&mut Bytes) -> Result<T, BadSignature>,
) -> Result<Vec<T>, BadSignature> {
    let count = take_uint(from)?;
    within(what, count, most)?;
    (0..count).map(|_| take_one(from)).collect()
}
