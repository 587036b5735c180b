//! base64 (RFC 4648) and data URLs (RFC 2397).

use thiserror::Error;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text is not a data URL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DataUrlError {
    /// The URL has another scheme.
    #[error("is not a data URL; contents elsewhere are not fetched")]
    Scheme,
    /// The URL has no comma before the data.
    #[error("is a data URL without data")]
    NoComma,
    /// The data after the comma is malformed.
    #[error("is a data URL with bad {0}")]
    Encoding(&'static str),
}

/// Encodes in base64.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    let letter = |six: u32| char::from(ALPHABET.get(six as usize & 63).copied().unwrap_or(b'='));
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        out.push(letter(bits >> 18));
        out.push(letter(bits >> 12));
        out.push(if chunk.len() > 1 { letter(bits >> 6) } else { '=' });
        out.push(if chunk.len() > 2 { letter(bits) } else { '=' });
    }
    out
}

/// Decodes base64; `None` for anything that [`base64`] would not write, except line breaks.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let clean: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let data: Vec<u8> = clean.iter().copied().take_while(|byte| *byte != b'=').collect();
    if !clean.len().is_multiple_of(4)
        || clean.len() - data.len() > 2
        || clean.iter().skip(data.len()).any(|byte| *byte != b'=')
    {
        return None;
    }
    let mut out = Vec::with_capacity(data.len() / 4 * 3 + 2);
    for chunk in data.chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            let six = ALPHABET.iter().position(|letter| letter == byte)?;
            bits = bits << 6 | u32::try_from(six).ok()?;
        }
        bits <<= 6 * (4 - chunk.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend(bytes.iter().take(chunk.len() * 3 / 4));
    }
    // Unused bits in the last character would be lost.
    (base64(&out).as_bytes() == clean).then_some(out)
}

/// The bytes of a data URL.
///
/// # Errors
/// See [`DataUrlError`].
pub fn from_data_url(url: &str) -> Result<Vec<u8>, DataUrlError> {
    let rest = url.strip_prefix("data:").ok_or(DataUrlError::Scheme)?;
    let (kind, data) = rest.split_once(',').ok_or(DataUrlError::NoComma)?;
    let bytes = percent(data).ok_or(DataUrlError::Encoding("percent encoding"))?;
    if !kind.ends_with(";base64") {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).map_err(|_| DataUrlError::Encoding("base64"))?;
    from_base64(&text).ok_or(DataUrlError::Encoding("base64"))
}

/// Undoes percent encoding (RFC 3986, section 2.1).
fn percent(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        out.push(digit()? << 4 | digit()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_rfc_are_encoded_and_decoded() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        for text in ["Z", "Zg", "Zg=", "Zg===", "Z===", "Zh==", "Zm9v=", "Zg==Zg==", "Z!==", "===="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }

    #[test]
    fn data_urls_are_decoded() {
        for (url, want) in [
            ("data:,a%20b", Ok("a b")),
            ("data:text/plain;charset=utf-8;base64,Zm9v", Ok("foo")),
            ("data:;base64,Zm9v\nYmFy", Ok("foobar")),
            ("data:text/plain,", Ok("")),
            ("http://x/", Err(DataUrlError::Scheme)),
            ("data:x", Err(DataUrlError::NoComma)),
            ("data:,%4", Err(DataUrlError::Encoding("percent encoding"))),
            ("data:;base64,!", Err(DataUrlError::Encoding("base64"))),
        ] {
            assert_eq!(from_data_url(url), want.map(|text: &str| text.as_bytes().to_vec()), "{url}");
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_are_decoded_to_the_same(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }

        #[test]
        fn any_input_is_decoded_without_panic(text in any::<String>()) {
            let _ = (from_base64(&text), from_data_url(&text), from_data_url(&format!("data:;base64,{text}")));
        }
    }
}
