//! Unsigned LEB128, as protobuf and the framing use it.

use bytes::{BufMut, BytesMut};

use super::error::ProtocolError;

/// Longest integer the framing accepts, in bytes: 56 bits (§4).
pub(crate) const MAX_VARINT: usize = 8;

/// The integer at the front of `input` and how many bytes it took; `None` when more bytes are
/// needed to tell.
///
/// # Errors
/// [`ProtocolError::VarintTooLong`] when the first [`MAX_VARINT`] bytes do not end it.
pub(crate) fn read(input: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    let mut value = 0;
    for (position, byte) in input.iter().take(MAX_VARINT).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(Some((value, position + 1)));
        }
    }
    if input.len() >= MAX_VARINT {
        return Err(ProtocolError::VarintTooLong { max: MAX_VARINT });
    }
    Ok(None)
}

/// Like [`read`] where nothing can follow: an integer that does not end is an error as well.
pub(crate) fn read_whole(input: &[u8], what: &'static str) -> Result<(u64, usize), ProtocolError> {
    read(input)?.ok_or_else(|| ProtocolError::malformed(what, "an integer is cut off"))
}

/// Appends `value`.
pub fn write(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// How many bytes [`write()`] appends for `value`.
pub const fn length(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_golden_integers() {
        let vectors = super::super::vectors::load("messages.json");
        for case in vectors["varints"].as_array().unwrap() {
            let number = case["n"].as_u64().unwrap();
            let bytes = hex::decode(case["hex"].as_str().unwrap()).unwrap();
            let mut out = BytesMut::new();
            write(number, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(length(number), bytes.len());
            assert_eq!(read(&bytes).unwrap(), Some((number, bytes.len())));
            assert_eq!(read(&bytes[..bytes.len() - 1]).unwrap(), None);
        }
    }

    #[test]
    fn accepts_eight_bytes_and_not_nine() {
        let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(read(&longest).unwrap(), Some(((1 << 56) - 1, 8)));
        let endless = [0x80; 9];
        assert!(matches!(read(&endless), Err(ProtocolError::VarintTooLong { .. })));
        assert!(matches!(read(&endless[..8]), Err(ProtocolError::VarintTooLong { .. })));
        assert!(read(&endless[..7]).unwrap().is_none());
        assert!(read_whole(&endless[..7], "test").is_err());
    }

    #[test]
    fn length_matches_what_is_written() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) - 1] {
                let mut out = BytesMut::new();
                write(value, &mut out);
                assert_eq!(length(value), out.len(), "{value}");
            }
        }
    }
}
