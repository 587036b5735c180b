//! The files in machineconfig/ are those that the binary prints. `UPDATE=1 cargo nextest run --test it
//! machineconfig::` writes them.

use std::path::Path;
use std::process::Command;

/// All generated files, with the flags that print them.
const RENDERED: &[(&str, &str)] = &[
    ("demo-4.7.yaml", "--profile demo-4.7"),
    ("worker.yaml", ""),
    ("master.yaml", "--role master"),
    ("worker-crio-1.35.yaml", "--crio-version 1.35.0"),
    ("fcos.bu", "--format butane --crio-version 1.35.0"),
    ("cloud-init.yaml", "--format cloud-init --crio-version 1.35.0"),
    ("prepare.sh", "--format script --crio-version 1.35.0"),
];

fn printed(flags: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .arg("machineconfig")
        .args(flags.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_directory_matches_what_the_binary_prints() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("machineconfig");
    for (name, flags) in RENDERED {
        let (path, want) = (directory.join(name), printed(flags));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &want).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == want,
            "machineconfig/{name} is stale; write it with: UPDATE=1 cargo nextest run --test it machineconfig::"
        );
    }
    let names =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The files in units/ are written by hand.
    let known = |name: &str| name == "units" || RENDERED.iter().any(|(known, _)| *known == name);
    let strays: Vec<String> = names.filter(|name| !known(name)).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn the_demonstration_of_2021_is_printed_byte_for_byte() {
    assert_eq!(printed("--profile demo-4.7"), include_str!("../fixtures/seed/machineconfig.yaml"));
}

#[test]
fn a_refusal_contains_a_remedy() {
    for (flags, want) in [
        ("--ignition 3.9", "3.5.0"),
        ("--crio-version one", "such as 1.36.3"),
        ("--crio-version 1.19.0", "older than 1.20.0"),
        ("--role NOT/A/POOL", "machine config pool"),
        ("--profile demo-4.7 --format butane", "--ignition 3.3.0"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_usernsd"))
            .arg("machineconfig")
            .args(flags.split_whitespace())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{flags}: {text}");
        assert!(text.contains(want) && output.stdout.is_empty(), "{flags}: {text}");
    }
}

/// A script that replaces the files of subordinate IDs examines them first.
#[test]
fn the_script_takes_no_range_that_is_in_use() {
    let script = printed("--format script --userns-mode");
    assert_eq!(script.matches("\nno_others '/etc/sub").count(), 2);
    let (head, _) = script.split_once("\nput ").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("subuid");
    let head = head.replace("/etc/subuid", file.to_str().unwrap()).replace("/etc/subgid", "/nowhere");
    for (text, goes_on) in [
        ("", true),
        ("# a comment\n\ncontainers:200000:65536\n", true),
        ("containers:200000:65536\nalice:100000:65536\n", false),
        ("containersx:200000:65536\n", false),
        ("containers:1:1", true),
    ] {
        std::fs::write(&file, text).unwrap();
        let ran = Command::new("sh").arg("-c").arg(format!("{head}\necho on")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout) == "on\n", goes_on, "{text:?}: {ran:?}");
    }
}

/// What the page shows is what a case of tests/bootstrap/pool prints.
#[test]
fn the_check_of_a_pool_prints_what_its_page_shows() {
    let case = include_str!("../bootstrap/pool/page.txtar");
    let (_, printed) = case.split_once("-- stdout --\n").unwrap();
    let page = include_str!("../../docs/prepare-openshift.md");
    assert!(page.contains(&format!("--check -\n{printed}```\n")), "{printed}");
}
