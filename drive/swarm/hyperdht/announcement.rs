//! Records of peers and their addresses: announcements to nodes, the answers of nodes, and what the
//! signature covers (hyperdht.md §3).

use std::net::SocketAddrV4;

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{Command, Token};
use super::payload::{MAX_ADDRESSES, Malformed};
use crate::compact::{
    CutOff, put_ipv4, put_list, put_uint, take_fixed, take_ipv4, take_list, take_uint,
};
use crate::crypto::{Hash, KeyPair, PublicKey, SignatureBytes, blake2b};
use crate::kademlia::Id;

/// Peers of one answer that are encoded or decoded; more are ignored.
pub(crate) const MAX_PEERS: usize = 20;

/// The namespace of signatures and keys of one command, so that they are valid for nothing else: a hash
/// of the network's name and the command's number.
fn namespace(command: Command) -> Hash {
    let (_, number) = command.number();
    // The numbers of all commands with a namespace are below 256.
    blake2b(&[&blake2b(&[b"hyperswarm/dht"]), &[number as u8]])
}

/// The prologue of the Noise handshake.
pub(crate) fn handshake_namespace() -> Hash {
    namespace(Command::Handshake)
}

/// The namespace of the key that encrypts holepunch rounds.
pub(crate) fn holepunch_namespace() -> Hash {
    namespace(Command::Holepunch)
}

/// The target under which nodes store a peer's address: a hash of its key.
pub(crate) fn target_of(key: &PublicKey) -> Id {
    blake2b(&[key.as_bytes()])
}

/// A peer that accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub key: PublicKey,
    /// Nodes that know the peer's address.
    pub relays: Vec<SocketAddrV4>,
}

impl Peer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.put(&mut out);
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid peer record.
    pub(crate) fn decode(mut value: Bytes) -> Result<Self, Malformed> {
        Ok(Self::take(&mut value)?)
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.key.as_bytes());
        put_list(&self.relays, out, |one, out| put_ipv4(*one, out));
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        let key = PublicKey::new(take_fixed(from)?);
        Ok(Self { key, relays: take_list(from, MAX_ADDRESSES, take_ipv4)? })
    }
}

/// The peers of a topic that a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LookupReply {
    /// At most [`MAX_PEERS`].
    pub peers: Vec<Peer>,
    /// The time at which the last announcer wanted the topic to be queried again; 0 is never.
    pub bump: u64,
}

impl LookupReply {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_list(&self.peers, &mut out, Peer::put);
        put_uint(self.bump, &mut out);
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid list of peers.
    pub(crate) fn decode(mut value: Bytes) -> Result<Self, Malformed> {
        let peers = take_list(&mut value, MAX_PEERS, Peer::take)?;
        // The values of older nodes end here.
        let bump = if value.is_empty() { 0 } else { take_uint(&mut value)? };
        Ok(Self { peers, bump })
    }
}

/// The value of a request to store or to remove an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// `None` if the request only extends an earlier announcement.
    pub peer: Option<Peer>,
    /// The hash of a secret; without a peer, the secret itself, which extends the announcement.
    pub refresh: Option<[u8; 32]>,
    pub signature: Option<SignatureBytes>,
    pub bump: u64,
}

/// Where an announcement is made. The signature covers it, so that it is valid nowhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnnouncementPlace {
    pub target: Id,
    /// The token that the node gave.
    pub token: Token,
    /// The node's id.
    pub node: Id,
}

/// Whether an announcement is made or withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Here,
    Gone,
}

impl Meaning {
    pub(crate) fn command(self) -> Command {
        match self {
            Self::Here => Command::Announce,
            Self::Gone => Command::Unannounce,
        }
    }
}

