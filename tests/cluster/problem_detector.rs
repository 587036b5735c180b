//! The node-problem-detector, which runs `usernsd doctor` as docs/kubernetes.md describes.

use std::env;

use serde_json::Value;

use crate::harness::{Cluster, start_service, wait_for};
use crate::node::Options;
use crate::node_life::failed_checks;

const PAGE: &str = include_str!("../../docs/kubernetes.md");
const PROGRAM: &str = "/usr/local/bin/node-problem-detector";
const DIRECTORY: &str = "/etc/node-problem-detector";
/// A range from which a kubelet does not start.
const WRONG: &str = "kubelet:100000:7208960\n";

/// The block of a language below the page's heading.
fn block(language: &str) -> &'static str {
    let (_, section) = PAGE.split_once("## The node-problem-detector\n").unwrap();
    let (_, text) = section.split_once(&format!("```{language}\n")).unwrap();
    text.split_once("```").unwrap().0
}

#[test]
#[cfg_attr(not(has_node_problem_detector), ignore = "USERNSD_TEST_KUBE or USERNSD_TEST_NPD names no program")]
fn the_node_problem_detector_reports_what_doctor_finds() {
    let binds = vec![(env::var_os("USERNSD_TEST_NPD").unwrap().into(), PROGRAM.to_owned())];
    let Some(cluster) = Cluster::boot_or_skip(1, &Options { binds, ..Options::default() }) else { return };
    let worker = &cluster.workers[0];
    // Errors of the machine that runs the test stay out of it.
    let here = failed_checks(worker).join(",");
    let ignore = if here.is_empty() { String::new() } else { format!(" --ignore={here}") };
    assert!(block("sh").contains("doctor --quiet"));
    let script = block("sh").replacen("doctor --quiet", &format!("doctor --quiet{ignore}"), 1);
    worker.node.write(&format!("{DIRECTORY}/usernsd.sh"), script);
    worker.node.run(["chmod", "755", &format!("{DIRECTORY}/usernsd.sh")]);
    let settings = block("json").replace("\"5m\"", "\"1s\"");
    worker.node.write(&format!("{DIRECTORY}/usernsd.json"), settings);
    start_service(
        &worker.node,
        "node-problem-detector",
        &[
            PROGRAM,
            &format!("--config.custom-plugin-monitor={DIRECTORY}/usernsd.json"),
            "'--apiserver-override=https://10.96.0.1?inClusterConfig=false&auth=/etc/kubernetes/kubelet.conf'",
            &format!("--hostname-override={}", worker.name),
        ],
    );
    let wait = |status: &str| {
        wait_for(status, || {
            let condition = cluster.node_condition(&worker.name, "UserNamespacesProblem");
            condition.filter(|condition| condition["status"] == status)
        })
    };
    assert_eq!(wait("False")["message"], "usernsd doctor finds no error");

    let [uids, gids] = ["/etc/subuid", "/etc/subgid"].map(|file| worker.node.run(["cat", file]));
    worker.node.run(["sh", "-euc", "echo kubelet:x:950:950::/:/usr/sbin/nologin >>/etc/passwd"]);
    worker.node.write("/etc/subuid", WRONG);
    worker.node.write("/etc/subgid", WRONG);
    let found = wait("True");
    println!("{found}");
    assert_eq!(found["reason"], "CheckFails");
    let failed: Vec<String> =
        failed_checks(worker).into_iter().filter(|check| !here.split(',').any(|one| one == check)).collect();
    let message = found["message"].as_str().unwrap();
    assert_eq!(message.split(':').next(), failed.first().map(String::as_str), "{failed:?}");
    let metrics = worker.node.run(["busybox", "wget", "-qO-", "http://127.0.0.1:20257/metrics"]);
    let gauge = metrics.lines().find(|line| {
        line.starts_with("problem_gauge{")
            && line.contains("UserNamespacesProblem")
            && line.contains("CheckFails")
    });
    assert!(gauge.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    let events = wait_for("the detector's Event", || {
        let events = cluster.get(&["events", "-A"]);
        let is_theirs =
            |event: &&Value| event["source"]["component"] == "usernsd" && event["reason"] == "CheckFails";
        events["items"].as_array()?.iter().find(is_theirs).cloned()
    });
    println!("{events}");

    worker.node.run(["sed", "-i", "/^kubelet:/d", "/etc/passwd"]);
    worker.node.write("/etc/subuid", uids + "\n");
    worker.node.write("/etc/subgid", gids + "\n");
    wait("False");
}
