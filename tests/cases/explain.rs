//! `usernsd explain` on real pods, before and after delegation. Its statements are compared with other
//! sources: the node's /proc, its cgroup tree, and tools in the container's namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime, is_machine};
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, owner};

/// The exit code and the output.
fn explain(node: &Node, args: &[&str]) -> (i32, String) {
    let words = ["env", "LC_ALL=C.UTF-8", "usernsd", "explain"];
    let ran = node.command(words.iter().chain(args)).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    (ran.status.code().unwrap(), text.into_owned())
}

/// The document about one container.
#[track_caller]
pub(crate) fn document(node: &Node, target: &str) -> (i32, Value) {
    document_with(node, &[target])
}

#[track_caller]
fn document_with(node: &Node, args: &[&str]) -> (i32, Value) {
    let (code, text) = explain(node, &[args, &["--output", "json"]].concat());
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(all.as_array().unwrap().len(), 1, "{text}");
    (code, all[0].clone())
}

/// The text, with everything that differs between runs replaced.
fn normal(text: &str, pods: &Pods<'_>, container: &Container) -> String {
    let pid = pods.status(container).pid.to_string();
    let mut text = text.replace(&container.id, "ID").replace(&container.id[..13], "ID");
    // Their number depends on the machine.
    for count in 17..41 {
        text = text.replace(&format!("{count} capabilities"), "everything");
    }
    let text = text;
    let mut out = String::new();
    let mut in_processes = false;
    for line in text.lines() {
        in_processes = line.starts_with("Processes") || (in_processes && line.starts_with(' '));
        let mut words: Vec<String> = Vec::new();
        let mut before = String::new();
        for word in line.split(' ') {
            let number = word.trim_end_matches(',');
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let is_namespace = is_number && number.starts_with("40265") && number.len() == 10;
            let new = if is_namespace {
                word.replace(number, "NS")
            } else if is_number
                && ["inode", "process", "user.max_user_namespaces ="].contains(&before.as_str())
            {
                word.replace(number, "N")
            } else if in_processes && number == pid {
                format!("{:>width$}", "PID", width = pid.len())
            } else {
                word.to_owned()
            };
            if !word.is_empty() {
                before = if word == "=" { format!("{before} =") } else { number.to_owned() };
            }
            words.push(new);
        }
        out.push_str(&words.join(" "));
        out.push('\n');
    }
    out
}

#[track_caller]
fn golden(name: &str, found: &str) {
    // A machine has other controllers, file systems and labels than a node.
    if is_machine() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, found).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, want, "{} differs; UPDATE=1 writes it", path.display());
}

fn extents(text: &str) -> Value {
    let number = |word: Option<&str>| word.unwrap().parse::<u32>().unwrap();
    let extent = |line: &str| {
        let mut words = line.split_whitespace();
        let (inside, outside, length) = (number(words.next()), number(words.next()), number(words.next()));
        json!({"containerId": inside, "hostId": outside, "length": length})
    };
    text.lines().map(extent).collect()
}

fn without_pools(map: &Value) -> Value {
    let mut map = map.clone();
    for extent in map.as_array_mut().unwrap() {
        extent.as_object_mut().unwrap().remove("pool");
    }
    map
}

