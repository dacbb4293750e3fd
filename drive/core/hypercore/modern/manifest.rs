//! Manifests: who signs a core, and the key that follows from it.
//!
//! Not here: signatures (`signature.rs`).

use bytes::{Bytes, BytesMut};

use super::hash::Namespace;
use hypermount_swarm::compact::{
    CutOff, put_buffer, put_list, put_uint, take_buffer, take_fixed, take_uint,
};
use hypermount_swarm::crypto::{Hash, PublicKey, blake2b};

/// The newest version of a manifest that is read.
pub(crate) const NEWEST_VERSION: u8 = 3;
/// The version of a manifest that a new core has.
const DEFAULT_VERSION: u8 = 1;
/// Signers of one core. Each costs a peer 64 bytes and its reader one verification per head.
pub(crate) const MAX_SIGNERS: usize = 128;
/// Cores that one manifest may link to. They are part of the key and otherwise unused here.
pub(crate) const MAX_LINKED: usize = 256;
/// Bytes of user data in a manifest. They are part of the key and otherwise unused here.
pub(crate) const MAX_USER_DATA: usize = 64 * 1024;

/// The only hash function there is, BLAKE2b.
const BLAKE2B: u64 = 0;
/// The only kind of signature there is, Ed25519.
const ED25519: u64 = 0;

/// Flags of version 1 and later. Version 0 has `ALLOW_PATCH` alone.
const ALLOW_PATCH: u64 = 1;
const PROLOGUE: u64 = 2;
const LINKED: u64 = 4;
const USER_DATA: u64 = 8;

/// What version 0 says of its signers.
const STATIC: u64 = 0;
const SINGLE: u64 = 1;
const MULTIPLE: u64 = 2;

/// Why bytes are no manifest that is understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadManifest {
    #[error("the manifest ends early")]
    CutOff(#[from] CutOff),
    #[error("the manifest has version {0}; versions up to {NEWEST_VERSION} are understood")]
    Version(u64),
    #[error("the manifest has {field} {value}, which is unknown")]
    Unknown { field: &'static str, value: u64 },
    #[error("the manifest has {count} {what}, more than {most}")]
    TooMany { what: &'static str, count: u64, most: usize },
}

/// A key whose signatures count for a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signer {
    /// What distinguishes cores that one key signs.
    pub(crate) namespace: Hash,
    pub(crate) public_key: PublicKey,
}

/// The first blocks of a core, fixed by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prologue {
    /// The hash over the roots of these blocks.
    pub(crate) tree_hash: Hash,
    /// Number of these blocks; version 0 does not say it, and it is 0.
    pub(crate) length: u64,
}

/// Who signs a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// At most [`NEWEST_VERSION`].
    pub(crate) version: u8,
    /// Whether a signer may have signed a longer core than its signature is used for.
    pub(crate) allow_patch: bool,
    /// How many of the signers must sign.
    pub(crate) quorum: u64,
    pub(crate) signers: Vec<Signer>,
    pub(crate) prologue: Option<Prologue>,
    /// Keys of other cores; from version 2.
    pub(crate) linked: Option<Vec<Hash>>,
    /// From version 2.
    pub(crate) user_data: Option<Bytes>,
}

impl Manifest {
    /// The manifest of a core that `public_key` alone signs, as a new core has it.
    pub(crate) fn of_one_signer(public_key: PublicKey) -> Self {
        let namespace = *Namespace::Signer.hash();
        Self {
            version: DEFAULT_VERSION,
            allow_patch: false,
            quorum: 1,
            signers: vec![Signer { namespace, public_key }],
            prologue: None,
            linked: None,
            user_data: None,
        }
    }

    /// Whether one signature of this key is all that an append takes.
    pub(super) fn is_of(&self, key: &PublicKey) -> bool {
        let alone = matches!(&self.signers[..], [signer] if signer.public_key == *key);
        alone && self.is_single() && self.prologue.is_none()
    }

