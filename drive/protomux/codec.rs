//! Numbers, buffers and strings as protomux writes them (compact-encoding).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::MuxError;

/// Numbers up to this are one byte; above stand a marker and 2, 4 or 8 bytes, the low ones first.
const ONE_BYTE: u64 = 0xfc;
const TWO_BYTES: u8 = 0xfd;
const FOUR_BYTES: u8 = 0xfe;
const EIGHT_BYTES: u8 = 0xff;

/// Takes a number off the front.
pub fn take_uint(from: &mut Bytes) -> Result<u64, MuxError> {
    let cut = |_| MuxError::CutOff;
    match from.try_get_u8().map_err(cut)? {
        TWO_BYTES => from.try_get_u16_le().map(u64::from).map_err(cut),
        FOUR_BYTES => from.try_get_u32_le().map(u64::from).map_err(cut),
        EIGHT_BYTES => from.try_get_u64_le().map_err(cut),
        small => Ok(small.into()),
    }
}

/// Takes bytes off the front that stand behind their number.
pub fn take_buffer(from: &mut Bytes) -> Result<Bytes, MuxError> {
    let length = usize::try_from(take_uint(from)?).map_err(|_| MuxError::CutOff)?;
    if length > from.len() {
        return Err(MuxError::CutOff);
    }
    Ok(from.split_to(length))
}

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

pub fn put_buffer(bytes: &[u8], to: &mut BytesMut) {
    put_uint(bytes.len() as u64, to);
    to.put_slice(bytes);
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
    fn a_buffer_that_is_longer_than_what_there_is_is_an_error() {
        let mut whole = Bytes::from_static(&[3, 1, 2, 3, 9]);
        assert_eq!(take_buffer(&mut whole).as_deref(), Ok(&[1, 2, 3][..]));
        assert!(take_buffer(&mut Bytes::from_static(&[4, 1, 2, 3])).is_err());
        let huge = [EIGHT_BYTES, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(take_buffer(&mut Bytes::copy_from_slice(&huge)).is_err());
    }
}