/// Compares every statement about a running container with the node.
#[track_caller]
fn assert_true(node: &Node, pods: &Pods<'_>, container: &Container, own: &Path, document: &Value) {
    let status = pods.status(container);
    let (pid, got) = (status.pid, &document["got"]);
    let proc = |file: &str| fs::read_to_string(node.path(&format!("proc/{pid}/{file}"))).unwrap();
    let link = |pid: &str, kind: &str| fs::read_link(node.path(&format!("proc/{pid}/ns/{kind}"))).unwrap();
    assert_eq!(document["container"]["pid"], pid);
    assert_eq!(document["container"]["id"], container.id.as_str());

    // Host and container IDs.
    assert_eq!(without_pools(&got["uidMap"]), extents(&proc("uid_map")));
    assert_eq!(without_pools(&got["gidMap"]), extents(&proc("gid_map")));
    let mut namespaces = got["namespaces"].as_array().unwrap().clone();
    namespaces.push(got["userNamespace"].clone());
    assert_eq!(namespaces.len(), 7);
    for namespace in namespaces {
        let kind = namespace["kind"].as_str().unwrap();
        let want = link(&pid.to_string(), kind);
        assert_eq!(want.to_str().unwrap(), format!("{kind}:[{}]", namespace["inode"]));
        assert_eq!(namespace["host"], want == link("1", kind), "{kind}");
    }

    // The cgroup: outside by its path, inside by a tool in the container.
    let (found, seen) = (&got["cgroup"], fs::metadata(own).unwrap());
    assert_eq!(node.cgroup_root().join(found["path"].as_str().unwrap().trim_start_matches('/')), own);
    assert_eq!(
        (found["outside"]["inode"].as_u64(), found["outside"]["owner"].as_u64()),
        (Some(seen.ino()), Some(seen.uid().into()))
    );
    let path = if link(&pid.to_string(), "cgroup") == link("1", "cgroup") {
        format!("/sys/fs/cgroup{}", found["path"].as_str().unwrap())
    } else {
        "/sys/fs/cgroup".to_owned()
    };
    let result = pods.exec(container, &["stat", "-c", "%i %u", &path]);
    // If the owner has no ID inside, the kernel shows the overflow ID.
    let inside = found["inside"]["ownerInside"].as_u64().unwrap_or(65_534);
    assert_eq!(result.stdout, format!("{} {inside}", found["inside"]["inode"]), "{result:?}");
    let unit =
        own.ancestors().find_map(|path| path.file_name()?.to_str().filter(|name| name.ends_with(".scope")));
    assert_eq!(found["unit"].as_str(), unit);
    let delegate = node.run(["systemctl", "show", "-p", "Delegate", "--value", unit.unwrap()]);
    assert_eq!(found["delegate"], delegate == "yes");
    for file in found["files"].as_array().unwrap() {
        assert_eq!(file["owner"], owner(&own.join(file["name"].as_str().unwrap())).0, "{file}");
    }
    assert!(found["files"].as_array().unwrap().len() >= 3);
    let bound =
        |file: &str| fs::read_to_string(container.pod_cgroup.join(file)).unwrap().trim().parse::<u64>().ok();
    assert_eq!(found["limits"]["maxDescendants"].as_u64(), bound("cgroup.max.descendants"));
    assert_eq!(found["limits"]["maxDepth"].as_u64(), bound("cgroup.max.depth"));
    let script = "s/.* \\/sys\\/fs\\/cgroup \\(r[ow]\\).*/\\1/p";
    let mount = pods.exec(container, &["sed", "-n", script, "/proc/self/mountinfo"]).stdout;
    let words = [("rw", "read-write"), ("ro", "read-only")];
    assert_eq!(found["mount"], words.iter().find(|(short, _)| *short == mount).unwrap().1);

    // The processes, as ps lists those of the PID namespace.
    let pids = node.run(["pgrep", "--ns", &pid.to_string(), "--nslist", "pid"]);
    let rows = got["processes"].as_array().unwrap();
    for row in rows {
        let pid = row["pid"].to_string();
        assert!(pids.lines().any(|line| line == pid), "{row}");
        let result = node.run(["ps", "-o", "euid=,egid=,ppid=", "-p", &pid]);
        let want: Vec<&str> = result.split_whitespace().collect();
        assert_eq!(
            [row["user"].to_string(), row["group"].to_string(), row["parent"].to_string()],
            want[..],
            "{row}"
        );
        let user = row["user"].as_u64().unwrap();
        let root = u64::from(container.root);
        assert_eq!(row["userInside"].as_u64(), Some(user - root), "{row}");
    }
    assert!(rows.iter().any(|row| row["pid"] == pid && row["level"] == 0));

    // Capabilities and filters.
    let line = |key: &str| {
        let text = proc("status");
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    };
    let names = |key: &str| {
        let names = got["security"][key].as_array().unwrap().iter();
        names
            .map(|name| format!("cap_{}", name.as_str().unwrap().to_lowercase()))
            .collect::<Vec<_>>()
            .join(",")
    };
    for (key, field) in [("CapEff:", "effective"), ("CapBnd:", "bounding")] {
        let decoded = std::process::Command::new("capsh").arg(format!("--decode={}", line(key))).output();
        let Ok(decoded) = decoded else { continue };
        let decoded = String::from_utf8_lossy(&decoded.stdout).trim().to_owned();
        assert_eq!(decoded.split_once('=').unwrap().1, names(field));
    }
    assert_eq!(got["security"]["noNewPrivileges"], line("NoNewPrivs:") == "1");
    let seccomp = ["none", "strict", "filter"][line("Seccomp:").parse::<usize>().unwrap()];
    assert_eq!(got["security"]["seccomp"], seccomp);

    // Sysctls, read in the container's network and user namespaces.
    for sysctl in got["sysctls"].as_array().unwrap() {
        let (name, value) = (sysctl["name"].as_str().unwrap(), sysctl["value"].as_str().unwrap());
        // Also in the user namespace, because group IDs are those inside.
        let own: &[&str] = if name.starts_with("net.") { &["-U", "-n"] } else { &["-n"] };
        let pid = pid.to_string();
        let result = node.run([&["nsenter", "-t", &pid], own, &["sysctl", "-n", name]].concat());
        // The range 1 to 0 contains no group, whatever IDs the kernel prints for it.
        if sysctl["meaning"].as_str().is_some_and(|meaning| meaning.starts_with("nobody")) {
            continue;
        }
        assert_eq!(result.split_whitespace().collect::<Vec<_>>().join(" "), value, "{name}");
    }

    // Volumes: the owner that a tool outside sees through the mount.
    for volume in got["volumes"].as_array().unwrap() {
        let path = volume["path"].as_str().unwrap();
        let result = node.run(["stat", "-c", "%u", &format!("/proc/{pid}/root{path}")]);
        assert_eq!(volume["owner"].to_string(), result, "{volume}");
        let inside = pods.exec(container, &["stat", "-c", "%u", path]);
        assert_eq!(volume["ownerInside"].as_u64().unwrap_or(65_534).to_string(), inside.stdout, "{volume}");
        let line =
            proc("mountinfo").lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap().to_owned();
        assert_eq!(volume["idMapped"], line.split(' ').nth(5).unwrap().contains("idmapped"), "{line}");
        assert_eq!(volume["kind"].as_str(), line.split(" - ").nth(1).unwrap().split(' ').next());
    }
}

