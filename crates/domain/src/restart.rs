//! Configuration that was written but is not in effect, and the cost of restarting.
//!
//! CRI-O reads workloads, sysctls, pod events, NRI and hook directories only when it starts; after a reload its
//! `/config` shows handlers that pods do not get (#10202). So times decide: a file that changed after the process
//! started was not read by it. What `/config` reports is shown in addition.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::check::Check;
use super::crio::CrioVersion;
use super::finding::{Finding, FindingId, Severity};
use super::nri_plugin;

/// The remedy if no file has changed since the start.
pub const SET_ELSEWHERE: &str =
    "look at the flags and the environment of crio.service, which count more than files; else restart it";

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
pub struct Changed {
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
    /// When it started; `None` if it does not run.
    pub since: Option<SystemTime>,
}

// === impl Service ===

words! {
    /// The name in metrics.
    Service { Crio = "crio", Containerd = "containerd", Kubelet = "kubelet" }
}

impl Service {
    /// The systemd unit.
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
            Service::Containerd => below("/etc/containerd") || plugin,
            Service::Kubelet => {
                let own = below("/etc/kubernetes") || path == "/var/lib/kubelet/config.yaml";
                own || path == "/etc/passwd" || ranges
            }
        }
    }
}

impl Unread {
    /// The difference, as a sentence.
    #[must_use]
    pub fn what(&self) -> String {
        let unit = self.service.unit();
        let begin = match self.files.as_slice() {
            [] => format!("{unit} runs with other settings than its files say"),
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
pub fn pending<'a>(running: &[Running], changed: &'a [Changed]) -> Vec<(Service, Vec<&'a str>)> {
    Service::ALL
        .into_iter()
        .filter_map(|service| {
            // A service that is not running reads everything when it starts.
            let since = running.iter().find(|one| one.service == service)?.since?;
            let unread: Vec<&str> = changed
                .iter()
                .filter(|file| file.at >= since && service.reads(&file.path))
                .filter(|file| file.only.is_none_or(|only| only == service))
                .map(|file| file.path.as_str())
                .collect::<BTreeSet<&str>>()
                .into_iter()
                .collect();
            let unread = without_directories(unread);
            (!unread.is_empty()).then_some((service, unread))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_that_changed_after_the_start_is_pending() {
        let running = [
            Running { service: Service::Kubelet, since: Some(at(50)) },
            Running { service: Service::Crio, since: Some(at(100)) },
            Running { service: Service::Containerd, since: None },
        ];
        let file = |path: &str, seconds| Changed { path: path.into(), at: at(seconds), only: None };
        let changed = [
            Changed { only: Some(Service::Kubelet), ..file("/etc/subgid", 500) },
            file("/etc/crio/crio.conf.d", 100),
            file("/etc/crio/crio.conf.d/99-usernsd.conf", 100),
            file("/etc/crio/crio.conf", 99),
            file("/etc/subuid", 70),
            file("/etc/containerd/config.toml", 500),
            file("/etc/shadow", 500),
        ];
        assert_eq!(
            pending(&running, &changed),
            [
                (Service::Crio, vec!["/etc/crio/crio.conf.d/99-usernsd.conf"]),
                (Service::Kubelet, vec!["/etc/subgid", "/etc/subuid"]),
            ]
        );
        // A removed file is only visible by its directory.
        let gone = [file("/etc/crio/crio.conf.d", 100)];
        assert_eq!(pending(&running, &gone), [(Service::Crio, vec!["/etc/crio/crio.conf.d"])]);
        assert_eq!(pending(&[], &changed), []);
        // A plugin's program takes effect when the runtime starts, its configuration at once.
        let plugin = [file("/opt/nri/plugins", 100), file("/opt/nri/plugins/90-usernsd", 100)];
        assert_eq!(pending(&running, &plugin), [(Service::Crio, vec!["/opt/nri/plugins/90-usernsd"])]);
        assert_eq!(pending(&running, &[file("/etc/nri/conf.d/90-usernsd.conf", 100)]), []);
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
            Unread { service: Service::Crio, files: owned(files), differences }.what()
        };
        let begin = "crio.service was started before /a, /b changed, and goes on as before";
        assert_eq!(what(&["/a", "/b"], None), begin);
        assert_eq!(
            what(&["/a", "/b"], Some(&["enable_nri is false"])),
            format!("{begin}; by its /config enable_nri is false")
        );
        assert!(what(&["/a", "/b"], Some(&[])).contains("no proof: after a reload"));
        let other = "crio.service runs with other settings than its files say; by its /config x, y";
        assert_eq!(what(&[], Some(&["x", "y"])), other);
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
