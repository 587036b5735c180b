//! AppArmor enforcing: pods under the runtime's default profile and under those in `apparmor/`. A machine
//! without AppArmor skips these cases; `make vm-test` runs them on one that has it.

use std::fs;

use usernsd_proto::cri::{SecurityProfile, security_profile::ProfileType};

use crate::agent::{Agent, node_with_binary};
use crate::daemon_pod::{self, AS_IT_IS, DaemonPod, Variant};
use crate::explain;
use crate::node::{Node, Options, report_skipped};
use crate::ownership::assert_systemd_runs;
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, wait_for};

/// The profile that containerd loads and gives to pods that name none.
const DEFAULT: &str = "cri-containerd.apparmor.d";

/// Whether the runtime can load profiles on the node; prints a skip if it cannot.
fn has_apparmor(node: &Node) -> bool {
    let enabled =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y");
    let found = enabled && node.path("/usr/sbin/apparmor_parser").exists();
    if !found {
        report_skipped("AppArmor is off, or the node has no apparmor_parser");
    }
    found
}

/// A profile of this source.
fn profile(name: &str) -> String {
    fs::read_to_string(format!("{}/apparmor/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn load(node: &Node, name: &str, text: &str) {
    let path = format!("/etc/apparmor.d/{name}");
    node.write(&path, text);
    node.run(["apparmor_parser", "--replace", &path]);
}

/// The profile without a rule.
fn without(text: &str, rule: &str) -> String {
    text.lines().filter(|line| line.trim() != rule).map(|line| format!("{line}\n")).collect()
}

/// The kernel's lines about what AppArmor denied.
fn denials(node: &Node) -> Vec<String> {
    let log = node.run(["dmesg"]);
    log.lines().filter(|line| line.contains("apparmor=\"DENIED\"")).map(str::to_owned).collect()
}

fn profile_of(pods: &Pods<'_>, container: &Container) -> String {
    pods.proc(container, "attr/current").trim().to_owned()
}

/// systemd that may mount in its user namespace, as its sandboxes need, if AppArmor consents.
fn systemd_under(pods: &Pods<'_>, name: &str, index: usize, profile: Option<&str>) -> Container {
    let pod = PodSpec::new(name).numbered(index).annotated("usernsd.io/systemd", "true");
    let container = pods.try_create_with(&pods.run_pod(&pod), &ContainerSpec::systemd().tty(), |config| {
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.capabilities.get_or_insert_default().add_capabilities.push("SYS_ADMIN".to_owned());
        context.apparmor = profile.map(|profile| SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: profile.to_owned(),
        });
    });
    let container = container.unwrap();
    pods.start(&container);
    container
}

/// Whether a service with a /tmp of its own gets one.
fn has_private_tmp(pods: &Pods<'_>, container: &Container) -> bool {
    let service =
        ["systemd-run", "--quiet", "--wait", "--property=PrivateTmp=yes", "touch", "/tmp/of-a-service"];
    let output_of = pods.exec(container, &service);
    assert_eq!(output_of.code, 0, "{output_of:?}");
    pods.exec(container, &["rm", "/tmp/of-a-service"]).code != 0
}

/// Whether systemd can start a service that needs mounts.
fn has_mounts(pods: &Pods<'_>, container: &Container) -> bool {
    let service = ["systemd-run", "--quiet", "--wait", "--property=TemporaryFileSystem=/srv", "true"];
    pods.exec(container, &service).code == 0
}

#[test]
fn systemd_runs_under_the_runtimes_profile_but_its_sandboxes_need_ours() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    if !has_apparmor(&node) {
        return;
    }
    let pods = Pods::connect(&node);
    let _agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("plain").annotated("usernsd.io/systemd", "true"));
    let plain = pods.run(&pod, &ContainerSpec::systemd());
    assert_systemd_runs(&pods, &plain, BASE);
    assert_eq!(profile_of(&pods, &plain), format!("{DEFAULT} (enforce)"));
    assert!(!has_private_tmp(&pods, &plain), "systemd starts the service without it, and without a message");
    let explained = node.run(["usernsd", "explain", "plain"]);
    let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(explained.contains(&format!("AppArmor profile {DEFAULT} forbids every mount")), "{explained}");

    // With the right to mount, systemd itself fails. The rule is one that denies, for which the kernel logs nothing
    // unless it is asked to.
    let before = denials(&node).len();
    let default = systemd_under(&pods, "default", 1, None);
    assert_eq!(pods.exit_code(&default), 255, "{}", default.log());
    let silent = denials(&node).split_off(before);
    assert!(!silent.iter().any(|line| line.contains("operation=\"mount\"")), "{silent:#?}");
    node.run(["sh", "-c", "printf noquiet >/sys/module/apparmor/parameters/audit"]);
    let default = systemd_under(&pods, "audited", 2, None);
    assert_eq!(pods.exit_code(&default), 255, "{}", default.log());
    let denied = denials(&node);
    let line = denied
        .iter()
        .find(|line| line.contains("operation=\"mount\""))
        .unwrap_or_else(|| panic!("{denied:#?}"));
    assert!(line.contains(&format!("profile=\"{DEFAULT}\"")), "{line}");
    node.write("/run/usernsd-test/log-of-the-kernel", line);
    let explained = node.exec(["usernsd", "explain", "--from-log", "/run/usernsd-test/log-of-the-kernel"]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("AppArmor") && explained.contains("usernsd-systemd"), "{explained}");

    let profile = profile("usernsd-systemd");
    load(&node, "usernsd-systemd", &profile);
    let before = denials(&node).len();
    let ours = systemd_under(&pods, "ours", 3, Some("usernsd-systemd"));
    assert_systemd_runs(&pods, &ours, BASE + 3 * 65_536);
    assert_eq!(profile_of(&pods, &ours), "usernsd-systemd (enforce)");
    assert!(has_private_tmp(&pods, &ours), "{:#?}", denials(&node));
    assert!(has_mounts(&pods, &ours), "{:#?}", denials(&node));
    let denied = denials(&node).split_off(before);
    assert!(denied.iter().all(|line| !line.contains("class=\"mount\"")), "{denied:#?}");

    // What the default profile keeps from a container, ours does too.
    for file in ["/proc/sysrq-trigger", "/sys/kernel/security/apparmor/profiles", "/proc/kcore"] {
        let output_of = pods.exec(&ours, &["/bin/sh", "-c", &format!("cat {file} || echo x >{file}")]);
        assert_ne!(output_of.code, 0, "{file}: {output_of:?}");
    }
    // In the kernel's log explain finds the lines that are this container's: they have one of its users.
    let secret = profile.replacen("  mount,\n", "  mount,\n  audit deny /run/secret r,\n", 1);
    load(&node, "usernsd-systemd", &secret);
    assert_ne!(pods.exec(&ours, &["/bin/sh", "-c", "echo >/run/secret; cat /run/secret"]).code, 0);
    let known = |pod: &str| {
        let (_, explained) = explain::document(&node, pod);
        let messages = explained["messages"].as_array().unwrap().clone();
        messages.into_iter().filter(|message| message["id"] == "apparmor-denied").collect::<Vec<_>>()
    };
    let of_ours = known("ours");
    assert!(
        of_ours.len() == 1 && of_ours[0]["line"].as_str().unwrap().contains("/run/secret"),
        "{of_ours:#?}"
    );
    assert_eq!(known("plain"), [serde_json::Value::Null; 0]);
    load(&node, "usernsd-systemd", &profile);

    // Each rule that it allows is needed: without it this fails, which succeeds with all of them.
    let private = "systemd-run --quiet --wait --property=PrivateTmp=yes true";
    let needs = [
        ("mount,", private),
        ("umount,", "busybox mount -t tmpfs none /srv && busybox umount /srv"),
        ("capability,", "touch /run/file && chown 1 /run/file"),
        ("network,", "busybox wget -qO- http://127.0.0.1/"),
        ("file,", "cat /etc/passwd"),
    ];
    let fails = |script: &str| {
        let output_of = pods.exec(&ours, &["/bin/sh", "-c", script]);
        (output_of.code != 0).then(|| format!("{script}: {output_of:?}"))
    };
    let with_all: Vec<String> = needs.iter().filter_map(|(_, script)| fails(script)).collect();
    assert!(with_all.is_empty(), "{with_all:#?}");
    let mut unneeded = Vec::new();
    for (rule, script) in needs {
        load(&node, "usernsd-systemd", &without(&profile, rule));
        if fails(script).is_none() {
            unneeded.push(rule);
        }
    }
    assert!(unneeded.is_empty(), "{unneeded:#?}");
    // Without this one systemd does it in another way, and each service leaves a line in the log.
    let before = denials(&node).len();
    load(&node, "usernsd-systemd", &without(&profile, "pivot_root,"));
    assert_eq!(pods.exec(&ours, &["/bin/sh", "-c", private]).code, 0);
    let denied = denials(&node).split_off(before);
    assert!(denied.iter().any(|line| line.contains("operation=\"pivotroot\"")), "{denied:#?}");
}