    /// Whether one signature decides, without a list around it in version 0.
    pub(super) fn is_single(&self) -> bool {
        self.quorum == 1 && self.signers.len() == 1 && !self.allow_patch
    }

    /// The key of the core with this manifest. It is no Ed25519 key.
    pub(crate) fn key(&self) -> PublicKey {
        PublicKey::new(blake2b(&[Namespace::Manifest.hash(), &self.bytes()]))
    }

    /// The bytes of the manifest.
    pub(crate) fn bytes(&self) -> Bytes {
        let mut encoded = BytesMut::new();
        self.encode(&mut encoded);
        encoded.freeze()
    }

    /// That of the core that the same signers sign, each under the namespace that `derive` makes of its own. It has
    /// no prologue, linked cores and user data. `None` for version 0.
    pub(crate) fn with_namespaces(&self, derive: impl Fn(&Hash) -> Hash) -> Option<Self> {
        if self.version == 0 {
            return None;
        }
        let signer = |signer: &Signer| Signer {
            namespace: derive(&signer.namespace),
            public_key: signer.public_key,
        };
        Some(Self {
            version: self.version,
            allow_patch: self.allow_patch,
            quorum: self.quorum,
            signers: self.signers.iter().map(signer).collect(),
            prologue: None,
            linked: None,
            user_data: None,
        })
    }

    /// Whether this is what Hypercore 10 says of a core whose key is the public key of its one signer.
    pub(crate) fn is_compat(&self, key: &PublicKey) -> bool {
        matches!(&self.signers[..], [signer] if signer.public_key == *key)
    }

    /// Appends the manifest, as its key is computed from it.
    pub(crate) fn encode(&self, to: &mut BytesMut) {
        put_uint(self.version.into(), to);
        if self.version == 0 {
            self.encode_oldest(to);
            return;
        }
        let newer = self.version >= 2;
        let (linked, user_data) =
            (self.linked.as_ref().filter(|_| newer), self.user_data.as_ref().filter(|_| newer));
        let flags = [
            (ALLOW_PATCH, self.allow_patch),
            (PROLOGUE, self.prologue.is_some()),
            (LINKED, linked.is_some()),
            (USER_DATA, user_data.is_some()),
        ];
        put_uint(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum(), to);
        put_uint(BLAKE2B, to);
        put_uint(self.quorum, to);
        put_list(&self.signers, to, put_signer);
        if let Some(prologue) = &self.prologue {
            to.extend_from_slice(&prologue.tree_hash);
            put_uint(prologue.length, to);
        }
        if let Some(linked) = linked {
            put_list(linked, to, |key, to| to.extend_from_slice(key));
        }
        if let Some(user_data) = user_data {
            put_buffer(user_data, to);
        }
    }

    fn encode_oldest(&self, to: &mut BytesMut) {
        put_uint(BLAKE2B, to);
        match (&self.prologue, &self.signers[..]) {
            (Some(prologue), []) => {
                put_uint(STATIC, to);
                to.extend_from_slice(&prologue.tree_hash);
            }
            (_, [signer]) if self.is_single() => {
                put_uint(SINGLE, to);
                put_signer(signer, to);
            }
            (_, signers) => {
                put_uint(MULTIPLE, to);
                put_uint(if self.allow_patch { ALLOW_PATCH } else { 0 }, to);
                put_uint(self.quorum, to);
                put_list(signers, to, put_signer);
            }
        }
    }

