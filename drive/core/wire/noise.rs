//! The handshake: Noise XX with both static keys and one nonce per side (§1, §2).
//!
//! Not here: which peers may connect. Any static key is accepted; it only names the peer.

use std::io;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use snow::params::{DHChoice, NoiseParams};
use snow::resolvers::{CryptoResolver as _, DefaultResolver};

use super::cipher::NONCE_LENGTH;
use super::error::ProtocolError;
use super::varint;
use hypermount_swarm::crypto::random_bytes;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2b";

/// Longest handshake message accepted, in bytes. The longest the protocol needs has 122; the rest
/// is room for payloads with fields we do not know.
pub(crate) const MAX_HANDSHAKE_MESSAGE: usize = 4096;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We dialled.
    Initiator,
    /// The other side dialled.
    Responder,
}

/// The X25519 key pair that names us to peers. The secret half has no `Debug`.
#[derive(Clone)]
pub(crate) struct StaticKeyPair {
    secret: [u8; 32],
    public: [u8; 32],
}

impl StaticKeyPair {
    /// A fresh pair.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub(crate) fn generate() -> io::Result<Self> {
        Ok(Self::from_secret(random_bytes()?))
    }

    /// The pair libsodium's `crypto_kx_seed_keypair` makes: the secret is BLAKE2b-256 of the seed.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_secret(hypermount_swarm::crypto::blake2b(&[seed]))
    }

    fn from_secret(secret: [u8; 32]) -> Self {
        let mut curve = DefaultResolver
            .resolve_dh(&DHChoice::Curve25519)
            .expect("snow is built with its default resolver, which has Curve25519");
        curve.set(&secret);
        let public =
            curve.pubkey().try_into().expect("a Curve25519 public key always has 32 bytes");
        Self { secret, public }
    }

    pub(crate) fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct NoisePayload {
    #[prost(bytes = "bytes", optional, tag = "1")]
    nonce: Option<Bytes>,
}

/// A handshake under way.
pub(super) struct Handshake {
    role: Role,
    state: snow::HandshakeState,
    nonce: [u8; NONCE_LENGTH],
    payload: Vec<u8>,
    /// The last payload that was not empty.
    remote_payload: Bytes,
}

/// What a finished handshake leaves.
pub(super) struct Secrets {
    /// Key of what we send.
    pub(crate) transmit: [u8; 32],
    /// Key of what we receive.
    pub(crate) receive: [u8; 32],
    pub(crate) remote_nonce: [u8; NONCE_LENGTH],
    pub(crate) remote_static: [u8; 32],
}

impl Handshake {
    /// `ephemeral` is `None` but in tests that compare bytes.
    pub(super) fn new(
        role: Role,
        keys: &StaticKeyPair,
        nonce: [u8; NONCE_LENGTH],
        ephemeral: Option<&[u8; 32]>,
    ) -> Result<Self, ProtocolError> {
        let pattern: NoiseParams = PATTERN.parse()?;
        let mut builder = snow::Builder::new(pattern).local_private_key(&keys.secret)?;
        if let Some(ephemeral) = ephemeral {
            builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
        }
        let state = match role {
            Role::Initiator => builder.build_initiator()?,
            Role::Responder => builder.build_responder()?,
        };
        let field = Some(Bytes::copy_from_slice(&nonce));
        let payload = NoisePayload { nonce: field }.encode_to_vec();
        Ok(Self { role, state, nonce, payload, remote_payload: Bytes::new() })
    }

    /// Appends our next message with its length, if it is our turn.
    pub(super) fn write(&mut self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        if self.is_finished() || !self.state.is_my_turn() {
            return Ok(());
        }
        let mut message = [0; MAX_HANDSHAKE_MESSAGE];
        let length = self.state.write_message(&self.payload, &mut message)?;
        varint::write(length as u64, out);
        out.extend_from_slice(message.get(..length).unwrap_or_default());
        Ok(())
    }

    /// Takes the remote's next message off the front of `input`; false when it is not all there.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some((claimed, prefix)) = varint::read(input)? else { return Ok(false) };
        let length = match usize::try_from(claimed) {
            Ok(length) if length <= MAX_HANDSHAKE_MESSAGE => length,
            _ => {
                let max = MAX_HANDSHAKE_MESSAGE;
                return Err(ProtocolError::HandshakeTooLong { length: claimed, max });
            }
        };
        let Some(message) = input.get(prefix..prefix + length) else { return Ok(false) };
        let mut payload = [0; MAX_HANDSHAKE_MESSAGE];
        let taken = self.state.read_message(message, &mut payload)?;
        if taken > 0 {
            self.remote_payload = Bytes::copy_from_slice(payload.get(..taken).unwrap_or_default());
        }
        // Not `advance`: what follows must be able to grow into its own allocation.
        drop(input.split_to(prefix + length));
        Ok(true)
    }

    /// The nonce we sent, which starts our key stream.
    pub(super) fn nonce(&self) -> &[u8; NONCE_LENGTH] {
        &self.nonce
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.is_handshake_finished()
    }

    /// The keys, once finished.
    pub(super) fn finish(&mut self) -> Result<Secrets, ProtocolError> {
        let payload = NoisePayload::decode(self.remote_payload.clone());
        let nonce = payload.ok().and_then(|payload| payload.nonce);
        let remote_nonce = nonce
            .and_then(|nonce| nonce.as_ref().try_into().ok())
            .ok_or(ProtocolError::HandshakePayload)?;
        let missing = || ProtocolError::malformed("noise handshake", "no static key");
        let remote_static = self.state.get_remote_static().ok_or_else(missing)?;
        let remote_static = remote_static.try_into().map_err(|_| missing())?;
        let (first, second) = self.state.dangerously_get_raw_split();
        let (transmit, receive) = match self.role {
            Role::Initiator => (first, second),
            Role::Responder => (second, first),
        };
        Ok(Secrets { transmit, receive, remote_nonce, remote_static })
    }
}