#[test]
fn explain_is_true_before_and_after_delegation() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "kubelet:200000:6553600\n");
    }
    node.run(["useradd", "--system", "kubelet"]);
    fs::create_dir_all(node.path("srv/data")).unwrap();
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged());
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged().mount("/srv/data", "/data"));

    // Before: there is no agent to delegate the cgroup, and explain reports it, whichever name is used.
    let (code, before) = document(&node, "privileged");
    assert_eq!(code, 1, "{before:#}");
    assert_true(&node, &pods, &container, &container.cgroup, &before);
    assert_eq!(before["problems"], json!(["the cgroup should belong to host user 200000 and does not"]));
    assert_eq!(
        before["next"],
        json!([
            "start the agent: systemctl enable --now usernsd; in a DaemonSet kubectl describe its pod on this node"
        ])
    );
    assert_eq!(before["got"]["uidMap"][0]["pool"], "slot 1 of 100 in pool kubelet");
    let pid = pods.status(&container).pid.to_string();
    for target in ["default/privileged", &container.id, &container.id[..12], &pid] {
        assert_eq!(document(&node, target), (1, before.clone()), "{target}");
    }
    let (_, text) = explain(&node, &["privileged"]);
    golden("explain-before.txt", &normal(&text, &pods, &container));

    // After the agent has started.
    let agent = Agent::start(&node);
    agent.wait_for_outcome(&container, "delegated");
    let (code, after) = document(&node, "privileged");
    assert_eq!((code, &after["problems"]), (0, &json!([])), "{after:#}");
    assert_true(&node, &pods, &container, &container.cgroup, &after);
    assert_eq!(after["because"], json!(["usernsd handed the cgroup over (resync)."]));
    assert_eq!(after["got"]["cgroup"]["outside"]["owner"], BASE);
    let (_, text) = explain(&node, &["privileged"]);
    golden("explain-after.txt", &normal(&text, &pods, &container));

    // The volume belongs to the host's root if the runtime could not map it.
    let volume =
        after["got"]["volumes"].as_array().unwrap().iter().find(|volume| volume["path"] == "/data").unwrap();
    assert_eq!(volume["problem"].is_null(), volume["idMapped"].as_bool().unwrap(), "{volume}");

    // A recorded outcome is not reported as the present state if something has changed since.
    std::os::unix::fs::chown(&container.cgroup, Some(0), None).unwrap();
    let (code, undone) = document(&node, "privileged");
    assert_eq!(code, 1);
    assert_eq!(
        undone["because"][0],
        "usernsd's last inspection ended as delegated; something changed it since."
    );
}

