//! `kubectl userns demo` with a kubectl that answers for a cluster: what is created, shown and deleted, and what is
//! printed if something is missing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Answers from files in its directory.
const KUBECTL: &str = r#"#!/bin/sh
cd "$KUBECTL_DIR" || exit 9
printf '%s\n' "$*" >>log
case "$*" in
"auth can-i "*)
  [ -e unreachable ] && exit 1
  if grep -qsx "$3 $4 $6" denied; then echo no; exit 1; fi
  echo yes ;;
"get --output=json pods "*)
  # The second question is asked while signals are received.
  [ "$(grep -c 'get --output=json pods' log)" = 1 ] || while [ -e wait ]; do sleep 0.02; done
  cat agents.json ;;
"create "*)
  cat >created.json
  if [ -e refused ]; then cat refused >&2; exit 1; fi ;;
"get --output=json pod usernsd-demo-"*) [ ! -e slow ] || sleep 60; cat pod.json ;;
*" systemctl is-system-running") cat state; exit 1 ;;
*" cat /proc/self/uid_map") cat map ;;
*" ls -ldn /sys/fs/cgroup") echo 'drwxr-xr-x 4 0 65534 0 Nov 29 20:00 /sys/fs/cgroup' ;;
*" ps --output=json") echo '[]' ;;
*" explain "*) echo 'Container  explained'; exit "$(cat explained)" ;;
"delete "*) rm -f wait; [ ! -e held ] || sleep 0.3; [ -e stuck ] && exit 1; echo 'pod "usernsd-demo" deleted' ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"#;

struct Fake {
    dir: tempfile::TempDir,
}

/// What was printed, and the calls of kubectl.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    calls: Vec<String>,
}

