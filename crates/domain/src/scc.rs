//! The ID ranges that OpenShift assigns to a namespace, and which security context constraints (SCC) restrict a pod
//! to them.
//!
//! The grammar is that of library-go, `pkg/security/uid`, and of apiserver-library-go, `sccmatching`: Go's `Sscanf`
//! reads the numbers, so that leading blanks and anything after the second number are ignored, and sums wrap around.

use std::fmt;

use thiserror::Error;

/// The annotation with the namespace's user IDs.
pub const UID_RANGE: &str = "openshift.io/sa.scc.uid-range";
/// The annotation with the namespace's groups.
pub const SUPPLEMENTAL_GROUPS: &str = "openshift.io/sa.scc.supplemental-groups";
/// The pod annotation with the name of the SCC that is required to admit it.
pub const REQUIRED: &str = "openshift.io/required-scc";
/// The pod annotation with the name of the SCC that admitted it.
pub const ADMITTED_BY: &str = "openshift.io/scc";

/// The SCCs of OpenShift that take users and fsGroup from the namespace's annotations. Others, such as
/// `restricted-v3`, `nested-container` and `anyuid`, have their own ranges or none.
const HELD_TO_RANGE: [&str; 5] =
    ["restricted", "restricted-v2", "hostaccess", "hostnetwork", "hostnetwork-v2"];

/// IDs from `start` to `end`, inclusive; empty if `end` is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdRange {
    /// The first ID.
    pub start: u32,
    /// The last ID.
    pub end: u32,
}

/// The ranges in a namespace's annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRanges {
    pub users: IdRange,
    /// Group IDs: at least one range.
    pub groups: Vec<IdRange>,
}

/// Why an annotation is not a range.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RangeError {
    /// Neither `START/SIZE` nor `START-END`.
    #[error("{0:?} is neither START/SIZE nor START-END with numbers below 4294967296")]
    Malformed(String),
    /// The namespace has no range of user IDs.
    #[error("the namespace has no annotation {UID_RANGE}")]
    Missing,
}

// === impl IdRange ===

impl IdRange {
    /// Parses `START/SIZE` or `START-END`.
    ///
    /// # Errors
    /// See [`RangeError::Malformed`].
    pub fn parse(text: &str) -> Result<IdRange, RangeError> {
        let malformed = || RangeError::Malformed(text.chars().take(80).collect());
        let separator = if text.contains('/') { '/' } else { '-' };
        let (start, rest) = scan_number(text).ok_or_else(malformed)?;
        let (second, _) = rest.strip_prefix(separator).and_then(scan_number).ok_or_else(malformed)?;
        let end = if separator == '/' { start.wrapping_add(second).wrapping_sub(1) } else { second };
        Ok(IdRange { start, end })
    }

