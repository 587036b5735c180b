//! Every series is compared with /proc, the cgroup tree and /etc, which are read here by other means than
//! the agent's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options};
use crate::pods::{Container, ContainerSpec, Pod, PodSpec, Pods, UserNamespace, wait_for};

/// Every sample by its series, from the text. No series may occur twice.
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
    }
    found
}

/// A container on the node, and its expected state.
struct Seen {
    spec: String,
    pod: Pod,
    name: &'static str,
    container: Container,
    lost: bool,
}

/// Ranges of the host side of a map, by the text of `/proc/PID/uid_map`.
fn extents(text: &str) -> Vec<(u64, u64, u64)> {
    let number = |text: &str| text.parse::<u64>().unwrap();
    text.lines()
        .map(|line| line.split_whitespace().map(number).collect::<Vec<_>>())
        .map(|numbers| (numbers[0], numbers[1], numbers[2]))
        .collect()
}

/// Directories below one, at any depth.
fn descendants(directory: &Path) -> u64 {
    let below = fs::read_dir(directory).unwrap().flatten().filter(|entry| entry.path().is_dir());
    below.map(|entry| 1 + descendants(&entry.path())).sum()
}

/// Distinct user namespaces of all processes of the node, by the links in its /proc.
fn user_namespaces(node: &Node) -> usize {
    let entries = fs::read_dir(node.path("proc")).unwrap().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path().join("ns/user")).ok());
    links.collect::<BTreeSet<_>>().len()
}

/// Compares two texts, and prints only the differences.
fn promtool(text: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        println!("promtool is not on PATH (Debian package prometheus): not asked");
        return;
    };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.trim().is_empty(), "{words}");
}

const SUBID: &str = "core:100000:65536\nkubelet:196608:7208960\nother:150000:60000\n";
/// The host IDs of the `index`th range of the pool.
fn range(index: u32) -> (u32, u32, u32) {
    (0, 196_608 + 65_536 * index, 65_536)
}

