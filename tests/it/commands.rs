//! The commands as processes: their output and their exit codes.

use crate::fakes::kube_exec::{Api, Run};
use crate::page::fixture;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tokio::sync::watch;
use usernsd::cli::status::NodeStatus;
use usernsd_report::state::{Sources, StateServer, serve};
use usernsd_report::verdict::{NodeVerdict, assess};

fn usernsd(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn sources(state: Vec<u8>) -> Sources {
    Sources {
        document: Box::new(move || state.clone()),
        metrics: Box::new(String::new),
        changes: watch::Sender::new(()).subscribe(),
    }
}

/// A node's root directory with some users and ranges, and an agent's state document about its containers.
fn node() -> (tempfile::TempDir, StateServer) {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("etc/passwd", "root:x:0:0:::\ncore:x:1000:1000:::\n");
    write("etc/group", "root:x:0:\nwheel:x:10:\n");
    write("etc/subuid", "core:100000:65536\ncontainers:200000:6553600\n");
    write("etc/subgid", "containers:200000:6553600\n");
    write("etc/crio/crio.conf", "");
    write("sys/fs/cgroup/x", "");
    let state = include_bytes!("../golden/state.json").to_vec();
    let socket = root.path().join("state.sock");
    let server = serve(&socket, &[], sources(state)).unwrap();
    (root, server)
}

#[test]
fn whois_names_the_owners_of_each_host_id() {
    let (root, server) = node();
    let root = root.path().to_str().unwrap();
    let socket = server.path().to_str().unwrap();
    let whois = |args: &[&str]| {
        let output = usernsd(&[&["whois", "--host-root", root, "--socket", socket], args].concat(), "");
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };
    for (args, code, want) in [
        (&["0"][..], 0, "uid 0           the host's user root\ngid 0           the host's group root\n"),
        (&["1000"], 0, "uid 1000        the host's user core\n"),
        (&["10"], 0, "gid 10          the host's group wheel\n"),
        (&["100000", "--uid"], 0, "uid 100000      in core:100000:65536, /etc/subuid line 1\n"),
        (
            &["1376261"],
            0,
            "uid 1376261     user 5 in team-b/ci-0, container dind (a90ca90ca90ca)\n\
                           uid 1376261     in containers:200000:6553600, /etc/subuid line 2\n\
                           uid 1376261     in slot 18 of 100 of pool crio\n\
                           gid 1376261     in containers:200000:6553600, /etc/subgid line 1\n\
                           gid 1376261     in slot 18 of 100 of pool crio\n",
        ),
        (&["99999"], 1, "uid 99999       nobody's\ngid 99999       nobody's\n"),
        (&["100000", "--gid"], 1, "gid 100000      nobody's\n"),
    ] {
        assert_eq!(whois(args), (code, want.to_owned()), "{args:?}");
    }
    let (code, output) = whois(&["no-such-file"]);
    assert!(code == 2 && output.contains("neither a number nor a file"), "{output}");
    assert_eq!(whois(&["4294967295"]).0, 2);
}

#[test]
fn a_line_of_a_log_is_explained() {
    let line = "Failed to create /init.scope control group: Permission denied";
    let log =
        format!("Starting\n{line}\nagain: {line}\nnot enough unused IDs in user namespace\n\x1b[31mred\n");
    let output = usernsd(&["explain", "--from-log", line], "");
    let want = "Message  Failed to create /init.scope control group: Permission denied\n\
                Cause    systemd is PID 1 of the container, and the container's cgroup is not its own.\n\
                Fix      Run usernsd on the node, with NRI or its hook; usernsd explain POD shows what is missing.\n\
                More     docs/errors.md#systemd-init-scope-denied, docs/architecture.md\n";
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), want.to_owned()));

    let output = usernsd(&["explain", "--from-log", "-o", "json"], &log);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<_> = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["crio-not-enough-ids", "systemd-init-scope-denied"], "each once, the newest first");
    assert_eq!((&all[0]["count"], &all[1]["count"]), (&json!(1), &json!(2)));
    assert_eq!(all[1]["line"], format!("again: {line}"));

    // A line that is not known is explained in part.
    let line = "runc create failed: failed to set MOUNT_ATTR_IDMAP on /data: bad address";
    let output = usernsd(&["explain", "--from-log", line], "");
    let want = format!(
        "Message  {line}\n\
         Known    no\n\
         Program  runc\n\
         Step     mapping the IDs of a mount\n\
         Usually  the kernel (before Linux 5.12), the file system or the runtime does not support ID-mapped mounts, \
         or the process is not root of the machine\n\
         Next     findmnt -T PATH on the node shows the file system; usernsd explain POD shows which volumes are \
         mapped\n\
         Nearest  docs/errors.md#runc-idmap: failed to set MOUNT_ATTR_IDMAP on "
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with(&want), "{}", text(&output.stdout));
    let output = usernsd(&["explain", "-o", "json", "--from-log", line], "");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&all[0]["id"], &all[0]["program"]), (&Value::Null, &json!("runc")));
    assert_eq!(all[0]["nearest"][0], "runc-idmap");

    let output = usernsd(&["explain", "--from-log"], "nothing of that kind\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).contains("docs/errors.md"));
    // The argument is neither a container nor a line of a log.
    assert_eq!(usernsd(&["explain"], "").status.code(), Some(2));
    // A file with the log, as people pass it.
    let file = tempfile::NamedTempFile::new().unwrap();
    let known = "not enough unused IDs in user namespace";
    std::fs::write(file.path(), format!("nothing\n{known}\n")).unwrap();
    let of_file = usernsd(&["explain", "--from-log", file.path().to_str().unwrap()], "");
    assert_eq!(of_file.status.code(), Some(0));
    assert!(text(&of_file.stdout).contains(known), "{}", text(&of_file.stdout));
    assert_eq!(usernsd(&["explain", "x", "--from-log", "y"], "").status.code(), Some(2));
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = usernsd(&["completion", "bash"], "");
    assert!(script.status.success());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("usernsd");
    std::fs::write(&file, script.stdout).unwrap();
    // The commands that bash runs when the user presses Tab.
    let complete = |words: &[&str]| -> Vec<String> {
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _usernsd usernsd \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display(),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len() - 1
        );
        let result = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        assert!(result.stderr.is_empty(), "{}", text(&result.stderr));
        text(&result.stdout).lines().map(str::to_owned).collect()
    };
    let commands = complete(&["usernsd", ""]);
    for command in ["agent", "explain", "whois", "completion"] {
        assert!(commands.iter().any(|word| word == command), "{commands:?}");
    }
    assert_eq!(complete(&["usernsd", "expl"]), ["explain"]);
    assert!(complete(&["usernsd", "explain", "--from"]).contains(&"--from-log".to_owned()));
    assert_eq!(complete(&["usernsd", "whois", "1", "--output", "j"]), ["json"]);
}

