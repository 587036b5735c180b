//! Protobuf messages field by field, in place: what nobody reads costs no memory and next to no
//! time, however much of it there is.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::NriError;

/// The fields of one message, in the order of the wire; repeated ones come one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// One field's value. Fixed-width fields, which NRI does not use, are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number.
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

// === impl Value ===

impl<'a> Value<'a> {
    /// The bytes; none of a number, whose field should have been something else.
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => &[],
        }
    }

    /// The number, cut to 32 bits as protobuf does; 0 of bytes.
    pub(super) fn number(self) -> u32 {
        match self {
            #[expect(clippy::cast_possible_truncation, reason = "what protobuf prescribes")]
            Value::Number(number) => number as u32,
            Value::Bytes(_) => 0,
        }
    }

    /// Its fields, where it is a message.
    pub(super) fn fields(self) -> Fields<'a> {
        Fields::of(self.bytes())
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn read(&mut self) -> Result<Option<(u32, Value<'a>)>, NriError> {
        loop {
            // The short form of key and length, which a million small fields have.
            if let &[key @ 0x08..=0x7f, length @ 0..=0x7f, ref rest @ ..] = self.rest
                && key & 7 == 2
                && let Some((bytes, rest)) = rest.split_at_checked(usize::from(length))
            {
                self.rest = rest;
                return Ok(Some((u32::from(key >> 3), Value::Bytes(bytes))));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let (tag, wire) = decode_key(&mut self.rest).map_err(bad)?;
            match wire {
                WireType::Varint => {
                    let number = decode_varint(&mut self.rest).map_err(bad)?;
                    return Ok(Some((tag, Value::Number(number))));
                }
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut self.rest).map_err(bad)?;
                    let bytes = usize::try_from(length).ok().and_then(|length| self.take(length));
                    let Some(bytes) = bytes else {
                        let left = self.rest.len();
                        return Err(bad(format!("field {tag} says {length} bytes, {left} are left")));
                    };
                    return Ok(Some((tag, Value::Bytes(bytes))));
                }
                WireType::ThirtyTwoBit if self.take(4).is_some() => {}
                WireType::SixtyFourBit if self.take(8).is_some() => {}
                _ => return Err(bad(format!("field {tag} is of no known type or cut off"))),
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), NriError>;

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.read().transpose();
        if matches!(field, Some(Err(_))) {
            // Nothing behind it can be found.
            self.rest = &[];
        }
        field
    }
}

fn bad(what: impl std::fmt::Display) -> NriError {
    NriError::Malformed(what.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<(u32, Value<'_>), String>> {
        Fields::of(bytes).map(|field| field.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn short_and_long_forms_are_the_same() {
        let one = Ok((8, Value::Bytes(&b"a"[..])));
        assert_eq!(read(&[0x42, 1, b'a']), std::slice::from_ref(&one));
        assert_eq!(read(&[0x42, 0x81, 0, b'a']), std::slice::from_ref(&one), "a length with a needless byte");
        assert_eq!(read(&[0xc2, 0, 1, b'a']), [one], "a key with a needless byte");
        assert_eq!(read(&[0x60, 0x96, 1]), [Ok((12, Value::Number(150)))]);
        // Fixed-width fields are skipped.
        assert_eq!(
            read(&[0x0d, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x42, 0]),
            [Ok((8, Value::Bytes(&[])))]
        );
    }

    #[test]
    fn what_is_cut_off_is_the_last() {
        for (bytes, word) in [
            (&[0x42, 5, b'a'][..], "field 8 says 5 bytes, 1 are left"),
            (&[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "field 8 says"),
            (&[0x0d, 1], "field 1 is of no known type or cut off"),
            (&[0x0f], "malformed"),
        ] {
            let fields = read(bytes);
            assert_eq!(fields.len(), 1);
            assert!(fields[0].as_ref().unwrap_err().contains(word), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let fields = read(&bytes);
            let errors = fields.iter().filter(|field| field.is_err()).count();
            prop_assert!(errors == 0 || errors == 1 && fields.last().unwrap().is_err());
        }
    }
}