#[test]
fn every_series_agrees_with_the_node() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, SUBID);
    }
    let mut passwd = fs::read_to_string(node.path("etc/passwd")).unwrap();
    passwd.push_str(
        "core:x:1000:1000::/:/bin/sh\nstray:x:6000000:1000::/:/bin/sh\nkubelet:x:991:991::/:/bin/sh\n",
    );
    node.write("/etc/passwd", passwd);
    let pods = Pods::connect(&node);

    let privileged = || ContainerSpec::sleeping().privileged();
    let lost = ContainerSpec { user_namespace: Some(UserNamespace::Host), ..ContainerSpec::sleeping() };
    let own = |name: &str, index| PodSpec::new(name).mapped(&[range(index)]);
    let specs = [
        // Before the agent.
        (own("wrong", 0).privileged(), "c", privileged()),
        (own("older", 1).privileged(), "c", privileged()),
        // While the agent runs.
        (own("right", 2).privileged(), "c", privileged()),
        (own("read-only", 3), "c", ContainerSpec::sleeping()),
        (own("writable", 4).annotated("usernsd.io/cgroup", "writable"), "c", ContainerSpec::sleeping()),
        (PodSpec::new("root").mapped(&[(0, 0, 65_536)]).privileged(), "c", privileged()),
        (own("overlap-a", 5), "c", ContainerSpec::sleeping()),
        (own("overlap-b", 5), "c", ContainerSpec::sleeping()),
        (PodSpec::new("foreign").mapped(&[(0, 100_000, 65_536)]), "c", ContainerSpec::sleeping()),
        (PodSpec::new("host").in_host_user_namespace(), "c", ContainerSpec::sleeping()),
        (own("lost", 6), "isolated", ContainerSpec::sleeping()),
        (own("lost", 6), "lost", lost),
        (own("<b>x\"", 7), "c", ContainerSpec::sleeping()),
    ];
    let mut made: BTreeMap<&str, Pod> = BTreeMap::new();
    let mut seen: Vec<Seen> = Vec::new();
    let mut run = |seen: &mut Vec<Seen>, index: usize| {
        let (spec, name, container) = &specs[index];
        let pod = made.entry(&spec.name).or_insert_with(|| pods.run_pod(spec)).clone();
        let container = pods.run(&pod, &container.clone().named(name));
        let lost = *name == "lost";
        seen.push(Seen { spec: spec.name.clone(), pod, name, container, lost });
    };
    (0..2).for_each(|index| run(&mut seen, index));
    // A limit that someone else has set is kept.
    std::os::unix::fs::chown(&seen[0].container.cgroup, Some(12_345), None).unwrap();
    let agent = Agent::with(&node, "guard:\n  policy: report\n");
    (2..specs.len()).for_each(|index| run(&mut seen, index));
    for made in &seen {
        wait_for("a settled look", || (agent.outcome(&made.container) != "unproven").then_some(()));
    }
    // A cgroup that only the container itself creates.
    let writable = &seen[4].container;
    let script = "mkdir -p /sys/fs/cgroup/a/b /sys/fs/cgroup/c";
    assert_eq!(pods.exec(writable, &["/bin/sh", "-c", script]).code, 0);
    fs::write(seen[7].container.pod_cgroup.join("cgroup.max.descendants"), "77").unwrap();
    // Limits that only the host's root can change are read again after a while.
    let overlap = &[("pod", "overlap-b")];
    wait_for("the limit", || {
        (agent.metric("usernsd_pod_cgroup_descendants_max", overlap) == 77.0).then_some(())
    });

    // They are counted in the background of the scrape that finds changed containers.
    let before = user_namespaces(&node);
    wait_for("a new count", || {
        let found = agent.metric("usernsd_user_namespaces", &[]);
        (found >= before as f64).then_some(())
    });
    let text = agent.exposition();
    promtool(&text);
    let found = samples(&text);
    let get = |series: &str| found.get(series).copied();
    let label = |made: &Seen| format!("namespace=\"default\",pod=\"{}\"", made.spec);

    // === each pod and container, against /proc and the cgroup tree ===
    let hostile = |made: &Seen| made.spec.starts_with('<');
    let mut owner_wrong = 0;
    for made in seen.iter().filter(|made| !hostile(made)) {
        let (what, pod) = (made.spec.as_str(), label(made));
        let is_host = made.pod.spec.user_namespace == UserNamespace::Host;
        let mode = if is_host { "host" } else { "pod" };
        let uid = &made.pod.uid;
        assert_eq!(
            get(&format!("usernsd_pod_info{{{pod},uid=\"{uid}\",userns=\"{mode}\"}}")),
            Some(1.0),
            "{what}"
        );
        let map = |file| extents(&pods.proc(&made.container, file));
        let in_pod = |other: &&Seen| other.pod.id == made.pod.id && other.lost;
        for (id_type, file) in [("uid", "uid_map"), ("gid", "gid_map")] {
            // A pod's state is that of its worst container.
            let worst = seen.iter().find(in_pod).map(|lost| extents(&pods.proc(&lost.container, file)));
            let map = worst.unwrap_or_else(|| map(file));
            let root = map.iter().find(|(inside, ..)| *inside == 0).map(|(_, host, _)| *host as f64);
            let mapped = map.iter().map(|(.., length)| *length as f64).sum();
            let series = |name: &str| get(&format!("usernsd_pod_{name}{{{pod},id_type=\"{id_type}\"}}"));
            let want = if is_host { (None, None) } else { (root, Some(mapped)) };
            assert_eq!((series("host_root_id"), series("mapped_ids")), want, "{what}");
        }
        let limit = fs::read_to_string(made.container.pod_cgroup.join("cgroup.max.descendants")).unwrap();
        let limit = limit.trim().parse().unwrap_or(f64::INFINITY);
        let below = descendants(&made.container.pod_cgroup) as f64;
        let want = if is_host { (None, None) } else { (Some(below), Some(limit)) };
        let cgroup = |name: &str| get(&format!("usernsd_pod_cgroup_{name}{{{pod}}}"));
        assert_eq!((cgroup("descendants"), cgroup("descendants_max")), want, "{what}");
        let own = fs::read_to_string(made.container.cgroup.join("cgroup.max.descendants")).unwrap();
        let own =
            own.trim().parse().map_or(0.0, |most: f64| descendants(&made.container.cgroup) as f64 / most);
        let used = want.0.zip(want.1).map(|(below, limit)| own.max(below / limit));
        assert_eq!(cgroup("descendants_used_ratio"), used, "{what}");

        let of = |name: &str| get(&format!("usernsd_container_{name}{{{pod},container=\"{}\"}}", made.name));
        assert_eq!(of("lost_isolation"), made.lost.then_some(1.0), "{what}");
        if is_host || made.lost {
            assert_eq!((of("cgroup_owner_correct"), of("cgroup_writable")), (None, None), "{what}");
            continue;
        }
        // It is only written.
        let probe = ["/bin/sh", "-c", "mount | grep -q ' /sys/fs/cgroup type cgroup2 (rw'"];
        let is_writable = pods.exec(&made.container, &probe).code == 0;
        let owner = u64::from(made.container.owner("").0);
        let is_own =
            owner != 0 && map("uid_map").iter().any(|(_, host, n)| (*host..host + n).contains(&owner));
        let right = is_own || (!is_writable && owner == 0);
        owner_wrong += usize::from(!right);
        let truth = |is_so| Some(if is_so { 1.0 } else { 0.0 });
        assert_eq!(of("cgroup_writable"), truth(is_writable), "{what}");
        assert_eq!(of("cgroup_owner_correct"), truth(right), "{what}");
    }
    // The IDs of the foreign owner, and those of root if root inside is root on the host.
    assert_eq!(owner_wrong, 2);

    // === the node ===
    let count = |name: &str, label: &str, value: &str| get(&format!("usernsd_{name}{{{label}=\"{value}\"}}"));
    for (state, want) in [
        ("ok", 3.0),
        ("owner_wrong", 1.0),
        ("read_only", 6.0),
        ("unlimited", 0.0),
        // root, host, lost
        ("host_user_namespace", 3.0),
        ("unknown", 0.0),
    ] {
        let listed = || {
            agent
                .ps()
                .into_iter()
                .map(|record| format!("{}/{}: {}", record["pod"]["name"], record["name"], record["state"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(count("containers", "cgroup_state", state), Some(want), "{state}: {:#?}", listed());
    }
    for (mode, want) in [("pod", 11.0), ("auto", 0.0), ("host", 1.0), ("unknown", 0.0)] {
        assert_eq!(count("pods", "userns", mode), Some(want), "{mode}");
    }
    assert_eq!(get("usernsd_lost_isolation_containers"), Some(1.0));
    assert_eq!(get("usernsd_metrics_pods_omitted"), Some(1.0), "the one with a name from hell");
    assert!(!text.contains("<b>"));
    let after = user_namespaces(&node);
    let namespaces = get("usernsd_user_namespaces").unwrap();
    assert!(
        (before.min(after)..=before.max(after)).contains(&(namespaces as usize)),
        "{before} {namespaces} {after}"
    );
    // One for each sandbox with its own, and the host's.
    assert!(namespaces >= 12.0);
    let sysctl: f64 = node.run(["cat", "/proc/sys/user/max_user_namespaces"]).parse().unwrap();
    assert_eq!(get("usernsd_user_namespaces_max"), Some(sysctl));
    let release = node.run(["uname", "-r"]);
    let version = agent.record(&seen[0].container);
    assert!(!version.is_null());
    let node_info = found.keys().find(|series| series.starts_with("usernsd_node_info{")).unwrap();
    assert!(
        node_info.contains(&format!("kernel=\"{release}\",cri=\"containerd\",cri_version=\"")),
        "{node_info}"
    );
    // The default handler's, by containerd's configuration; known after the first survey of the node.
    assert!(node_info.contains(",oci_runtime=\"runc\""), "{node_info}");
    // Errors of pods do not make a node unready; this node's cgroup mount does.
    let state: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
    let checks = state["checks"].as_array().unwrap();
    let in_the_way = |check: &&Value| check["outcome"] == "fail" && check["category"] != "pods";
    let in_the_way = checks.iter().filter(in_the_way).map(|check| check["id"].as_str().unwrap());
    let nsdelegate = node.run(["grep", "cgroup2", "/proc/mounts"]).contains("nsdelegate");
    let want: &[&str] = if nsdelegate { &[] } else { &["cgroup_nsdelegate"] };
    assert_eq!(in_the_way.collect::<Vec<_>>(), want);
    assert_eq!(get("usernsd_node_ready"), Some(if nsdelegate { 1.0 } else { 0.0 }));
    for collector in ["pods", "cgroup", "subid", "kernel"] {
        assert_eq!(count("scrape_collector_success", "collector", collector), Some(1.0), "{collector}");
        let took = count("scrape_collector_duration_seconds", "collector", collector).unwrap();
        assert!((0.0..1.0).contains(&took), "{collector}: {took}");
    }

    // === the checks, compared with other sources ===
    wait_for("the first round of checks", || {
        agent.exposition().contains("usernsd_check_passed{").then_some(())
    });
    wait_for("what the pods ask for", || {
        agent.exposition().contains("usernsd_check_passed{check=\"pod_cgroup_writable\"").then_some(())
    });
    let found_now = samples(&agent.exposition());
    let check = |id: &str| {
        let series = format!("usernsd_check_passed{{check=\"{id}\",");
        let mut of_id =
            found_now.iter().filter(|(name, _)| name.starts_with(&series)).map(|(_, value)| *value);
        let value = of_id.next();
        assert_eq!(of_id.next(), None, "{id} twice");
        value
    };
    let as_number = |is_so: bool| Some(if is_so { 1.0 } else { 0.0 });
    let is_unified = node.run(["stat", "-f", "-c", "%T", "/sys/fs/cgroup"]) == "cgroup2fs";
    let has = |path: &str| node.path(path).exists();
    for (id, want) in [
        ("cgroup_v2", as_number(is_unified)),
        ("cgroup_nsdelegate", as_number(nsdelegate)),
        ("max_user_namespaces", as_number(sysctl > 0.0)),
        ("psi_enabled", as_number(has("proc/pressure/memory"))),
        ("cri_reachable", as_number(has("run/containerd/containerd.sock"))),
        ("nri_enabled", as_number(has("run/nri/nri.sock"))),
        ("systemd_reachable", as_number(true)),
        // The states that were broken above, and those that were not.
        ("subid_no_overlap", as_number(false)),
        ("subid_no_host_user", as_number(false)),
        ("pod_isolation", as_number(false)),
        ("pod_host_root", as_number(false)),
        ("pod_id_overlap", as_number(false)),
        ("pod_cgroup_owner", as_number(false)),
        ("pod_cgroup_writable", as_number(true)),
        ("pod_cgroup_bounded", as_number(true)),
        // A runtime that is absent is not asked.
        ("crio_config", None),
    ] {
        assert_eq!(check(id), want, "{id}");
    }
    let changes = format!("{:?}", node.exec(["usernsd", "bootstrap", "--diff"]));
    for (file, path) in [("subuid", "+++ /etc/subuid"), ("subgid", "+++ /etc/subgid")] {
        let flag = found_now[&format!("usernsd_config_drift{{file=\"{file}\"}}")];
        assert_eq!(Some(flag), as_number(changes.contains(path)), "{file}: {changes}");
    }
    let started = node.run(["systemctl", "show", "--value", "-p", "ExecMainStartTimestamp", "containerd"]);
    let started: u64 = node.run(["date", "-d", &started, "+%s"]).parse().unwrap();
    let touched: u64 = node.run(["stat", "-c", "%Z", "/etc/containerd/config.toml"]).parse().unwrap();
    let waits = found_now["usernsd_config_restart_pending{unit=\"containerd\"}"];
    assert_eq!(Some(waits), as_number(touched > started), "{touched} {started}");

    // === delays: those of the cgroups that the agent delegated, and no others ===
    let given = agent.ps().iter().filter(|record| record["outcome"] == "delegated").count() as f64;
    assert!(given >= 2.0, "{given}");
    assert_eq!(get("usernsd_fix_delay_seconds_count"), Some(given));
    // One container was running before the agent; the starts of the others waited.
    assert_eq!(get("usernsd_fix_delay_seconds_bucket{le=\"0.0001\"}"), Some(given - 1.0));
    assert!(get("usernsd_fix_delay_seconds_sum").unwrap() > 0.0);

    // === the owners of the IDs, one ID at a time if it matters ===
    for (file, path) in [("subuid", "etc/subuid"), ("subgid", "etc/subgid")] {
        let lines = fs::read_to_string(node.path(path)).unwrap().lines().count();
        assert_eq!(count("subid_ranges", "file", file), Some(lines as f64));
    }
    let pool = |name: &str, value: &str| count(&format!("id_pool_{name}"), "pool", value);
    // Only CRI-O has a pool of its own.
    assert_eq!((pool("slots", "kubelet"), pool("slots", "crio")), (Some(110.0), None));
    // wrong, older, right, read-only, writable, overlap, lost, and the one from hell.
    assert_eq!(pool("slots_used", "kubelet"), Some(8.0));
    assert_eq!((pool("first_id", "kubelet"), pool("slot_ids", "kubelet")), (Some(196_608.0), Some(65_536.0)));
    let accounts = |file: &str| -> BTreeSet<(String, u64)> {
        let text = fs::read_to_string(node.path(file)).unwrap();
        let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        fields.map(|fields| (fields[0].to_owned(), fields[2].parse().unwrap())).collect()
    };
    let low: BTreeSet<String> = ["etc/passwd", "etc/group"]
        .into_iter()
        .flat_map(accounts)
        .filter(|(_, id)| *id < 65_536)
        .map(|(name, _)| name)
        .collect();
    for (kind, want) in [
        ("pod_pod", 1.0),
        // root has all that are below 65,536.
        ("pod_host_user", low.len() as f64),
        // foreign with core's and other's, wrong with the end of other's.
        ("pod_subid", 3.0),
        // foreign and root
        ("pod_outside_pool", 2.0),
        // core's with other's, other's with the kubelet's.
        ("subid_subid", 2.0),
        // stray
        ("subid_host_user", 1.0),
    ] {
        assert_eq!(count("id_range_overlaps", "kind", kind), Some(want), "{kind}");
    }
    let shared = |pod: &str, kind: &str| {
        get(&format!("usernsd_pod_overlap_ids{{namespace=\"default\",pod=\"{pod}\",kind=\"{kind}\"}}"))
    };
    assert_eq!(shared("overlap-a", "pod_pod"), Some(65_536.0));
    assert_eq!(shared("overlap-b", "pod_pod"), Some(65_536.0));
    assert_eq!(shared("foreign", "pod_subid"), Some(65_536.0));
    assert_eq!(shared("wrong", "pod_subid"), Some(13_392.0));
    assert_eq!(shared("foreign", "pod_outside_pool"), Some(65_536.0));
    assert_eq!(shared("root", "pod_outside_pool"), Some(65_536.0));
    let ids = |file| {
        accounts(file).into_iter().map(|(_, id)| id).filter(|id| *id < 65_536).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(shared("root", "pod_host_user"), Some(ids("etc/passwd").max(ids("etc/group")) as f64));
    assert_eq!(shared("right", "pod_pod"), None);

    // === the state document has the same content ===
    let document: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["node"]["kernel"]["release"], release.as_str());
    assert_eq!(document["pods"].as_array().unwrap().len(), 12);
    for (kind, pairs) in document["idSpace"]["overlaps"].as_object().unwrap() {
        assert_eq!(count("id_range_overlaps", "kind", kind), pairs.as_f64(), "{kind}");
    }
    for made in seen.iter().filter(|made| !made.lost) {
        let all = document["containers"].as_array().unwrap();
        let container = all.iter().find(|record| record["id"] == made.container.id.as_str()).unwrap();
        let pid = pods.status(&made.container).pid;
        let link = fs::read_link(node.path(&format!("proc/{pid}/ns/user"))).unwrap();
        let inode = format!("user:[{}]", container["userNamespace"]["inode"]);
        assert_eq!(link.to_str(), Some(inode.as_str()), "{}", made.spec);
    }

    // === removed containers leave no series ===
    for made in seen.iter().filter(|made| made.spec == "overlap-b") {
        pods.remove_pod(&made.pod);
    }
    wait_for("the pod's end", || {
        let found = samples(&agent.exposition());
        let gone = !found.keys().any(|series| series.contains("overlap-b"));
        let overlaps = found.get("usernsd_id_range_overlaps{kind=\"pod_pod\"}").copied();
        (gone && overlaps == Some(0.0)).then_some(())
    });

    // === the process, according to the kernel ===
    let found = samples(&agent.exposition());
    let stat = fs::metadata(format!("/proc/{}", agent.pid())).unwrap();
    assert!(stat.uid() == 0);
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().count() as f64;
    assert!((found["process_threads"] - threads).abs() <= 8.0, "{threads}");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    let resident = found["process_resident_memory_bytes"];
    assert!((0.5..2.0).contains(&(resident / (kib * 1024.0))), "{resident} {kib}");
}

#[test]
fn a_delay_is_measured_from_the_containers_start() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
    std::thread::sleep(std::time::Duration::from_secs(2));
    let agent = Agent::start(&node);
    assert_eq!(agent.outcome(&container), "delegated");
    assert_eq!(agent.metric("usernsd_fix_delay_seconds_count", &[]), 1.0);
    assert!(agent.metric("usernsd_fix_delay_seconds_sum", &[]) >= 2.0, "{}", agent.exposition());
}

/// Group IDs have a map of their own, and observe-only mode leaves a cgroup without limits.
#[test]
fn group_ids_and_missing_limits_are_reported() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let observe = "delegation: {mechanism: none}\nguard: {policy: report}\nnri: {enabled: false}\n";
    let agent = Agent::with(&node, observe);
    // crun sets the owner itself.
    let unbounded = PodSpec::new("unbounded").numbered(1).privileged().handler("crun");
    let unbounded = pods.run(&pods.run_pod(&unbounded), &ContainerSpec::sleeping().privileged());
    let split = UserNamespace::Split { uids: vec![range(2)], gids: vec![(0, 8_000_000, 65_536)] };
    let split = PodSpec { user_namespace: split, ..PodSpec::new("split") };
    let split = pods.run(&pods.run_pod(&split), &ContainerSpec::sleeping());
    agent.wait_for_outcome(&unbounded, "already_right");
    agent.record(&split);
    let found = samples(&agent.exposition());
    let count = |state: &str| found[&format!("usernsd_containers{{cgroup_state=\"{state}\"}}")];
    let limits = ["cgroup.max.descendants", "cgroup.max.depth"]
        .map(|file| fs::read_to_string(unbounded.pod_cgroup.join(file)).unwrap());
    assert_eq!(limits, ["max\n", "max\n"]);
    assert_eq!((count("unlimited"), count("ok")), (1.0, 0.0));
    assert_eq!(
        found["usernsd_pod_cgroup_descendants_max{namespace=\"default\",pod=\"unbounded\"}"],
        f64::INFINITY
    );
    for (id_type, file, want) in [("uid", "uid_map", range(2).1), ("gid", "gid_map", 8_000_000)] {
        assert_eq!(extents(&pods.proc(&split, file)), [(0, u64::from(want), 65_536)]);
        let series =
            format!("usernsd_pod_host_root_id{{namespace=\"default\",pod=\"split\",id_type=\"{id_type}\"}}");
        assert_eq!(found[&series], f64::from(want), "{id_type}");
    }
}

/// Under the agent's list of system calls and its rights; without watches, each scrape would look at every cgroup.
#[test]
fn the_cgroup_of_a_quiet_pod_is_watched() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let container = pods.run(&pods.run_pod(&PodSpec::new("quiet")), &ContainerSpec::sleeping());
    let inode = format!(" ino:{:x} ", fs::metadata(&container.pod_cgroup).unwrap().ino());
    wait_for("a watch on the pod's cgroup", || {
        agent.exposition();
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap();
        let mut texts = descriptors.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
        texts.any(|text| text.contains("inotify wd:") && text.contains(&inode)).then_some(())
    });
}
