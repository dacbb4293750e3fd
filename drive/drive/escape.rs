//! Names that are not UTF-8, as text: what a drive stores is text, what a filesystem has is bytes.
//!
//! The text of bytes that are no UTF-8 has `␛` (U+241B) and two digits for each byte that is none: `caf␛E9` for
//! the Latin-1 bytes of `café`. All other bytes are their own text, except where that would look like an escape:
//! then each `␛` is escaped as well. So every sequence of bytes has one text and every text one sequence of bytes.
//! (docs/format/names.md)

use std::borrow::Cow;

/// What an escape begins with: a picture of the control character ESC, which names have hardly ever.
const MARK: &str = "␛";
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// The text of a name.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if unescaped(text).is_none() => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(bytes)),
    }
}

/// The bytes of a name.
pub fn unescape(text: &str) -> Cow<'_, [u8]> {
    match unescaped(text) {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(text.as_bytes()),
    }
}

/// As [`escape`], of the names between slashes.
pub fn escape_path(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(MARK) => Cow::Borrowed(text),
        _ => {
            let names: Vec<_> = bytes.split(|byte| *byte == b'/').map(escape).collect();
            Cow::Owned(names.join("/"))
        }
    }
}

/// As [`unescape`], of the names between slashes.
pub fn unescape_path(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text.as_bytes());
    }
    let names: Vec<_> = text.split('/').map(unescape).collect();
    Cow::Owned(names.join(&b'/'))
}

/// The bytes that this text escapes; `None` if it is its own name.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let bytes = undone(text)?;
    let is_needed = match std::str::from_utf8(&bytes) {
        // Shorter by at least four bytes for each step, so this ends soon.
        Ok(inner) => unescaped(inner).is_some(),
        Err(_) => true,
    };
    // Only what is written here is read: anything else is a name that someone chose.
    (is_needed && escaped(&bytes) == text).then_some(bytes)
}

/// The text without its escapes; `None` if it has none, or a mark without two digits.
fn undone(text: &str) -> Option<Vec<u8>> {
    let (before, after) = text.split_once(MARK)?;
    let mut bytes = before.as_bytes().to_vec();
    for part in after.split(MARK) {
        let (high, low) = (digit(part, 0)?, digit(part, 1)?);
        bytes.push(high << 4 | low);
        bytes.extend_from_slice(part.as_bytes().get(2..)?);
    }
    Some(bytes)
}

fn digit(text: &str, at: usize) -> Option<u8> {
    let digit = text.as_bytes().get(at)?;
    let value = DIGITS.iter().position(|known| known == digit)?;
    u8::try_from(value).ok()
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for (at, part) in chunk.valid().split(MARK).enumerate() {
            if at > 0 {
                MARK.bytes().for_each(|byte| push(&mut text, byte));
            }
            text += part;
        }
        chunk.invalid().iter().for_each(|byte| push(&mut text, *byte));
    }
    text
}

fn push(text: &mut String, byte: u8) {
    text.push_str(MARK);
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from(DIGITS[usize::from(digit)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_have_the_documented_text() {
        let table: [(&[u8], &str); 11] = [
            (b"plain", "plain"),
            ("näme ☃".as_bytes(), "näme ☃"),
            (b"caf\xe9", "caf␛E9"),
            (b"\xff\xfea", "␛FF␛FEa"),
            (b"\xe2\x90", "␛E2␛90"),
            // Alone, or before other characters, the mark is a character.
            ("a␛b".as_bytes(), "a␛b"),
            ("␛".as_bytes(), "␛"),
            ("␛41".as_bytes(), "␛41"),
            ("␛e9".as_bytes(), "␛e9"),
            // What looks like an escape is escaped.
            ("caf␛E9".as_bytes(), "caf␛E2␛90␛9BE9"),
            ("␛\u{ff}".as_bytes(), "␛\u{ff}"),
        ];
        for (bytes, text) in table {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text), bytes, "{text}");
        }
        assert_eq!(escape(b"\xff\xe2\x90\x9b"), "␛FF␛E2␛90␛9B");
    }

    #[test]
    fn paths_are_escaped_by_their_names() {
        let path = "a␛E9/b".as_bytes();
        assert_eq!(escape_path(path), "a␛E2␛90␛9BE9/b");
        assert_eq!(escape_path(b"../\xe9/"), "../␛E9/");
        assert_eq!(*unescape_path("../␛E9/␛2F/␛00"), *b"../\xe9/\xe2\x90\x9b2F/\xe2\x90\x9b00");
    }

    #[test]
    fn no_text_hides_what_a_name_cannot_have() {
        for text in ["␛2F", "␛00", "␛2E", "␛2E␛2E", "a␛2Fb␛FF"] {
            assert_eq!(unescape(text), text.as_bytes());
        }
    }

    /// Texts of which many are escapes, of escapes too.
    fn tricky() -> impl Strategy<Value = String> {
        const PARTS: [&str; 10] = ["␛", "E2", "90", "9B", "FF", "␛E2␛90␛9B", "a", "é", "4", "␛FF"];
        proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..8)
            .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn every_name_has_one_text(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&bytes);
            prop_assert_eq!(&*unescape(&text), &bytes[..]);
        }

        #[test]
        fn every_text_has_one_name(text in tricky(), any in "\\PC{0,20}") {
            for text in [text, any] {
                let (name, again) = (unescape(&text), escape(text.as_bytes()));
                prop_assert_eq!(&*escape(&name), text.as_str());
                prop_assert_eq!(&*unescape(&again), text.as_bytes());
            }
        }
    }
}
