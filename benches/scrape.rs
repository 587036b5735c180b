//! A scrape with 500 containers in 250 pods, and the parts of it that read the node: real cgroups, and two
//! processes for each container in some user namespace. Then the same through `usernsd exporter`, with its
//! memory.
//!
//! The targets: a scrape at full detail within 10 ms, the exporter within 20 MiB. Needs root and cgroup v2;
//! prints a message if they are missing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench that fails panics"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use divan::Bencher;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::container::{CgroupMount, CriId, PodRef};
use usernsd_domain::delegation::{KnownLimits, Limits};
use usernsd_domain::guard::Verdict;
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::isolation::Stage;
use usernsd_domain::node::{Detail, Exposition, Peer};
use usernsd_domain::record::{Outcome, Record, Source, UserNamespace, UserNamespaceMode};
use usernsd_inspect::survey::Surveyor;
use usernsd_report::metrics::Metrics;
use usernsd_report::state::{About, Sources, State, serve};
use usernsd_report::store::Store;

const PODS: u32 = 250;
const CONTAINERS: u32 = 2;
const PROCESSES: usize = 1000;
/// Requests of each document over HTTP.
const ROUNDS: usize = 41;

/// A node's files and cgroups; dropping it removes them.
struct Node {
    root: tempfile::TempDir,
    cgroup: PathBuf,
    processes: Vec<Child>,
}

static NODE: OnceLock<(Store, Arc<Surveyor>)> = OnceLock::new();

fn slice(pod: u32) -> String {
    format!("kubepods.slice/kubepods-pod{pod:08x}_0000_4000_8000_000000000000.slice")
}