#[test]
fn other_shells_accept_their_completion_scripts() {
    for (shell, check) in [("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])] {
        let script = usernsd(&["completion", shell], "");
        assert!(script.status.success() && text(&script.stdout).contains("from-log"), "{shell}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, &script.stdout).unwrap();
        match Command::new(check[0]).arg(check[1]).arg(&file).output() {
            Ok(result) => assert!(result.status.success() && result.stderr.is_empty(), "{result:?}"),
            Err(_) => eprintln!("SKIPPED: there is no {shell} on this machine to read its script"),
        }
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert!(usernsd(&["man", path], "").status.success());
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for want in ["usernsd.8", "usernsd-explain.8", "usernsd-whois.8", "usernsd-config-check.8"] {
        assert!(names.iter().any(|name| name == want), "{names:?}");
    }
    let help = text(&usernsd(&["help"], "").stdout);
    for command in help.lines().skip_while(|line| !line.starts_with("Commands")).skip(1) {
        let Some(command) = command.strip_prefix("  ").and_then(|line| line.split(' ').next()) else { break };
        let page = format!("usernsd-{command}.8");
        assert!(command.is_empty() || command == "help" || names.contains(&page), "{page} is missing");
    }
    for name in &names {
        let page = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{name}");
        let file = dir.path().join(name);
        let lints =
            [vec!["mandoc", "-T", "lint", "-W", "error"], vec!["groff", "-man", "-ww", "-z", "-Tutf8"]];
        for lint in &lints {
            match Command::new(lint[0]).args(&lint[1..]).arg(&file).output() {
                Ok(result) => assert!(
                    result.status.success() && result.stderr.is_empty() && result.stdout.is_empty(),
                    "{name}: {result:?}"
                ),
                Err(_) => eprintln!("SKIPPED: there is no {} on this machine to check {name}", lint[0]),
            }
        }
    }
    assert_eq!(usernsd(&["man", "/no/such/directory"], "").status.code(), Some(2));
}

/// A kubectl that records its calls, and answers for a cluster of two nodes.
const KUBECTL: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"$KUBECTL_LOG"
agent() { printf '{"metadata":{"name":"usernsd-%s","namespace":"usernsd"},"spec":{"nodeName":"n%s"},"status":{"phase":"%s"}}' "$1" "$1" "$2"; }
case "$*" in
*"get --output=json pods"*spec.nodeName=n1*) printf '{"items":[%s]}' "$(agent 1 Running)" ;;
*"get --output=json pods"*spec.nodeName=*) printf '{"items":[]}' ;;
*"get --output=json pods"*) printf '{"items":[%s,%s]}' "$(agent 2 Running)" "$(agent 1 Running)" ;;
*"get --output=json pod waiting"*) printf '{"metadata":{"name":"waiting","namespace":"team"},"spec":{}}' ;;
*"get --output=json pod web"*) printf '{"metadata":{"name":"web","namespace":"team","uid":"6a3c"},"spec":{"nodeName":"n1"}}' ;;
*"config view"*) printf team-b ;;
*proxy*)
  for word in "$@"; do
    case "$word" in --unix-socket=*) ln -s "$KUBECTL_API" "${word#*=}" ;; esac
  done
  echo "Starting to serve"
  exec sleep 1000 ;;
