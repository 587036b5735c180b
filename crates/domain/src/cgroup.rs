//! cgroup v2 paths, `/proc/PID/cgroup`, and the list of files that belong to a delegated cgroup's owner (cgroups(7);
//! kernel `Documentation/admin-guide/cgroup-v2.rst`, "Delegation").

use std::fmt;

use thiserror::Error;

/// A cgroup's path below the node's cgroup v2 root: absolute, normalised, `/` for the root itself.
///
/// Never contains `.`, `..`, an empty component, a line end or a NUL, so it can be walked one component at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

/// Why a text is not the path of an existing cgroup.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CgroupPathError {
    /// The path is not absolute.
    #[error("{0:?} does not start with \"/\"")]
    Relative(String),
    /// A component cannot be the name of a cgroup.
    #[error("{0:?} has a component that is no cgroup name")]
    Component(String),
    /// Longer than PATH_MAX.
    #[error("longer than 4096 bytes")]
    TooLong,
    /// `/proc/PID/cgroup` has no `0::` line: the process is not in a cgroup v2 hierarchy.
    #[error("no cgroup v2 entry (\"0::\")")]
    NotUnified,
    /// The cgroup was removed under the process; the kernel appends ` (deleted)`.
    #[error("{0:?} was removed")]
    Deleted(String),
    /// The path leads above the root.
    #[error("{0:?} leads above the cgroup root")]
    AboveRoot(String),
}

/// A directory above a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    pub path: CgroupPath,
    pub uid: u32,
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

/// The files that a delegated cgroup's owner may write: the contents of `/sys/kernel/cgroup/delegate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegateList(Vec<String>);

/// Why a text is not a delegate list.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DelegateListError {
    /// The line is not the name of one cgroup interface file.
    #[error("line {line}: {text:?} is not the name of a cgroup file")]
    NotAFile {
        /// Line number, from 1.
        line: usize,
        /// The line, cut after 80 characters.
        text: String,
    },
    /// The file sets a limit or kills: its owner could lift the container's own limits.
    #[error("line {line}: {text:?} must stay the host's")]
    LimitFile {
        /// Line number, from 1.
        line: usize,
        /// The file name.
        text: String,
    },
    /// The list is empty.
    #[error("the list is empty")]
    Empty,
}

// === impl CgroupPath ===

impl CgroupPath {
    /// The node's cgroup root.
    #[must_use]
    pub fn root() -> CgroupPath {
        CgroupPath("/".to_owned())
    }

    /// Parses an absolute path; trailing and doubled slashes are not accepted.
    ///
    /// # Errors
    /// See [`CgroupPathError`].
    pub fn parse(text: &str) -> Result<CgroupPath, CgroupPathError> {
        if text.len() > 4096 {
            return Err(CgroupPathError::TooLong);
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(CgroupPathError::Relative(text.to_owned()));
        };
        if !rest.is_empty() && !rest.split('/').all(is_cgroup_name) {
            return Err(CgroupPathError::Component(text.to_owned()));
        }
        Ok(CgroupPath(text.to_owned()))
    }

    /// Finds the cgroup v2 path in the text of `/proc/PID/cgroup`.
    ///
    /// The kernel writes this path, so the process cannot forge it; but it can move itself into a deeper cgroup that
    /// it created and named. Use the path to verify, never to act.
    ///
    /// `namespace` is the root of the reader's cgroup namespace: the kernel shows other cgroups relative to it, with
    /// `/..` for each level up (cgroup_namespaces(7)).
    ///
    /// # Errors
    /// See [`CgroupPathError`].
    pub fn parse_proc(text: &str, namespace: &CgroupPath) -> Result<CgroupPath, CgroupPathError> {
        let path =
            text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupPathError::NotUnified)?;
        if path.ends_with(" (deleted)") {
            // An existing cgroup may have that suffix in its name too; if in doubt, do nothing.
            return Err(CgroupPathError::Deleted(path.to_owned()));
        }
        CgroupPath::seen_from(namespace, path)
    }

    /// The path that the kernel shows as `path` to a reader whose cgroup namespace has its root at `namespace`.
    ///
    /// # Errors
    /// See [`CgroupPathError`].
    pub fn seen_from(namespace: &CgroupPath, path: &str) -> Result<CgroupPath, CgroupPathError> {
        let (mut from, mut rest) = (namespace.clone(), path);
        while let Some(above) =
            rest.strip_prefix("/..").filter(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            from = from.parent().ok_or_else(|| CgroupPathError::AboveRoot(path.to_owned()))?;
            rest = above;
        }
        match (from.as_str(), rest) {
            (_, "" | "/") => Ok(from),
            ("/", rest) => CgroupPath::parse(rest),
            // `parse` refuses a relative rest.
            (above, rest) if rest.starts_with('/') => CgroupPath::parse(&format!("{above}{rest}")),
            (_, rest) => Err(CgroupPathError::Relative(rest.to_owned())),
        }
    }

    /// The root of a cgroup namespace in which this path is shown as `seen`.
    #[must_use]
    pub fn namespace_of(&self, seen: &CgroupPath) -> Option<CgroupPath> {
        let mut root = self.clone();
        for name in seen.components().rev() {
            if root.name() != Some(name) {
                return None;
            }
            root = root.parent()?;
        }
        Some(root)
    }

    /// The path as text, with the leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The last name, or `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// The parent cgroup, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<CgroupPath> {
        let (above, _) = self.0.rsplit_once('/').filter(|_| self.0 != "/")?;
        Some(if above.is_empty() { CgroupPath::root() } else { CgroupPath(above.to_owned()) })
    }

    /// The child cgroup of that name, or `None` if a cgroup cannot have this name.
    #[must_use]
    pub fn join(&self, name: &str) -> Option<CgroupPath> {
        is_cgroup_name(name).then(|| match self.0.as_str() {
            "/" => CgroupPath(format!("/{name}")),
            above => CgroupPath(format!("{above}/{name}")),
        })
    }

    /// Whether this is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &CgroupPath) -> bool {
        other.0 == "/"
            || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a cgroup can have that name.
