//! Written bytes, split into the payloads of packets.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Limit of written bytes that are not acknowledged yet.
pub(crate) const SEND_BUFFER: usize = 4 * 1024 * 1024;
/// Payload bytes of a packet: packets of 1200 bytes pass on every path (RFC 9000 §14).
pub(crate) const PAYLOAD: usize = 1180;

const CHUNK: usize = 64 * 1024;

/// See the module's description.
pub(crate) struct Outgoing {
    full: VecDeque<Bytes>,
    /// The last bytes, less than a payload.
    last: BytesMut,
    /// Written bytes that are not released.
    held: usize,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self { full: VecDeque::new(), last: BytesMut::new(), held: 0 }
    }

    pub(crate) fn room(&self) -> usize {
        SEND_BUFFER.saturating_sub(self.held)
    }

    /// Takes as many bytes as there is room for; returns their number.
    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room());
        let mut rest = &data[..taken];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAYLOAD - self.last.len()));
            if self.last.capacity() - self.last.len() < now.len() {
                self.last.reserve(CHUNK);
            }
            self.last.extend_from_slice(now);
            if self.last.len() == PAYLOAD {
                self.full.push_back(self.last.split().freeze());
            }
            rest = later;
        }
        self.held += taken;
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.last.is_empty()
    }

    /// The payload of the next packet.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let last = |last: &mut BytesMut| (!last.is_empty()).then(|| last.split().freeze());
        self.full.pop_front().or_else(|| last(&mut self.last))
    }

    /// Releases `bytes` bytes that were taken and have been acknowledged.
    pub(crate) fn let_go(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_share_a_packet_and_large_ones_are_cut() {
        let mut outgoing = Outgoing::new();
        let written: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in written.chunks(77) {
            assert_eq!(outgoing.write(piece), piece.len());
        }
        let packets: Vec<Bytes> = std::iter::from_fn(|| outgoing.take()).collect();
        assert_eq!(packets.len(), written.len().div_ceil(PAYLOAD));
        assert_eq!(packets.concat(), written);
        assert!(outgoing.is_empty() && outgoing.held == written.len());
    }

    #[test]
    fn writes_are_limited_to_the_room() {
        let mut outgoing = Outgoing::new();
        assert_eq!(outgoing.write(&vec![0; SEND_BUFFER + 1]), SEND_BUFFER);
        assert_eq!(outgoing.write(b"x"), 0);
        let payload = outgoing.take().unwrap();
        assert_eq!(outgoing.write(b"x"), 0);
        outgoing.let_go(payload.len());
        assert_eq!((outgoing.room(), outgoing.write(b"x")), (PAYLOAD, 1));
    }
}