impl Node {
    fn make() -> Option<Node> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
            let is_it = fields.get(2) == Some(&"cgroup2") && fields.get(3)?.starts_with("rw");
            is_it.then(|| PathBuf::from(fields.get(1).copied().unwrap_or_default()))
        })?;
        let cgroup = mount.join(format!("usernsd-bench-{}", std::process::id()));
        fs::create_dir(&cgroup).ok()?;
        for pod in 0..PODS {
            for container in 0..CONTAINERS {
                let scope = cgroup.join(slice(pod)).join(format!("crio-{container}.scope"));
                fs::create_dir_all(&scope).unwrap();
                fs::write(scope.join("cgroup.max.descendants"), "54").unwrap();
            }
            fs::write(cgroup.join(slice(pod)).join("cgroup.max.descendants"), "250").unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["etc", "sys/fs", "var/lib/kubelet/pods"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        std::os::unix::fs::symlink(&cgroup, at("sys/fs/cgroup")).unwrap();
        fs::create_dir(at("proc")).unwrap();
        let link = |to: String, name: &str| std::os::unix::fs::symlink(to, at("proc").join(name)).unwrap();
        link("/proc/sys".to_owned(), "sys");
        // This user may not be permitted to examine the machine's process 1.
        link(format!("/proc/{}", std::process::id()), "1");
        for file in ["etc/subuid", "etc/subgid"] {
            fs::write(at(file), "core:100000:65536\ncontainers:200000:268435456\n").unwrap();
        }
        for file in ["etc/passwd", "etc/group"] {
            fs::copy(format!("/{file}"), at(file)).unwrap();
        }
        let mut node = Node { root, cgroup, processes: vec![] };
        for _ in 0..PROCESSES {
            let mut sleep = Command::new("sleep");
            // The processes end soon, whatever happens to this one.
            sleep.arg("100").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let process = sleep.spawn().unwrap();
            let name = process.id().to_string();
            let link = node.root.path().join("proc").join(&name);
            std::os::unix::fs::symlink(format!("/proc/{name}"), link).unwrap();
            node.processes.push(process);
        }
        Some(node)
    }

    fn store(&self) -> Store {
        let store = Store::new(SystemTime::UNIX_EPOCH);
        for pod in 0..PODS {
            for container in 0..CONTAINERS {
                let base = 200_000 + 65_536 * pod;
                let map = IdMap::parse(&format!("0 {base} 65536")).ok();
                let index = pod * CONTAINERS + container;
                let path = format!("/{}/crio-{container}.scope", slice(pod));
                store.put(Record {
                    id: CriId::parse(&format!("{index:064x}")).unwrap(),
                    sandbox_id: format!("{pod:064x}"),
                    name: format!("container-{container}"),
                    pod: PodRef {
                        namespace: format!("team-{}", pod % 10),
                        name: format!("deployment-{pod}-7d9c5b8f6-x2k4p"),
                        uid: format!("{pod:08x}-0000-4000-8000-000000000000"),
                    },
                    pid: Some(index),
                    uid_map: map.clone(),
                    gid_map: map,
                    user_namespace: Some(UserNamespace { inode: Some(pod.into()), is_hosts: false }),
                    mode: UserNamespaceMode::Pod,
                    mount: Some(CgroupMount::ReadWrite),
                    cgroup: CgroupPath::parse(&path).ok(),
                    inode: Some(index.into()),
                    owner: Some(HostId(base)),
                    limits: KnownLimits::Set(Limits::DEFAULT),
                    outcome: Outcome::Delegated,
                    source: Source::Nri,
                    isolation: Verdict::Good,
                    stage: Stage::Ready,
                    missed: false,
                });
            }
        }
        store
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        for pod in 0..PODS {
            for container in 0..CONTAINERS {
                let _ = fs::remove_dir(self.cgroup.join(slice(pod)).join(format!("crio-{container}.scope")));
            }
            let _ = fs::remove_dir(self.cgroup.join(slice(pod)));
        }
        let _ = fs::remove_dir(self.cgroup.join("kubepods.slice"));
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn metrics(detail: Detail) -> Metrics {
    let (store, surveyor) = NODE.get().unwrap();
    let surveyor = Arc::clone(surveyor);
    let look = Arc::new(move |snapshot: &_| surveyor.survey(snapshot));
    Metrics::new(store.clone(), look, Exposition { detail, max_pods: 512 }).unwrap()
}

/// Requests metrics, documents and pages over HTTP from an exporter that reads this process's state socket.
fn through_the_exporter() {
    let (store, surveyor) = NODE.get().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("state.sock");
    let about = About { node: "bench".into(), version: "0".into(), uptime_at_start: None };
    let metrics = metrics(Detail::Container);
    let document = {
        let (store, surveyor) = (store.clone(), Arc::clone(surveyor));
        move || {
            let snapshot = store.snapshot();
            State::of(&about, &snapshot, &surveyor.survey(&snapshot)).render()
        }
    };
    let sources = Sources {
        document: Box::new(document),
        metrics: Box::new(move || metrics.render()),
        changes: store.changes(),
    };
    let _server = serve(&socket, &[], sources).unwrap();
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .args(["exporter", "--allow-root", "--http", "127.0.0.1:0", "--log-format", "json", "--state-socket"])
        .arg(&socket)
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(exporter.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            line["address"].as_str().map(str::to_owned)
        })
        .unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    while !get("/readyz").contains("ok") {
        std::thread::sleep(Duration::from_millis(20));
    }
    // An answer is made once a second at most, so each round waits for a new one.
    let paths = ["/metrics", "/api/v1/state", "/"];
    let mut times = paths.map(|_| Vec::new());
    let mut lengths = [0; 3];
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(1050));
        for ((path, times), length) in paths.iter().zip(&mut times).zip(&mut lengths) {
            let since = Instant::now();
            let answer = get(path);
            times.push(since.elapsed());
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}");
            *length = answer.len();
        }
    }
    for ((path, times), length) in paths.iter().zip(&mut times).zip(lengths) {
        times.sort_unstable();
        let [least, middle, late] = [0, ROUNDS / 2, ROUNDS - 1].map(|index| times[index]);
        println!(
            "exporter {path}: {length} bytes, least {least:?}, p50 {middle:?}, most {late:?} of {ROUNDS}"
        );
    }
    // State documents change while containers come.
    for number in 0..5 {
        store.down(Peer::Nri, SystemTime::UNIX_EPOCH, format!("change {number}"));
        std::thread::sleep(Duration::from_millis(1100));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.id())).unwrap();
    let memory = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"));
    println!("exporter: {}", memory.collect::<Vec<_>>().join(", "));
    exporter.kill().unwrap();
    exporter.wait().unwrap();
}

fn main() {
    let Some(node) = Node::make() else {
        println!("skipped: needs root and a writable cgroup v2 mount");
        return;
    };
    let surveyor = Arc::new(Surveyor::new(node.root.path()).unwrap());
    assert!(NODE.set((node.store(), Arc::clone(&surveyor))).is_ok());
    for (name, detail) in [("node", Detail::Node), ("pod", Detail::Pod), ("container", Detail::Container)] {
        let text = metrics(detail).render();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("detail {name}: {series} series, {} bytes", text.len());
    }
    let (store, _) = NODE.get().unwrap();
    // The first survey warms the kernel's caches.
    let _ = surveyor.survey(&store.snapshot());
    for part in surveyor.survey(&store.snapshot()).collected {
        assert!(part.succeeded, "{part:?}");
        println!("{}: {:?}", part.collector.name(), part.took);
    }
    through_the_exporter();
    divan::main();
}

#[divan::bench(args = ["node", "pod", "container"])]
fn scrape(bencher: Bencher<'_, '_>, detail: &str) {
    let metrics = metrics(match detail {
        "node" => Detail::Node,
        "pod" => Detail::Pod,
        _ => Detail::Container,
    });
    bencher.bench_local(|| metrics.render());
}

#[divan::bench]
fn survey(bencher: Bencher<'_, '_>) {
    let (store, surveyor) = NODE.get().unwrap();
    bencher.bench_local(|| surveyor.survey(&store.snapshot()));
}
