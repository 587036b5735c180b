//! Configuration that was written but is not in effect, and the cost of restarting.
//!
//! CRI-O reads workloads, sysctls, pod events, NRI and hook directories only when it starts; after a reload
//! its `/config` shows handlers that pods do not get (#10202). So times decide: a file that changed after
//! the process started was not read by it. The result of `/config` is shown in addition.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::check::Check;
use super::containerd::layout::DISTRIBUTIONS;
use super::crio::CrioVersion;
use super::finding::{Finding, FindingId, Severity};
use super::nri_plugin;

/// The remedy if no file has changed since the start.
pub const SET_ELSEWHERE: &str = "check the flags and the environment of crio.service, which override files; if they are right, restart it";

/// The files in which the kubelet finds its user and its range.
const RANGE: [&str; 3] = ["/etc/passwd", "/etc/subgid", "/etc/subuid"];

/// A service that reads files when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// `crio.service`.
    Crio,
    /// `containerd.service`.
    Containerd,
    /// `kubelet.service`.
    Kubelet,
}

/// A file, and the later of its mtime and ctime: a rename changes only the latter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    pub path: String,
    /// When it changed.
    pub at: SystemTime,
    /// The only service that the change concerns; `None`: every service that reads the file. Each service
    /// reads one owner's lines of `/etc/subuid`, and useradd writes others.
    pub only: Option<Service>,
}

/// A service whose running configuration differs from its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub service: Service,
    /// The unit in which it runs.
    pub unit: &'static str,
    /// The files that changed after its start.
    pub files: Vec<String>,
    /// Where its running configuration differs from its files, as it reports ([`super::crio::loaded::differences`]);
    /// `None` if it cannot be asked.
    pub differences: Option<Vec<String>>,
}

/// A running service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub service: Service,
    /// The unit in which it runs, or would run.
    pub unit: &'static str,
    /// When it started; `None` if it does not run.
    pub since: Option<SystemTime>,
}

// === impl Service ===

words! {
    /// The name in metrics.
    Service { Crio = "crio", Containerd = "containerd", Kubelet = "kubelet" }
}

impl Service {
    /// The systemd units in which it may run; the last one is that of packages, the others are of distributions, which
    /// run it as a part of themselves.
    #[must_use]
    pub fn units(self) -> &'static [&'static str] {
        match self {
            Service::Crio => &["crio.service"],
            Service::Containerd => &[
                "k3s.service",
                "k3s-agent.service",
                "rke2-server.service",
                "rke2-agent.service",
                "k0scontroller.service",
                "k0sworker.service",
                "snap.microk8s.daemon-containerd.service",
                "containerd.service",
            ],
            Service::Kubelet => &[
                "k3s.service",
                "k3s-agent.service",
                "rke2-server.service",
                "rke2-agent.service",
                "k0scontroller.service",
                "k0sworker.service",
                "snap.microk8s.daemon-kubelite.service",
                "kubelet.service",
            ],
        }
    }

    /// The unit of packages.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Service::Crio => "crio.service",
            Service::Containerd => "containerd.service",
            Service::Kubelet => "kubelet.service",
        }
    }

    /// Whether the finding keeps the service from starting.
    #[must_use]
    pub fn is_stopped_by(self, finding: &Finding) -> bool {
        let stops = match self {
            Service::Crio => finding.check() == Some(Check::CrioConfig),
            // It serves without CRI if only that is switched off.
            Service::Containerd => finding.id == FindingId::ContainerdUndecodable,
            Service::Kubelet => matches!(
                finding.check(),
                Some(Check::SubidKubelet | Check::KubeletGetsubids | Check::KubeletRecords)
            ),
        };
        stops && finding.severity == Severity::Error
    }

    /// Whether the service reads that file when it starts.
    #[must_use]
    pub fn reads(self, path: &str) -> bool {
        let below = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        // CRI-O looks `containers` up once, the kubelet its own user.
        let ranges = matches!(path, "/etc/subuid" | "/etc/subgid");
        // A runtime launches plugins when it starts. The plugin reads its configuration again by itself.
        let plugin =
            path == nri_plugin::PLUGIN_DIR || path.rsplit('/').next().is_some_and(nri_plugin::is_file_name);
        match self {
            // A file that was removed is only visible by its directory's time.
            Service::Crio => {
                let main = matches!(path, "/etc/crio/crio.conf" | "/etc/crio/crio.conf.d");
                main || below("/etc/crio/crio.conf.d") || ranges || plugin
            }
            Service::Containerd => {
                let sources = DISTRIBUTIONS.iter().flat_map(|layout| layout.sources);
                let of_distribution = sources.copied().any(|source| path == source || below(source));
                // In whatever directory the distribution has its data.
                let moved = path.contains("/agent/etc/containerd/");
                below("/etc/containerd") || of_distribution || moved || plugin
            }
            Service::Kubelet => {
                let own = below("/etc/kubernetes") || path == "/var/lib/kubelet/config.yaml";
                own || path == "/etc/passwd" || ranges
            }
        }
    }
}

