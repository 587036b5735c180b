//! The table of kernels, security modules and programs on which cases were run: `docs/compatibility.md` is made of
//! what `make vm-test` wrote, below `tests/fixtures/compatibility` (`make vm-table`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// One line of a run, as `tests/node/vm.sh` writes it.
struct Line<'a> {
    date: &'a str,
    version: &'a str,
    kernel: &'a str,
    modules: &'a str,
    systemd: &'a str,
    /// The container runtime: a version of containerd, or `CRI-O` and its version.
    runtime: &'a str,
    runc: &'a str,
    crun: &'a str,
    processor: &'a str,
    test: &'a str,
    result: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [date, version, kernel, modules, systemd, runtime, runc, crun, processor, test, result, _seconds] =
            fields[..]
        else {
            panic!("not a line of a run: {line}");
        };
        Self { date, version, kernel, modules, systemd, runtime, runc, crun, processor, test, result }
    }

    /// The security module that judges programs by profiles or labels.
    fn module(&self) -> &'static str {
        let has = |name: &str| self.modules.split(' ').any(|module| module == name);
        match (has("apparmor"), has("selinux"), has("permissive")) {
            (true, _, _) => "AppArmor",
            (_, true, true) => "SELinux, permissive",
            (_, true, false) => "SELinux, enforcing",
            (false, false, _) => "none",
        }
    }

    /// The version that ran, and the machine.
    fn machine(&self) -> [&'a str; 8] {
        let Line { version, kernel, systemd, runtime, runc, crun, processor, .. } = *self;
        [version, kernel, self.module(), systemd, runtime, runc, crun, processor]
    }

    /// What the case is about: the module that it is in.
    fn subject(&self) -> &'a str {
        self.test.split("::").next().unwrap_or(self.test)
    }
}

/// The page's table: a row for each machine and version, of the last run of each case.
fn table(files: &BTreeMap<String, String>) -> String {
    let mut text =
        "| kernel | security module | systemd | containerd or CRI-O | runc | crun | processor | cases that passed | \
                    skipped | failed | last run | of |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for content in files.values() {
        let last: BTreeMap<&str, Line<'_>> =
            content.lines().map(Line::parse).map(|line| (line.test, line)).collect();
        let mut rows = BTreeMap::<[&str; 8], Vec<Line<'_>>>::new();
        for line in last.into_values() {
            rows.entry(line.machine()).or_default().push(line);
        }
        for ([version, kernel, module, programs @ ..], lines) in rows {
            let cells = [
                &[kernel, module][..],
                &programs,
                &[
                    &counts(&lines, "passed"),
                    &counts(&lines, "skipped"),
                    &names(&lines, "failed"),
                    lines.iter().map(|line| line.date).max().unwrap_or_default(),
                    version,
                ],
            ];
            let _ = writeln!(text, "| {} |", cells.concat().join(" | "));
        }
    }
    text
}

/// The number of cases with that result, by their subject.
fn counts(lines: &[Line<'_>], result: &str) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for line in lines.iter().filter(|line| line.result == result) {
        *counts.entry(line.subject()).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(subject, count)| format!("{subject} {count}")).collect();
    counts.join(", ")
}

fn names(lines: &[Line<'_>], result: &str) -> String {
    let names: Vec<String> =
        lines.iter().filter(|line| line.result == result).map(|line| format!("`{}`", line.test)).collect();
    names.join(", ")
}

#[test]
fn the_compatibility_table_is_made_of_the_runs_results() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("tests/fixtures/compatibility")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    let page = root.join("docs/compatibility.md");
    let found = std::fs::read_to_string(&page).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->\n");
    let (before, rest) = found.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let want = format!("{before}{begin}{}{end}{after}", table(&files));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&page, &want).unwrap();
    }
    assert!(
        found == want || std::env::var_os("UPDATE").is_some(),
        "docs/compatibility.md is stale: make generate"
    );
}

#[test]
fn the_last_run_of_each_case_counts() {
    let line = |date: &str, test: &str, result: &str| {
        format!(
            "{date}\t0.1.0+1a\t6.12.1\tlockdown apparmor bpf\t262\t2.1\t1.3\t1.28\tx86_64\t{test}\t{result}\t7\n"
        )
    };
    let text = line("2026-01-01", "a::x", "failed")
        + &line("2026-01-02", "a::x", "passed")
        + &line("2026-01-01", "a::y", "passed")
        + &line("2026-01-01", "b::x", "failed");
    let table = table(&[("x".to_owned(), text)].into());
    let row = table.lines().last().unwrap();
    assert_eq!(
        row,
        "| 6.12.1 | AppArmor | 262 | 2.1 | 1.3 | 1.28 | x86_64 | a 2 |  | `b::x` | 2026-01-02 | 0.1.0+1a |"
    );
    assert_eq!(table.lines().count(), 3);
}