#[track_caller]
fn wait_for_the_agent(node: &Node) {
    let begun = std::time::Instant::now();
    while !DaemonPod.log(node, "agent").contains("joined the runtime over NRI") {
        let output_of = || format!("{}\n{:#?}", DaemonPod.log(node, "agent"), denials(node));
        assert!(begun.elapsed().as_secs() < 120, "the agent did not join the runtime: {}", output_of());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// The agent in the pod of the DaemonSet, under a profile of its own instead of none.
#[test]
fn the_agent_does_its_work_under_its_own_profile() {
    let Some(node) = daemon_pod::node(Options::default()) else { return };
    if !has_apparmor(&node) {
        return;
    }
    let profile = profile("usernsd-agent");
    load(&node, "usernsd-agent", &profile);
    let before = denials(&node).len();
    DaemonPod::play(&node, Variant { apparmor: Some("usernsd-agent"), ..AS_IT_IS });
    wait_for_the_agent(&node);
    let pid = DaemonPod.pid(&node, "agent");
    assert_eq!(node.run(["cat", &format!("/proc/{pid}/attr/current")]), "usernsd-agent (enforce)");

    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("plain").annotated("usernsd.io/systemd", "true"));
    let container = pods.run(&pod, &ContainerSpec::systemd());
    assert_systemd_runs(&pods, &container, BASE);
    let privileged = pods.run_pod(&PodSpec::new("privileged").numbered(1).privileged());
    let privileged = pods.run(&privileged, &ContainerSpec::sleeping().privileged());
    wait_for("the owner", || (privileged.owner("").0 == BASE + 65_536).then_some(()));
    // The commands that people run in it, too.
    DaemonPod.exec(&node, &["ps"]);
    DaemonPod.exec(&node, &["explain", "plain"]);
    // It sees the node's profiles: the runtime has loaded its own for the first of these containers.
    let doctor = ["podman", "exec", &format!("{}-agent", daemon_pod::POD), "/usernsd", "doctor"];
    let doctor = String::from_utf8_lossy(&node.exec(doctor).stdout).into_owned();
    assert!(doctor.contains(&format!("AppArmor enforces {DEFAULT}")), "{doctor}");
    let denied = denials(&node).split_off(before);
    let ours: Vec<_> = denied.iter().filter(|line| line.contains("profile=\"usernsd-agent\"")).collect();
    assert!(ours.is_empty(), "{ours:#?}");

    // Without any one of these rules, something of this work is denied. The others matter while it starts.
    let mut unneeded = Vec::new();
    let rules = [
        "capability chown,",
        "capability sys_ptrace,",
        "ptrace (read),",
        "ptrace (readby) peer=usernsd-agent,",
        "signal (receive),",
        "network unix stream,",
        "/host/** r,",
        "/host/sys/fs/cgroup/** wk,",
    ];
    for (number, rule) in rules.into_iter().enumerate() {
        load(&node, "usernsd-agent", &without(&profile, rule));
        let before = denials(&node).len();
        let pod = pods.run_pod(&PodSpec::new("again").numbered(2 + number).privileged());
        pods.run(&pod, &ContainerSpec::sleeping().privileged());
        // As a person in the pod does; the profile may not even let it start.
        let program = ["podman", "exec", &format!("{}-agent", daemon_pod::POD), "/usernsd", "ps"];
        let works = node.exec(program).status.success();
        let works = works && node.exec(["kill", "-CONT", &pid]).status.success();
        let denied = denials(&node).split_off(before);
        if works && !denied.iter().any(|line| line.contains("usernsd-agent")) {
            unneeded.push(rule);
        }
        load(&node, "usernsd-agent", &profile);
        pods.remove_pod(&pod);
    }
    assert!(unneeded.is_empty(), "{unneeded:#?}");
}

/// Under a runtime's default profile it may not look at other processes, which is why the manifest has none.
#[test]
fn the_agent_names_the_profile_that_forbids_its_work() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    if !has_apparmor(&node) {
        return;
    }
    // containerd loads it for the first container.
    let pods = Pods::connect(&node);
    pods.run(&pods.run_pod(&PodSpec::new("plain")), &ContainerSpec::sleeping());
    let agent = node.exec(["aa-exec", "-p", DEFAULT, "--", "usernsd", "agent"]);
    let output_of = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert!(
        output_of.contains(&format!("the AppArmor profile {DEFAULT} of this container forbids it")),
        "{output_of}"
    );
    let denied = denials(&node);
    let line = denied
        .iter()
        .find(|line| line.contains("operation=\"ptrace\""))
        .unwrap_or_else(|| panic!("{denied:#?}"));
    node.write("/run/usernsd-test/log-of-the-kernel", line);
    let explained = node.exec(["usernsd", "explain", "--from-log", "/run/usernsd-test/log-of-the-kernel"]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("AppArmor") && explained.contains("usernsd-agent"), "{explained}");
}