impl Unread {
    /// Whether the kubelet has not read its own range: pods get IDs of the former one, and the kubelet does not start
    /// again while they have them (kubernetes/kubernetes#132966). The files are those of the range, and the user's.
    #[must_use]
    pub fn is_of_range(&self) -> bool {
        self.service == Service::Kubelet && self.files.iter().any(|file| RANGE.contains(&file.as_str()))
    }

    /// Without the files of the kubelet's range; `None` if nothing is left.
    #[must_use]
    pub fn beside_range(&self) -> Option<Unread> {
        if !self.is_of_range() {
            return Some(self.clone());
        }
        let others = self.files.iter().filter(|file| !RANGE.contains(&file.as_str()));
        let files: Vec<String> = others.cloned().collect();
        (!files.is_empty()).then(|| Unread { files, ..self.clone() })
    }

    /// The difference, as a sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        let unit = self.unit;
        if self.is_of_range() {
            return format!(
                "{unit} was started before its range of IDs changed ({}): pods with hostUsers: false that start now get \
                 IDs of the former range, and while there is one, the kubelet does not start again",
                self.files.join(", ")
            );
        }
        let begin = match self.files.as_slice() {
            [] => format!("{unit} runs with other settings than those in its files"),
            files => format!("{unit} was started before {} changed, and goes on as before", files.join(", ")),
        };
        match self.differences.as_deref() {
            None => begin,
            Some([]) => format!(
                "{begin}; its /config shows the settings of the files, which is no proof: after a reload it shows handlers \
                 that pods do not get (cri-o/cri-o#10202)"
            ),
            Some(differences) => format!("{begin}; by its /config {}", differences.join(", ")),
        }
    }
}

/// The files that each service has not read, in the order of restarts.
#[must_use]
pub fn pending<'a>(running: &[Running], changed: &'a [ChangedFile]) -> Vec<(Running, Vec<&'a str>)> {
    Service::ALL
        .into_iter()
        .filter_map(|service| {
            // A service that is not running reads everything when it starts.
            let found = running.iter().find(|one| one.service == service)?;
            let since = found.since?;
            let unread: Vec<&str> = changed
                .iter()
                .filter(|file| file.at >= since && service.reads(&file.path))
                .filter(|file| file.only.is_none_or(|only| only == service))
                .map(|file| file.path.as_str())
                .collect::<BTreeSet<&str>>()
                .into_iter()
                .collect();
            let unread = without_directories(unread);
            (!unread.is_empty()).then(|| (found.clone(), unread))
        })
        .collect()
}

/// Drops a directory if one of its files is in the list.
fn without_directories(paths: Vec<&str>) -> Vec<&str> {
    let holds = |dir: &str, path: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let all = paths.clone();
    paths.into_iter().filter(|dir| !all.iter().any(|path| holds(dir, path))).collect()
}

