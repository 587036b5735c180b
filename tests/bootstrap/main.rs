//! `usernsd bootstrap` on root directories: what is there before, and what is there after. One test a case,
//! named by its file: `cargo nextest run --test bootstrap kubelet/`.
//!
//! A case is a file in txtar form, as Go's tools have it: what it is about, then files, each after a line
//! `-- NAME --`. `root/` is the node, on top of `base.txtar`; `want/` the files that are different
//! afterwards; `gone` names those that are not there any more, `without` those of `base.txtar` that the node
//! does not have, and `also` a further file like `base.txtar` whose entries the case has. `config.yaml`, or
//! the file of this repository that `config` names, and `args` are given to the command, `setup` is a shell
//! script for owners, modes and the like, `status` is the exit code if it is not 0, `modes` are those of
//! files that get another than 0644 or their own, `stdout` is all of that, and each line of `stderr` is
//! somewhere in that. `machineconfig.yaml`, or the file that `machineconfig` names, is applied, with CRI-O
//! at `crio-version`. `diff-looks` is there where `--diff` does not refuse what a run refuses: a lock stops
//! only those that write. Every change can be undone, a second run finds nothing to do, and the patch makes
//! the same.
//!
//! The cases in `pool/` are of `usernsd machineconfig --check pool.yaml`: with `args`, one a line, and `ours.yaml`, if it
//! is there, as `--machineconfig`. `stdout` and `stderr` are all of that.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod txtar;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::{Arc, LazyLock};

use libtest_mimic::{Arguments, Failed, Trial};

use txtar::Archive;

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");
/// Where the cases are.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bootstrap");

/// A file: its mode, owner and group, and its content, or where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    attributes: (u32, u32, u32),
    content: Vec<u8>,
}

type Tree = BTreeMap<String, Entry>;

/// The placeholder for the program itself in a tree.
const THIS_PROGRAM: &str = "the program under test\n";

static OWN: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(USERNSD).unwrap());

/// Every file and link below a directory, without what the program keeps for itself.
fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let stat = fs::symlink_metadata(&path).unwrap();
            if name == "var/lib/usernsd" || name == "etc/.pwd.lock" {
            } else if stat.is_dir() {
                walk(root, &path, tree);
            } else {
                let content = if stat.is_symlink() {
                    fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
                } else if stat.len() == OWN.len() as u64 && fs::read(&path).unwrap() == *OWN {
                    THIS_PROGRAM.into()
                } else {
                    fs::read(&path).unwrap()
                };
                tree.insert(name, Entry { attributes: (stat.mode(), stat.uid(), stat.gid()), content });
            }
        }
    }
    let mut found = Tree::new();
    walk(root, root, &mut found);
    found
}

/// A case, unpacked twice: its files as they are, and a node of its own.
struct Case {
    dir: PathBuf,
    root: tempfile::TempDir,
}

impl Case {
    fn new(dir: &Path) -> Case {
        let case = Case { dir: dir.to_owned(), root: tempfile::tempdir().unwrap() };
        let status =
            Command::new("cp").arg("-a").arg(dir.join("root/.")).arg(case.root.path()).status().unwrap();
        assert!(status.success());
        // The owner and mode of the files in this checkout do not matter.
        let shell = "chown -hR 0:0 . && find . -type f -exec chmod 644 {} +";
        let setup = fs::read_to_string(dir.join("setup")).unwrap_or_default();
        for script in [shell, &setup] {
            let status =
                Command::new("sh").args(["-ec", script]).current_dir(case.root.path()).status().unwrap();
            assert!(status.success(), "setup");
        }
        case
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(name)).ok()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(USERNSD);
        command.arg("bootstrap").arg("--root").arg(self.root.path()).args(args);
        if let Some(file) = self.own_or_shipped("config") {
            command.arg("--config").arg(file);
        }
        if let Some(file) = self.own_or_shipped("machineconfig").filter(|_| !args.contains(&"--undo")) {
            command.arg("--machineconfig").arg(file);
        }
        if let Some(version) = self.text("crio-version") {
            command.arg("--crio-version").arg(version.trim());
        }
        command.env_remove("USERNSD_CONFIG").stdin(Stdio::null()).output().unwrap()
    }

    /// The case's own file NAME.yaml, or the file of this repository that NAME names.
    fn own_or_shipped(&self, name: &str) -> Option<PathBuf> {
        let own = self.dir.join(format!("{name}.yaml"));
        let shipped = self.text(name);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if own.exists() { Some(own) } else { shipped.map(|path| root.join(path.trim())) }
    }

    /// The resulting tree.
    fn want(&self, before: &Tree) -> Tree {
        let mut want = before.clone();
        if self.dir.join("want").exists() {
            for (name, entry) in tree(&self.dir.join("want")) {
                let like = before.get(&name).map(|entry| entry.attributes);
                let is_link = entry.attributes.0 & 0o170_000 == 0o120_000;
                let new = if is_link { (entry.attributes.0, 0, 0) } else { (0o100_644, 0, 0) };
                let attributes = like.unwrap_or(new);
                want.insert(name, Entry { attributes, ..entry });
            }
        }
        for line in self.text("modes").unwrap_or_default().lines() {
            let (mode, name) = line.split_once(' ').unwrap();
            let mode = 0o100_000 | u32::from_str_radix(mode, 8).unwrap();
            want.get_mut(name).unwrap().attributes.0 = mode;
        }
        for name in self.text("gone").unwrap_or_default().lines() {
            assert!(want.remove(name).is_some(), "{name} was never there");
        }
        want
    }
}

