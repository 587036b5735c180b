//! Host IDs, container IDs, and the mapping between them (user_namespaces(7), "User and group ID
//! mappings").

use std::fmt;

use thiserror::Error;

/// A user or group ID as seen by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// A user or group ID as seen by a process in the user namespace.
///
/// Not a container's identifier: that is `container.id`, a [`super::container::CriId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub u32);

/// An extent: container IDs `container_id..container_id + length` map to host IDs `host_id..host_id +
/// length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapping {
    /// First container ID.
    pub container_id: ContainerId,
    /// First host ID.
    pub host_id: HostId,
    /// Number of IDs; at least 1.
    pub length: u32,
}

/// The contents of `/proc/PID/uid_map` or `gid_map`: the extents in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap(Vec<IdMapping>);

/// Why a text is not an ID map. Lines are counted from 1.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdMapError {
    /// Not three unsigned 32-bit decimal numbers.
    #[error("line {line}: expected \"CONTAINER_ID HOST_ID LENGTH\", found {text:?}")]
    Malformed {
        line: usize,
        /// The line, cut after 80 characters.
        text: String,
    },
    /// An extent of length zero, or one that ends after the last ID (2³² − 1 is `(uid_t)-1`, not an ID).
    #[error("line {line}: {length} IDs from {first} do not fit into the 32-bit ID space")]
    OutOfRange {
        line: usize,
        /// The first ID on the side that is out of range.
        first: u32,
        /// Number of IDs.
        length: u32,
    },
    /// Two extents share a container ID or a host ID; the kernel does not allow such a map.
    #[error("line {line}: overlaps line {other}")]
    Overlap {
        line: usize,
        /// The earlier line.
        other: usize,
    },
    /// More extents than the kernel allows (340 since Linux 4.15).
    #[error("more than {} lines", IdMap::MAX_EXTENTS)]
    TooLong,
}

// === impl HostId, ContainerId ===

impl HostId {
    /// The host's root.
    pub const ROOT: HostId = HostId(0);
}

impl ContainerId {
    /// Root inside the container.
    pub const ROOT: ContainerId = ContainerId(0);
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl IdMapping ===

impl IdMapping {
    fn host_end(&self) -> u64 {
        u64::from(self.host_id.0) + u64::from(self.length)
    }

    fn container_end(&self) -> u64 {
        u64::from(self.container_id.0) + u64::from(self.length)
    }

    fn overlaps(&self, other: &IdMapping) -> bool {
        let meet = |a: u32, a_end: u64, b: u32, b_end: u64| u64::from(a) < b_end && u64::from(b) < a_end;
        meet(self.host_id.0, self.host_end(), other.host_id.0, other.host_end())
            || meet(self.container_id.0, self.container_end(), other.container_id.0, other.container_end())
    }
}

// === impl IdMap ===

impl IdMap {
    /// The kernel's limit (user_namespaces(7)).
    pub const MAX_EXTENTS: usize = 340;

    /// Parses the text of `/proc/PID/uid_map`.
    ///
    /// # Errors
    /// The first line that the kernel cannot have written.
    pub fn parse(text: &str) -> Result<IdMap, IdMapError> {
        let mut map: Vec<IdMapping> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if index >= Self::MAX_EXTENTS {
                return Err(IdMapError::TooLong);
            }
            let line_number = index + 1;
            let malformed =
                || IdMapError::Malformed { line: line_number, text: line.chars().take(80).collect() };
            let mut numbers = line.split_ascii_whitespace().map(parse_decimal);
            let (Some(Some(inside)), Some(Some(outside)), Some(Some(length)), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                return Err(malformed());
            };
            let mapping = IdMapping { container_id: ContainerId(inside), host_id: HostId(outside), length };
            for (first, end) in [(inside, mapping.container_end()), (outside, mapping.host_end())] {
                if length == 0 || end > u64::from(u32::MAX) {
                    return Err(IdMapError::OutOfRange { line: line_number, first, length });
                }
            }
            if let Some(other) = map.iter().position(|known| known.overlaps(&mapping)) {
                return Err(IdMapError::Overlap { line: line_number, other: other + 1 });
            }
            map.push(mapping);
        }
        Ok(IdMap(map))
    }

    /// The extents, in the kernel's order.
    #[must_use]
    pub fn extents(&self) -> &[IdMapping] {
        &self.0
    }

