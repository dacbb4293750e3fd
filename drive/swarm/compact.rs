//! Numbers, byte strings, addresses and lists in the encoding of Hyperswarm 4 and Hypercore 10
//! (compact-encoding).
//! Decoders take a value from the front of the bytes; encoders append one.
//!
//! Not here: the messages that are made of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Numbers up to this are one byte; larger ones are a marker and 2, 4 or 8 bytes, little-endian.
const ONE_BYTE: u64 = 0xfc;
const TWO_BYTES: u8 = 0xfd;
const FOUR_BYTES: u8 = 0xfe;
const EIGHT_BYTES: u8 = 0xff;

/// The bytes end before the value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it ends early")]
pub struct CutOff;

impl From<bytes::TryGetError> for CutOff {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

/// Decodes a number, whether or not it takes as few bytes as it could.
///
/// # Errors
/// The bytes end before.
pub fn take_uint(from: &mut Bytes) -> Result<u64, CutOff> {
    Ok(match from.try_get_u8()? {
        TWO_BYTES => from.try_get_u16_le()?.into(),
        FOUR_BYTES => from.try_get_u32_le()?.into(),
        EIGHT_BYTES => from.try_get_u64_le()?,
        small => small.into(),
    })
}

/// Decodes bytes that follow their length.
///
/// # Errors
/// The bytes end before.
pub fn take_buffer(from: &mut Bytes) -> Result<Bytes, CutOff> {
    let length = usize::try_from(take_uint(from)?).map_err(|_| CutOff)?;
    if length > from.len() {
        return Err(CutOff);
    }
    Ok(from.split_to(length))
}

/// Takes exactly `N` bytes.
///
/// # Errors
/// The bytes end before.
pub fn take_fixed<const N: usize>(from: &mut Bytes) -> Result<[u8; N], CutOff> {
    let mut bytes = [0; N];
    from.try_copy_to_slice(&mut bytes)?;
    Ok(bytes)
}

/// Decodes an IPv4 address; its port may be 0.
///
/// # Errors
/// The bytes end before.
pub fn take_ipv4(from: &mut Bytes) -> Result<SocketAddrV4, CutOff> {
    let ip = Ipv4Addr::from(take_fixed::<4>(from)?);
    Ok(SocketAddrV4::new(ip, from.try_get_u16_le()?))
}

/// Decodes an IPv6 address; its port may be 0.
///
/// # Errors
/// The bytes end before.
pub fn take_ipv6(from: &mut Bytes) -> Result<SocketAddrV6, CutOff> {
    let ip = Ipv6Addr::from(take_fixed::<16>(from)?);
    Ok(SocketAddrV6::new(ip, from.try_get_u16_le()?, 0, 0))
}

/// Decodes a list that follows its length. Keeps the first `most` elements and skips the rest, which
/// may be valid but exceed what a caller needs.
///
/// # Errors
/// The bytes end before, or `take_one` fails.
pub fn take_list<T>(
    from: &mut Bytes,
    most: usize,
    take_one: impl Fn(&mut Bytes) -> Result<T, CutOff>,
) -> Result<Vec<T>, CutOff> {
    let count = take_uint(from)?;
    let mut kept = Vec::new();
    for _ in 0..count {
        // The loop ends with the bytes, whatever the length says: each element takes at least one.
        let one = take_one(from)?;
        if kept.len() < most {
            kept.push(one);
        }
    }
    Ok(kept)
}

/// Appends a number, in as few bytes as it takes.
pub fn put_uint(number: u64, to: &mut BytesMut) {
    if number <= ONE_BYTE {
        to.put_u8(number as u8);
    } else if let Ok(number) = u16::try_from(number) {
        to.put_u8(TWO_BYTES);
        to.put_u16_le(number);
    } else if let Ok(number) = u32::try_from(number) {
        to.put_u8(FOUR_BYTES);
        to.put_u32_le(number);
    } else {
        to.put_u8(EIGHT_BYTES);
        to.put_u64_le(number);
    }
}

/// Appends the length of `bytes` and the bytes.
pub fn put_buffer(bytes: &[u8], to: &mut BytesMut) {
    put_uint(bytes.len() as u64, to);
    to.put_slice(bytes);
}

/// Appends an IPv4 address.
pub fn put_ipv4(address: SocketAddrV4, to: &mut BytesMut) {
    to.put_slice(&address.ip().octets());
    to.put_u16_le(address.port());
}

/// Appends an IPv6 address.
pub fn put_ipv6(address: SocketAddrV6, to: &mut BytesMut) {
    to.put_slice(&address.ip().octets());
    to.put_u16_le(address.port());
}

/// Appends the length of a list and its elements.
pub fn put_list<T>(all: &[T], to: &mut BytesMut, put_one: impl Fn(&T, &mut BytesMut)) {
    put_uint(all.len() as u64, to);
    all.iter().for_each(|one| put_one(one, to));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        for (number, length) in
            [(0, 1), (0xfc, 1), (0xfd, 3), (0xffff, 3), (0x1_0000, 5), (0x1_0000_0000, 9)]
        {
            let mut bytes = BytesMut::new();
            put_uint(number, &mut bytes);
            assert_eq!(bytes.len(), length, "{number}");
            let mut bytes = bytes.freeze();
            for cut in 0..length {
                assert!(take_uint(&mut bytes.slice(..cut)).is_err());
            }
            assert_eq!(take_uint(&mut bytes), Ok(number));
        }
    }

