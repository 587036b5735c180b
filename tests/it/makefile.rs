//! The Makefile, as people and CI use it.

use std::process::Command;

/// The recipe lines of the Makefile, each with the lines that continue it.
fn recipe_lines() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile")).unwrap();
    let text = text.replace("\\\n", " ");
    text.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// `make -n` runs a line that contains `$(MAKE)`, so that the other make prints what it would do.
#[test]
fn a_line_that_starts_another_make_does_nothing_else() {
    let lines = recipe_lines();
    assert!(lines.len() > 50, "{lines:#?}");
    for line in lines.iter().filter(|line| line.contains("$(MAKE)")) {
        assert!(line.starts_with("$(MAKE) ") && !line.contains([';', '|', '&']), "make -n would run: {line}");
    }
}

#[test]
fn what_make_would_do_on_all_machines_is_printed_and_not_done() {
    let output = Command::new("make")
        // A line that is run in spite of -n fails, and does nothing.
        .args(["-n", "vm-all", "SHELL=/bin/false"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Without those of a make that runs this test.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for machine in ["6.1/apparmor/forky", "6.12/selinux/forky", "7/none/forky", "6.12/apparmor/trixie"] {
        assert!(printed.contains(machine), "{printed}");
    }
    assert!(printed.contains("vm.sh test --kernel 6.1 --lsm apparmor --suite bookworm"), "{printed}");
}

/// The image's program has no tables for unwinding, so it would end where an error looks for its callers: with
/// RUST_BACKTRACE in the environment, a container whose hook has an error would not start.
#[test]
fn an_error_looks_for_no_callers() {
    const CHILD: &str = "USERNSD_TEST_ERROR";
    if std::env::var_os(CHILD).is_some() {
        println!("<{:?}>", anyhow::anyhow!("what failed"));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "makefile::an_error_looks_for_no_callers", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "1")
        .env_remove("RUST_LIB_BACKTRACE")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("<what failed>"), "{printed}");
}
