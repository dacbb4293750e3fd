//! A data message as a core takes it: what was requested, and what came.
//!
//! Not here: the messages themselves (`wire/modern`), and the verification of their parts (`proof.rs`).

use bytes::Bytes;

use super::super::merkle::{Flaw, TreeNode, Verified};
use super::manifest::{BadManifest, Manifest};
use super::proof::{Proof, Proven, verify};
use super::signature::Verifier;
use hypermount_swarm::crypto::PublicKey;

/// The answer to one request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The block that was requested, or the one whose neighbourhood was.
    pub(crate) asked: u64,
    /// The length, in blocks, under whose roots the way may end: those of the peer, which need not be known here.
    pub(crate) under: Option<u64>,
    /// The manifest that came along, if one did.
    pub(crate) manifest: Option<Result<Manifest, BadManifest>>,
    pub(crate) proof: Proof,
}

impl Received {
    /// The answer to a request for block `asked`, with the bytes of a manifest if it has one.
    pub(crate) fn new(
        asked: u64,
        under: Option<u64>,
        manifest: Option<Bytes>,
        proof: Proof,
    ) -> Self {
        let manifest = manifest.map(|mut bytes| Manifest::decode(&mut bytes));
        Self { asked, under, manifest, proof }
    }

    /// The bytes of the block that was requested, if they came.
    pub(crate) fn value(&self) -> Option<&Bytes> {
        self.proof.block.as_ref().map(|part| &part.value)
    }

    /// Whether the proof shows that the roots `new` continue the roots `old`: every old root is a new one, or
    /// the upgrade started from it.
    pub(crate) fn connects(&self, old: &[TreeNode], new: &[TreeNode]) -> bool {
        let Some(upgrade) = &self.proof.upgrade else { return false };
        let starts_here = super::super::flat_tree::full_roots(upgrade.start)
            .eq(old.iter().map(|root| root.index));
        starts_here || old.iter().all(|root| new.contains(root))
    }

    /// Verifies what came for the core `key`. Returns the verifier as well if it was not known before and a
    /// signature has shown that it is right.
    ///
    /// # Errors
    /// The flaw, or the error of `local`.
    pub(crate) fn verify<E>(
        &self,
        key: &PublicKey,
        known: Option<&Verifier>,
        leaf: Option<TreeNode>,
        local: impl FnMut(u64) -> Result<Option<TreeNode>, E>,
    ) -> Result<(Verified, Option<Verifier>), Flaw<E>> {
        if let Some(part) = &self.proof.block
            && part.block != self.asked
        {
            let reason = format!("block {} instead of block {}", part.block, self.asked);
            return Err(Flaw::Invalid(reason));
        }
        let new = match known {
            Some(_) => None,
            None => Some(self.verifier(key)?),
        };
        let Some(verifier) = known.or(new.as_ref()) else {
            return Err(Flaw::Invalid("no manifest".to_owned()));
        };
        let verified = verify(verifier, &self.proof, leaf, local);
        let Proven { nodes, signed, .. } = verified.map_err(|flaw| match (flaw, self.under) {
            (Flaw::Unconnected { .. }, Some(length)) => Flaw::Unconnected { length },
            (Flaw::Unconnected { length: node }, None) => {
                Flaw::Invalid(format!("node {node} is not known here"))
            }
            (flaw, _) => flaw,
        })?;
        let new = new.filter(|_| signed.is_some());
        Ok((Verified { nodes, signed }, new))
    }

    fn verifier<E>(&self, key: &PublicKey) -> Result<Verifier, Flaw<E>> {
        let manifest = match &self.manifest {
            Some(Ok(manifest)) => Some(manifest.clone()),
            Some(Err(bad)) => return Err(Flaw::Invalid(bad.to_string())),
            None => None,
        };
        Verifier::new(*key, manifest).map_err(|wrong| Flaw::Invalid(wrong.to_string()))
    }
}