    #[test]
    fn golden_numbers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/modern/crypto.json");
        let vectors: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for one in vectors["compactUints"].as_array().unwrap() {
            let number = one["n"].as_u64().unwrap();
            let mut bytes = BytesMut::new();
            put_uint(number, &mut bytes);
            assert_eq!(hex::encode(&bytes), one["encoded"].as_str().unwrap());
            assert_eq!(take_uint(&mut bytes.freeze()), Ok(number));
        }
    }

    #[test]
    fn a_buffer_longer_than_the_remaining_bytes_is_an_error() {
        let mut whole = Bytes::from_static(&[3, 1, 2, 3, 9]);
        assert_eq!(take_buffer(&mut whole).as_deref(), Ok(&[1, 2, 3][..]));
        assert!(take_buffer(&mut Bytes::from_static(&[4, 1, 2, 3])).is_err());
        let huge = [EIGHT_BYTES, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(take_buffer(&mut Bytes::copy_from_slice(&huge)).is_err());
    }

    #[test]
    fn ports_of_addresses_are_little_endian() {
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 0x0102);
        let mut bytes = BytesMut::new();
        put_ipv4(address, &mut bytes);
        assert_eq!(bytes[..], [10, 1, 2, 3, 2, 1]);
        assert_eq!(take_ipv4(&mut bytes.clone().freeze()), Ok(address));
        assert_eq!(take_ipv4(&mut bytes.freeze().slice(..5)), Err(CutOff));
        let address = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 0x0102, 0, 0);
        let mut bytes = BytesMut::new();
        put_ipv6(address, &mut bytes);
        assert_eq!((bytes.len(), take_ipv6(&mut bytes.freeze())), (18, Ok(address)));
    }

    #[test]
    fn lists_are_truncated_to_the_limit_and_cut_off_ones_refused() {
        let list = |count: u64| {
            let mut bytes = BytesMut::new();
            put_list(&(0..count).collect::<Vec<_>>(), &mut bytes, |one, to| put_uint(*one, to));
            bytes.extend_from_slice(b"rest");
            bytes.freeze()
        };
        for count in [3, 4] {
            let mut bytes = list(count);
            assert_eq!(take_list(&mut bytes, 3, take_uint), Ok(vec![0, 1, 2]), "{count}");
            assert_eq!(bytes, "rest");
        }
        let huge = [EIGHT_BYTES, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(take_list(&mut Bytes::copy_from_slice(&huge), 3, take_uint), Err(CutOff));
    }
}
