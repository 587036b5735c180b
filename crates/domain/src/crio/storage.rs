//! Where CRI-O keeps images and containers: `crio.conf(5)`, `containers-storage.conf(5)`.

use super::config::{ConfFile, Content};
use crate::toml::{Value, get, table_at};

/// The usual directories (`DefaultStoreOptions` of containers/storage, for root).
const ROOT: &str = "/var/lib/containers/storage";
const RUN_ROOT: &str = "/run/containers/storage";

/// The directories of CRI-O's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// That of images and of what containers write.
    pub root: String,
    /// That of what does not outlive the machine's run, among it the containers' bundles.
    pub run_root: String,
}

impl Storage {
    /// The directories that CRI-O's files name, of which the last counts; else those in the file `shared` of all
    /// programs that use containers/storage; else the usual ones.
    #[must_use]
    pub fn of(files: &[ConfFile], shared: Option<&ConfFile>) -> Storage {
        let named = |of_crio: &str, of_all: &str, usual: &str| {
            let own = files.iter().rev().find_map(|file| directory(file, "crio", of_crio));
            own.or_else(|| directory(shared?, "storage", of_all)).unwrap_or_else(|| usual.to_owned())
        };
        Storage { root: named("root", "graphroot", ROOT), run_root: named("runroot", "runroot", RUN_ROOT) }
    }

    /// The directory of a container's bundle, with `{id}` in place of the container's ID.
    #[must_use]
    pub fn bundle(&self) -> String {
        format!("{}/overlay-containers/{{id}}/userdata", self.run_root)
    }
}

/// A directory that a file names.
fn directory(file: &ConfFile, table: &str, key: &str) -> Option<String> {
    let Content::Toml(root) = &file.content else { return None };
    match get(table_at(root, &[table])?, key)? {
        Value::Text(path) if path.starts_with('/') && path.len() > 1 => {
            Some(path.trim_end_matches('/').to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crio::config::tests::{file, table, text};

    #[test]
    fn the_last_of_crios_files_counts_before_that_of_all_programs() {
        let of = |root: &str, run_root: &str| Storage { root: root.into(), run_root: run_root.into() };
        assert_eq!(Storage::of(&[], None), of(ROOT, RUN_ROOT));
        assert_eq!(
            Storage::of(&[], None).bundle(),
            "/run/containers/storage/overlay-containers/{id}/userdata"
        );
        let crio = |pairs: &[(&str, Value)]| file("/x", &[("crio", Value::Table(table(pairs)))]);
        let shared = file(
            "/etc/containers/storage.conf",
            &[("storage", Value::Table(table(&[("graphroot", text("/g/")), ("runroot", text("/r"))])))],
        );
        assert_eq!(Storage::of(&[], Some(&shared)), of("/g", "/r"));
        let files = [crio(&[("root", text("/1"))]), crio(&[("root", text("/2"))]), crio(&[])];
        assert_eq!(Storage::of(&files, Some(&shared)), of("/2", "/r"));
        // No directory: empty, relative, or of another type.
        let files =
            [crio(&[("root", text("")), ("runroot", text("r"))]), crio(&[("root", Value::Bool(true))])];
        assert_eq!(Storage::of(&files, None), of(ROOT, RUN_ROOT));
    }
}
