//! The enumerated values of the state document, each written by its name. A name of a later version is
//! kept, so that an older reader passes it on unchanged.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use usernsd_domain::words::Word;

/// An enumerated value in the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<T> {
    /// A value that this program defines.
    Known(T),
    /// A name of a later version; empty if an older agent's document lacks the field.
    Unknown(String),
}

// === impl Named ===

impl<T: Word> Named<T> {
    /// The value; `None` for a name of a later version.
    pub fn known(&self) -> Option<T> {
        match self {
            Named::Known(value) => Some(*value),
            Named::Unknown(_) => None,
        }
    }

    /// Whether it is this value.
    pub fn is(&self, value: T) -> bool {
        self.known() == Some(value)
    }

    /// The name in the document.
    pub fn as_str(&self) -> &str {
        match self {
            Named::Known(value) => value.name(),
            Named::Unknown(word) => word,
        }
    }
}

impl<T: Word> From<T> for Named<T> {
    fn from(value: T) -> Named<T> {
        Named::Known(value)
    }
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named::Unknown(String::new())
    }
}

impl<T: Word> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By the name, because the document's tables are sorted by their keys.
impl<T: Word + Eq> Ord for Named<T> {
    fn cmp(&self, other: &Named<T>) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl<T: Word + Eq> PartialOrd for Named<T> {
    fn partial_cmp(&self, other: &Named<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Word> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: Word> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(T::named(&word).map_or(Named::Unknown(word), Named::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_domain::record::{CgroupState, OutcomeName};

    #[test]
    fn a_word_of_a_later_version_is_passed_on() {
        for word in ["ok", "owner_wrong", "frozen", ""] {
            let text = format!("{word:?}");
            let read: Named<CgroupState> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.known().is_some(), matches!(word, "ok" | "owner_wrong"), "{word}");
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn every_outcome_is_read_as_it_is_written() {
        for outcome in OutcomeName::all() {
            let text = serde_json::to_string(&Named::from(outcome)).unwrap();
            assert!(serde_json::from_str::<Named<OutcomeName>>(&text).unwrap().is(outcome), "{text}");
        }
    }
}
