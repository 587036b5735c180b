//! Reads JSON as it arrives, into fields that accept any value: one of another type than expected is skipped
//! and noted, and what follows it is read. Values that no field is for are never in memory.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A place for a value. Each method returns whether the value is of the type of the field.
pub(super) trait Field: Default {
    /// Whether the field is for objects.
    const IS_OBJECT: bool = false;
    /// Whether the field is for lists.
    const IS_LIST: bool = false;

    fn text(&mut self, _: &str) -> bool {
        false
    }

    fn number(&mut self, _: i64) -> bool {
        false
    }

    fn flag(&mut self, _: bool) -> bool {
        false
    }

    /// Reads the value of `key` of an object.
    fn entry<'de, A: MapAccess<'de>>(&mut self, _: &str, value: Entry<'_, A>) -> Result<(), A::Error> {
        value.skip()
    }

    /// Reads the next element of a list; `false` at its end.
    fn element<'de, A: SeqAccess<'de>>(&mut self, list: &mut A, _: &Cell<bool>) -> Result<bool, A::Error> {
        Ok(list.next_element::<IgnoredAny>()?.is_some())
    }
}

/// The value of an object's key.
pub(super) struct Entry<'a, A> {
    object: &'a mut A,
    is_odd: &'a Cell<bool>,
}

impl<'de, A: MapAccess<'de>> Entry<'_, A> {
    pub(super) fn read(self, field: &mut impl Field) -> Result<(), A::Error> {
        self.object.next_value_seed(FieldSeed { field, is_odd: self.is_odd })
    }

    pub(super) fn skip(self) -> Result<(), A::Error> {
        self.object.next_value::<IgnoredAny>().map(drop)
    }
}

/// Reads a value into a field. `is_odd` is set if it, or a value in it, is of another type than expected.
pub(super) struct FieldSeed<'a, F> {
    pub(super) field: &'a mut F,
    pub(super) is_odd: &'a Cell<bool>,
}

impl<F: Field> FieldSeed<'_, F> {
    fn note_type<E>(&self, is_expected: bool) -> Result<(), E> {
        if !is_expected {
            self.is_odd.set(true);
        }
        Ok(())
    }
}

impl<'de, F: Field> DeserializeSeed<'de> for FieldSeed<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: Field> Visitor<'de> for FieldSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let is_expected = self.field.text(text);
        self.note_type(is_expected)
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        let is_expected = self.field.number(number);
        self.note_type(is_expected)
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        let is_expected = i64::try_from(number).is_ok_and(|number| self.field.number(number));
        self.note_type(is_expected)
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.note_type(false)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        let is_expected = self.field.flag(flag);
        self.note_type(is_expected)
    }

    /// `null` is the same as no value.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key::<String>()? {
            self.field.entry(&key, Entry { object: &mut object, is_odd: self.is_odd })?;
        }
        self.note_type(F::IS_OBJECT)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while self.field.element(&mut list, self.is_odd)? {}
        self.note_type(F::IS_LIST)
    }
}

// === impl Field ===

impl Field for String {
    fn text(&mut self, text: &str) -> bool {
        text.clone_into(self);
        true
    }
}

impl Field for Option<i64> {
    fn number(&mut self, number: i64) -> bool {
        *self = Some(number);
        true
    }
}

impl Field for Option<bool> {
    fn flag(&mut self, flag: bool) -> bool {
        *self = Some(flag);
        true
    }
}

impl<F: Field> Field for Vec<F> {
    const IS_LIST: bool = true;

    fn element<'de, A: SeqAccess<'de>>(
        &mut self,
        list: &mut A,
        is_odd: &Cell<bool>,
    ) -> Result<bool, A::Error> {
        let mut element = F::default();
        let found = list.next_element_seed(FieldSeed { field: &mut element, is_odd })?.is_some();
        if found {
            self.push(element);
        }
        Ok(found)
    }
}

/// Makes a structure a field for an object: each key of the API, and the structure's field for it.
macro_rules! object {
    ($structure:ty { $($key:pat => $field:ident),* $(,)? }) => {
        impl Field for $structure {
            const IS_OBJECT: bool = true;

            fn entry<'de, A: MapAccess<'de>>(
                &mut self,
                key: &str,
                value: Entry<'_, A>,
            ) -> Result<(), A::Error> {
                match key {
                    $($key => value.read(&mut self.$field),)*
                    _ => value.skip(),
                }
            }
        }
    };
}
pub(super) use object;
