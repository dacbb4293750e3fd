//! The encoding of a datagram: the header, the ranges behind it, the payload
//! (docs/format/udx.md §1).

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a header.
pub(crate) const HEADER: usize = 20;
/// Ranges of one datagram that are decoded or encoded; the reference sends at most 50.
pub(crate) const MAX_RANGES: usize = 50;

pub(crate) const DATA: u8 = 1;
pub(crate) const END: u8 = 2;
pub(crate) const RANGES: u8 = 4;
pub(crate) const DESTROY: u8 = 16;
pub(crate) const HEARTBEAT: u8 = 32;

const MAGIC: u8 = 0xff;
const VERSION: u8 = 1;

/// The header of every datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: u8,
    /// The number that the receiver gave to the stream.
    pub stream: u32,
    pub window: u32,
    pub sequence: u32,
    pub ack: u32,
}

/// A decoded datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub header: Header,
    ranges: &'a [u8],
    pub payload: &'a [u8],
}

/// The stream a datagram is for, if it is one of UDX's.
pub(crate) fn stream_of(packet: &[u8]) -> Option<u32> {
    Packet::parse(packet).map(|packet| packet.header.stream)
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let mut rest = packet;
        if rest.len() < HEADER || rest.get_u8() != MAGIC || rest.get_u8() != VERSION {
            return None;
        }
        let kind = rest.get_u8();
        let offset = usize::from(rest.get_u8());
        let header = Header {
            kind,
            stream: rest.get_u32_le(),
            window: rest.get_u32_le(),
            sequence: rest.get_u32_le(),
            ack: rest.get_u32_le(),
        };
        let (between, payload) = rest.split_at_checked(offset)?;
        // The reference encodes the length of the ranges only where bytes follow them.
        let ranges = match (kind & RANGES != 0, offset) {
            (false, _) => &[][..],
            (true, 0) if kind & DATA == 0 => rest,
            (true, _) => between,
        };
        Some(Self { header, ranges, payload })
    }

    pub(crate) fn is(&self, kind: u8) -> bool {
        self.header.kind & kind != 0
    }

    /// The packets received out of order: first of each range, and the one after its last.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut rest = self.ranges;
        let next = move || Some((rest.try_get_u32_le().ok()?, rest.try_get_u32_le().ok()?));
        std::iter::from_fn(next).take(MAX_RANGES)
    }
}

impl Header {
    pub(crate) fn with_payload(&self, payload: &[u8]) -> Bytes {
        let mut packet = self.begin(payload.len());
        packet.put_slice(payload);
        packet.freeze()
    }

    /// As [`Self::with_payload`], for a datagram that has only ranges.
    pub(crate) fn with_ranges(mut self, ranges: impl Iterator<Item = (u32, u32)>) -> Bytes {
        self.kind |= RANGES;
        let mut packet = self.begin(MAX_RANGES * 8);
        for (start, end) in ranges.take(MAX_RANGES) {
            packet.put_u32_le(start);
            packet.put_u32_le(end);
        }
        packet.freeze()
    }

    fn begin(&self, more: usize) -> BytesMut {
        let mut packet = BytesMut::with_capacity(HEADER + more);
        packet.put_slice(&[MAGIC, VERSION, self.kind, 0]);
        packet.put_u32_le(self.stream);
        packet.put_u32_le(self.window);
        packet.put_u32_le(self.sequence);
        packet.put_u32_le(self.ack);
        packet
    }
}

/// Sequence numbers of 32 bits are extended to 64 bits from here, so that wrapping around and going
/// back are no special cases.
pub(crate) const FIRST_SEQUENCE: u64 = 1 << 32;

/// The number nearest to `near` that is `wire` on the wire.
pub(crate) fn widen(wire: u32, near: u64) -> u64 {
    let distance = wire.wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(distance.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Header = Header { kind: DATA, stream: 7, window: 9, sequence: 3, ack: 4 };

    #[test]
    fn a_header_is_20_bytes_little_endian() {
        let expected = b"\xff\x01\x01\x00\x07\0\0\0\x09\0\0\0\x03\0\0\0\x04\0\0\0hi";
        let packet = SOME.with_payload(b"hi");
        assert_eq!(packet[..], expected[..]);
        assert_eq!(stream_of(&packet), Some(7));
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!((parsed.header, parsed.payload), (SOME, &b"hi"[..]));
    }

    #[test]
    fn datagrams_of_other_protocols_belong_to_no_stream() {
        let packet = SOME.with_payload(b"");
        assert_eq!(stream_of(&packet[..19]), None);
        for place in [0, 1] {
            let mut other = packet.to_vec();
            other[place] ^= 2;
            assert_eq!(stream_of(&other), None);
        }
        // The bytes between header and payload must be present.
        let mut longer = packet.to_vec();
        longer[3] = 1;
        assert_eq!(stream_of(&longer), None);
        longer.push(0);
        assert_eq!(Packet::parse(&longer).unwrap().payload, b"");
    }

    #[test]
    fn ranges_are_read_with_and_without_their_length() {
        let only = Header { kind: 0, ..SOME }.with_ranges([(5, 7), (9, 10)].into_iter());
        let ranges = |packet: &[u8]| Packet::parse(packet).unwrap().ranges().collect::<Vec<_>>();
        assert_eq!(ranges(&only), [(5, 7), (9, 10)]);
        let mut bytes = only.to_vec();
        bytes[2] |= DATA;
        assert_eq!(ranges(&bytes), []);
        bytes[3] = 8;
        assert_eq!(ranges(&bytes), [(5, 7)]);
        assert_eq!(Packet::parse(&bytes).unwrap().payload.len(), 8);
        let half = &only[..only.len() - 3];
        assert_eq!(ranges(half), [(5, 7)]);
        let many = SOME.with_ranges((0..99).map(|n| (n, n + 1)));
        assert_eq!(many.len(), HEADER + 8 * MAX_RANGES);
    }

    #[test]
    fn numbers_wrap_around() {
        assert_eq!(widen(0, FIRST_SEQUENCE), FIRST_SEQUENCE);
        assert_eq!(widen(u32::MAX, FIRST_SEQUENCE), FIRST_SEQUENCE - 1);
        let near = FIRST_SEQUENCE + u64::from(u32::MAX);
        assert_eq!(widen(1, near), near + 2);
        assert_eq!(widen(u32::MAX - 1, near + 2), near - 1);
    }
}