fn differences(found: &Tree, want: &Tree) -> String {
    let names: std::collections::BTreeSet<_> = found.keys().chain(want.keys()).collect();
    let shown = |entry: Option<&Entry>| {
        entry.map_or("nothing".to_owned(), |entry| {
            let (mode, uid, gid) = entry.attributes;
            format!("{mode:o} {uid}:{gid} {:?}", String::from_utf8_lossy(&entry.content))
        })
    };
    let differing = names.into_iter().filter(|name| found.get(*name) != want.get(*name));
    differing
        .map(|name| {
            format!("{name}\n  found {}\n  want  {}\n", shown(found.get(name)), shown(want.get(name)))
        })
        .collect()
}

/// Everything that is wrong with one case.
fn complaints(dir: &Path) -> Vec<String> {
    let case = Case::new(dir);
    let mut found = Vec::new();
    let before = tree(case.root.path());
    let args = case.text("args").unwrap_or_default();
    let args: Vec<&str> = args.lines().collect();
    let status: i32 = case.text("status").map_or(0, |text| text.trim().parse().unwrap());

    let patch = case.run(&["--diff"]);
    let output = case.run(&args);
    let after = tree(case.root.path());
    let want = case.want(&before);
    if output.status.code() != Some(status) {
        found.push(format!("status {:?}, not {status}", output.status.code()));
    }
    if after != want {
        found.push(differences(&after, &want));
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    for line in case.text("stderr").unwrap_or_default().lines() {
        if !printed.contains(line) {
            found.push(format!("not said: {line}\n{printed}"));
        }
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    if stdout != case.text("stdout").unwrap_or_default() {
        found.push(format!("stdout: {stdout}"));
    }
    if status == 2 && printed.lines().filter(|line| line.starts_with("error: ")).count() != 1 {
        found.push(format!("no single error: {printed}"));
    }
    let looks = dir.join("diff-looks").exists();
    if status == 2 && !looks && patch.status.code() != Some(2) && !printed.contains("symbolic link") {
        found.push(format!("--diff does not refuse: {}", String::from_utf8_lossy(&patch.stderr)));
    }
    if !args.is_empty() || status != 0 {
        return found;
    }
    let changed = ["want", "gone"].iter().any(|name| dir.join(name).exists());
    if patch.status.code() != Some(i32::from(changed)) {
        found.push(format!("--diff says {:?}", patch.status.code()));
    }
    found.extend(undone_and_patched(dir, &case, &before, &after, &patch.stdout));
    found
}

/// A second run does nothing; the patch makes the same; `--undo` makes it what it was.
fn undone_and_patched(dir: &Path, case: &Case, before: &Tree, after: &Tree, patch: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let again = case.run(&[]);
    let check = case.run(&["--check"]);
    if again.status.code() != Some(0) || check.status.code() != Some(0) || tree(case.root.path()) != *after {
        found.push(format!("a second run changes something: {}", String::from_utf8_lossy(&again.stderr)));
    }
    let contents = |tree: &Tree| -> BTreeMap<String, (u32, Vec<u8>)> {
        let kept = tree.iter().filter(|(name, _)| !name.contains(".lock") && !name.contains("subuid."));
        kept.map(|(name, entry)| (name.clone(), (entry.attributes.0, entry.content.clone()))).collect()
    };
    let patched = Case::new(dir);
    let mut child = Command::new("patch")
        .args(["-p1", "--force", "--fuzz=0", "--quiet"])
        .current_dir(patched.root.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(patch).unwrap();
    // The program itself is in no patch.
    let in_a_patch = |tree: &Tree| {
        let mut tree = contents(tree);
        tree.retain(|_, (_, content)| content != THIS_PROGRAM.as_bytes());
        tree
    };
    if !child.wait().unwrap().success() || in_a_patch(&tree(patched.root.path())) != in_a_patch(after) {
        found.push(format!("patch(1) makes something else of {}", String::from_utf8_lossy(patch)));
    }
    let undo = case.run(&["--undo"]);
    let undone = tree(case.root.path());
    if undo.status.code() != Some(0) || contents(&undone) != contents(before) {
        found.push(format!(
            "not undone: {}\n{}",
            String::from_utf8_lossy(&undo.stderr),
            differences(&undone, before)
        ));
    }
    if undone.iter().any(|(name, entry)| before.get(name).is_some_and(|known| known != entry)) {
        found.push(format!("not undone as it was:\n{}", differences(&undone, before)));
    }
    found
}

/// The files of a case, with those of `base.txtar`, and of the file that `also` names, that it does not
/// replace.
fn unpack(base: &Archive, file: &Path, to: &Path) -> Result<(), Failed> {
    let case = Archive::parse(&fs::read_to_string(file)?)?;
    let also = match case.text("also") {
        Some(name) => {
            let path = Path::new(DIRECTORY).join(format!("{}.txtar", name.trim()));
            Archive::parse(&fs::read_to_string(path)?)?
        }
        None => Archive::default(),
    };
    let without = case.text("without").unwrap_or_default();
    let bare = |name: &str| without.lines().any(|line| name.strip_prefix("root/") == Some(line));
    base.files()
        .chain(also.files())
        .filter(|(name, _)| !bare(name) && !case.has(name))
        .try_for_each(|(_, entry)| entry.write(to))?;
    case.files().try_for_each(|(_, entry)| entry.write(to))?;
    Ok(())
}

/// Everything that is wrong with a case of `usernsd machineconfig --check`.
fn check_of_a_pool(dir: &Path) -> Vec<String> {
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let mut command = Command::new(USERNSD);
    command.args(["machineconfig", "--check", "pool.yaml"]).args(text("args").lines());
    if dir.join("ours.yaml").exists() {
        command.args(["--machineconfig", "ours.yaml"]);
    }
    let output = command.current_dir(dir).env_remove("USERNSD_CONFIG").stdin(Stdio::null()).output().unwrap();
    let mut found = Vec::new();
    let status: i32 = text("status").trim().parse().unwrap_or(0);
    if output.status.code() != Some(status) {
        found.push(format!("status {:?}, not {status}", output.status.code()));
    }
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let printed = String::from_utf8_lossy(bytes);
        if printed != text(name) {
            found.push(format!("{name}:\n{printed}"));
        }
    }
    found
}

fn run(base: &Archive, file: &Path) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    if file.parent().is_some_and(|group| group.ends_with("pool")) {
        let case = Archive::parse(&fs::read_to_string(file)?)?;
        case.files().try_for_each(|(_, entry)| entry.write(dir.path()))?;
        let wrong = check_of_a_pool(dir.path());
        return if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) };
    }
    fs::create_dir(dir.path().join("root"))?;
    unpack(base, file, dir.path())?;
    let wrong = complaints(dir.path());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(DIRECTORY);
    let base = Archive::parse(&fs::read_to_string(root.join("base.txtar")).unwrap()).unwrap();
    let base = Arc::new(base);
    let is_root = nix::unistd::Uid::effective().is_root();
    let mut trials = Vec::new();
    for group in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for file in fs::read_dir(&group).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.strip_prefix(root).unwrap().with_extension("").display().to_string();
            let base = Arc::clone(&base);
            // Files of a node are root's.
            trials.push(Trial::test(name, move || run(&base, &file)).with_ignored_flag(!is_root));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
