//! Keys in z-base-32, as programs of Hyperdrive 11 to 13 show them: 52 characters, five bits each, of which the
//! last has four bits of padding.
//!
//! Not here: keys in hex, and links (`url.rs`).

use hypermount_swarm::crypto::PublicKey;

/// Characters of a key.
pub(crate) const LENGTH: usize = 52;
const ALPHABET: &[u8; 32] = b"ybndrfg8ejkmcpqxot1uwisza345h769";

/// The key in z-base-32.
pub fn key_id(key: &PublicKey) -> String {
    let mut text = String::with_capacity(LENGTH);
    let (mut bits, mut count) = (0u32, 0);
    for byte in key.as_bytes().iter().chain(&[0]) {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 && text.len() < LENGTH {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
        }
        bits &= (1 << count) - 1;
    }
    text
}

/// Reads 52 characters of z-base-32, in either case; `None` for anything else, also for padding that is not zero,
/// so that a key has one spelling.
pub(crate) fn parse(text: &str) -> Option<PublicKey> {
    if text.len() != LENGTH {
        return None;
    }
    let mut bytes = Vec::with_capacity(33);
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter.to_ascii_lowercase())?;
        bits = bits << 5 | value as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if bits != 0 {
        return None;
    }
    PublicKey::from_slice(&bytes)
}

/// Whether the text has the length and the characters of a key in z-base-32.
pub(crate) fn resembles(text: &str) -> bool {
    let known = |byte: u8| ALPHABET.contains(&byte.to_ascii_lowercase());
    text.len() == LENGTH && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with the package z32 1.1.0.
    const KNOWN: [(&str, &str); 3] = [
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        ),
        (
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "999999999999999999999999999999999999999999999999999o",
        ),
        (
            "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798",
            "3aiba5zh1ze7gx16f5w4ayfb6bik1bx3k697ggcea5jo46j5g6cy",
        ),
    ];

    #[test]
    fn known_keys_are_written_and_read() {
        for (hex, id) in KNOWN {
            let key = PublicKey::from_hex(hex).unwrap();
            assert_eq!(key_id(&key), id);
            assert_eq!(parse(id), Some(key));
            assert_eq!(parse(&id.to_uppercase()), Some(key));
        }
    }

    #[test]
    fn other_texts_are_no_keys() {
        let zeros = "y".repeat(LENGTH);
        let changed = |last: &str| format!("{}{last}", &zeros[1..]);
        let longer = format!("{zeros}y");
        let (padded, unknown, wide) = (changed("b"), changed("l"), changed("é"));
        for text in ["", &zeros[1..], &longer, &padded, &unknown, &wide] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(resembles(&padded) && !resembles(&unknown) && !resembles(&longer));
    }

    proptest! {
        #[test]
        fn a_key_survives_its_id(key: [u8; 32]) {
            let id = key_id(&PublicKey::new(key));
            prop_assert_eq!(id.len(), LENGTH);
            prop_assert_eq!(parse(&id), Some(PublicKey::new(key)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