/// Warnings about restarting CRI-O for the containers of that many pods, of which so many have a user namespace.
#[must_use]
pub fn warnings(
    version: Option<CrioVersion>,
    cgroup_manager: &str,
    pods: usize,
    userns_pods: usize,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let forgets = version.is_none_or(CrioVersion::forgets_mappings_on_restart);
    if forgets && userns_pods > 0 {
        let which = version
            .map_or_else(|| "this CRI-O, whose version is not known,".into(), |v| format!("CRI-O {v}"));
        let what = format!(
            "{which} forgets the ID mappings of the {userns_pods} running pods with a user namespace when it is \
             restarted: their containers that start later run as the host's root"
        );
        found.push(Finding::error(
            FindingId::RestartForgetsMappings,
            what,
            "drain the node first, or update to 1.35.6 or 1.37.0",
        ));
    }
    if cgroup_manager == "cgroupfs" && pods > 0 {
        let what = "with cgroup_manager cgroupfs a restart of crio.service ends every container's monitor"
            .to_owned();
        found.push(Finding::error(FindingId::RestartEndsMonitors, what, "drain the node first"));
    }
    found
}

/// The services that a restart helps: a difference without a changed file comes from elsewhere.
pub fn to_restart(unread: &[Unread]) -> impl Iterator<Item = Service> {
    unread.iter().filter(|one| !one.files.is_empty()).map(|one| one.service)
}

