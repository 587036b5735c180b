//! The recipes of docs/recipes: each manifest of `examples/` is applied as a kubelet does, and what its page
//! promises is checked from outside.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::agent::{Agent, node_with_binary};
use crate::manifest::{Applied, Manifest};
use crate::node::{Node, Options};
use crate::pods::{Container, ContainerSpec, Pods, wait_for};

/// The host ID of root in these pods.
const ROOT: u32 = 524_288;

/// The host users of the container's processes, with their command lines.
fn processes(node: &Node, pods: &Pods<'_>, container: &Container) -> Vec<(u32, String)> {
    let of = |pid: u32| fs::read_link(node.path(&format!("proc/{pid}/ns/pid"))).ok();
    let namespace = of(pods.status(container).pid).unwrap();
    let pids = fs::read_dir(node.path("proc")).unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<(u32, String)> = pids
        .filter(|&pid| of(pid).as_ref() == Some(&namespace))
        .filter_map(|pid| {
            let directory = node.path(&format!("proc/{pid}"));
            let words = fs::read_to_string(directory.join("cmdline")).ok()?.replace('\0', " ");
            Some((fs::metadata(directory).ok()?.uid(), words))
        })
        .collect();
    found.sort();
    found
}

/// Asserts that no process of the pod runs as a user of the host.
#[track_caller]
fn assert_nobody_outside(node: &Node, pods: &Pods<'_>, applied: &Applied, containers: &[&str]) {
    for name in containers {
        let found = processes(node, pods, applied.container(name));
        assert!(!found.is_empty(), "{name}");
        for (uid, command) in found {
            assert!((ROOT..ROOT + 65_536).contains(&uid), "{command} runs as host user {uid}");
        }
    }
}

/// The output of a command in the container, which must succeed.
#[track_caller]
fn output_of(pods: &Pods<'_>, container: &Container, script: &str) -> String {
    let output_of = pods.exec(container, &["/bin/sh", "-ec", script]);
    assert_eq!(output_of.code, 0, "{script}: {}{}", output_of.stdout, output_of.stderr);
    println!("$ {script}\n{}", output_of.stdout);
    output_of.stdout
}

#[track_caller]
fn wait_for_line(pods: &Pods<'_>, container: &Container, line: &str) {
    wait_for(line, || {
        assert!(pods.is_running(container), "it ended: {}", container.log());
        container.log().lines().any(|output_of| output_of == line).then_some(())
    });
}

#[test]
fn the_recipe_for_a_systemd_server_works() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::start(&node);
    let applied = pods.apply(&Manifest::example("systemd-server.yaml"), ROOT);
    let server = applied.container("server");

    assert_eq!(pods.systemd_state(server), Ok("running".to_owned()), "{}", server.log());
    assert_eq!(server.owner(""), (ROOT, 0));
    assert!(output_of(&pods, server, "systemctl is-active nginx").starts_with("active"));
    // The serving process runs as a user that is neither root inside nor a user outside.
    let workers: Vec<_> =
        processes(&node, &pods, server).into_iter().filter(|(_, words)| words.contains("worker")).collect();
    assert!(workers.iter().all(|(uid, _)| *uid == ROOT + 33) && !workers.is_empty(), "{workers:?}");
    assert_nobody_outside(&node, &pods, &applied, &["server"]);
    // The data belongs to the server, and to root on the volume itself.
    output_of(&pods, server, "touch /data/kept && stat -c %u:%a /data/kept");
    let kept = format!("run/kubelet-volumes/{}/data/kept", applied.pod.uid);
    assert_eq!(fs::metadata(node.path(&kept)).unwrap().uid(), 0, "mapped by the mount");
}

#[test]
fn the_recipe_for_a_root_application_works() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::start(&node);
    let applied = pods.apply(&Manifest::example("root-application.yaml"), ROOT);
    let server = applied.container("server");
    wait_for_line(&pods, server, "session up");
    println!("{}", server.log());
    assert!(server.log().contains("uid=4242(alice)"), "{}", server.log());
    assert!(server.log().contains("4243(sessions)"), "{}", server.log());
    let session = processes(&node, &pods, server);
    assert_eq!(session.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), [ROOT + 4242], "{session:?}");
    // Only the group may read the token, and no one else can by being root on the host.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    assert_eq!(output_of(&pods, server, &format!("stat -Lc %u:%g:%a {token}")), "0:4243:640");
    let other =
        pods.exec(server, &["setpriv", "--reuid=4999", "--regid=4999", "--clear-groups", "cat", token]);
    assert_ne!(other.code, 0, "{}", other.stdout);
    assert_nobody_outside(&node, &pods, &applied, &["server"]);
}

