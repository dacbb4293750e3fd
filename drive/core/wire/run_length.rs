//! The run-length form in which a Have carries its bitfield (bitfield-rle 2, §9).
//!
//! A sequence of `varint(n)`: with n odd, a run of `n >> 2` bytes that are all `ff` (n & 2) or all
//! `00`; with n even, `n >> 1` literal bytes follow. Trailing zero bytes are not written.
//!
//! The encoder takes the reference's decisions one by one, as its bytes are compared. Not here:
//! what the bits mean.

use bytes::BytesMut;

use super::error::ProtocolError;
use super::varint;

/// Most bytes a peer's bitfield may unfold to: the 1,048,576 blocks a Want asks about.
pub(crate) const MAX_UNFOLDED: usize = 1_048_576 / 8;

/// Encodes `bits`.
pub(crate) fn encode(bits: &[u8]) -> BytesMut {
    let significant = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Encoder { bits: bits.get(..significant).unwrap_or_default(), ..Encoder::default() }.encode()
}

#[derive(Default)]
struct Encoder<'a> {
    bits: &'a [u8],
    out: BytesMut,
    /// First byte not yet written.
    start: usize,
    /// Length of the run that ends at the byte looked at, and what it is made of.
    run: usize,
    ones: bool,
}

impl Encoder<'_> {
    fn encode(mut self) -> BytesMut {
        for (position, byte) in self.bits.iter().enumerate() {
            if *byte == if self.ones { 0xff } else { 0 } {
                self.run += 1;
                continue;
            }
            if self.run > 0 {
                self.finish_run(position);
            }
            self.run = 0;
            // Any other byte leaves `ones` as it was: the next byte may continue the old kind.
            if matches!(byte, 0 | 0xff) {
                self.ones = *byte == 0xff;
                self.run = 1;
            }
        }
        let end = self.bits.len();
        if self.run > 0 {
            self.finish_run(end);
        }
        self.put_literal(end);
        self.out
    }

    /// Writes the run that ends before `end`, unless it is cheaper as part of a literal.
    fn finish_run(&mut self, end: usize) {
        let head = end - self.run - self.start;
        let word = 4 * self.run as u64 + if self.ones { 3 } else { 1 };
        let folded = literal_length(head) + varint::length(word);
        if folded >= literal_length(end - self.start) {
            return;
        }
        self.put_literal(end - self.run);
        varint::write(word, &mut self.out);
        self.start = end;
    }

    fn put_literal(&mut self, end: usize) {
        let literal = self.bits.get(self.start..end).unwrap_or_default();
        if !literal.is_empty() {
            varint::write(2 * literal.len() as u64, &mut self.out);
            self.out.extend_from_slice(literal);
        }
        self.start = end;
    }
}

fn literal_length(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { varint::length(2 * bytes as u64) + bytes }
}

/// Unfolds `encoded`. What it does not mention is zero.
///
/// # Errors
/// [`ProtocolError::Malformed`] for bytes no encoder writes, and [`ProtocolError::TooMany`] as
/// soon as the result would exceed `max` bytes (callers have [`MAX_UNFOLDED`]).
pub(crate) fn decode(encoded: &[u8], max: usize) -> Result<Vec<u8>, ProtocolError> {
    const WHAT: &str = "run-length bitfield";
    let mut bits = Vec::new();
    let mut rest = encoded;
    while !rest.is_empty() {
        let (word, taken) = varint::read_whole(rest, WHAT)?;
        rest = rest.get(taken..).unwrap_or_default();
        let is_run = word & 1 == 1;
        let claimed = if is_run { word >> 2 } else { word >> 1 };
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        let total = bits.len().saturating_add(length);
        if total > max {
            return Err(ProtocolError::TooMany { what: "bytes of bitfield", count: total, max });
        }
        if is_run {
            bits.resize(total, if word & 2 == 0 { 0 } else { 0xff });
        } else {
            let (literal, after) = rest
                .split_at_checked(length)
                .ok_or_else(|| ProtocolError::malformed(WHAT, "literal bytes are cut off"))?;
            bits.extend_from_slice(literal);
            rest = after;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn without_trailing_zeros(bits: &[u8]) -> &[u8] {
        let end = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &bits[..end]
    }

    #[test]
    fn matches_every_golden_pair() {
        let vectors = super::super::vectors::load("bitfield.json");
        for case in vectors["rle"].as_array().unwrap() {
            let bytes = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
            assert_eq!(encode(&bytes("input")), bytes("encoded"), "{case}");
            assert_eq!(decode(&bytes("encoded"), MAX_UNFOLDED).unwrap(), bytes("decoded"));
        }
    }

    #[test]
    fn matches_the_bitfields_sent_for_a_whole_want() {
        let vectors = super::super::vectors::load("bitfield.json");
        let mut checked = 0;
        for (name, case) in vectors["pages"].as_object().unwrap() {
            let Some(sent) = case["compress0_1M"].as_str() else { continue };
            let sent = hex::decode(sent).unwrap();
            let mut bits = vec![0u8; MAX_UNFOLDED];
            for range in case["ranges"].as_array().unwrap() {
                let bound = |end: usize| range[end].as_u64().unwrap() as usize;
                for block in bound(0)..bound(1).min(MAX_UNFOLDED * 8) {
                    bits[block / 8] |= 0x80 >> (block % 8);
                }
            }
            assert_eq!(encode(&bits), sent, "{name}");
            assert_eq!(decode(&sent, MAX_UNFOLDED).unwrap(), without_trailing_zeros(&bits));
            checked += 1;
        }
        assert!(checked > 3);
    }

    #[test]
    fn unfolds_up_to_the_limit_and_not_one_byte_past_it() {
        let run = |bytes: usize| {
            let mut out = BytesMut::new();
            varint::write(4 * bytes as u64 + 3, &mut out);
            out
        };
        assert_eq!(decode(&run(MAX_UNFOLDED), MAX_UNFOLDED).unwrap().len(), MAX_UNFOLDED);
        let past = decode(&run(MAX_UNFOLDED + 1), MAX_UNFOLDED);
        assert!(matches!(past, Err(ProtocolError::TooMany { .. })));
        let mut literal = run(MAX_UNFOLDED);
        literal.extend_from_slice(&[2, 1]);
        assert!(matches!(decode(&literal, MAX_UNFOLDED), Err(ProtocolError::TooMany { .. })));
    }

    #[test]
    fn refuses_what_is_cut_off() {
        assert!(matches!(decode(&[4, 1], 8), Err(ProtocolError::Malformed { .. })));
        assert!(matches!(decode(&[0x83], 8), Err(ProtocolError::Malformed { .. })));
    }

    fn bitfield() -> impl Strategy<Value = Vec<u8>> {
        let run = prop_oneof![
            (Just(0u8), 0..200usize),
            (Just(0xffu8), 0..200usize),
            (any::<u8>(), 0..4usize),
        ];
        proptest::collection::vec(run, 0..20)
            .prop_map(|runs| runs.into_iter().flat_map(|(byte, times)| vec![byte; times]).collect())
    }

    proptest! {
        #[test]
        fn unfolds_what_was_folded(bits in bitfield()) {
            let folded = encode(&bits);
            prop_assert_eq!(decode(&folded, bits.len()).unwrap(), without_trailing_zeros(&bits));
            prop_assert!(folded.len() <= bits.len() + 4);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(bits) = decode(&bytes, 1024) {
                prop_assert!(bits.len() <= 1024);
            }
        }
    }
}