/// The units of these services, each once: a distribution runs the runtime and the kubelet in one.
#[must_use]
pub fn units_to_restart(unread: &[Unread]) -> Vec<&'static str> {
    let mut units = Vec::new();
    for one in unread.iter().filter(|one| !one.files.is_empty()) {
        if !units.contains(&one.unit) {
            units.push(one.unit);
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn unread<'a>(running: &[Running], changed: &'a [ChangedFile]) -> Vec<(Service, Vec<&'a str>)> {
        pending(running, changed).into_iter().map(|(found, files)| (found.service, files)).collect()
    }

    #[test]
    fn a_file_that_changed_after_the_start_is_pending() {
        let of = |service: Service, since| Running { service, unit: service.unit(), since };
        let running = [
            of(Service::Kubelet, Some(at(50))),
            of(Service::Crio, Some(at(100))),
            of(Service::Containerd, None),
        ];
        let file = |path: &str, seconds| ChangedFile { path: path.into(), at: at(seconds), only: None };
        let changed = [
            ChangedFile { only: Some(Service::Kubelet), ..file("/etc/subgid", 500) },
            file("/etc/crio/crio.conf.d", 100),
            file("/etc/crio/crio.conf.d/99-usernsd.conf", 100),
            file("/etc/crio/crio.conf", 99),
            file("/etc/subuid", 70),
            file("/etc/containerd/config.toml", 500),
            file("/etc/shadow", 500),
        ];
        assert_eq!(
            unread(&running, &changed),
            [
                (Service::Crio, vec!["/etc/crio/crio.conf.d/99-usernsd.conf"]),
                (Service::Kubelet, vec!["/etc/subgid", "/etc/subuid"]),
            ]
        );
        // A removed file is only visible by its directory.
        let gone = [file("/etc/crio/crio.conf.d", 100)];
        assert_eq!(unread(&running, &gone), [(Service::Crio, vec!["/etc/crio/crio.conf.d"])]);
        assert_eq!(unread(&[], &changed), []);
        // A plugin's program takes effect when the runtime starts, its configuration at once.
        let plugin = [file("/opt/nri/plugins", 100), file("/opt/nri/plugins/90-usernsd", 100)];
        assert_eq!(unread(&running, &plugin), [(Service::Crio, vec!["/opt/nri/plugins/90-usernsd"])]);
        assert_eq!(unread(&running, &[file("/etc/nri/conf.d/90-usernsd.conf", 100)]), []);
    }

    #[test]
    fn a_finding_stops_the_services_that_do_not_start_with_it() {
        use Service::{Containerd, Crio, Kubelet};
        for (id, stopped) in [
            (FindingId::CrioUndecodable, &[Crio][..]),
            (FindingId::OciHookBad, &[Crio]),
            (FindingId::ContainerdUndecodable, &[Containerd]),
            (FindingId::KubeletRecordOutside, &[Kubelet]),
            (FindingId::KubeletLineMissing, &[Kubelet]),
            // Pods fail then, but not the kubelet.
            (FindingId::KubeletPastEnd, &[]),
            (FindingId::Nsdelegate, &[]),
        ] {
            let by = |finding: &Finding| -> Vec<Service> {
                Service::ALL.into_iter().filter(|service| service.is_stopped_by(finding)).collect()
            };
            assert_eq!(by(&Finding::error(id, "x".into(), "")), stopped, "{id}");
            assert_eq!(by(&Finding::warning(id, "x".into(), "")), [], "{id}");
        }
    }

    #[test]
    fn an_unread_configuration_is_described() {
        let what = |files: &[&str], differences: Option<&[&str]>| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let differences = differences.map(owned);
            let unit = Service::Crio.unit();
            Unread { service: Service::Crio, unit, files: owned(files), differences }.describe()
        };
        let begin = "crio.service was started before /a, /b changed, and goes on as before";
        assert_eq!(what(&["/a", "/b"], None), begin);
        assert_eq!(
            what(&["/a", "/b"], Some(&["enable_nri is false"])),
            format!("{begin}; by its /config enable_nri is false")
        );
        assert!(what(&["/a", "/b"], Some(&[])).contains("no proof: after a reload"));
        let other = "crio.service runs with other settings than those in its files; by its /config x, y";
        assert_eq!(what(&[], Some(&["x", "y"])), other);
    }

    #[test]
    fn a_distributions_own_files_are_read_by_the_containerd_in_its_unit() {
        let unit = "k3s-agent.service";
        let running = [Service::Containerd, Service::Kubelet].map(|service| Running {
            service,
            unit,
            since: Some(at(50)),
        });
        let file = "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/99-usernsd.toml";
        let changed = [
            ChangedFile { path: file.into(), at: at(60), only: None },
            ChangedFile { path: "/etc/subuid".into(), at: at(60), only: None },
        ];
        let found = pending(&running, &changed);
        assert_eq!(
            unread(&running, &changed),
            [(Service::Containerd, vec![file]), (Service::Kubelet, vec!["/etc/subuid"])]
        );
        let unread: Vec<Unread> = found
            .into_iter()
            .map(|(found, files)| Unread {
                service: found.service,
                unit: found.unit,
                files: files.into_iter().map(str::to_owned).collect(),
                differences: None,
            })
            .collect();
        assert_eq!(units_to_restart(&unread), [unit], "once");
        assert!(unread[1].describe().starts_with("k3s-agent.service was started before its range"));
    }

    #[test]
    fn the_kubelets_unread_range_is_distinguished_from_its_other_files() {
        let unread = |service, files: &[&str]| Unread {
            service,
            unit: service.unit(),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            differences: None,
        };
        let both = unread(Service::Kubelet, &["/etc/subuid", "/var/lib/kubelet/config.yaml"]);
        assert!(
            both.is_of_range() && both.describe().contains("before its range of IDs changed (/etc/subuid, ")
        );
        let rest = both.beside_range().unwrap();
        assert_eq!(rest, unread(Service::Kubelet, &["/var/lib/kubelet/config.yaml"]));
        assert!(!rest.is_of_range());
        assert_eq!(unread(Service::Kubelet, &["/etc/passwd"]).beside_range(), None);
        let crio = unread(Service::Crio, &["/etc/subuid"]);
        assert!(!crio.is_of_range() && crio.beside_range() == Some(crio.clone()));
    }

    #[test]
    fn a_restart_warns_about_running_pods() {
        let ids = |version: Option<&str>, manager, pods| -> Vec<FindingId> {
            let version = version.map(|text| CrioVersion::parse(text).unwrap());
            warnings(version, manager, pods, pods).iter().map(|finding| finding.id).collect()
        };
        assert_eq!(ids(Some("1.36.3"), "systemd", 1), [FindingId::RestartForgetsMappings]);
        assert_eq!(ids(None, "systemd", 1), [FindingId::RestartForgetsMappings]);
        assert_eq!(ids(Some("1.36.3"), "systemd", 0), []);
        assert_eq!(ids(Some("1.35.6"), "systemd", 9), []);
        assert_eq!(ids(Some("1.24.0"), "cgroupfs", 9), [FindingId::RestartEndsMonitors]);
        assert_eq!(ids(Some("1.24.0"), "cgroupfs", 0), []);
    }
}