impl Announcement {
    /// An announcement that `keys` can be reached through `relays`, or its withdrawal.
    pub(crate) fn signed(
        meaning: Meaning,
        keys: &KeyPair,
        relays: Vec<SocketAddrV4>,
        place: &AnnouncementPlace,
    ) -> Self {
        let peer = Peer { key: keys.public_key(), relays };
        let signature = keys.sign(&signable(meaning, &peer, None, place));
        Self { peer: Some(peer), refresh: None, signature: Some(signature), bump: 0 }
    }

    /// The announcing peer, if the signature is by its key and for this place.
    pub(crate) fn verified(&self, meaning: Meaning, place: &AnnouncementPlace) -> Option<&Peer> {
        let (peer, signature) = (self.peer.as_ref()?, self.signature.as_ref()?);
        let signable = signable(meaning, peer, self.refresh.as_ref(), place);
        peer.key.verifies(&signable, signature).then_some(peer)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let flags =
            [self.peer.is_some(), self.refresh.is_some(), self.signature.is_some(), self.bump != 0];
        super::payload::put_flags(&flags, &mut out);
        if let Some(peer) = &self.peer {
            peer.put(&mut out);
        }
        out.put_slice(self.refresh.as_ref().map_or(&[], |refresh| &refresh[..]));
        out.put_slice(self.signature.as_ref().map_or(&[], |signature| &signature[..]));
        if self.bump != 0 {
            put_uint(self.bump, &mut out);
        }
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid announcement.
    pub(crate) fn decode(mut value: Bytes) -> Result<Self, Malformed> {
        let from = &mut value;
        let flags = take_uint(from)?;
        let has = |place| super::payload::has(flags, place);
        Ok(Self {
            peer: has(0).then(|| Peer::take(from)).transpose()?,
            refresh: has(1).then(|| take_fixed(from)).transpose()?,
            signature: has(2).then(|| take_fixed(from)).transpose()?,
            bump: has(3).then(|| take_uint(from)).transpose()?.unwrap_or_default(),
        })
    }
}

/// The signed bytes: a namespace, and a hash of the place and the announcement.
fn signable(
    meaning: Meaning,
    peer: &Peer,
    refresh: Option<&[u8; 32]>,
    place: &AnnouncementPlace,
) -> [u8; 64] {
    let refresh = refresh.map_or(&[][..], |refresh| refresh);
    let hash = blake2b(&[&place.target, &place.node, &place.token, &peer.encode(), refresh]);
    let mut signable = [0; 64];
    let (first, second) = signable.split_at_mut(32);
    first.copy_from_slice(&namespace(meaning.command()));
    second.copy_from_slice(&hash);
    signable
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{all, hex, vectors};
    use super::*;
    use std::net::Ipv4Addr;

    const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 258);
    const THIRD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(8, 8, 8, 8), 65535);

    fn value(what: &str) -> Bytes {
        vectors("values")[what].clone()
    }

    fn keys() -> KeyPair {
        KeyPair::from_seed(&[6; 32])
    }

    fn peer() -> Peer {
        Peer { key: keys().public_key(), relays: vec![OTHER, THIRD] }
    }

    fn place() -> AnnouncementPlace {
        let signed = &all()["signed"];
        let field = |name| hex(&signed[name])[..].try_into().unwrap();
        AnnouncementPlace { target: field("target"), token: field("token"), node: field("id") }
    }

    #[test]
    fn namespaces_and_targets_are_those_of_the_original() {
        let names = &all()["namespaces"];
        let name = |what: &str| hex(&names[what]);
        assert_eq!(name("handshake"), handshake_namespace()[..]);
        assert_eq!(name("holepunch"), holepunch_namespace()[..]);
        assert_eq!(name("announce"), namespace(Command::Announce)[..]);
        assert_eq!(name("unannounce"), namespace(Command::Unannounce)[..]);
        assert_eq!(target_of(&keys().public_key()), place().target);
    }

    #[test]
    fn peers_and_answers_are_those_of_the_original() {
        let alone = Peer { key: PublicKey::new([4; 32]), relays: Vec::new() };
        for (what, peer) in [("peer", peer()), ("peer without relays", alone.clone())] {
            assert_eq!((Peer::decode(value(what)), peer.encode()), (Ok(peer), value(what)));
        }
        let two = LookupReply { peers: vec![peer(), alone], bump: 0 };
        let bumped = LookupReply { peers: Vec::new(), bump: 300 };
        for (what, reply) in [("lookup reply", two.clone()), ("lookup reply with a bump", bumped)] {
            assert_eq!(
                (LookupReply::decode(value(what)), reply.encode()),
                (Ok(reply), value(what))
            );
        }
        let bytes = value("lookup reply");
        assert_eq!(LookupReply::decode(bytes.slice(..bytes.len() - 1)), Ok(two), "without a bump");
        assert_eq!(LookupReply::decode(bytes.slice(..bytes.len() - 2)), Err(Malformed::CutOff));
    }

    #[test]
    fn announcements_are_signed_as_the_original_signs_them() {
        for (what, meaning, relays) in
            [("announce", Meaning::Here, peer().relays), ("unannounce", Meaning::Gone, Vec::new())]
        {
            let ours = Announcement::signed(meaning, &keys(), relays, &place());
            assert_eq!(ours.encode(), value(what), "{what}");
        }
        let refreshed = Announcement::decode(value("announce with refresh")).unwrap();
        assert_eq!((refreshed.refresh, refreshed.bump), (Some([8; 32]), 1000));
        assert_eq!(refreshed.encode(), value("announce with refresh"));
        assert_eq!(refreshed.verified(Meaning::Here, &place()), Some(&peer()));
        let refresh = Announcement::decode(value("refresh")).unwrap();
        assert_eq!((&refresh.peer, refresh.refresh), (&None, Some([8; 32])));
        assert_eq!(refresh.verified(Meaning::Here, &place()), None);
    }

    #[test]
    fn a_signature_is_valid_for_one_place_one_meaning_and_one_content() {
        let good = Announcement::decode(value("announce")).unwrap();
        assert_eq!(good.verified(Meaning::Here, &place()), Some(&peer()));
        assert_eq!(good.verified(Meaning::Gone, &place()), None);
        for wrong in [
            AnnouncementPlace { target: [1; 32], ..place() },
            AnnouncementPlace { token: [1; 32], ..place() },
            AnnouncementPlace { node: [1; 32], ..place() },
        ] {
            assert_eq!(good.verified(Meaning::Here, &wrong), None);
        }
        let mut relays = peer();
        relays.relays.pop();
        let mut key = peer();
        key.key = PublicKey::new([4; 32]);
        for other in [relays, key] {
            let forged = Announcement { peer: Some(other), ..good.clone() };
            assert_eq!(forged.verified(Meaning::Here, &place()), None);
        }
        let forged = Announcement { refresh: Some([0; 32]), ..good.clone() };
        assert_eq!(forged.verified(Meaning::Here, &place()), None);
        let forged = Announcement { signature: None, ..good };
        assert_eq!(forged.verified(Meaning::Here, &place()), None);
    }

    #[test]
    fn peers_and_relays_of_one_record_are_limited() {
        let peers = |count| {
            let reply = LookupReply { peers: vec![peer(); count], bump: 7 };
            let read = LookupReply::decode(reply.encode()).unwrap();
            assert_eq!(read.bump, 7);
            read.peers.len()
        };
        assert_eq!((peers(MAX_PEERS), peers(MAX_PEERS + 1)), (MAX_PEERS, MAX_PEERS));
        let relays = |count| {
            let announced =
                Announcement::signed(Meaning::Here, &keys(), vec![OTHER; count], &place());
            let read = Announcement::decode(announced.encode()).unwrap();
            read.verified(Meaning::Here, &place()).map(|peer| peer.relays.len())
        };
        assert_eq!(relays(MAX_ADDRESSES), Some(MAX_ADDRESSES));
        assert_eq!(relays(MAX_ADDRESSES + 1), None, "cannot be checked without what was left out");
    }
}
