//! Where one frame ends and the next begins (simple-message-channels 1, §4).
//!
//! `varint(length) ‖ varint(channel << 4 | kind) ‖ payload`; the length counts the second integer
//! and the payload. A length of zero is a keep-alive.

use bytes::{BufMut, BytesMut};

use super::error::ProtocolError;
use super::varint::{self, MAX_VARINT};

/// Longest payload of a frame, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 8 * 1024 * 1024;
/// Longest payload, in bytes, of a remote that has not yet shown that it knows the key of a core of
/// ours: Opens and Options need far less, and there may be many such remotes.
pub(crate) const MAX_STRANGER_PAYLOAD: usize = 64 * 1024;
/// Highest channel number: the reference shifts it in 32-bit arithmetic.
pub(crate) const MAX_CHANNEL: u32 = (1 << 27) - 1;
/// A frame without payload, as sent to show that we are still here.
pub(crate) const KEEPALIVE: [u8; 1] = [0];

const LONGEST_FRAME: usize = MAX_PAYLOAD + MAX_VARINT;

/// What the front of a byte stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Not enough bytes to tell.
    Incomplete,
    /// The bytes, at least one, to be dropped: a zero need not be written in its shortest form.
    KeepAlive {
        /// Number of bytes to drop.
        length: usize,
    },
    /// A frame begins here.
    Frame(Header),
}

/// A frame whose payload may still be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Channel number, below 2^27.
    pub channel: u32,
    /// Message type, 0 to 15.
    pub kind: u8,
    /// Bytes before the payload.
    pub length: usize,
    /// Bytes of the payload, at most 8 MiB.
    pub payload: usize,
}

/// Reads the header at the front of `input`. Judges lengths as soon as they can be read, so a
/// claim beyond the limits never makes the reader buffer for it.
pub fn front(input: &[u8]) -> Result<Front, ProtocolError> {
    let Some((claimed, prefix)) = varint::read(input)? else {
        return Ok(Front::Incomplete);
    };
    if claimed == 0 {
        return Ok(Front::KeepAlive { length: prefix });
    }
    let too_long = ProtocolError::FrameTooLong { length: claimed, max: MAX_PAYLOAD };
    let frame = match usize::try_from(claimed) {
        Ok(frame) if frame <= LONGEST_FRAME => frame,
        _ => return Err(too_long),
    };
    let rest = input.get(prefix..).unwrap_or_default();
    let within = rest.get(..frame.min(rest.len())).unwrap_or_default();
    let Some((word, taken)) = varint::read(within)? else {
        if within.len() == frame {
            return Err(ProtocolError::FrameTooShort { length: claimed });
        }
        return Ok(Front::Incomplete);
    };
    let payload = frame - taken;
    if payload > MAX_PAYLOAD {
        return Err(too_long);
    }
    let channel = match u32::try_from(word >> 4) {
        Ok(channel) if channel <= MAX_CHANNEL => channel,
        _ => return Err(ProtocolError::ChannelOutOfRange { channel: word >> 4 }),
    };
    let kind = (word & 0xf) as u8;
    Ok(Front::Frame(Header { channel, kind, length: prefix + taken, payload }))
}

/// Appends the header of a frame that `payload` bytes will follow.
pub(crate) fn put_header(channel: u32, kind: u8, payload: usize, out: &mut BytesMut) {
    debug_assert!(channel <= MAX_CHANNEL && kind < 16 && payload <= MAX_PAYLOAD);
    let word = u64::from(channel) << 4 | u64::from(kind);
    let frame = varint::length(word) + payload;
    out.reserve(varint::length(frame as u64) + frame);
    varint::write(frame as u64, out);
    varint::write(word, out);
}

/// Appends a keep-alive.
pub(crate) fn put_keepalive(out: &mut BytesMut) {
    out.put_slice(&KEEPALIVE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(length: u64, word: u64) -> BytesMut {
        let mut out = BytesMut::new();
        varint::write(length, &mut out);
        varint::write(word, &mut out);
        out
    }

    #[test]
    fn payload_of_eight_mebibytes_and_not_one_byte_more() {
        let most = MAX_PAYLOAD as u64;
        for (word, taken) in [(0x19, 1), (300 << 4 | 9, 2)] {
            let fits = frame(most + taken, word);
            let Front::Frame(header) = front(&fits).unwrap() else { panic!("no frame") };
            assert_eq!(header.payload, MAX_PAYLOAD);
            let past = frame(most + taken + 1, word);
            assert!(matches!(front(&past), Err(ProtocolError::FrameTooLong { .. })));
        }
    }

    #[test]
    fn absurd_length_is_refused_before_its_header_arrives() {
        let mut out = BytesMut::new();
        varint::write(1 << 40, &mut out);
        assert!(matches!(front(&out), Err(ProtocolError::FrameTooLong { .. })));
    }

    #[test]
    fn a_zero_in_more_bytes_than_it_needs_is_a_keepalive_of_all_of_them() {
        for zero in [&[0][..], &[0x80, 0], &[0x80, 0x80, 0x80, 0]] {
            let expected = Front::KeepAlive { length: zero.len() };
            assert_eq!(front(&[zero, &[7]].concat()).unwrap(), expected);
        }
    }

    #[test]
    fn header_must_lie_inside_its_frame() {
        let out = frame(1, 300 << 4);
        assert!(matches!(front(&out), Err(ProtocolError::FrameTooShort { length: 1 })));
        let endless = [9, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
        assert!(matches!(front(&endless), Err(ProtocolError::VarintTooLong { .. })));
    }

    #[test]
    fn channel_numbers_end_at_27_bits() {
        let last = u64::from(MAX_CHANNEL);
        let word = last << 4 | 3;
        let fits = frame(varint::length(word) as u64, word);
        assert!(matches!(front(&fits), Ok(Front::Frame(Header { channel: MAX_CHANNEL, .. }))));
        let word = (last + 1) << 4;
        let past = frame(varint::length(word) as u64, word);
        assert!(matches!(front(&past), Err(ProtocolError::ChannelOutOfRange { .. })));
    }

    proptest! {
        #[test]
        fn every_header_reads_back(channel in 0..=MAX_CHANNEL, kind in 0..16u8, payload in 0..=MAX_PAYLOAD) {
            let mut out = BytesMut::new();
            put_header(channel, kind, payload, &mut out);
            let expected = Header { channel, kind, payload, length: out.len() };
            prop_assert_eq!(front(&out).unwrap(), Front::Frame(expected));
            for cut in 0..out.len() {
                prop_assert_eq!(front(&out[..cut]).unwrap(), Front::Incomplete);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(Front::Frame(header)) = front(&bytes) {
                prop_assert!(header.payload <= MAX_PAYLOAD && header.length <= bytes.len());
            }
        }
    }
}