*"exec "*" support-bundle "*) printf ARCHIVE ;;
*"exec "*" explain "*) echo explained; echo 'command terminated with exit code 1' >&2; exit 1 ;;
*"exec "*) echo passed on ;;
*) exit 3 ;;
esac
"#;

#[test]
fn kubectl_completes_the_words_of_its_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let kubectl = "#!/bin/sh\n[ \"$1 $2\" = 'get nodes' ] && printf 'n1 n2 other'\n";
    std::fs::write(path("kubectl"), kubectl).unwrap();
    std::fs::set_permissions(path("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The name under which kubectl looks for it.
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_usernsd"), path("kubectl_complete-userns")).unwrap();
    let complete = |args: &[&str]| {
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let program = dir.path().join("kubectl_complete-userns");
        let result = Command::new(program).args(args).env("PATH", path).output().unwrap();
        assert_eq!((result.status.code(), text(&result.stderr).as_str()), (Some(0), ""), "{args:?}");
        text(&result.stdout)
    };
    assert_eq!(complete(&["doctor", "n"]), "n1\nn2\n:4\n");
    assert_eq!(complete(&["d"]), "doctor\ndemo\n:4\n");
    assert_eq!(complete(&["support-bundle", "n1", "-o", ""]), ":0\n");
    // kubectl fails: nothing to choose from, and no error in the command line.
    assert_eq!(complete(&["explain", ""]), ":4\n");
}

/// A cluster for the plugin: kubectl answers from files, and its proxy leads to the API server.
struct Fleet {
    dir: tempfile::TempDir,
    api: Api,
}

impl Fleet {
    /// A cluster with an agent on each node, whose commands end as `run` decides. `by_exec` is what `kubectl exec` does.
    fn new(nodes: usize, by_exec: &str, run: impl Fn(usize) -> Run + Send + Sync + 'static) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let pods: Vec<Value> = (0..nodes)
            .map(|node| {
                json!({"metadata": {"name": format!("usernsd-{node}"), "namespace": "usernsd"},
                    "spec": {"nodeName": format!("n{node:03}")}, "status": {"phase": "Running"}})
            })
            .collect();
        std::fs::write(path("agents.json"), json!({"items": pods}).to_string()).unwrap();
        let kubectl = format!(
            r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>log
case "$*" in
"get --output=json pods "*) cat agents.json ;;
"get nodes "*) cat nodes ;;
proxy*) ln -s "$PWD/socket" "${{2#*=}}"; echo serving; exec sleep 1000 ;;
exec*) {by_exec} ;;
esac
"#
        );
        std::fs::write(path("kubectl"), kubectl).unwrap();
        std::fs::set_permissions(path("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_usernsd"), path("kubectl-userns")).unwrap();
        let api = Api::new(Vec::new(), move |pod, command| {
            assert_eq!(command, ["/usernsd", "status", "--output=json"]);
            run(pod.trim_start_matches("usernsd-").parse().unwrap())
        });
        let socket = path("socket");
        api.start(move || tokio::net::UnixListener::bind(socket).unwrap());
        Fleet { dir, api }
    }

    /// The exit code of `kubectl userns status`, what it printed, and the calls of kubectl.
    fn status(&self) -> (Option<i32>, String, String, Vec<String>) {
        let temporary = self.dir.path().join("tmp");
        std::fs::create_dir_all(&temporary).unwrap();
        let result = Command::new(self.dir.path().join("kubectl-userns"))
            .arg("status")
            .env("PATH", format!("{}:/usr/bin:/bin", self.dir.path().display()))
            .env("TMPDIR", &temporary)
            .output()
            .unwrap();
        let left = std::fs::read_dir(&temporary).unwrap().count();
        assert_eq!(left, 0, "the socket's directory is still there");
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        let calls = log.lines().map(str::to_owned).collect();
        (result.status.code(), text(&result.stdout), text(&result.stderr), calls)
    }
}

