//! Inspections of a container whose file system never answers.
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer::Observer;

const PROGRAM: &str = env!("CARGO_BIN_EXE_usernsd");

/// A process with its own mount namespace; ends with its standard input.
struct Container(Child);

impl Container {
    /// Runs `script` and waits for the last word that it prints.
    fn start(script: &str) -> Option<Container> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            // Not with `eprintln!`, which the test harness captures in passing tests.
            let _ = writeln!(std::io::stderr(), "SKIPPED: it takes root and /dev/fuse");
            return None;
        }
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &format!("{script}\necho ready; read end")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut output).unwrap();
        assert_eq!(output, "ready\n", "{script}");
        Some(Container(child))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mounts a file system whose server never reads a request.
const SILENT: &str = "exec 9<>/dev/fuse; \
    mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0,allow_other silent \"$D/silent\"";

#[test]
fn a_file_system_that_never_answers_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["silent", "local"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let script = format!("D={}; {SILENT}", dir.path().display());
    let Some(container) = Container::start(&script) else { return };
    let proc = Proc::new(Path::new("/proc"));
    let process = proc.open(container.0.id()).unwrap();
    let path = |name: &str| format!("{}/{name}", dir.path().display());
    // More of them than are examined at a time, with local ones in between and at the end.
    let mut paths: Vec<String> = (0..6).map(|number| path(&format!("silent/{number}"))).collect();
    paths.insert(2, path("local"));
    paths.push(path("local"));
    paths.push(path("none"));
    let found = proc.examine_inside(&process, &paths, Path::new(PROGRAM));
    let inode = fs::metadata(path("local")).unwrap().ino();
    for (path, found) in paths.iter().zip(&found) {
        match found {
            Ok(file) => assert!(path.ends_with("local") && file.inode == inode, "{path}: {file:?}"),
            Err(error) if path.contains("silent") => {
                assert_eq!(error, "its file system did not answer within 500ms", "{path}");
            }
            Err(error) => {
                assert!(path.ends_with("none") && error.contains("No such file"), "{path}: {error}")
            }
        }
    }
    assert_eq!(found.iter().filter(|found| found.is_ok()).count(), 2);
    // No thread is left.
    let looks = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let wanted = dir.path().display().to_string();
        lines
            .filter(|line| {
                String::from_utf8_lossy(line).contains(&format!("look-inside\0/proc\0{}", process.pid()))
                    && String::from_utf8_lossy(line).contains(&wanted)
            })
            .count()
    };
    while looks() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn many_file_systems_that_never_answer_take_no_longer_than_a_few() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("silent")).unwrap();
    let script = format!("D={}; {SILENT}", dir.path().display());
    let Some(container) = Container::start(&script) else { return };
    let proc = Proc::new(Path::new("/proc"));
    let process = proc.open(container.0.id()).unwrap();
    let paths: Vec<String> =
        (0..64).map(|number| format!("{}/silent/{number}", dir.path().display())).collect();
    let found = proc.examine_inside(&process, &paths, Path::new(PROGRAM));
    let given_up = found.iter().filter(|found| found.as_ref().is_err_and(|error| error.contains("500ms")));
    assert!((4..=24).contains(&given_up.count()), "{found:?}");
    assert_eq!(found.last().unwrap().as_ref().unwrap_err(), "other file systems of it did not answer");
}

/// A survey, and the search for a program, may encounter a file system that never answers. A container that
/// starts meanwhile is inspected as usual.
#[test]
fn a_survey_that_gets_no_answer_delays_no_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("silent")).unwrap();
    let script = format!("D={}; {SILENT}", dir.path().display());
    let Some(container) = Container::start(&script) else { return };
    // The observer's proc file system: process 7 runs a program on the silent file system, which is in
    // another mount namespace.
    let silent = format!("/proc/{}/root{}/silent/program", container.0.id(), dir.path().display());
    for pid in ["1", "7"] {
        fs::create_dir_all(dir.path().join("proc").join(pid).join("ns")).unwrap();
        fs::write(dir.path().join("proc").join(pid).join("ns/user"), "").unwrap();
    }
    std::os::unix::fs::symlink(&silent, dir.path().join("proc/7/exe")).unwrap();
    let inode = fs::metadata(dir.path().join("proc/1/ns/user")).unwrap().ino();
    let observer = Observer::start(Path::new(PROGRAM), &dir.path().join("proc")).unwrap();
    std::thread::scope(|scope| {
        let survey = scope.spawn(|| observer.targets(&[7], "exe"));
        let program = scope.spawn(|| observer.target(7, "exe"));
        while !survey.is_finished() || !program.is_finished() {
            let since = std::time::Instant::now();
            assert_eq!(observer.target(1, "ns/user").map(|target| target.inode), Ok(inode));
            assert!(since.elapsed() < std::time::Duration::from_secs(1), "it waited for the survey");
        }
        assert_eq!(survey.join().unwrap(), Err(rustix::io::Errno::AGAIN));
        assert_eq!(program.join().unwrap(), Err(rustix::io::Errno::AGAIN));
    });
    assert!(observer.is_alive());
    // When the file system is gone, both answers arrive late and are ignored.
    drop(container);
    while observer.targets(&[1], "ns/user") == Err(rustix::io::Errno::AGAIN) {}
    let found = observer.targets(&[1, 7], "ns/user").unwrap();
    assert_eq!(found[0].map(|target| target.inode), Ok(inode));
    assert!(found[1].is_ok());
}

#[test]
fn nothing_is_reported_about_a_process_that_has_ended() {
    let Some(container) = Container::start("true") else { return };
    let proc = Proc::new(Path::new("/proc"));
    let process = proc.open(container.0.id()).unwrap();
    assert!(proc.examine_inside(&process, &["/".to_owned()], Path::new(PROGRAM))[0].is_ok());
    drop(container);
    let found = proc.examine_inside(&process, &["/".to_owned()], Path::new(PROGRAM));
    assert_eq!(found[0].as_ref().unwrap_err(), "the container's process has ended");
}

/// On a busy node the process that looks may wait for a processor longer than a file system is waited for.
#[test]
fn a_file_is_read_however_long_the_process_that_reads_it_takes_to_start() {
    let Some(container) = Container::start("true") else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("slow");
    fs::write(&program, format!("#!/bin/sh\nsleep 0.8\nexec {PROGRAM} \"$@\"\n")).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let proc = Proc::new(Path::new("/proc"));
    let process = proc.open(container.0.id()).unwrap();
    let found = proc.examine_inside(&process, &["/".to_owned()], &program);
    assert!(found[0].is_ok(), "{found:?}");
}
