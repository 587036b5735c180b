//! CRI-O's configuration files, found as CRI-O finds them: every file in crio.conf.d, whatever its name, at
//! any depth, in lexical order (`filepath.Walk`).
//!
//! All paths, including targets of links, are resolved below the node's root. [`live`] reads what the running
//! CRI-O has loaded.

pub mod live;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, statat};
use rustix::io::Errno;
use thiserror::Error;
use toml_edit::{DocumentMut, Item};

use usernsd_domain::crio::config::{ConfFile, Content, DROP_IN_DIR, MAIN_FILE};
use usernsd_domain::toml::{Table, Value};

/// The longest file that is read, in bytes; no configuration is longer.
const MAX_BYTES: u64 = 1 << 20;

/// The most files in a directory, at any depth.
const MAX_FILES: usize = 1000;

/// Reads a file, or the names in a directory separated by zero bytes, that this process may not open. The
/// second argument is whether it is a directory.
pub type Instead = fn(&str, bool) -> Result<Vec<u8>, Errno>;

static INSTEAD: OnceLock<Instead> = OnceLock::new();

/// Has files and directories that this process may not open (EACCES) read by `instead` from now on.
pub fn read_by(instead: Instead) {
    // A second call is ignored.
    let _ = INSTEAD.set(instead);
}

fn instead(path: &str, is_directory: bool) -> Result<Vec<u8>, Errno> {
    INSTEAD.get().map_or(Err(Errno::ACCESS), |instead| instead(path.trim_start_matches('/'), is_directory))
}

/// The node's root directory, for reading configuration.
#[derive(Debug)]
pub struct ConfRoot {
    dir: OwnedFd,
}

/// Why the configuration cannot be read at all.
#[derive(Debug, Error)]
pub enum ConfError {
    /// A directory could not be opened or listed.
    #[error("reading {}: {errno}", path.display())]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        errno: Errno,
    },
    /// There are more files than any real configuration has.
    #[error("{DROP_IN_DIR} holds more than {MAX_FILES} files")]
    TooMany,
}

// === impl ConfRoot ===

