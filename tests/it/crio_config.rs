//! Plans for CRI-O, checked by a real CRI-O if `USERNSD_TEST_CRIO` names one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::check::{check, unchecked};
use usernsd_domain::crio::config::{ConfFile, DROP_IN_DIR, Effective};
use usernsd_domain::crio::drop_in::{self, CrioNode, CrioOptions};
use usernsd_domain::finding::Severity;
use usernsd_linux::program::{ProgramOutput, run};
use usernsd_prepare::runtime_files::{ConfRoot, parse};

const DEADLINE: Duration = Duration::from_secs(30);

/// A real CRI-O; otherwise prints that the test is skipped.
fn crio() -> Option<(std::path::PathBuf, CrioVersion)> {
    let Some(path) = std::env::var_os("USERNSD_TEST_CRIO") else {
        eprintln!("SKIPPED: no CRI-O; name one with USERNSD_TEST_CRIO");
        return None;
    };
    let output = run(Path::new(&path), &["--version"], DEADLINE).unwrap();
    match CrioVersion::parse(&output.stdout) {
        Ok(version) => Some((path.into(), version)),
        // It may be built for a newer C library, which only the test node has.
        Err(_) => {
            eprintln!(
                "SKIPPED: {} does not run on this machine: {}",
                Path::new(&path).display(),
                output.stderr
            );
            None
        }
    }
}

/// The result of `crio config` for a node's files.
fn ask(crio: &Path, root: &Path) -> ProgramOutput {
    let main = root.join("etc/crio/crio.conf").display().to_string();
    let drop_ins = root.join("etc/crio/crio.conf.d").display().to_string();
    run(crio, &["--config", &main, "--config-dir", &drop_ins, "config"], DEADLINE).unwrap()
}

fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in
        [("etc/crio/crio.conf", ""), ("etc/crio/crio.conf.d/00-default", "")].iter().chain(files)
    {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn files(root: &Path) -> Vec<ConfFile> {
    ConfRoot::open(root).unwrap().crio().unwrap()
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn cri_o_accepts_every_planned_drop_in() {
    let Some((crio, version)) = crio() else { return };
    let sysctls = "[crio.runtime]\ndefault_sysctls = [\"net.core.somaxconn=1024\"]\n";
    let runc = "[crio.runtime.runtimes.runc]\nruntime_path = \"/usr/bin/runc\"\n";
    for before in ["", sysctls, runc] {
        for userns_mode in [None, Some(true)] {
            let root = node(&[("etc/crio/crio.conf.d/10-x.conf", before)]);
            let found = files(root.path());
            let node = CrioNode { version, kubernetes: None, files: Some(&found), programs: &unchecked };
            let plan = drop_in::plan(node, CrioOptions { userns_mode, ..CrioOptions::default() }).unwrap();
            fs::write(root.path().join(drop_in::PATH.trim_start_matches('/')), plan.text.unwrap()).unwrap();
            let output = ask(&crio, root.path());
            assert!(output.success, "{}", output.stderr);
            // CRI-O prints the predicted configuration.
            let foretold = Effective::of(version, &files(root.path()));
            let printed =
                ConfFile { path: "printed".into(), link: false, content: parse(output.stdout.as_bytes()) };
            let printed = Effective::of(version, &[printed]);
            assert_eq!(printed.pod_events.value, foretold.pod_events.value);
            assert_eq!(printed.default_sysctls.value, foretold.default_sysctls.value, "{}", output.stdout);
            let names = |effective: &Effective| effective.workloads.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&printed), names(&foretold));
        }
    }
}

