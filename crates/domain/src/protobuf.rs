//! Reads protobuf messages field by field, in place: fields that are not read cost no memory and almost no time,
//! however large they are (<https://protobuf.dev/programming-guides/encoding/>).

use thiserror::Error;

/// The bytes are not a protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

/// The fields of a message, in wire order; repeated fields one at a time.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Wire types, in the lowest three bits of a field's key.
const VARINT: u32 = 0;
const SIXTY_FOUR_BIT: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const THIRTY_TWO_BIT: u32 = 5;

/// A field's value. Fixed-width fields are skipped: no message that is read here has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// A field of wire type varint.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

// === impl FieldValue ===

impl<'a> FieldValue<'a> {
    /// The bytes; empty for a number, which is a field of the wrong type.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            FieldValue::Bytes(bytes) => bytes,
            FieldValue::Number(_) => &[],
        }
    }

    /// The number, truncated to 32 bits like protobuf does; 0 for bytes.
    #[must_use]
    pub fn number(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "what protobuf prescribes")]
        {
            self.long() as u32
        }
    }

    /// The number, signed; 0 for bytes.
    #[must_use]
    pub fn signed(self) -> i64 {
        self.long().cast_signed()
    }

    fn long(self) -> u64 {
        match self {
            FieldValue::Number(number) => number,
            FieldValue::Bytes(_) => 0,
        }
    }

    /// The fields of an embedded message.
    #[must_use]
    pub fn fields(self) -> Fields<'a> {
        Fields::of(self.bytes())
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The fields of a message.
    #[must_use]
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn read(&mut self) -> Result<Option<(u32, FieldValue<'a>)>, Malformed> {
        loop {
            // The short form of key and length, which a million small fields have.
            if let &[key @ 0x08..=0x7f, length @ 0..=0x7f, ref rest @ ..] = self.rest
                && key & 7 == 2
                && let Some((bytes, rest)) = rest.split_at_checked(usize::from(length))
            {
                self.rest = rest;
                return Ok(Some((u32::from(key >> 3), FieldValue::Bytes(bytes))));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let key =
                u32::try_from(self.varint()?).map_err(|_| bad("a field's number is too large".to_owned()))?;
            let tag = key >> 3;
            if tag == 0 {
                return Err(bad("a field has the number 0".to_owned()));
            }
            match key & 7 {
                VARINT => return Ok(Some((tag, FieldValue::Number(self.varint()?)))),
                LENGTH_DELIMITED => {
                    let length = self.varint()?;
                    let bytes = usize::try_from(length).ok().and_then(|length| self.take(length));
                    let Some(bytes) = bytes else {
                        let left = self.rest.len();
                        return Err(bad(format!("field {tag} says {length} bytes, {left} are left")));
                    };
                    return Ok(Some((tag, FieldValue::Bytes(bytes))));
                }
                THIRTY_TWO_BIT if self.take(4).is_some() => {}
                SIXTY_FOUR_BIT if self.take(8).is_some() => {}
                _ => return Err(bad(format!("field {tag} is of no known type or cut off"))),
            }
        }
    }

    /// Seven bits per byte, the lowest first, at most 64 in total.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.rest.split_first() else {
                return Err(bad("a number is cut off".to_owned()));
            };
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(bad("a number has more than 64 bits".to_owned()))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, FieldValue<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.read().transpose();
        if matches!(field, Some(Err(_))) {
            // Nothing after a malformed field can be read.
            self.rest = &[];
        }
        field
    }
}

fn bad(what: String) -> Malformed {
    Malformed(what)
}

/// The last field with that number; an empty one if there is none.
///
/// # Errors
/// The bytes are not a protobuf message.
pub fn field(message: &[u8], tag: u32) -> Result<FieldValue<'_>, Malformed> {
    let mut last = FieldValue::Bytes(&[]);
    for field in Fields::of(message) {
        match field? {
            (found, value) if found == tag => last = value,
            _ => {}
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<(u32, FieldValue<'_>), String>> {
        Fields::of(bytes).map(|field| field.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn short_and_long_forms_are_the_same() {
        let one = Ok((8, FieldValue::Bytes(&b"a"[..])));
        assert_eq!(read(&[0x42, 1, b'a']), std::slice::from_ref(&one));
        assert_eq!(read(&[0x42, 0x81, 0, b'a']), std::slice::from_ref(&one), "a length with a needless byte");
        assert_eq!(read(&[0xc2, 0, 1, b'a']), [one], "a key with a needless byte");
        assert_eq!(read(&[0x60, 0x96, 1]), [Ok((12, FieldValue::Number(150)))]);
        // Fixed-width fields are skipped.
        assert_eq!(
            read(&[0x0d, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x42, 0]),
            [Ok((8, FieldValue::Bytes(&[])))]
        );
    }

    #[test]
    fn a_truncated_field_is_an_error_and_the_last() {
        for (bytes, word) in [
            (&[0x42, 5, b'a'][..], "field 8 says 5 bytes, 1 are left"),
            (&[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "field 8 says"),
            (&[0x0d, 1], "field 1 is of no known type or cut off"),
            (&[0x0f], "field 1 is of no known type or cut off"),
            (&[0x00], "a field has the number 0"),
            (&[0x80], "a number is cut off"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "a field's number is too large"),
            (
                &[0x60, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                "a number has more than 64 bits",
            ),
        ] {
            let fields = read(bytes);
            assert_eq!(fields.len(), 1);
            assert!(fields[0].as_ref().unwrap_err().contains(word), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let fields = read(&bytes);
            let errors = fields.iter().filter(|field| field.is_err()).count();
            prop_assert!(errors == 0 || errors == 1 && fields.last().unwrap().is_err());
        }
    }
}