/// The status of a node with that many errors and warnings.
fn status_with(node: usize, errors: usize, warnings: usize) -> Run {
    let problem = |severity: &str| json!({"severity": severity, "what": format!("{severity} of {node}"), "details": ""});
    let problems: Vec<Value> = std::iter::repeat_n(problem("error"), errors)
        .chain(std::iter::repeat_n(problem("warning"), warnings))
        .collect();
    // Containers without end: the answer is longer than one message.
    let status = json!({"node": format!("n{node:03}"), "containers": node, "problems": problems});
    let padded = format!("{status}{}", " ".repeat(100_000));
    Run::Ends(i32::from(errors + warnings > 0), padded.into_bytes(), String::new())
}

#[test]
fn a_hundred_agents_are_asked_through_one_kubectl() {
    let fleet = Fleet::new(100, "exit 9", |node| match node {
        17 => status_with(node, 1, 0),
        42 => status_with(node, 0, 2),
        63 => Run::Ends(2, Vec::new(), "usernsd: nothing answers\n".to_owned()),
        64 => Run::Cut,
        71 => Run::Ends(0, b"{".to_vec(), String::new()),
        88 => status_with(node, 2, 1),
        _ => status_with(node, 0, 0),
    });
    std::fs::write(fleet.dir.path().join("nodes"), "n000 spare n099").unwrap();
    let (code, stdout, stderr, calls) = fleet.status();
    let nodes: Vec<&str> = stdout.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(nodes[..6], ["n063", "n064", "n071", "n088", "n017", "n042"], "{stdout}{stderr}");
    let healthy: Vec<String> = (0..100)
        .filter(|node| ![17, 42, 63, 64, 71, 88].contains(node))
        .map(|node| format!("n{node:03}"))
        .collect();
    assert_eq!(nodes[6..], healthy);
    assert!(stdout.contains("error of 88") && code == Some(1), "{stdout}");
    for reason in
        ["node n063: usernsd: nothing answers", "node n064: ", "node n071: its answer cannot be read"]
    {
        assert!(stderr.contains(reason), "{stderr}");
    }
    let last = stderr.lines().nth(3).unwrap();
    assert!(last.contains("nodes without an agent: spare; kubectl --namespace usernsd"), "{stderr}");
    assert_eq!(stderr.lines().count(), 4, "{stderr}");
    let (of_nodes, others): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.starts_with("get nodes "));
    assert_eq!(of_nodes.len(), 1, "{calls:?}");
    let [list, proxy] = &others[..] else { panic!("{calls:?}") };
    assert!(list.starts_with("get --output=json pods "), "{list}");
    // Nothing else than programs in the agents' pods can be reached through its socket.
    assert!(
        proxy.ends_with(" --accept-paths=^/api/v1/namespaces/usernsd/pods/[^/]+/exec$ --reject-paths=^$"),
        "{proxy}"
    );
    assert_eq!(fleet.api.asked.lock().unwrap().len(), 100);
}