/// On every version, the written text is TOML, contains the planned values, and has no problems.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_rendered_drop_in_is_valid_for_every_version() {
    let before = parse(
        b"[crio.runtime]\ndefault_sysctls = [\"net.core.somaxconn=1\"]\n\
          [crio.runtime.runtimes.crun]\nruntime_path = \"/opt/c \\\"run\"\nruntime_type = \"oci\"\n\
          [crio.runtime.runtimes.runc]\nruntime_path = \"/opt/runc\"\ndefault_env = [\"A=\\u0001\"]\n",
    );
    let before = ConfFile { path: "/etc/crio/crio.conf".into(), link: false, content: before };
    for minor in 20..=37 {
        for (patch, userns_mode) in [(0, None), (0, Some(true)), (13, None), (13, Some(false))] {
            let version = CrioVersion::new(1, minor, patch);
            let files = [before.clone()];
            let node = CrioNode { version, kubernetes: None, files: Some(&files), programs: &unchecked };
            let plan = drop_in::plan(node, CrioOptions { userns_mode, ..CrioOptions::default() }).unwrap();
            let Some(text) = plan.text else { continue };
            let written =
                ConfFile { path: drop_in::PATH.into(), link: false, content: parse(text.as_bytes()) };
            let files = [before.clone(), written];
            let found = check(version, &files, &unchecked);
            assert!(found.iter().all(|one| one.severity != Severity::Error), "{version}: {found:?}\n{text}");
            let (old, new) = (Effective::of(version, &files[..1]), Effective::of(version, &files));
            assert!(
                old.default_sysctls.value.iter().all(|one| new.default_sysctls.value.contains(one)),
                "{version}"
            );
            // No handler loses a key or a value.
            for (name, handler) in &old.handlers {
                for (key, value) in &handler.fields {
                    assert_eq!(
                        new.handlers[name].fields.get(key),
                        Some(value),
                        "{version} {name} {key}\n{text}"
                    );
                }
            }
        }
    }
}

/// Everything that `crio config` refuses is an error here, with the same words.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_configuration_that_cri_o_refuses_has_the_same_error() {
    let Some((crio, version)) = crio() else { return };
    for (text, words) in [
        ("x = 1\nx = 2\n", "unable to decode configuration"),
        (
            "[crio.runtime]\nhooks_dir = [1]\n",
            "incompatible types: TOML value has type int64; destination has type string",
        ),
        (
            "[crio.nri]\nenable_nri = \"x\"\n",
            "incompatible types: TOML value has type string; destination has type boolean",
        ),
        (
            "[crio.runtime]\nhooks_dir = {}\n",
            "TOML value has type map[string]any; destination has type slice",
        ),
        (
            "[crio.runtime]\nEnable_Pod_Events = 1\n",
            "TOML value has type int64; destination has type boolean",
        ),
        ("[crio.runtime]\ndefault_runtime = \"zz\"\n", "default_runtime set to"),
        ("[crio.runtime]\ndefault_sysctls = [\"a = b\"]\n", "extra spaces found: format should be key=value"),
        ("[crio.runtime]\ndefault_sysctls = [\"ab\"]\n", "is not in key=value format"),
        ("[crio.runtime.workloads.x]\n", "annotation shouldn't be empty for workload"),
        (
            "[crio.runtime.workloads.x]\nactivation_annotation = \"y\"\nallowed_annotations = [\"foo\"]\n",
            "workloads validation: invalid allowed_annotation: foo",
        ),
    ] {
        let root = node(&[("etc/crio/crio.conf.d/10-x", text)]);
        let output = ask(&crio, root.path());
        assert!(!output.success && output.stderr.contains(words), "{text}: {}", output.stderr);
        let found = check(version, &files(root.path()), &unchecked);
        assert!(
            found.iter().any(|one| one.severity == Severity::Error && one.message.contains(words)),
            "{text}: {found:?}"
        );
    }
}

/// Nothing that CRI-O accepts is an error here.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_configuration_that_cri_o_accepts_has_no_error() {
    let Some((crio, version)) = crio() else { return };
    for text in [
        "unknown = 1\n[crio.runtime]\nalso_unknown = { x = 1 }\n",
        "",
        "[crio.runtime]\ndefault_sysctls = [\"vm.swappiness=1\", \"\"]\n",
        "[crio.runtime]\ndefault_runtime = \"\"\n",
        "[crio.runtime.workloads.x]\nactivation_annotation = \"y\"\nallowed_annotations = [\"umask.crio.io\", \"umask.crio.io\"]\n",
    ] {
        let root = node(&[("etc/crio/crio.conf.d/10-x", text)]);
        let output = ask(&crio, root.path());
        assert!(output.success, "{text}: {}", output.stderr);
        let found = check(version, &files(root.path()), &unchecked);
        assert!(found.iter().all(|one| one.severity != Severity::Error), "{text}: {found:?}");
    }
    // CRI-O's treatment of links, and the directories that it searches.
    let root = node(&[]);
    std::os::unix::fs::symlink("nowhere", root.path().join(&DROP_IN_DIR[1..]).join("x")).unwrap();
    assert!(!ask(&crio, root.path()).success);
    assert!(
        check(version, &files(root.path()), &unchecked).iter().any(|one| one.severity == Severity::Error)
    );
}
