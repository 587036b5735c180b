//! `explain` with a fake runtime, on a node that is only a directory.

use std::fs;
use std::time::Duration;

use crate::fakes::cri_runtime::{FakeRuntime, Scenario};
use usernsd_domain::adjust::AdjustRules;
use usernsd_domain::delegation::{Limits, OwnerPolicy, Rules};
use usernsd_domain::idmap::HostId;
use usernsd_inspect::explain::{ExplainNode, ExplainTarget, explain};
use usernsd_peers::cri::v1;

/// A line of Ubuntu 24.04 (protontricks#400).
const CREATED: &str = "audit: type=1400 audit(1746284084.451:210): apparmor=\"AUDIT\" operation=\"userns_create\" class=\"namespace\" info=\"Userns create - transitioning profile\" profile=\"unconfined\" pid=8507 comm=\"srt-bwrap\" requested=\"userns_create\" target=\"unprivileged_userns\"";

/// The messages about a container that ended, of the process 8507 with that profile.
async fn messages(profile: Option<&str>, kernel_log: &str, audit_log: &str) -> Vec<&'static str> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["sys/fs/cgroup", "proc/1/ns", "dev", "var/log/audit"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("proc/1/ns/user"), "").unwrap();
    fs::write(path("dev/kmsg"), kernel_log).unwrap();
    fs::write(path("var/log/audit/audit.log"), audit_log).unwrap();
    let nanoseconds = |seconds| i64::try_from(Duration::from_secs(seconds).as_nanos()).unwrap();
    let status = v1::ContainerStatus {
        id: "c123".into(),
        state: v1::ContainerState::ContainerExited.into(),
        created_at: nanoseconds(1_746_284_000),
        finished_at: nanoseconds(1_746_284_100),
        exit_code: 1,
        ..Default::default()
    };
    let process = profile.map_or_else(String::new, |name| format!("\"apparmorProfile\":\"{name}\""));
    let info = format!(
        r#"{{"pid":8507,"sandboxID":"s1","runtimeSpec":{{"process":{{{process}}},"linux":{{"namespaces":[]}}}}}}"#
    );
    let mut scenario = Scenario { version: ("containerd".into(), "2.1.9".into()), ..Default::default() };
    scenario.add_container("s1", status, Some(info));
    let _runtime = FakeRuntime::start(&path("cri.sock"), scenario);
    let node = ExplainNode {
        host_root: directory.path().to_owned(),
        endpoints: vec![path("cri.sock")],
        bus: None,
        state_socket: path("state.sock"),
        rules: Rules {
            owner: OwnerPolicy::ProcessUser,
            minimum_host_id: HostId(65_536),
            observe_only: false,
        },
        limits: Limits::DEFAULT,
        adjust: AdjustRules { namespaces: Vec::new(), privileged_cgroup_namespace: false },
    };
    let found = explain(&node, ExplainTarget { name: "c123", container: None, pod_uid: None }).await.unwrap();
    assert_eq!(found.len(), 1);
    found[0].messages.iter().map(|message| message.id).collect()
}

/// Ubuntu's restriction of user namespaces concerns the programs that no profile confines.
#[tokio::test]
async fn denials_are_looked_for_in_both_logs_with_and_without_a_profile() {
    let kernel_log = format!("6,339,5140900,-;{CREATED}\n");
    let audit_log = format!("{CREATED}\n");
    for profile in ["unconfined", "crio-default"] {
        assert_eq!(messages(Some(profile), &kernel_log, "").await, ["apparmor-userns"], "{profile}");
        assert_eq!(messages(Some(profile), "", &audit_log).await, ["apparmor-userns"], "{profile}");
    }
    assert_eq!(messages(Some("unconfined"), "", "").await, [""; 0]);
    // Without a security module there is no label.
    assert_eq!(messages(None, &kernel_log, &audit_log).await, [""; 0]);
}