impl ConfRoot {
    /// Opens the node whose root directory is at `path`.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(path: &Path) -> Result<ConfRoot, ConfError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty())
            .map_err(|errno| ConfError::Directory { path: path.to_owned(), errno })?;
        Ok(ConfRoot { dir })
    }

    /// All files that CRI-O reads, in its order.
    ///
    /// # Errors
    /// See [`ConfError`]. A single file that cannot be read is part of the result, not an error.
    pub fn crio(&self) -> Result<Vec<ConfFile>, ConfError> {
        let mut files = Vec::new();
        match self.open_below(MAIN_FILE, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            _ => files.push(self.file(MAIN_FILE, false)),
        }
        match self.kind(DROP_IN_DIR) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(ConfError::Directory { path: DROP_IN_DIR.into(), errno }),
            // The walk begins with lstat: a link in place of the directory is read as a file, unless its
            // target does not exist.
            Ok(FileType::Symlink) if self.open_below(DROP_IN_DIR, OFlags::PATH).is_err() => {}
            Ok(FileType::Directory) => self.walk(DROP_IN_DIR, &mut files)?,
            Ok(kind) => files.push(self.file(DROP_IN_DIR, kind == FileType::Symlink)),
        }
        Ok(files)
    }

    /// A TOML file; `None` if it does not exist.
    #[must_use]
    pub fn toml(&self, path: &str) -> Option<ConfFile> {
        match self.kind(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            kind => Some(self.file(path, kind == Ok(FileType::Symlink))),
        }
    }

    /// Whether there is a link that leads to no file that can be seen here.
    #[must_use]
    pub fn leads_nowhere(&self, path: &str) -> bool {
        self.kind(path) == Ok(FileType::Symlink)
            && self.open_below(path, OFlags::PATH).err() == Some(Errno::NOENT)
    }

    /// Whether a file begins with a byte order mark, which the parser here skips.
    #[must_use]
    pub fn begins_with_byte_order_mark(&self, path: &str) -> bool {
        self.read(path).is_ok_and(|bytes| bytes.starts_with("\u{feff}".as_bytes()))
    }

    /// The JSON files in a hooks directory, each with its content or the reason why it cannot be read. Empty
    /// if there is no such directory.
    #[must_use]
    pub fn hooks(&self, path: &str) -> Vec<(String, Result<Vec<u8>, String>)> {
        let mut files = Vec::new();
        // CRI-O cannot read a directory that cannot be listed either, and reports that itself.
        let _ = self.walk(path, &mut files);
        let direct = |file: &ConfFile| file.path.rsplit_once('/').is_some_and(|(parent, _)| parent == path);
        let json = files.into_iter().filter(|file| file.path.ends_with(".json") && direct(file));
        json.map(|file| {
            let bytes = self.read(&file.path).map_err(|mistake| match mistake {
                Mistake::Call(what, errno) => {
                    format!("{what} {}: {}", file.path, text(errno))
                }
                Mistake::Kind => "is no regular file".to_owned(),
                Mistake::Long => format!("is longer than {MAX_BYTES} bytes"),
            });
            (file.path, bytes)
        })
        .collect()
    }

    /// Whether a program exists: an absolute path, or a name in systemd's usual `$PATH`. `None` if the
    /// directories of programs are not visible, as in a container that sees only other directories.
    #[must_use]
    pub fn has_program(&self, program: &str) -> Option<bool> {
        const PATH: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
        let is_there = |path: &str| self.open_below(path, OFlags::PATH).is_ok();
        if program.starts_with('/') {
            if is_there(program) {
                return Some(true);
            }
        } else if program.contains('/') {
            return Some(false);
        } else if PATH.iter().any(|dir| is_there(&format!("{dir}/{program}"))) {
            return Some(true);
        }
        PATH.iter().any(|dir| is_there(dir)).then_some(false)
    }

    fn walk(&self, path: &str, files: &mut Vec<ConfFile>) -> Result<(), ConfError> {
        let failed = |errno| ConfError::Directory { path: path.into(), errno };
        let mut names: Vec<Vec<u8>> = Vec::new();
        match self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Err(Errno::ACCESS) => {
                let found = instead(path, true).map_err(failed)?;
                names.extend(
                    found.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec),
                );
            }
            dir => {
                for entry in Dir::new(dir.map_err(failed)?).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name().to_bytes().to_owned();
                    if name != b"." && name != b".." {
                        names.push(name);
                    }
                    if names.len() > MAX_FILES {
                        return Err(ConfError::TooMany);
                    }
                }
            }
        }
        if names.len() > MAX_FILES {
            return Err(ConfError::TooMany);
        }
        names.sort();
        for name in names {
            let inner = format!("{path}/{}", String::from_utf8_lossy(&name));
            match self.kind(&inner) {
                Ok(FileType::Directory) => self.walk(&inner, files)?,
                // A name that is not UTF-8 cannot be opened again: unreadable.
                kind => files.push(self.file(&inner, kind == Ok(FileType::Symlink))),
            }
            if files.len() > MAX_FILES {
                return Err(ConfError::TooMany);
            }
        }
        Ok(())
    }

    /// The type of a path itself, not of a link's target.
    fn kind(&self, path: &str) -> Result<FileType, Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.open_below(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn file(&self, path: &str, link: bool) -> ConfFile {
        let content = match self.read(path) {
            Ok(bytes) => parse(&bytes),
            Err(Mistake::Call(what, errno)) => Content::Unreadable(format!("{what} {path}: {}", text(errno))),
            Err(Mistake::Kind) => Content::Unreadable(format!("read {path}: is no regular file")),
            Err(Mistake::Long) => Content::NotToml(format!("longer than {MAX_BYTES} bytes")),
        };
        ConfFile { path: path.to_owned(), link, content }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Mistake> {
        // Opened without blocking, because the file may be a pipe.
        let fd = match self.open_below(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::ACCESS) => {
                let bytes = instead(path, false).map_err(|errno| match errno {
                    Errno::ISDIR => Mistake::Call("read", errno),
                    Errno::INVAL => Mistake::Kind,
                    errno => Mistake::Call("open", errno),
                })?;
                return if bytes.len() as u64 > MAX_BYTES { Err(Mistake::Long) } else { Ok(bytes) };
            }
            fd => fd.map_err(|errno| Mistake::Call("open", errno))?,
        };
        let stat = fstat(&fd).map_err(|errno| Mistake::Call("stat", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Mistake::Call("read", Errno::ISDIR)),
            _ => return Err(Mistake::Kind),
        }
        let mut bytes = Vec::new();
        File::from(fd)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Mistake::Call("read", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        if bytes.len() as u64 > MAX_BYTES { Err(Mistake::Long) } else { Ok(bytes) }
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.dir, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

/// The kernel's error in the words of CRI-O, which is written in Go: without the number, in small letters.
fn text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

enum Mistake {
    Call(&'static str, Errno),
    Kind,
    Long,
}

/// Parses TOML. The parser accepts TOML 1.1, which adds little to 1.0; an older CRI-O that refuses it reports
/// that in `crio config`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Content {
    let Ok(text) = std::str::from_utf8(bytes) else { return Content::NotToml("invalid UTF-8".to_owned()) };
    match text.parse::<DocumentMut>() {
        Ok(document) => Content::Toml(table(document.as_table().iter())),
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Content::NotToml(format!("line {line}: {}", error.message().replace('\n', ", ")))
        }
    }
}

fn table<'a>(entries: impl Iterator<Item = (&'a str, &'a Item)>) -> Table {
    entries.filter_map(|(key, item)| Some((key.to_owned(), item_value(item)?))).collect()
}

fn item_value(item: &Item) -> Option<Value> {
    match item {
        Item::None => None,
        Item::Value(value) => Some(value_value(value)),
        Item::Table(inner) => Some(Value::Table(table(inner.iter()))),
        Item::ArrayOfTables(tables) => {
            Some(Value::List(tables.iter().map(|inner| Value::Table(table(inner.iter()))).collect()))
        }
    }
}

fn value_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::Text(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::Integer(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::Bool(*flag.value()),
        toml_edit::Value::Float(number) => Value::Other(number.value().to_string()),
        toml_edit::Value::Datetime(date) => Value::Other(date.value().to_string()),
        toml_edit::Value::Array(items) => Value::List(items.iter().map(value_value).collect()),
        toml_edit::Value::InlineTable(inner) => {
            Value::Table(inner.iter().map(|(key, value)| (key.to_owned(), value_value(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use usernsd_domain::toml;

    /// The return value of `crio` for a directory: paths relative to it, with `!` for unreadable files.
    fn seen(make: impl Fn(&Path)) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/crio/crio.conf.d")).unwrap();
        make(&root.path().join("etc/crio"));
        let files = ConfRoot::open(root.path()).unwrap().crio().unwrap();
        files
            .into_iter()
            .map(|file| {
                let path = file.path.trim_start_matches("/etc/crio/");
                let link = if file.link { "@" } else { "" };
                match file.content {
                    Content::Toml(_) => format!("{path}{link}"),
                    Content::NotToml(why) | Content::Unreadable(why) => format!("{path}{link}! {why}"),
                }
            })
            .collect()
    }

    #[test]
    fn every_file_is_read_in_the_order_of_the_walk() {
        let found = seen(|etc| {
            let write = |name: &str, text: &str| std::fs::write(etc.join(name), text).unwrap();
            std::fs::create_dir(etc.join("crio.conf.d/b")).unwrap();
            write("crio.conf", "");
            write("crio.conf.d/b.conf", "");
            write("crio.conf.d/b/z", "");
            write("crio.conf.d/.hidden", "");
            write("crio.conf.d/a.bak", "[x\n");
            write("crio.conf.d/B", "a=1\n\na=2");
            std::fs::write(etc.join("crio.conf.d/c"), b"a='\xff'").unwrap();
        });
        assert_eq!(found.len(), 7, "{found:?}");
        assert_eq!(found[0], "crio.conf");
        assert_eq!(found[1], "crio.conf.d/.hidden");
        assert!(found[2].starts_with("crio.conf.d/B! line 3:"), "{}", found[2]);
        assert!(found[3].starts_with("crio.conf.d/a.bak! line 1:"), "{}", found[3]);
        assert_eq!(found[4..6], ["crio.conf.d/b/z", "crio.conf.d/b.conf"]);
        assert_eq!(found[6], "crio.conf.d/c! invalid UTF-8");
    }

    /// Each text with whether CRI-O 1.37.0 reads it (`crio config`).
    #[test]
    fn unusual_texts_are_judged_as_by_cri_o() {
        for (text, is_read) in [
            (&b"\xef\xbb\xbf[crio]\nroot = \"/x\"\n"[..], true),
            (b"[crio]\r\nroot = \"/x\"\r\n", true),
            (b"[crio]\n\troot\t=\t\"/x\"\t# y\n", true),
            (b"[crio]\nroot = \"/x\"", true),
            (b"[crio.runtime.runtimes]\nx = {runtime_path=\"/bin/true\",\n runtime_type=\"oci\"}\n", true),
            (b"[crio]\nroot = \"/x\\e\\x41\"\n", true),
            (b"crio.root = \"/x\"\n", true),
            (b"[crio]\nstorage_option = [\"a\",\n \"b\",\n]\n", true),
            (b"", true),
            (b"[crio]\n# \xe9\n", false),
            (b"[crio]\n\0\n", false),
            (b"[crio]\n# a\x01b\n", false),
            (b"[crio]\rroot = \"/x\"\r", false),
            (b"\xff\xfe[\0c\0r\0i\0o\0]\0", false),
            (b"[crio]\nroot=\"/a\"\nroot=\"/b\"\n", false),
            (b"[crio]\n[crio.runtime]\n[crio]\n", false),
        ] {
            let found = parse(text);
            assert_eq!(matches!(found, Content::Toml(_)), is_read, "{}: {found:?}", text.escape_ascii());
        }
    }

    #[test]
    fn links_are_read_as_files_and_stay_below_the_root() {
        let found = seen(|etc| {
            let link = |to: &str, name: &str| symlink(to, etc.join(name)).unwrap();
            std::fs::create_dir(etc.join("dir")).unwrap();
            std::fs::write(etc.join("real"), "").unwrap();
            link("/etc/crio/real", "crio.conf.d/a");
            link("nowhere", "crio.conf.d/b");
            link("../dir", "crio.conf.d/c");
            link("../../../../../../../../etc/passwd", "crio.conf.d/d");
            rustix::fs::mkfifoat(rustix::fs::CWD, etc.join("crio.conf.d/e"), Mode::RWXU).unwrap();
        });
        let no = "no such file or directory";
        assert_eq!(
            found,
            [
                "crio.conf.d/a@".to_owned(),
                format!("crio.conf.d/b@! open /etc/crio/crio.conf.d/b: {no}"),
                "crio.conf.d/c@! read /etc/crio/crio.conf.d/c: is a directory".to_owned(),
                format!("crio.conf.d/d@! open /etc/crio/crio.conf.d/d: {no}"),
                "crio.conf.d/e! read /etc/crio/crio.conf.d/e: is no regular file".to_owned(),
            ]
        );
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_read_as_a_file() {
        let found = seen(|etc| {
            std::fs::rename(etc.join("crio.conf.d"), etc.join("elsewhere")).unwrap();
            symlink("elsewhere", etc.join("crio.conf.d")).unwrap();
        });
        assert_eq!(found, ["crio.conf.d@! read /etc/crio/crio.conf.d: is a directory"]);
        assert_eq!(seen(|etc| std::fs::remove_dir(etc.join("crio.conf.d")).unwrap()), Vec::<String>::new());
    }

    #[test]
    fn programs_are_found_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/conmon"), "").unwrap();
        let conf = ConfRoot::open(root.path()).unwrap();
        for (program, there) in [
            ("conmon", true),
            ("/usr/bin/conmon", true),
            ("crun", false),
            ("/bin/sh", false),
            ("../x", false),
        ] {
            assert_eq!(conf.has_program(program), Some(there), "{program}");
        }
        // A container that sees only other directories.
        std::fs::rename(root.path().join("usr"), root.path().join("elsewhere")).unwrap();
        assert_eq!(["conmon", "/usr/bin/conmon"].map(|program| conf.has_program(program)), [None, None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }

        /// The parser accepts everything that the rules render.
        #[test]
        fn rendered_toml_is_parsed_to_the_same_value(text in any::<String>(), name in any::<String>(), list in any::<Vec<String>>()) {
            let inner = Value::Table([(name.clone(), Value::list(list))].into());
            let table: Table = [(name, Value::Text(text)), ("t".to_owned(), inner)].into();
            let rendered: String = table.iter().map(|(name, value)| toml::line(name, value)).collect();
            prop_assert_eq!(parse(rendered.as_bytes()), Content::Toml(table));
        }
    }
}