    /// Decodes a manifest from the front of the bytes.
    ///
    /// # Errors
    /// The bytes end early, are of a version or have a field that is not known here, or exceed a limit.
    pub(crate) fn decode(from: &mut Bytes) -> Result<Self, BadManifest> {
        let version = take_uint(from)?;
        let version = match u8::try_from(version) {
            Ok(0) => return Self::decode_oldest(from),
            Ok(known) if known <= NEWEST_VERSION => known,
            _ => return Err(BadManifest::Version(version)),
        };
        let flags = take_uint(from)?;
        let newer = if version >= 2 { LINKED | USER_DATA } else { 0 };
        known("flags", flags, flags & !(ALLOW_PATCH | PROLOGUE | newer) == 0)?;
        take_known("hash function", BLAKE2B, from)?;
        let quorum = take_uint(from)?;
        let signers = take_all("signers", MAX_SIGNERS, from, take_signer)?;
        let mut manifest = Self {
            version,
            allow_patch: flags & ALLOW_PATCH != 0,
            quorum,
            signers,
            prologue: None,
            linked: None,
            user_data: None,
        };
        if flags & PROLOGUE != 0 {
            let tree_hash = take_fixed(from)?;
            manifest.prologue = Some(Prologue { tree_hash, length: take_uint(from)? });
        }
        if flags & LINKED != 0 {
            let linked = take_all("linked cores", MAX_LINKED, from, |from| Ok(take_fixed(from)?))?;
            manifest.linked = Some(linked);
        }
        if flags & USER_DATA != 0 {
            let user_data = take_buffer(from)?;
            within("bytes of user data", user_data.len() as u64, MAX_USER_DATA)?;
            // A copy of its own, so that it keeps no buffer of a connection.
            manifest.user_data = Some(Bytes::copy_from_slice(&user_data));
        }
        Ok(manifest)
    }

    fn decode_oldest(from: &mut Bytes) -> Result<Self, BadManifest> {
        take_known("hash function", BLAKE2B, from)?;
        let mut manifest = Self {
            version: 0,
            allow_patch: false,
            quorum: 0,
            signers: Vec::new(),
            prologue: None,
            linked: None,
            user_data: None,
        };
        match take_uint(from)? {
            STATIC => {
                manifest.prologue = Some(Prologue { tree_hash: take_fixed(from)?, length: 0 });
            }
            SINGLE => {
                manifest.quorum = 1;
                manifest.signers.push(take_signer(from)?);
            }
            MULTIPLE => {
                let flags = take_uint(from)?;
                known("flags", flags, flags & !ALLOW_PATCH == 0)?;
                manifest.allow_patch = flags & ALLOW_PATCH != 0;
                manifest.quorum = take_uint(from)?;
                manifest.signers = take_all("signers", MAX_SIGNERS, from, take_signer)?;
            }
            kind => return Err(BadManifest::Unknown { field: "type", value: kind }),
        }
        Ok(manifest)
    }
}

fn put_signer(signer: &Signer, to: &mut BytesMut) {
    put_uint(ED25519, to);
    to.extend_from_slice(&signer.namespace);
    to.extend_from_slice(signer.public_key.as_bytes());
}

fn take_signer(from: &mut Bytes) -> Result<Signer, BadManifest> {
    take_known("kind of signature", ED25519, from)?;
    let namespace = take_fixed(from)?;
    Ok(Signer { namespace, public_key: PublicKey::new(take_fixed(from)?) })
}

fn known(field: &'static str, value: u64, is_known: bool) -> Result<(), BadManifest> {
    if is_known { Ok(()) } else { Err(BadManifest::Unknown { field, value }) }
}

/// Takes a number of which one value alone is known.
fn take_known(field: &'static str, only: u64, from: &mut Bytes) -> Result<(), BadManifest> {
    let value = take_uint(from)?;
    known(field, value, value == only)
}

fn within(what: &'static str, count: u64, most: usize) -> Result<(), BadManifest> {
    if count > most as u64 { Err(BadManifest::TooMany { what, count, most }) } else { Ok(()) }
}

/// Decodes a list of at most `most` elements that follows its length.
fn take_all<T>(
    what: &'static str,
    most: usize,
    from: &mut Bytes,
    mut take_one: impl FnMut(&mut Bytes) -> Result<T, BadManifest>,
) -> Result<Vec<T>, BadManifest> {
    let count = take_uint(from)?;
    within(what, count, most)?;
    (0..count).map(|_| take_one(from)).collect()
}
