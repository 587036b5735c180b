//! Which program has printed a line.

use super::begins_word;
use crate::Program;

/// The program that prints such lines, by its own name in them.
pub(super) fn named(line: &str) -> Option<&'static str> {
    // The innermost program first: the kubelet prints the runtime's message, which contains runc's.
    const MARKS: [(&str, &str); 38] = [
        ("newuidmap", "newuidmap"),
        ("newgidmap", "newgidmap"),
        ("getsubids", "getsubids"),
        ("pinns", "pinns of CRI-O"),
        ("runc create failed", "runc"),
        ("runc:", "runc"),
        ("nsexec", "runc"),
        ("unable to start container process", "runc"),
        ("crun:", "crun"),
        ("sysbox", "sysbox"),
        ("systemd-nspawn", "systemd-nspawn"),
        ("systemd[", "systemd"),
        ("podman", "podman"),
        ("buildah", "buildah"),
        ("dockerd", "Docker"),
        ("rootlesskit", "rootlesskit"),
        ("buildkit", "BuildKit"),
        ("bwrap:", "bubblewrap"),
        ("runsc", "gVisor"),
        ("nsjail", "nsjail"),
        ("kaniko", "kaniko"),
        ("virt-launcher", "KubeVirt"),
        ("fuse-overlayfs", "fuse-overlayfs"),
        ("slirp4netns", "slirp4netns"),
        ("apptainer", "Apptainer"),
        ("singularity", "Singularity"),
        ("lxc", "LXC"),
        ("lxd", "LXD"),
        ("incus", "Incus"),
        ("violates podsecurity", Program::Kubernetes.name()),
        ("security context constraint", Program::Openshift.name()),
        ("containerd", Program::Containerd.name()),
        ("crio", Program::Crio.name()),
        ("cri-o", Program::Crio.name()),
        ("kubelet", Program::Kubelet.name()),
        ("k3s", "k3s"),
        ("rke2", "RKE2"),
        ("is forbidden:", Program::Kubernetes.name()),
    ];
    // A directory of that name proves nothing, nor a word that ends with it.
    let is_named = |mark: &str| {
        line.match_indices(mark).any(|(at, _)| {
            let before = line.get(..at).unwrap_or_default();
            !before.ends_with(['/', '.', '-', '~']) && begins_word(before)
        })
    };
    MARKS.iter().find(|(mark, _)| is_named(mark)).map(|(_, program)| *program)
}

/// The name of a program that a log puts before a line: `name[7]: ` of syslog and the journal, `name | ` of docker compose,
/// or the program's own `name: ` at the beginning.
pub(super) fn by_form(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let of_journal = line.split_once("]: ").and_then(|(before, _)| {
        let (before, number) = before.rsplit_once('[')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        // Behind the time and the host, if there are any.
        let name = before.rsplit(' ').next()?;
        (is_number && is_name(name)).then_some(name)
    });
    let of_compose = || line.split_once(" | ").map(|(name, _)| name.trim_end()).filter(|name| is_name(name));
    let own = || {
        let (name, rest) = line.split_once(": ")?;
        let file = name.rsplit('/').next()?;
        // A path directly before the error is what was not there or refused: "/.ssh/id: No such file or directory".
        let is_path = name.contains('/') && is_name(file) && !name.contains(' ') && rest.contains(": ");
        (COMMANDS.contains(&file) || is_path).then_some(file)
    };
    of_journal.or_else(of_compose).or_else(own)
}

/// Programs that begin their messages with their name.
const COMMANDS: [&str; 58] = [
    "apt",
    "awk",
    "bash",
    "busybox",
    "capsh",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "cp",
    "cpio",
    "cron",
    "curl",
    "date",
    "dbus-daemon",
    "dmesg",
    "dpkg",
    "find",
    "getent",
    "git",
    "groupadd",
    "gosu",
    "hostname",
    "id",
    "initdb",
    "ip",
    "iptables",
    "ln",
    "ls",
    "mkdir",
    "modprobe",
    "mount",
    "mv",
    "mysqld",
    "nft",
    "nsenter",
    "passwd",
    "ping",
    "postgres",
    "rm",
    "rpm",
    "rsync",
    "scp",
    "sh",
    "ssh",
    "sshd",
    "strace",
    "su",
    "sudo",
    "sysctl",
    "tar",
    "touch",
    "umount",
    "unshare",
    "useradd",
    "usermod",
    "whoami",
];

/// Whether a text can be the name of a program.
fn is_name(text: &str) -> bool {
    let is_of_name = |next: char| next.is_ascii_alphanumeric() || matches!(next, '-' | '_' | '.' | '+' | '@');
    (2..=40).contains(&text.len())
        && text.starts_with(|next: char| next.is_ascii_alphabetic())
        && text.chars().all(is_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_the_form_of_a_line() {
        for (line, want) in [
            ("nov 21 11:00:00 n1 nfsidmap[7]: x", Some("nfsidmap")),
            ("grafana | x is not writable", Some("grafana")),
            ("su: authentication failure", Some("su")),
            ("/opt/app/run.sh: line 4: x", Some("run.sh")),
            ("/.ssh/id_gh: no such file or directory", None),
            ("/data/app.db: permission denied", None),
            ("error: su: x", None),
            ("user: unknown user", None),
            ("see [1]: x", None),
            ("[7]: x", None),
            ("a b | c", None),
        ] {
            assert_eq!(by_form(line), want, "{line}");
        }
    }
}