    /// The host ID of a container ID; `None` if it is not mapped.
    #[must_use]
    pub fn host_of(&self, id: ContainerId) -> Option<HostId> {
        self.0.iter().find_map(|mapping| {
            let offset = id.0.checked_sub(mapping.container_id.0)?;
            (offset < mapping.length).then(|| mapping.host_id.0.checked_add(offset).map(HostId))?
        })
    }

    /// The container ID of a host ID; `None` if it is not mapped.
    #[must_use]
    pub fn container_of(&self, id: HostId) -> Option<ContainerId> {
        self.0.iter().find_map(|mapping| {
            let offset = id.0.checked_sub(mapping.host_id.0)?;
            (offset < mapping.length).then(|| mapping.container_id.0.checked_add(offset).map(ContainerId))?
        })
    }

    /// Whether a host ID is that of one of the container's own users: mapped, and not the host's root.
    #[must_use]
    pub fn has_user(&self, id: HostId) -> bool {
        id != HostId::ROOT && self.container_of(id).is_some()
    }

    /// The host ID of the container's root; `None` if root is not mapped.
    #[must_use]
    pub fn root(&self) -> Option<HostId> {
        self.host_of(ContainerId::ROOT)
    }

    /// Number of mapped IDs, over all extents.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|mapping| u64::from(mapping.length)).sum()
    }

    /// Whether both map the same IDs to the same IDs, even with different extents.
    #[must_use]
    pub fn is_same(&self, other: &IdMap) -> bool {
        self.joined() == other.joined()
    }

    /// The map of the user namespace that was made with the map `given`, if a process of it has this one. A process can
    /// enter a namespace below its own, with other numbers for a part of the IDs, while others keep all of them; each
    /// extent of the lower one lies in an extent of the upper one (user_namespaces(7)). This map itself if it has IDs
    /// that were not given.
    #[must_use]
    pub fn or_given(self, given: &IdMap) -> IdMap {
        let is_given = |extent: &IdMapping| {
            let ids = |extent: &IdMapping| {
                let first = u64::from(extent.host_id.0);
                (first, first + u64::from(extent.length))
            };
            let (first, end) = ids(extent);
            given.0.iter().map(ids).any(|(given_first, given_end)| given_first <= first && end <= given_end)
        };
        if !given.is_empty() && self.0.iter().all(is_given) { given.clone() } else { self }
    }

    /// The extents in the order of container IDs, with adjacent ones merged.
    fn joined(&self) -> Vec<IdMapping> {
        let mut sorted = self.0.clone();
        sorted.sort_by_key(|mapping| mapping.container_id);
        let mut joined: Vec<IdMapping> = Vec::with_capacity(sorted.len());
        for mapping in sorted {
            match joined.last_mut() {
                Some(last)
                    if last.container_end() == u64::from(mapping.container_id.0)
                        && last.host_end() == u64::from(mapping.host_id.0) =>
                {
                    last.length = last.length.saturating_add(mapping.length);
                }
                _ => joined.push(mapping),
            }
        }
        joined
    }

    /// Whether nothing is mapped (a namespace whose map was not written yet).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// In the notation of the kernel and the runtimes: `0:200000:65536`, several joined by commas.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mapping) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}:{}", mapping.container_id, mapping.host_id, mapping.length)?;
        }
        Ok(())
    }
}

