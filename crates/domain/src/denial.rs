//! Lines in which AppArmor or SELinux reports a denial, in the kernel's log or in auditd's, and the container to which
//! each belongs.

use std::collections::{BTreeSet, HashMap};

use super::idmap::{HostId, IdMap};

/// A container whose denials are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Denied<'a> {
    /// The label of its processes; empty if there is none.
    pub label: &'a str,
    /// Its processes, and the one that it was created with.
    pub pids: &'a BTreeSet<u32>,
    /// Its users; empty if they are not known to be its own.
    pub users: &'a IdMap,
    /// When it was created, and when it ended if it did, in seconds since 1970: before and after that, numbers of
    /// processes and users may be another's.
    pub from: u64,
    pub until: u64,
}

/// What a line contains that reports a denial. The last one is written by Ubuntu's kernels when a program has created a
/// user namespace and comes under the profile `unprivileged_userns`, which denies it all capabilities.
pub const DENIALS: [&str; 3] =
    ["apparmor=\"DENIED\"", "avc:  denied", "apparmor=\"AUDIT\" operation=\"userns_create\""];

fn is_denial(line: &str) -> bool {
    DENIALS.iter().any(|mark| line.contains(mark))
}

/// The value of the first `key=` in a line, without quotes.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let found = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    Some(found.trim_matches('"'))
}

fn number(line: &str, key: &str) -> Option<u32> {
    value(line, key)?.parse().ok()
}

/// The number of the event, `SECONDS.MILLISECONDS:SERIAL`, which all records of one event share.
fn event(line: &str) -> Option<&str> {
    line.split_once("audit(")?.1.split_once(')').map(|(event, _)| event)
}

