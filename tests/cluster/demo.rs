//! `kubectl userns demo` in a real cluster.

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
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let demo = |more: &[&str]| {
        let output = cluster.try_kubectl(&[&["userns"], more, &["demo", IMAGE]].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };

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

    // Interrupted while no node takes the pod.
    cluster.kubectl(&["cordon", &cluster.workers[0].name]);
    let printed = cluster.script(
        "kubectl userns demo --image=localhost/systemd:1 >/run/demo.out 2>&1 & demo=$!
         until grep -q 'waits: .*unschedulable' /run/demo.out; do sleep 0.2; done
         kill -TERM \"$demo\"; code=0; wait \"$demo\" || code=$?
         cat /run/demo.out; echo \"code $code\"",
    );
    assert!(printed.contains("code 130") && printed.contains(" deleted"), "{printed}");
    nothing_is_left(&cluster);
}
