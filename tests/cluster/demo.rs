//! `kubectl userns demo` in a real cluster.

use serde_json::json;

use crate::harness::{Cluster, wait_for};
use crate::node::Options;

/// The nodes' image that has systemd.
const IMAGE: &str = "--image=localhost/systemd:1";

#[track_caller]
fn nothing_is_left(cluster: &Cluster) {
    let listed = ["get", "pods", "-A", "-o", "name", "-l", "app.kubernetes.io/name=usernsd-demo"];
    wait_for("the pod's end", || cluster.kubectl(&listed).is_empty().then_some(()));
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_demonstration_works_and_leaves_nothing() {
    let Some(cluster) = Cluster::boot_or_skip(2, &Options::default()) else { return };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let demo_with = |more: &[&str], image: &str| {
        let output = cluster.try_kubectl(&[&["userns"], more, &["demo", image]].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let demo = |more: &[&str]| demo_with(more, IMAGE);

    let (code, _, stderr) = demo(&[]);
    assert!(code == Some(2) && stderr.contains("is usernsd installed there?"), "{stderr}");

    cluster.install("kubernetes");
    let (code, stdout, stderr) = demo(&[]);
    println!("{stdout}{stderr}");
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for part in ["\nrunning\n", "It works: systemd runs in the pod as root, which is user "] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let row = stdout.lines().find(|line| line.starts_with("default ")).unwrap_or_default();
    assert!(row.contains("systemd") && row.ends_with(" ok"), "the row of ps: {stdout}");
    nothing_is_left(&cluster);

    // An image that no registry has.
    let (code, stdout, stderr) = demo_with(&[], "--image=localhost/none:1");
    println!("{stdout}{stderr}");
    assert!(code == Some(2) && stderr.contains("the pod does not start: "), "{stdout}{stderr}");
    assert!(stderr.contains("localhost/none:1") && stderr.contains("--image names another"), "{stderr}");
    nothing_is_left(&cluster);

    // A namespace and a context that do not exist.
    let (code, _, stderr) = demo(&["--namespace=nowhere"]);
    println!("{stderr}");
    assert!(code == Some(2) && stderr.contains("namespaces \"nowhere\" not found"), "{stderr}");
    let (code, stdout, stderr) = demo(&["--context=nowhere"]);
    println!("{stderr}");
    assert!(code == Some(2) && stdout.is_empty(), "{stdout}{stderr}");
    assert!(stderr.contains("context \"nowhere\" does not exist"), "{stderr}");

    // A namespace that admits no such pod.
    cluster.kubectl(&["create", "namespace", "strict"]);
    cluster.kubectl(&["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"]);
    let (code, _, stderr) = demo(&["--namespace=strict"]);
    assert!(code == Some(2) && stderr.contains("violates PodSecurity"), "{stderr}");
    assert!(stderr.contains("another one can be named with --namespace"), "{stderr}");

    // An account without rights.
    cluster.script(
        "token=$(kubectl create token default)
         kubectl config set-credentials nobody --token=\"$token\" >/dev/null
         cluster=$(kubectl config view --minify -o 'jsonpath={.clusters[0].name}')
         kubectl config set-context nobody --cluster=\"$cluster\" --user=nobody >/dev/null",
    );
    let (code, stdout, stderr) = demo(&["--context=nobody"]);
    assert!(code == Some(2) && stdout.is_empty(), "{stdout}{stderr}");
    assert!(
        stderr.contains("you may not create pods in namespace default, nor get pods in namespace default")
            && stderr.contains("nor create pods/exec in namespace usernsd;"),
        "{stderr}"
    );

    // A terminal sends SIGINT to every process of the command, which a shell without one would let ignore it.
    for moment in ["is created", "runs on node"] {
        let printed = cluster.script(&format!(
            "setsid env --default-signal kubectl userns demo {IMAGE} >/run/demo.out 2>&1 & demo=$!
             until grep -q '{moment}' /run/demo.out; do sleep 0.05; done
             env kill -INT -- \"-$demo\"; code=0; wait \"$demo\" || code=$?
             cat /run/demo.out; echo \"code $code\"",
        ));
        assert!(printed.contains("code 130") && printed.contains(" deleted"), "{printed}");
        nothing_is_left(&cluster);
    }

    // A node without an agent.
    let [with, without] = &cluster.workers[..] else { panic!("two nodes") };
    let selector = json!({"kubernetes.io/hostname": with.name});
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
    cluster.kubectl(&["-n", "usernsd", "patch", "daemonset", "usernsd", "-p", &patch.to_string()]);
    cluster.wait_for_roll_out();
    let agents = ["-n", "usernsd", "get", "pods", "--no-headers"];
    wait_for("one agent", || (cluster.kubectl(&agents).lines().count() == 1).then_some(()));
    cluster.kubectl(&["cordon", &with.name]);
    let (code, stdout, stderr) = demo(&[]);
    println!("{stdout}{stderr}");
    assert!(code == Some(2) && stderr.contains("systemd ended with 255"), "{stdout}{stderr}");
    assert!(stderr.contains(&format!("no agent runs on node {}", without.name)), "{stderr}");
    nothing_is_left(&cluster);
    let status = cluster.try_kubectl(&["userns", "status"]);
    let (table, note) = (text(&status.stdout), text(&status.stderr));
    assert!(table.lines().count() == 2, "{table}");
    assert!(note.contains(&format!("nodes without an agent: {};", without.name)), "{note}");

    // Interrupted while no node takes the pod.
    cluster.kubectl(&["cordon", &without.name]);
    let printed = cluster.script(
        "kubectl userns demo --image=localhost/systemd:1 >/run/demo.out 2>&1 & demo=$!
         until grep -q 'waits: .*unschedulable' /run/demo.out; do sleep 0.2; done
         kill -TERM \"$demo\"; code=0; wait \"$demo\" || code=$?
         cat /run/demo.out; echo \"code $code\"",
    );
    assert!(printed.contains("code 130") && printed.contains(" deleted"), "{printed}");
    nothing_is_left(&cluster);
}