/// Parses a decimal number without a sign: `u32::from_str` would accept "+5", which the kernel never writes.
fn parse_decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_of_the_kernel_are_parsed() {
        let one = IdMap::parse("         0     200000      65536\n").unwrap();
        assert_eq!(one.host_of(ContainerId(0)), Some(HostId(200_000)));
        assert_eq!(one.host_of(ContainerId(65_535)), Some(HostId(265_535)));
        assert_eq!(one.host_of(ContainerId(65_536)), None);
        assert_eq!(one.container_of(HostId(199_999)), None);
        assert_eq!(one.container_of(HostId(200_001)), Some(ContainerId(1)));
        assert_eq!(one.len(), 65_536);
        assert_eq!(one.to_string(), "0:200000:65536");
    }

    #[test]
    fn an_id_is_mapped_by_any_extent_that_contains_it() {
        // CRI-O's "auto" with runAsUser 0: the container's root is the host's root.
        let map = IdMap::parse("1 500000 65535\n0 0 1\n").unwrap();
        assert_eq!(map.root(), Some(HostId::ROOT));
        assert_eq!(map.host_of(ContainerId(1)), Some(HostId(500_000)));
        assert_eq!(map.to_string(), "1:500000:65535,0:0:1");
    }

    #[test]
    fn the_initial_namespaces_map_is_accepted() {
        let map = IdMap::parse("         0          0 4294967295\n").unwrap();
        assert_eq!(map.host_of(ContainerId(u32::MAX - 1)), Some(HostId(u32::MAX - 1)));
        assert_eq!(map.host_of(ContainerId(u32::MAX)), None);
    }

    #[test]
    fn maps_are_compared_by_what_they_map() {
        let map = |text: &str| IdMap::parse(text).unwrap();
        for (left, right, same) in [
            ("0 200000 10", "0 200000 10", true),
            ("0 200000 4\n4 200004 6", "0 200000 10", true),
            ("4 200004 6\n0 200000 4", "0 200000 10", true),
            ("0 200000 4\n4 300000 6", "4 300000 6\n0 200000 4", true),
            ("0 200000 4\n4 300000 6", "0 200000 10", false),
            ("0 200000 10", "0 200000 11", false),
            ("0 200000 1", "0 200000 65536", false),
            ("", "0 200000 1", false),
        ] {
            assert_eq!(map(left).is_same(&map(right)), same, "{left:?} {right:?}");
        }
    }

    #[test]
    fn maps_that_the_kernel_never_writes_are_refused() {
        for (text, want) in [
            ("0 1", "line 1: expected \"CONTAINER_ID HOST_ID LENGTH\", found \"0 1\""),
            ("0 1 1\n+1 2 3", "line 2: expected \"CONTAINER_ID HOST_ID LENGTH\", found \"+1 2 3\""),
            ("0 1 1 1", "line 1: expected \"CONTAINER_ID HOST_ID LENGTH\", found \"0 1 1 1\""),
            ("0 1 0", "line 1: 0 IDs from 0 do not fit into the 32-bit ID space"),
            ("0 1 4294967295", "line 1: 4294967295 IDs from 1 do not fit into the 32-bit ID space"),
            ("0 4294967296 1", "line 1: expected \"CONTAINER_ID HOST_ID LENGTH\", found \"0 4294967296 1\""),
            ("0 10 5\n5 14 1", "line 2: overlaps line 1"),
            ("0 10 5\n4 100 1", "line 2: overlaps line 1"),
        ] {
            assert_eq!(IdMap::parse(text).unwrap_err().to_string(), want, "{text:?}");
        }
        let long: String = (0..341).map(|n| format!("{n} {n} 1\n")).collect();
        assert_eq!(IdMap::parse(&long), Err(IdMapError::TooLong));
        assert!(IdMap::parse("").unwrap().is_empty());
    }

    #[test]
    fn the_map_of_a_namespace_below_is_not_that_of_the_container() {
        let map = |text| IdMap::parse(text).unwrap();
        let given = map("0 200000 1000\n1000 500000 64536");
        for below in
            ["", "0 200000 1", "0 200999 1\n5 500000 64536", "7 200000 1000", "0 500001 3\n9 200000 2"]
        {
            assert_eq!(map(below).or_given(&given), given, "{below:?}");
        }
        // IDs that were not given, or so many that they are not in one extent.
        for other in ["0 300000 65536", "0 199999 2", "0 200999 2", "0 200000 1000\n1000 500000 64537"] {
            assert_eq!(map(other).or_given(&given), map(other), "{other:?}");
        }
        // A source without maps.
        assert_eq!(map("0 200000 1").or_given(&IdMap::default()), map("0 200000 1"));
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>()) {
            let _ = IdMap::parse(&text);
        }

        #[test]
        fn both_directions_of_a_map_agree_with_its_definition(extents in proptest::collection::vec((0..1000u32, 0..1000u32, 1..50u32), 0..6), id in 0..1100u32) {
            let text: String = extents.iter().map(|(c, h, n)| format!("{c} {h} {n}\n")).collect();
            if let Ok(map) = IdMap::parse(&text) {
                let host = map.host_of(ContainerId(id));
                // Computed from the definition, one ID at a time.
                let want = extents.iter().find_map(|(c, h, n)| (0..*n).find(|k| c + k == id).map(|k| HostId(h + k)));
                prop_assert_eq!(host, want);
                if let Some(host) = host {
                    prop_assert_eq!(map.container_of(host), Some(ContainerId(id)));
                }
            }
        }
    }
}