impl Fake {
    fn new() -> Fake {
        let fake = Fake { dir: tempfile::tempdir().unwrap() };
        fake.write("kubectl", KUBECTL);
        fs::set_permissions(fake.path("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(env!("CARGO_BIN_EXE_usernsd"), fake.path("kubectl-userns")).unwrap();
        fake.agent("True");
        fake.pod(&json!({"running": {}}));
        fake.write("state", "running\n");
        fake.write("map", "         0     200000      65536\n");
        fake.write("explained", "0");
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// One agent, which is ready or not.
    fn agent(&self, ready: &str) {
        let agent = json!({
            "metadata": {"name": "usernsd-1"}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        self.write("agents.json", &json!({"items": [agent]}).to_string());
    }

    /// The pod with that state of its container.
    fn pod(&self, state: &Value) {
        let pod = json!({
            "spec": {"nodeName": "n1"}, "status": {"containerStatuses": [{"name": "systemd", "state": state}]},
        });
        self.write("pod.json", &pod.to_string());
    }

    fn start(&self, args: &[&str]) -> Child {
        let _ = fs::remove_file(self.path("log"));
        Command::new(self.path("kubectl-userns"))
            .args(["demo", "--namespace=team"])
            .args(args)
            .env("PATH", format!("{}:/usr/bin:/bin", self.dir.path().display()))
            .env("KUBECTL_DIR", self.dir.path())
            // As a shell starts a program in a terminal.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn end(&self, child: Child) -> Said {
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            calls: self.calls(),
        }
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn run(&self, args: &[&str]) -> Said {
        self.end(self.start(args))
    }
}

impl Said {
    fn has_created(&self) -> bool {
        self.calls.iter().any(|call| call.starts_with("create "))
    }

    fn has_deleted(&self) -> bool {
        let last = self.calls.last().unwrap();
        last.starts_with("delete pod --namespace team usernsd-demo-") && last.contains("--ignore-not-found")
    }
}

#[test]
fn the_demonstration_shows_a_pod_from_both_sides_and_deletes_it() {
    let fake = Fake::new();
    let output = fake.run(&["--image=systemd:1"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    for part in
        ["runs on node n1", "\nrunning\n", "     200000 ", "Container  explained", "user 200000 on the node"]
    {
        assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
    }
    assert!(output.has_deleted(), "{:?}", output.calls);
    let pod: Value = serde_json::from_slice(&fs::read(fake.path("created.json")).unwrap()).unwrap();
    assert_eq!(pod["spec"]["hostUsers"], false);
    assert_eq!(pod["metadata"]["annotations"], json!({"usernsd.io/systemd": "true"}));
    assert_eq!(
        (&pod["metadata"]["namespace"], &pod["spec"]["containers"][0]["image"]),
        (&"team".into(), &"systemd:1".into())
    );
    assert!(pod["spec"]["activeDeadlineSeconds"].is_u64(), "the kubelet ends a pod that nobody could delete");

    // Units of the image have failed, as they would outside.
    fake.write("state", "degraded\n");
    assert_eq!(fake.run(&[]).code, Some(0));
}

#[test]
fn each_right_that_is_missing_is_named_before_anything_is_created() {
    let fake = Fake::new();
    for right in [
        "create pods team",
        "get pods team",
        "delete pods team",
        "create pods/exec team",
        "list pods usernsd",
        "create pods/exec usernsd",
    ] {
        fake.write("denied", &format!("{right}\n"));
        let output = fake.run(&[]);
        let words: Vec<&str> = right.split(' ').collect();
        let want = format!("you may not {} {} in namespace {};", words[0], words[1], words[2]);
        assert!(output.code == Some(2) && output.stderr.contains(&want), "{want}: {}", output.stderr);
        assert!(!output.has_created() && output.stdout.is_empty(), "{:?}", output.calls);
    }
    fake.write("unreachable", "");
    let output = fake.run(&[]);
    assert!(
        output.code == Some(2) && output.stderr.contains("kubectl could not ask whether you may create pods"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_cluster_without_agents_gets_no_pod() {
    let fake = Fake::new();
    fake.write("agents.json", r#"{"items": []}"#);
    let output = fake.run(&[]);
    assert!(
        output.code == Some(2) && output.stderr.contains("is usernsd installed there?"),
        "{}",
        output.stderr
    );
    assert!(!output.has_created());
    fake.agent("False");
    let output = fake.run(&["--timeout=1"]);
    assert!(output.code == Some(2) && output.stderr.contains("no agent is ready"), "{}", output.stderr);
    assert!(!output.has_created() && output.stdout == "0 of 1 agents are ready\n", "{}", output.stdout);
}

#[test]
fn a_pod_that_is_refused_or_does_not_start_is_explained_and_deleted() {
    let fake = Fake::new();
    fake.write("refused", "Error from server (Forbidden): violates PodSecurity \"restricted:latest\"\n");
    let output = fake.run(&[]);
    assert!(output.code == Some(2) && output.has_deleted(), "{:?}", output.calls);
    for part in ["violates PodSecurity", "could not be created in namespace team", "--namespace"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    fs::remove_file(fake.path("refused")).unwrap();

    for (state, want) in [
        (
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
            "the pod does not start: ImagePullBackOff: no such image; --image names another image",
        ),
        (
            json!({"waiting": {"reason": "CreateContainerError", "message": "no"}}),
            "CreateContainerError: no\n",
        ),
        (json!({"terminated": {"exitCode": 255}}), "systemd ended with 255"),
    ] {
        fake.pod(&state);
        let output = fake.run(&[]);
        assert!(output.code == Some(2) && output.stderr.contains(want), "{want}: {}", output.stderr);
        assert!(output.stdout.contains("explained") && output.has_deleted(), "{}", output.stdout);
    }

    fake.pod(&json!({"waiting": {"reason": "ContainerCreating\u{1b}[2J"}}));
    let output = fake.run(&["--timeout=1"]);
    assert!(output.code == Some(2) && output.has_deleted(), "{:?}", output.calls);
    assert!(
        output.stderr.contains("did not start within 1 s: ContainerCreating\\u{1b}[2J"),
        "{}",
        output.stderr
    );
    assert!(!output.stdout.contains('\u{1b}'), "{}", output.stdout);
}

#[test]
fn a_pod_that_is_root_on_the_node_is_no_success() {
    let fake = Fake::new();
    fake.write("map", "         0          0 4294967295\n");
    let output = fake.run(&[]);
    assert!(
        output.code == Some(1) && output.stdout.contains("root in it is root on the node"),
        "{}",
        output.stdout
    );
    fake.write("map", "0 200000 65536\n");
    fake.write("explained", "1");
    let output = fake.run(&[]);
    assert!(output.code == Some(1) && output.stdout.contains("has found a problem"), "{}", output.stdout);
    assert!(output.has_deleted());
}

#[test]
fn the_pod_is_deleted_after_an_interruption() {
    let fake = Fake::new();
    fake.pod(&json!({"waiting": {"reason": "ContainerCreating"}}));
    for signal in ["INT", "TERM"] {
        let child = fake.start(&[]);
        while !fake.calls().iter().any(|call| call.contains("pod usernsd-demo-")) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = fake.end(child);
        assert_eq!(output.code, Some(130), "{signal}: {}", output.stderr);
        assert!(
            output.calls.iter().any(|call| call.starts_with("delete pod --namespace team usernsd-demo-")),
            "{:?}",
            output.calls
        );
        assert!(output.stderr.contains("deleted"), "{}", output.stderr);
    }
}

/// A terminal sends SIGINT to kubectl as well.
#[test]
fn an_interruption_that_ends_kubectl_too_is_no_failure() {
    let fake = Fake::new();
    fake.write("slow", "");
    let child = fake.start(&[]);
    while !fake.calls().iter().any(|call| call.contains("pod usernsd-demo-")) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-s", "INT", "--", &group]).status().unwrap().success());
    let output = fake.end(child);
    assert_eq!(output.code, Some(130), "{}", output.stderr);
    assert!(output.has_deleted() && !output.stderr.contains("failed"), "{}", output.stderr);
}

#[test]
fn no_pod_is_created_after_an_interruption() {
    let fake = Fake::new();
    fake.write("held", "");
    for _ in 0..5 {
        fake.write("wait", "");
        let child = fake.start(&[]);
        while fake.calls().iter().filter(|call| call.starts_with("get --output=json pods")).count() < 2 {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(
            Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success()
        );
        let output = fake.end(child);
        assert_eq!(output.code, Some(130), "{}", output.stderr);
        // A kubectl that was started at the end would write its line now.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!fake.calls().iter().any(|call| call.starts_with("create ")), "{:?}", fake.calls());
    }
}

#[test]
fn a_pod_that_cannot_be_deleted_is_named() {
    let fake = Fake::new();
    fake.write("stuck", "");
    let output = fake.run(&[]);
    assert!(
        output.stderr.contains("to delete it: kubectl delete pod --namespace team usernsd-demo-"),
        "{}",
        output.stderr
    );
}