#[test]
fn explain_names_what_systemd_in_a_pod_lacks() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    // Without an agent the container ends; the cause is in what its pod requested.
    let spec = PodSpec::new("plain").annotated("usernsd.io/systemd", "true");
    let pod = pods.run_pod(&spec);
    let failed = pods.run(&pod, &ContainerSpec::systemd().tty());
    assert_eq!(pods.exit_code(&failed), 255);
    let (code, ended) = document(&node, "plain");
    assert_eq!((code, &ended["problems"]), (1, &json!(["ended with exit code 255"])), "{ended:#}");
    assert_eq!(ended["container"]["state"], "exited");
    assert!(ended["got"].is_null());
    assert!(
        ended["because"][1].as_str().unwrap().starts_with("Its annotations ask for a writable cgroup"),
        "{ended:#}"
    );
    // The container's own log contains the cause too, but explain does not require reading it.
    assert_eq!(ended["messages"][0]["id"], "systemd-api-filesystems", "{ended:#}");
    assert!(failed.log().contains("Failed to mount API filesystems"));
    assert!(ended["next"].to_string().contains("usernsd.io/systemd"), "{ended:#}");
    assert!(ended["next"].to_string().contains("systemctl enable --now usernsd"), "{ended:#}");
    pods.remove_pod(&pod);

    // Follows the remedy.
    let _agent = Agent::start(&node);
    let pod = pods.run_pod(&spec);
    let container = pods.run(&pod, &ContainerSpec::systemd());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    let pid = pods.status(&container).pid.to_string();
    node.run(["nsenter", "-t", &pid, "-n", "sysctl", "-w", "net.ipv4.ping_group_range=200000 265535"]);
    let (code, well) = document(&node, "plain");
    assert_eq!((code, &well["problems"]), (0, &json!([])), "{well:#}");
    assert_true(&node, &pods, &container, &container.cgroup, &well);
    let rows = well["got"]["processes"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["command"].as_str().unwrap().contains("systemd-journal")), "{rows:#?}");
    assert_eq!(well["got"]["cgroup"]["inside"]["inode"], well["got"]["cgroup"]["outside"]["inode"]);
    let ping = &well["got"]["sysctls"][0];
    assert_eq!((&ping["name"], &ping["value"]), (&json!("net.ipv4.ping_group_range"), &json!("0 65535")));
    assert_eq!(well["asked"]["annotations"], json!([["usernsd.io/systemd", "true"]]));
}

#[test]
fn explain_describes_a_pod_without_a_sandbox() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    // The files that the kubelet creates before it requests the sandbox.
    let uid = "6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01";
    fs::create_dir_all(node.path(&format!("var/log/pods/default_lost_{uid}"))).unwrap();
    fs::create_dir_all(node.path(&format!("var/lib/kubelet/pods/{uid}"))).unwrap();
    let mapping = json!([{"hostId": 131_072, "containerId": 0, "length": 65_536}]);
    let record = json!({"uidMappings": mapping, "gidMappings": mapping});
    node.write(&format!("/var/lib/kubelet/pods/{uid}/userns"), record.to_string());
    for target in ["lost", "default/lost"] {
        let (code, found) = document(&node, target);
        assert_eq!((code, &found["problems"]), (1, &json!(["no sandbox"])), "{found:#}");
        assert_eq!(
            (&found["container"]["state"], &found["container"]["podUid"]),
            (&json!("waiting"), &json!(uid))
        );
        assert!(found["because"][1].as_str().unwrap().contains("131072 to 196607"), "{found:#}");
        assert!(found["next"][0].as_str().unwrap().contains("describe pod lost"), "{found:#}");
    }
    let (_, text) = explain(&node, &["lost"]);
    assert!(text.starts_with("Container  default/lost   waiting\n"), "{text}");
    let (code, text) = explain(&node, &["found"]);
    assert!(code == 2 && text.contains("is on this node"), "{text}");
}

