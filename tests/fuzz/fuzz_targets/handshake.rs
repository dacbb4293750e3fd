//! Strangers: arbitrary bytes instead of a handshake, to both roles.

use bytes::BytesMut;
use hypermount_core::wire::{Role, Session, StaticKeyPair};

pub fn run(input: &[u8]) {
    for role in [Role::Initiator, Role::Responder] {
        let keys = StaticKeyPair::from_seed(&[1; 32]);
        let mut session = Session::new(role, keys, [2; 24]).expect("the system has randomness");
        for chunk in input.chunks(50) {
            if session.receive(&mut BytesMut::from(chunk)).is_err() {
                break;
            }
        }
    }
}