fn is_cgroup_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\n', '\0'])
}

/// The number of descendants in the text of a `cgroup.stat`, without those that are being removed.
#[must_use]
pub fn descendants_of_stat(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("nr_descendants ")?.parse().ok())
}

// === impl Ancestor ===

impl Ancestor {
    /// Whether only root may change what is in the directory.
    #[must_use]
    pub fn is_roots_alone(&self) -> bool {
        self.uid == 0 && self.gid == 0 && self.mode & 0o022 == 0
    }
}

// === impl DelegateList ===

impl DelegateList {
    /// The list for kernels that do not publish one (before 4.15); it is the OCI runtime specification's fallback
    /// too.
    #[must_use]
    pub fn fallback() -> DelegateList {
        DelegateList(["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].map(str::to_owned).to_vec())
    }

    /// Parses the text of `/sys/kernel/cgroup/delegate`, one file name per line.
    ///
    /// # Errors
    /// A line is not a file name, or names a limit: the kernel lists no limits, so something else was mounted there.
    pub fn parse(text: &str) -> Result<DelegateList, DelegateListError> {
        let mut files = Vec::new();
        for (index, name) in text.lines().enumerate() {
            let line = index + 1;
            let is_name = |name: &str| {
                name.len() <= 255
                    && name.contains('.')
                    && !name.starts_with('.')
                    && name.bytes().all(|byte| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte)
                    })
            };
            if !is_name(name) {
                return Err(DelegateListError::NotAFile { line, text: name.chars().take(80).collect() });
            }
            if is_limit(name) {
                return Err(DelegateListError::LimitFile { line, text: name.to_owned() });
            }
            if !files.iter().any(|known| known == name) {
                files.push(name.to_owned());
            }
        }
        if files.is_empty() { Err(DelegateListError::Empty) } else { Ok(DelegateList(files)) }
    }

    /// The file names, in the kernel's order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Whether the file limits, stops or kills a cgroup. The kernel delegates no such file.
fn is_limit(name: &str) -> bool {
    matches!(name, "cgroup.kill" | "cgroup.type" | "cgroup.freeze")
        || [".max", ".min", ".low", ".high", ".weight", ".cpus", ".mems"]
            .iter()
            .any(|end| name.ends_with(end))
        || name.contains(".max.")
}

#[cfg(test)]
mod tests {
    #[test]
    fn living_descendants_are_counted() {
        let text = "nr_descendants 7\nnr_subsys_cpuset 8\nnr_dying_descendants 3\n";
        assert_eq!(super::descendants_of_stat(text), Some(7));
        for text in ["", "nr_dying_descendants 3\n", "nr_descendants x\n", "nr_descendants\n"] {
            assert_eq!(super::descendants_of_stat(text), None, "{text:?}");
        }
    }

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parent_name_and_components_of_a_path_are_found() {
        let path = CgroupPath::parse("/kubepods.slice/x.slice/crio-1.scope").unwrap();
        assert_eq!(path.name(), Some("crio-1.scope"));
        assert_eq!(path.parent().unwrap().as_str(), "/kubepods.slice/x.slice");
        assert_eq!(path.components().collect::<Vec<_>>(), ["kubepods.slice", "x.slice", "crio-1.scope"]);
        assert_eq!(CgroupPath::parse("/a").unwrap().parent(), Some(CgroupPath::root()));
        assert_eq!(CgroupPath::root().parent(), None);
        assert_eq!(CgroupPath::root().join("a").unwrap().join("b").unwrap().as_str(), "/a/b");
        assert_eq!(CgroupPath::root().join(".."), None);
    }