#[test]
fn agents_that_refuse_a_websocket_are_asked_by_a_kubectl_each() {
    let refused = |node: usize| Run::Refused(403, format!("pods \"usernsd-{node}\" is forbidden"));
    let by_exec = r#"printf '{"node": "x", "containers": 7, "problems": []}'"#;
    let fleet = Fleet::new(
        20,
        by_exec,
        move |node| {
            if node % 2 == 0 { refused(node) } else { status_with(node, 0, 0) }
        },
    );
    let (code, stdout, stderr, calls) = fleet.status();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert_eq!(stdout.lines().count(), 21, "{stdout}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("exec ")).count(), 10, "{calls:?}");

    // Without the right, one attempt is enough, and the error has the rights to ask for.
    let fleet = Fleet::new(20, "echo 'Error from server (Forbidden)' >&2; exit 1", refused);
    let (code, stdout, stderr, calls) = fleet.status();
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert_eq!(stderr.lines().next(), Some("Error from server (Forbidden)"));
    assert!(stderr.contains("the rights to get and create pods/exec in namespace usernsd"), "{stderr}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("exec ")).count(), 1, "{calls:?}");
}

#[test]
fn a_kubectl_that_offers_no_socket_is_reported() {
    let fleet = Fleet::new(2, "exit 9", |node| status_with(node, 0, 0));
    let kubectl = "#!/bin/sh\necho \"$*\" >>\"${0%/*}/log\"\n[ \"$1\" = proxy ] && { echo 'error: no such file' >&2; exit 1; }\ncat \"${0%/*}/agents.json\"\n";
    std::fs::write(fleet.dir.path().join("kubectl"), kubectl).unwrap();
    let (code, _, stderr, _) = fleet.status();
    assert!(
        code == Some(2)
            && stderr.contains("error: no such file")
            && stderr.contains("kubectl proxy has ended"),
        "{stderr}"
    );
}

#[test]
fn kubectl_reaches_the_agent_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("kubectl"), KUBECTL).unwrap();
    std::fs::set_permissions(path("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let state = fixture::problems();
    let status = serde_json::to_vec(&NodeStatus::of(&state)).unwrap();
    let api = Api::new(Vec::new(), move |pod, command| match (pod, command[1].as_str()) {
        ("usernsd-1", "ps") => Run::Ends(0, include_bytes!("../golden/ps.json").to_vec(), String::new()),
        ("usernsd-1", "status") => Run::Ends(1, status.clone(), String::new()),
        _ => Run::Ends(2, Vec::new(), "error: nothing answers\n".to_owned()),
    });
    let socket = path("api");
    api.start(move || tokio::net::UnixListener::bind(socket).unwrap());
    // Under that name it is the plugin.
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_usernsd"), path("kubectl-userns")).unwrap();
    let plugin = |args: &[&str]| {
        let _ = std::fs::remove_file(path("log"));
        let result = Command::new(path("kubectl-userns"))
            .args(args)
            .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
            .env("KUBECTL_LOG", path("log"))
            .env("KUBECTL_API", path("api"))
            .output()
            .unwrap();
        let calls = std::fs::read_to_string(path("log")).unwrap_or_default();
        let calls: Vec<String> = calls.lines().map(str::to_owned).collect();
        (result.status.code().unwrap(), text(&result.stdout), text(&result.stderr), calls)
    };
    let agents = "get --output=json pods --namespace usernsd --selector app.kubernetes.io/name=usernsd";
    let exec = "exec --namespace usernsd usernsd-1 --container agent -- /usernsd";

    // The plugin finds the pod's node, and its exit code is that of the node's usernsd.
    let (code, stdout, stderr, calls) = plugin(&["explain", "web", "-n", "team", "-c", "box", "-o", "json"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (1, "explained\n", ""));
    let want = [
        "get --output=json pod web --namespace team".to_owned(),
        format!("{agents} --field-selector=spec.nodeName=n1"),
        format!(
            "{exec} explain --config=/etc/usernsd/config.yaml --pod-uid=6a3c team/web --container box --output=json"
        ),
    ];
    assert_eq!(calls, want);
    let (code, _, stderr, _) = plugin(&["explain", "waiting"]);
    assert!(code == 2 && stderr.contains("is on no node yet"), "{stderr}");

    let (code, stdout, _, calls) = plugin(&["--context", "c", "--kubeconfig", "k", "doctor", "n1"]);
    assert_eq!((code, stdout.as_str()), (0, "passed on\n"));
    assert_eq!(
        calls[1],
        format!("--kubeconfig k --context c {exec} doctor --config=/etc/usernsd/config.yaml")
    );
    assert_eq!(plugin(&["map", "n1"]).3[1], format!("{exec} map"));
    assert_eq!(
        plugin(&["whois", "n1", "200000", "--uid", "-o", "json"]).3[1],
        format!("{exec} whois --config=/etc/usernsd/config.yaml 200000 --uid --output=json")
    );
    assert_eq!(plugin(&["whois", "n1", "alice"]).0, 2, "no number");
    let (code, _, stderr, _) = plugin(&["doctor", "n9"]);
    assert!(code == 2 && stderr.contains("no agent runs on node n9"), "{stderr}");

    // An agent that does not answer does not prevent the others' lists.
    let (code, all, stderr, _) = plugin(&["ps", "-A"]);
    assert!(code == 2 && all.contains("team-a") && all.contains("team-b"), "{all}");
    assert!(stderr.contains("node n2: error: nothing answers"), "{stderr}");
    let (_, own, _, _) = plugin(&["ps"]);
    assert!(!own.contains("team-a") && own.contains("team-b"), "kubectl's own namespace: {own}");
    let (_, named, _, _) = plugin(&["ps", "-n", "team-a"]);
    assert!(named.contains("team-a") && !named.contains("team-b"), "{named}");

    let (code, status, _, _) = plugin(&["status"]);
    let rows: Vec<Vec<&str>> = status.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        rows,
        [["NODE", "AGENT", "PHASE"], ["n2", "usernsd-2", "Running"], ["n1", "usernsd-1", "Running"]],
        "the one that needs attention first"
    );
    assert!(code == 1 && status.contains("does not answer"), "{status}");
    // Problems of the node count, not only those of its containers.
    let own = state.containers.iter().filter(|container| assess(container).is_problem()).count();
    let problems = NodeVerdict::of(&state).problems;
    let row = format!("{:<12}{:<10}{}", state.containers.len(), problems.len(), problems[0].what);
    assert!(status.lines().any(|line| line.ends_with(&row)) && own < 5, "{status}");

    // Answers of a cluster or a node cannot move the cursor.
    let escape = "\u{1b}]0;x\u{7}\u{202e}";
    std::fs::write(path("escape"), escape).unwrap();
    let hostile = KUBECTL
        .replace("Running", &format!("Running{}", "\\\\u001b[2J"))
        .replace("echo passed on", "cat $KUBECTL_ESCAPE; cat $KUBECTL_ESCAPE >&2");
    std::fs::write(path("kubectl"), hostile.replace("$KUBECTL_ESCAPE", &path("escape"))).unwrap();
    let (_, status, _, _) = plugin(&["status"]);
    assert!(status.contains("Running\\u{1b}[2J"), "{status}");
    std::fs::write(
        path("kubectl"),
        KUBECTL.replace("echo passed on", &format!("cat {0}; cat {0} >&2", path("escape"))),
    )
    .unwrap();
    for command in ["doctor", "map"] {
        let (_, stdout, stderr, _) = plugin(&[command, "n1"]);
        for result in [stdout, stderr] {
            assert_eq!(result.trim_end(), "\\u{1b}]0;x\\u{7}\\u{202e}", "{command}");
        }
    }
    std::fs::write(path("kubectl"), KUBECTL).unwrap();

    let file = path("b.tar.gz");
    let (code, _, _, calls) = plugin(&["support-bundle", "n1", "-o", &file, "--redact"]);
    assert_eq!((code, std::fs::read_to_string(&file).unwrap().as_str()), (0, "ARCHIVE"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        calls[1],
        format!("{exec} support-bundle --config=/etc/usernsd/config.yaml --output=- --redact")
    );
    assert_eq!(plugin(&["support-bundle", "n1", "-o", &file]).0, 2, "the file is there");
}