#[test]
fn explain_distinguishes_good_containers_from_bad_ones() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "optIn:\n  namespaces: [team-*]\n");
    let sleeping = ContainerSpec::sleeping;
    let lost = ContainerSpec { user_namespace: Some(crate::pods::UserNamespace::Host), ..sleeping() };
    let rows = [
        (PodSpec::new("read-only"), sleeping(), 0, "/sys/fs/cgroup is read-only in it"),
        (
            PodSpec::new("host").in_host_user_namespace(),
            sleeping(),
            0,
            "The pod did not ask for a user namespace.",
        ),
        (
            PodSpec::new("denied").annotated("usernsd.io/cgroup", "writable"),
            sleeping(),
            1,
            "pods of this namespace may not ask",
        ),
        (
            PodSpec::new("reserved").privileged().mapped(&[(0, 1000, 65_536)]),
            sleeping().privileged(),
            1,
            "below the configured minimum",
        ),
    ];
    for (pod, container, want, because) in rows {
        let name = pod.name.clone();
        let container = pods.run(&pods.run_pod(&pod), &container);
        agent.record(&container);
        let (code, found) = document_with(&node, &[&name, "--config", "/run/usernsd-test/config.yaml"]);
        assert_eq!(code, want, "{found:#}");
        assert!(found["because"].to_string().contains(because), "{found:#}");
        assert_eq!(found["got"]["userNamespace"]["host"], name == "host");
    }
    drop(agent);
    // As after a restart of CRI-O, without a guard that would refuse the container.
    let pod = pods.run_pod(&PodSpec::new("lost"));
    pods.run(&pod, &lost);
    let (code, found) = document(&node, "lost");
    assert_eq!((code, &found["problems"]), (1, &json!(["isolation lost"])), "{found:#}");
    assert_eq!(found["next"], json!(["kubectl -n default delete pod lost"]));

    for (args, code, want) in [
        (vec!["1"], 2, "is in no container; it is in cgroup"),
        (vec!["nothing"], 2, "no container, pod or process \"nothing\" is on this node"),
        (vec!["lost", "-c", "x"], 2, "the pod has no container \"x\"; it has: c"),
        (vec!["lost", "--cri-endpoint", "/none"], 2, "cannot reach the container runtime at /none"),
    ] {
        let (found, text) = explain(&node, &args);
        assert!(found == code && text.contains(want), "{args:?}: {found} {text}");
    }
    let result = node
        .command(["setpriv", "--reuid=65534", "--clear-groups", "usernsd", "explain", "lost"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&result.stderr).contains("become root"), "{result:?}");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn explain_is_true_with_crio_and_crun() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    for (handler, code) in [("crun", 0), ("runc", 1)] {
        let pod = pods.run_pod(&PodSpec::new(handler).privileged().handler(handler));
        let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
        let inner = container.cgroup.join("container");
        let own = if inner.exists() { inner } else { container.cgroup.clone() };
        let (found, output) = document(&node, handler);
        assert_true(&node, &pods, &container, &own, &output);
        assert_eq!(output["asked"]["runtimeHandler"], handler);
        // crun delegates the cgroup itself; without an agent it has no limits.
        assert_eq!(found, 1, "{output:#}");
        assert_eq!(output["problems"].to_string().contains("limits the cgroups"), code == 0, "{output:#}");
        let (_, text) = explain(&node, &[handler]);
        golden(&format!("explain-crio-{handler}-before.txt"), &normal(&text, &pods, &container));

        let agent = Agent::start(&node);
        agent.record(&container);
        let (found, output) = document(&node, handler);
        assert_eq!((found, &output["problems"]), (0, &json!([])), "{output:#}");
        assert_true(&node, &pods, &container, &own, &output);
        let (_, text) = explain(&node, &[handler]);
        golden(&format!("explain-crio-{handler}-after.txt"), &normal(&text, &pods, &container));
    }
}
