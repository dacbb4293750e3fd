//! A remote that has done the handshake and shares one core, then sends whatever it likes: the
//! plain text of its side of the connection is the input, cut where the first byte says.

use bytes::BytesMut;
use hypermount_core::wire::message::SessionEvent;
use hypermount_core::wire::{Role, Session, StaticKeyPair};
use hypermount_swarm::crypto::PublicKey;

fn deliver(from: &mut Session, to: &mut Session) {
    if let Some(bytes) = from.take_output() {
        to.receive(&mut BytesMut::from(bytes.as_ref())).expect("both sides are honest so far");
    }
}

pub fn run(input: &[u8]) {
    let Some((piece, plain)) = input.split_first() else { return };
    let start = |role, seed| {
        let keys = StaticKeyPair::from_seed(&[seed; 32]);
        Session::new(role, keys, [seed; 24]).expect("the system has randomness")
    };
    let (mut remote, mut victim) = (start(Role::Initiator, 1), start(Role::Responder, 2));
    let key = PublicKey::new([3; 32]);
    let _ = remote.open(&key, &["hypertrie"]);
    let _ = victim.open(&key, &["hypertrie"]);
    while remote.pending_output() + victim.pending_output() > 0 {
        deliver(&mut remote, &mut victim);
        deliver(&mut victim, &mut remote);
    }
    remote.send_plain(plain);
    let bytes = remote.take_output().unwrap_or_default();
    for chunk in bytes.chunks(usize::from(*piece).max(1)) {
        let Ok(events) = victim.receive(&mut BytesMut::from(chunk)) else { return };
        for event in events {
            if let SessionEvent::RemoteOpen { discovery_key } = event {
                victim.refuse(&discovery_key);
            }
        }
    }
}
