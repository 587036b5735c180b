//! AppArmor enforcing: pods under the runtime's default profile and under those in `apparmor/`. A machine
//! without AppArmor skips these cases; `make vm-test` runs them on one that has it.

use std::fs;

use usernsd_proto::cri::{SecurityProfile, security_profile::ProfileType};

use crate::agent::{Agent, node_with_binary};
use crate::daemon_pod::{self, AS_IT_IS, DaemonPod, Variant};
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

/// Loads a profile of this source, with lines left out.
fn load(node: &Node, name: &str, keep: impl Fn(&str) -> bool) {
    let source = format!("{}/apparmor/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(source).unwrap();
    let kept: String = text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect();
    let path = format!("/etc/apparmor.d/{name}");
    node.write(&path, kept);
    node.run(["apparmor_parser", "--replace", &path]);
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
    let said = pods.exec(container, &service);
    assert_eq!(said.code, 0, "{said:?}");
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
    let _agent = Agent::start(&node);
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

    load(&node, "usernsd-systemd", |_| true);
    let before = denials(&node).len();
    let ours = systemd_under(&pods, "ours", 3, Some("usernsd-systemd"));
    assert_systemd_runs(&pods, &ours, BASE + 3 * 65_536);
    assert_eq!(profile_of(&pods, &ours), "usernsd-systemd (enforce)");
    assert!(has_private_tmp(&pods, &ours), "{:#?}", denials(&node));
    assert!(has_mounts(&pods, &ours), "{:#?}", denials(&node));
    let denied = denials(&node).split_off(before);
    assert!(denied.iter().all(|line| !line.contains("operation=\"mount\"")), "{denied:#?}");

    // What the default profile keeps from a container, ours does too.
    for file in ["/proc/sysrq-trigger", "/sys/kernel/security/apparmor/profiles", "/proc/kcore"] {
        let said = pods.exec(&ours, &["/bin/sh", "-c", &format!("cat {file} || echo x >{file}")]);
        assert_ne!(said.code, 0, "{file}: {said:?}");
    }

    // Each rule about mounts is needed.
    for rule in ["mount,", "umount,"] {
        load(&node, "usernsd-systemd", |line| line.trim() != rule);
        let said =
            pods.exec(&ours, &["systemd-run", "--quiet", "--wait", "--property=PrivateTmp=yes", "true"]);
        assert_eq!(said.code, 226, "{rule} is not needed");
    }
}

#[track_caller]
fn wait_for_the_agent(node: &Node) {
    let begun = std::time::Instant::now();
    while !DaemonPod.log(node, "agent").contains("joined the runtime over NRI") {
        let said = || format!("{}\n{:#?}", DaemonPod.log(node, "agent"), denials(node));
        assert!(begun.elapsed().as_secs() < 120, "the agent did not join the runtime: {}", said());
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
    load(&node, "usernsd-agent", |_| true);
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
    let denied = denials(&node).split_off(before);
    let ours: Vec<_> = denied.iter().filter(|line| line.contains("profile=\"usernsd-agent\"")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
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
    let said = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert!(said.contains(&format!("the AppArmor profile {DEFAULT} of this container forbids it")), "{said}");
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