/// Whether an SELinux label, `USER:ROLE:TYPE:s0:c12,c34`, has the categories of a container. A label without them, or
/// with the range of all of them (`c0.c1023`), is that of many processes.
fn has_categories(label: &str) -> bool {
    let Some((_, categories)) = label.rsplit_once(":s0:") else { return false };
    categories.split(',').all(|one| {
        one.strip_prefix('c')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

impl Denied<'_> {
    /// The container's lines among those of a log. A line is the container's if it has the container's SELinux label
    /// with its categories, the number of one of its processes, or one of its users; the user can be in another record
    /// of the same event. Containers that share their categories share such lines: those of a pod and, on OpenShift,
    /// those of a project.
    #[must_use]
    pub fn lines<'l>(&self, log: &'l str) -> Vec<&'l str> {
        let users: HashMap<&str, u32> = log
            .lines()
            .filter(|line| line.contains("type=SYSCALL"))
            .filter_map(|line| Some((event(line)?, number(line, "fsuid")?)))
            .collect();
        let denials = log.lines().filter(|line| is_denial(line));
        denials.filter(|line| self.is_its(line, &users)).collect()
    }

    fn is_its(&self, line: &str, users: &HashMap<&str, u32>) -> bool {
        let second = event(line).and_then(|event| event.split_once('.')?.0.parse().ok());
        if !second.is_some_and(|second| (self.from..=self.until).contains(&second)) {
            return false;
        }
        let is_label = |label: &str| label == self.label && has_categories(label);
        let is_user = |user: u32| self.users.container_of(HostId(user)).is_some();
        let user = number(line, "fsuid").or_else(|| users.get(event(line)?).copied());
        value(line, "scontext").is_some_and(is_label)
            || number(line, "pid").is_some_and(|pid| self.pids.contains(&pid))
            || user.is_some_and(is_user)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LABEL: &str = "system_u:system_r:container_t:s0:c12,c34";

    const LOG: &str = "\
kernel: usb 1-1: new device
audit: type=1400 audit(1.1:1): apparmor=\"DENIED\" operation=\"mount\" profile=\"crio-default\" pid=70 comm=\"(x)\"
audit: type=1400 audit(1.2:2): apparmor=\"DENIED\" operation=\"mount\" profile=\"crio-default\" pid=71 comm=\"(x)\"
audit: type=1400 audit(1.3:3): apparmor=\"DENIED\" operation=\"open\" profile=\"p\" pid=9 comm=\"x\" fsuid=200000 ouid=0
audit: type=1400 audit(1.4:4): apparmor=\"DENIED\" operation=\"open\" profile=\"p\" pid=9 comm=\"x\" fsuid=0 ouid=200000
audit: type=1400 audit(1.5:5): apparmor=\"ALLOWED\" operation=\"open\" profile=\"p\" pid=70 comm=\"x\" fsuid=200000 ouid=0
type=AVC msg=audit(2.1:6): avc:  denied  { write } for  pid=9 comm=\"systemd\" scontext=system_u:system_r:container_t:s0:c12,c34 tcontext=system_u:object_r:cgroup_t:s0 tclass=dir permissive=0
type=AVC msg=audit(2.2:7): avc:  denied  { write } for  pid=9 comm=\"systemd\" scontext=system_u:system_r:container_t:s0:c1,c2 tcontext=system_u:object_r:cgroup_t:s0 tclass=dir permissive=0
type=SYSCALL msg=audit(2.2:7): arch=c000003e syscall=83 success=no exit=-13 ppid=1 pid=9 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=265535 egid=0 comm=\"systemd\"
type=SYSCALL msg=audit(2.3:8): arch=c000003e syscall=83 success=no pid=70 fsuid=265535
";

    fn serials_in(from: u64, until: u64, label: &str, pids: &[u32], users: &str) -> Vec<String> {
        let users = IdMap::parse(users).unwrap();
        let pids = pids.iter().copied().collect();
        let denied = Denied { label, pids: &pids, users: &users, from, until };
        let lines = denied.lines(LOG);
        lines.iter().map(|line| event(line).unwrap().rsplit(':').next().unwrap().to_owned()).collect()
    }

    fn serials(label: &str, pids: &[u32], users: &str) -> Vec<String> {
        serials_in(0, u64::MAX, label, pids, users)
    }

    #[test]
    fn a_denial_is_the_containers_by_label_process_or_user() {
        assert_eq!(serials("crio-default (enforce)", &[70], ""), ["1"]);
        assert_eq!(serials("crio-default (enforce)", &[], "0 200000 65536"), ["3", "7"]);
        assert_eq!(serials(LABEL, &[], ""), ["6"]);
        assert_eq!(serials(LABEL, &[71], "0 200000 65536"), ["2", "3", "6", "7"]);
        assert_eq!(serials("", &[], "0 300000 65536"), [""; 0]);
    }

    #[test]
    fn what_happened_before_or_after_the_container_is_anothers() {
        assert_eq!(serials_in(2, 2, LABEL, &[71], "0 200000 65536"), ["6", "7"]);
        assert_eq!(serials_in(0, 1, LABEL, &[71], "0 200000 65536"), ["2", "3"]);
    }

    /// Lines of Ubuntu 24.04 (protontricks#400, and a service of systemd with a sandbox). Only what opens a file names a user.
    const RESTRICTED: &str = "\
5/3/25 10:54 PM\tkernel\taudit: type=1400 audit(1746284084.451:210): apparmor=\"AUDIT\" operation=\"userns_create\" class=\"namespace\" info=\"Userns create - transitioning profile\" profile=\"unconfined\" pid=8507 comm=\"srt-bwrap\" requested=\"userns_create\" target=\"unprivileged_userns\"
5/3/25 10:54 PM\tkernel\taudit: type=1400 audit(1746284084.451:211): apparmor=\"DENIED\" operation=\"capable\" class=\"cap\" profile=\"unprivileged_userns\" pid=8508 comm=\"srt-bwrap\" capability=8  capname=\"setpcap\"
5/3/25 10:54 PM\tkernel\taudit: type=1400 audit(1746284084.451:212): apparmor=\"DENIED\" operation=\"open\" class=\"file\" info=\"Failed name lookup - disconnected path\" error=-13 profile=\"unprivileged_userns\" name=\"proc/8508/uid_map\" pid=8508 comm=\"srt-bwrap\" requested_mask=\"wr\" denied_mask=\"wr\" fsuid=1000 ouid=1000
MESSAGE=audit: type=1400 audit(1733331261.212:219): apparmor=\"AUDIT\" operation=\"userns_create\" class=\"namespace\" info=\"Userns create - transitioning profile\" profile=\"unconfined\" pid=3197 comm=\"(uidsynth)\" requested=\"userns_create\" target=\"unprivileged_userns\"
[306.1] audit: type=1400 audit(1746284085.000:214): apparmor=\"AUDIT\" operation=\"exec\" class=\"file\" info=\"conflicting profile attachments - ix fallback\" error=-13 profile=\"unconfined\" name=\"/usr/bin/x\" pid=8507 comm=\"x\" requested_mask=\"x\" fsuid=1000 ouid=0 target=\"unconfined\"
";

    #[test]
    fn user_namespaces_that_ubuntu_restricts_are_denials_of_the_container_that_creates_them() {
        for (pids, users, serials) in [
            (&[8507][..], "", &["210"][..]),
            (&[8507, 8508], "", &["210", "211", "212"]),
            (&[], "0 1000 1", &["212"]),
            (&[8507], "0 1000 1", &["210", "212"]),
            (&[3197], "", &["219"]),
            (&[1], "0 100000 65536", &[]),
        ] {
            let users = IdMap::parse(users).unwrap();
            let pids = pids.iter().copied().collect();
            let denied = Denied { label: "unconfined", pids: &pids, users: &users, from: 0, until: u64::MAX };
            let lines = denied.lines(RESTRICTED);
            let found: Vec<_> =
                lines.iter().map(|line| event(line).unwrap().rsplit(':').next().unwrap()).collect();
            assert_eq!(found, serials, "{pids:?} {users:?}");
        }
    }

    #[test]
    fn a_label_without_categories_is_nobodys_alone() {
        for label in ["a:b:spc_t:s0", "a:b:container_t:s0", "a:b:container_t:s0-s0:c0.c1023", "cri-o"] {
            let log =
                format!("audit(1.1:1): avc:  denied  {{ read }} for  pid=9 scontext={label} tclass=file");
            let (pids, users) = (BTreeSet::new(), IdMap::default());
            let denied = Denied { label, pids: &pids, users: &users, from: 0, until: u64::MAX };
            assert_eq!(denied.lines(&log), [""; 0], "{label}");
        }
    }

    proptest! {
        #[test]
        fn any_log_is_read_without_panic(text in any::<String>()) {
            let (pids, users) = (BTreeSet::new(), IdMap::default());
            let denied = Denied { label: LABEL, pids: &pids, users: &users, from: 0, until: 1 };
            let _ = denied.lines(&format!("avc:  denied {text} audit({text}\ntype=SYSCALL {text}"));
        }
    }
}