#[test]
fn the_recipe_for_a_sandbox_with_a_network_sidecar_works() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::start(&node);
    let applied = pods.apply(&Manifest::example("sandbox.yaml"), ROOT);
    let (network, sandbox) = (applied.container("network"), applied.container("sandbox"));

    assert!(output_of(&pods, sandbox, "id").starts_with("uid=1500 gid=1500"));
    let capabilities =
        output_of(&pods, sandbox, "grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' /proc/self/status");
    assert_eq!(
        capabilities.split_whitespace().collect::<Vec<_>>().join(" "),
        "CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1"
    );
    // The sidecar's route applies to the sandbox, which cannot remove it.
    assert!(output_of(&pods, sandbox, "ip route").contains("blackhole 192.0.2.0/24"));
    assert_ne!(pods.exec(sandbox, &["ip", "route", "del", "192.0.2.0/24"]).code, 0);
    output_of(&pods, network, "ip route del blackhole 192.0.2.0/24 && ip route add blackhole 192.0.2.0/24");
    // The sidecar can change only the network of this pod.
    assert!(!node.run(["ip", "route"]).contains("192.0.2.0"));
    assert_nobody_outside(&node, &pods, &applied, &["network", "sandbox"]);

    // A user from OpenShift's usual ranges is not mapped in the pod's user namespace, so its container does
    // not start.
    let spec = ContainerSpec::sleeping().named("out-of-range").user(1_000_660_000);
    let refused = pods.try_create(&applied.pod, &spec).and_then(|made| pods.try_start(&made)).unwrap_err();
    assert!(refused.message().contains("container ID 1000660000 cannot be mapped to a host ID"), "{refused}");
}

#[test]
fn the_recipe_for_a_notebook_with_a_provisioned_home_works() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::start(&node);
    let applied = pods.apply(&Manifest::example("notebook.yaml"), ROOT);
    let notebook = applied.container("notebook");

    wait_for_line(&pods, notebook, "rubin");
    assert_eq!(
        output_of(&pods, notebook, "stat -c %u:%a /home/rubin /home/rubin/notebook.ipynb"),
        "5001:700\n5001:644"
    );
    // On the volume the files belong to the user, as with any pod, so that the next one can mount it.
    let home = node.path(&format!("run/kubelet-volumes/{}/homes/rubin", applied.pod.uid));
    assert_eq!(fs::metadata(home).unwrap().uid(), 5001);
    let provision = pods.status(applied.container("provision"));
    assert_eq!(provision.exit_code, 0);
    assert_nobody_outside(&node, &pods, &applied, &["notebook"]);
}

#[test]
fn the_recipe_for_a_container_engine_works() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    // No other case needs it, so other boots do not wait for it.
    fs::copy(node.image_archive("podman"), node.path("run/podman.tar")).unwrap();
    node.run(["ctr", "-n", "k8s.io", "images", "import", "/run/podman.tar"]);
    fs::remove_file(node.path("run/podman.tar")).unwrap();
    let pods = Pods::connect(&node);
    let manifest = Manifest::example("container-engine.yaml");
    let import = "mkdir -p /tmp/root/bin && cp /bin/busybox /tmp/root/bin/ && tar -C /tmp/root -c . | podman import -q - inner:1";
    let inner = "podman run -d --name inner --network none inner:1 /bin/busybox sleep 2147483647";

    let without = pods.apply(&manifest, ROOT + 65_536);
    output_of(&pods, without.container("engine"), import);
    let failed = pods.exec(without.container("engine"), &["/bin/sh", "-ec", inner]);
    println!("without usernsd: {}", failed.stderr);
    assert!(failed.code != 0 && failed.stderr.contains("Read-only file system"), "{}", failed.stderr);

    let _agent = Agent::start(&node);
    let applied = pods.apply(&manifest, ROOT);
    let engine = applied.container("engine");
    output_of(&pods, engine, import);
    output_of(&pods, engine, inner);
    assert_eq!(output_of(&pods, engine, "podman exec inner /bin/busybox id -u"), "0");
    // The inner container's cgroup, which the engine created below its own.
    let below = output_of(&pods, engine, "cat /proc/$(podman inspect -f '{{.State.Pid}}' inner)/cgroup");
    assert!(below.contains("libpod-"), "{below}");
    let made = walk(&engine.cgroup).into_iter().find(|path| path.contains("libpod-"));
    assert!(made.is_some(), "{:?}", walk(&engine.cgroup));
    assert_nobody_outside(&node, &pods, &applied, &["engine"]);
}

/// The names of all cgroups below one.
fn walk(cgroup: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cgroup).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.push(entry.file_name().into_string().unwrap());
            found.extend(walk(&entry.path()));
        }
    }
    found
}