    #[test]
    fn a_prefix_is_not_a_parent() {
        let scope = CgroupPath::parse("/a/b.scope").unwrap();
        assert!(CgroupPath::parse("/a/b.scope/container").unwrap().is_within(&scope));
        assert!(scope.is_within(&scope) && scope.is_within(&CgroupPath::root()));
        assert!(!CgroupPath::parse("/a/b.scope2").unwrap().is_within(&scope));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for text in ["", "a", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b"] {
            assert!(CgroupPath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn proc_pid_cgroup_is_parsed() {
        let hybrid = "9:name=systemd:/\n1:cpu:/\n0::/kubepods.slice/a.scope\n";
        let parse = |text| CgroupPath::parse_proc(text, &CgroupPath::root());
        assert_eq!(parse(hybrid).unwrap().as_str(), "/kubepods.slice/a.scope");
        assert_eq!(parse("0::/\n").unwrap(), CgroupPath::root());
        assert_eq!(parse("1:cpu:/\n"), Err(CgroupPathError::NotUnified));
        assert!(matches!(parse("0::/a (deleted)\n"), Err(CgroupPathError::Deleted(_))));
        assert!(matches!(parse("0::/../a\n"), Err(CgroupPathError::AboveRoot(_))));
    }

    #[test]
    fn proc_pid_cgroup_is_parsed_if_the_reader_has_its_own_cgroup_namespace() {
        let namespace = CgroupPath::parse("/kubepods.slice/pod.slice/own.scope").unwrap();
        for (seen, want) in [
            ("/", "/kubepods.slice/pod.slice/own.scope"),
            ("/below", "/kubepods.slice/pod.slice/own.scope/below"),
            ("/..", "/kubepods.slice/pod.slice"),
            ("/../other.scope", "/kubepods.slice/pod.slice/other.scope"),
            ("/../../another.slice/a.scope/..b", "/kubepods.slice/another.slice/a.scope/..b"),
            ("/../../../init.scope", "/init.scope"),
            ("/../../..", "/"),
        ] {
            let path = CgroupPath::parse_proc(&format!("0::{seen}\n"), &namespace).unwrap();
            assert_eq!(path.as_str(), want, "{seen}");
        }
        for wrong in ["/../../../../a", "/../a/../b", "/../", "a", "/..a/../b"] {
            let path = CgroupPath::parse_proc(&format!("0::{wrong}\n"), &namespace);
            assert!(path.is_err() || wrong == "/../", "{wrong}: {path:?}");
        }
        let own = CgroupPath::parse("/a/b/c").unwrap();
        for (seen, want) in [("/", Some("/a/b/c")), ("/c", Some("/a/b")), ("/a/b/c", Some("/")), ("/b", None)]
        {
            let root = own.namespace_of(&CgroupPath::parse(seen).unwrap());
            assert_eq!(root.as_ref().map(CgroupPath::as_str), want, "{seen}");
        }
    }

    #[test]
    fn the_kernels_delegate_list_is_parsed() {
        let list = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\nmemory.oom.group\nmemory.reclaim\n";
        assert_eq!(DelegateList::parse(list).unwrap().files().count(), 5);
    }

    #[test]
    fn a_delegate_list_that_contains_limits_is_refused() {
        for (text, want) in [
            ("", "the list is empty"),
            (
                "cgroup.procs\n../../etc/passwd\n",
                "line 2: \"../../etc/passwd\" is not the name of a cgroup file",
            ),
            ("cgroup.procs\n\n", "line 2: \"\" is not the name of a cgroup file"),
            ("memory.max\n", "line 1: \"memory.max\" must stay the host's"),
            ("cgroup.max.depth\n", "line 1: \"cgroup.max.depth\" must stay the host's"),
            ("cgroup.kill\n", "line 1: \"cgroup.kill\" must stay the host's"),
        ] {
            assert_eq!(DelegateList::parse(text).unwrap_err().to_string(), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>()) {
            let _ = CgroupPath::parse(&text);
            let _ = CgroupPath::parse_proc(&text, &CgroupPath::root());
            let _ = DelegateList::parse(&text);
        }

        #[test]
        fn an_accepted_path_stays_below_its_root(text in "[/a.]{0,12}") {
            if let Ok(path) = CgroupPath::parse(&text) {
                prop_assert!(path.components().all(|name| name != "." && name != ".."));
                let mut again = CgroupPath::root();
                for name in path.components() {
                    again = again.join(name).unwrap();
                }
                prop_assert_eq!(again, path);
            }
        }
    }
}