    /// Whether the range contains the ID.
    #[must_use]
    pub fn contains(self, id: u32) -> bool {
        self.start <= id && id <= self.end
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Go's `%d` into a `uint32`: blanks, then digits without a sign.
fn scan_number(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_start_matches(|char: char| char.is_whitespace() && char != '\n');
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

// === impl NamespaceRanges ===

impl NamespaceRanges {
    /// Parses a namespace's two annotations. Without the one for groups, the users' range also applies to groups; an
    /// empty one is an error.
    ///
    /// # Errors
    /// See [`RangeError`].
    pub fn parse(users: Option<&str>, groups: Option<&str>) -> Result<NamespaceRanges, RangeError> {
        let users = IdRange::parse(users.ok_or(RangeError::Missing)?)?;
        let groups = match groups {
            None => vec![users],
            Some(list) => list.split(',').map(IdRange::parse).collect::<Result<_, _>>()?,
        };
        Ok(NamespaceRanges { users, groups })
    }

    /// The only fsGroup that an SCC with the namespace's range allows: the start of the first range of groups.
    #[must_use]
    pub fn fs_group(&self) -> Option<u32> {
        self.groups.first().map(|range| range.start)
    }
}

/// Whether the SCC that admitted a pod restricts it to its namespace's ranges; `false` for SCCs that are not
/// OpenShift's own.
#[must_use]
pub fn is_held_to_range(admitted_by: &str) -> bool {
    HELD_TO_RANGE.contains(&admitted_by)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u32, end: u32) -> IdRange {
        IdRange { start, end }
    }

    #[test]
    fn both_forms_are_read_as_openshift_reads_them() {
        for (text, want) in [
            ("1000000000/10000", range(1_000_000_000, 1_000_009_999)),
            ("1000000000-1000009999", range(1_000_000_000, 1_000_009_999)),
            ("1000/10000", range(1000, 10_999)),
            ("0/1", range(0, 0)),
            // Sscanf ignores these.
            (" 5/ 2", range(5, 6)),
            ("5-7 or so", range(5, 7)),
            ("5/7-9", range(5, 11)),
            ("1/2/3", range(1, 2)),
            // Sums wrap around; such a range contains no ID, or every ID.
            ("5/0", range(5, 4)),
            ("0/0", range(0, u32::MAX)),
            ("4294967295/2", range(u32::MAX, 0)),
            ("7-5", range(7, 5)),
        ] {
            assert_eq!(IdRange::parse(text), Ok(want), "{text:?}");
        }
        for text in [
            "",
            "5",
            "5/",
            "/5",
            "5-",
            "-5",
            "+5/1",
            "5 /1",
            "4294967296/1",
            "1/4294967296",
            "a/b",
            "\n5/1",
            "5,6",
        ] {
            assert_eq!(IdRange::parse(text), Err(RangeError::Malformed(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn groups_fall_back_to_users() {
        let users = range(1000, 1999);
        let alone = NamespaceRanges::parse(Some("1000/1000"), None).unwrap();
        assert_eq!((alone.users, alone.groups.as_slice()), (users, [users].as_slice()));
        let both = NamespaceRanges::parse(Some("1000/1000"), Some("5/2,10-19")).unwrap();
        assert_eq!(both.groups, [range(5, 6), range(10, 19)]);
        assert_eq!(both.fs_group(), Some(5));
        assert_eq!(NamespaceRanges::parse(Some("1/1"), Some("")), Err(RangeError::Malformed(String::new())));
        assert_eq!(
            NamespaceRanges::parse(Some("1/1"), Some("1/1,")),
            Err(RangeError::Malformed(String::new()))
        );
        assert_eq!(NamespaceRanges::parse(None, Some("1/1")), Err(RangeError::Missing));
    }

    #[test]
    fn only_some_sccs_of_openshift_restrict_a_pod_to_the_range() {
        assert!(is_held_to_range("restricted-v2") && is_held_to_range("hostnetwork"));
        for name in ["restricted-v3", "nested-container", "anyuid", "privileged", "nonroot-v2", "mine", ""] {
            assert!(!is_held_to_range(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>(), other in any::<String>()) {
            let _ = NamespaceRanges::parse(Some(&text), Some(&other));
        }

        #[test]
        fn a_written_range_is_read_back(start in any::<u32>(), size in 1..u32::MAX, junk in "[^0-9/]{0,5}") {
            let by_size = IdRange::parse(&format!("{start}/{size}{junk}")).unwrap();
            prop_assert_eq!(by_size, range(start, start.wrapping_add(size - 1)));
            let by_end = IdRange::parse(&format!("{start}-{size}{junk}")).unwrap();
            prop_assert_eq!(by_end, range(start, size));
        }

        #[test]
        fn a_list_has_as_many_ranges_as_commas_and_one(starts in proptest::collection::vec(0..u32::MAX, 1..6)) {
            let list: Vec<String> = starts.iter().map(|start| format!("{start}/1")).collect();
            let ranges = NamespaceRanges::parse(Some("1/1"), Some(&list.join(","))).unwrap();
            let found: Vec<u32> = ranges.groups.iter().map(|range| range.start).collect();
            prop_assert_eq!(ranges.fs_group(), starts.first().copied());
            prop_assert_eq!(found, starts);
        }
    }
}
