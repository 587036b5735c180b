//! The list of checks, and the findings that belong to each.

use super::{Category, Check};
use crate::finding::{Finding, Severity};

/// One line per check: constant, name, category, severity, and what is true if it passes.
macro_rules! checks {
    ($($constant:ident $id:literal $category:ident $severity:ident $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Check = Check {
                id: $id,
                category: Category::$category,
                severity: Severity::$severity,
                meaning: $meaning,
            };
        )*
        /// Every check, in the order of output.
        pub const CHECKS: &[Check] = &[$($constant),*];
    };
}

checks! {
    CGROUP_V2 "cgroup_v2" Kernel Error "cgroup v2 is mounted at /sys/fs/cgroup";
    CGROUP_NSDELEGATE "cgroup_nsdelegate" Kernel Error "cgroup2 is mounted with nsdelegate";
    CGROUP_DELEGATE_LIST "cgroup_delegate_list" Kernel Warning "the kernel says which cgroup files may be delegated";
    MAX_USER_NAMESPACES "max_user_namespaces" Kernel Error "the kernel allows user namespaces";
    USER_NAMESPACES_ROOM "user_namespaces_room" Kernel Warning "there may be one user namespace for each pod";
    IDMAPPED_MOUNTS "idmapped_mounts" Kernel Error "the file systems of pods can be mounted with mapped IDs";
    PSI_ENABLED "psi_enabled" Kernel Note "the kernel measures pressure";

    SUBID_GRAMMAR "subid_grammar" Ids Warning "every reader understands each line of /etc/subuid and /etc/subgid";
    SUBID_NSSWITCH "subid_nsswitch" Ids Warning "getsubids and newuidmap read /etc/subuid and /etc/subgid";
    SUBID_NO_OVERLAP "subid_no_overlap" Ids Warning "no two owners share subordinate IDs";
    SUBID_NO_HOST_USER "subid_no_host_user" Ids Warning "no user or group of the host has a subordinate ID";
    SUBID_PAST_END "subid_past_end" Ids Warning "no range reaches past the last ID";
    SUBID_CONVENTIONS "subid_conventions" Ids Warning "no range meets IDs that others choose from by convention";
    SUBID_KUBELET "subid_kubelet" Ids Error "the kubelet takes its lines of /etc/subuid and /etc/subgid";
    SUBID_TERMINAL_SLOT "subid_terminal_slot" Ids Error "the kubelet's range ends before the last 65536 IDs";
    KUBELET_POOL "kubelet_pool" Ids Warning "the kubelet has a range of its own";
    KUBELET_GETSUBIDS "kubelet_getsubids" Ids Error "the kubelet finds getsubids";
    KUBELET_GETENT "kubelet_getent" Ids Warning "the kubelet finds getent";
    KUBELET_RECORDS "kubelet_records" Ids Error "the kubelet's records of pods lie in its pool";
    KUBELET_CONFIG "kubelet_config" Ids Warning "the kubelet's configuration can be read";

    CRI_REACHABLE "cri_reachable" Runtime Error "the container runtime answers over CRI";
    RUNTIME_VERSION "runtime_version" Runtime Error "the container runtime knows user namespaces";
    CRI_USERNS_HANDLER "cri_userns_handler" Runtime Error "the default runtime handler offers user namespaces";
    NRI_ENABLED "nri_enabled" Runtime Warning "the container runtime offers NRI, and usernsd is asked over it";
    PLUGIN_INSTALLED "plugin_installed" Runtime Warning "the runtime has usernsd as an NRI plugin to launch";
    PLUGIN_RUNNING "plugin_running" Runtime Warning "the plugin that the runtime launched runs";
    NRI_REQUIRED "nri_required" Runtime Error "what the runtime requires of NRI plugins lets containers start";
    CONTAINERD_CONFIG "containerd_config" Runtime Error "containerd can read its configuration, and serves CRI with it";
    CONTAINERD_SNAPSHOTTER "containerd_snapshotter" Runtime Warning "containerd's snapshotters map the IDs of images";
    CRIO_CONFIG "crio_config" Runtime Error "CRI-O starts with its configuration";
    CRIO_CONFIG_IGNORED "crio_config_ignored" Runtime Warning "CRI-O leaves nothing of its configuration out";
    CRIO_WORKLOAD_TWINS "crio_workload_twins" Runtime Warning "no two workloads of CRI-O are activated by one annotation";
    CRIO_ALLOWED_TWICE "crio_allowed_twice" Runtime Warning "no annotation is allowed by workload and handler both, where CRI-O fails on that";
    CRIO_ANNOTATIONS "crio_annotations" Runtime Warning "CRI-O lets pods ask for a writable cgroup";
    CRIO_POD_EVENTS "crio_pod_events" Runtime Note "CRI-O tells of its containers";
    CRIO_RESTART "crio_restart" Runtime Warning "a restart of CRI-O harms no running pod";
    CRIO_MAPPINGS "crio_mappings" Runtime Error "CRI-O tells the OCI runtime of ID mappings";
    OCI_RUNTIME_VERSION "oci_runtime_version" Runtime Error "the OCI runtimes know user namespaces and ID-mapped mounts";
    OCI_RUNTIME_IDMAP "oci_runtime_idmap" Runtime Error "the OCI runtimes say that they map the IDs of mounts";
    NRI_JOINED "nri_joined" Runtime Warning "the agent has joined the container runtime over NRI";

    SYSTEMD_REACHABLE "systemd_reachable" Systemd Warning "systemd answers over D-Bus";
    SYSTEMD_VERSION "systemd_version" Systemd Note "systemd names the unit of a process beyond doubt";
    SCOPES_DELEGATED "scopes_delegated" Systemd Warning "systemd keeps out of containers' cgroups";

    POD_ISOLATION "pod_isolation" Pods Error "every pod runs in the user namespace it asked for";
    POD_HOST_ROOT "pod_host_root" Pods Error "root of a pod with a user namespace is not the host's root";
    POD_ID_OVERLAP "pod_id_overlap" Pods Error "no pod shares host IDs with anyone";
    POD_CGROUP_OWNER "pod_cgroup_owner" Pods Error "containers with a writable cgroup own it";
    POD_CGROUP_WRITABLE "pod_cgroup_writable" Pods Warning "pods that ask for a writable cgroup have it";
    POD_CGROUP_BOUNDED "pod_cgroup_bounded" Pods Warning "what containers make in their cgroups is bounded";

    BOOTSTRAP_RESULT "bootstrap_result" Configuration Error "the last run of usernsd bootstrap could do its work";
    CONFIG_DRIFT "config_drift" Configuration Warning "usernsd bootstrap would change nothing";
    RESTART_PENDING "restart_pending" Configuration Warning "every service runs with the files on disk";
}

/// Findings by identifier, with the check they belong to. One identifier may belong to several checks by severity.
const FINDINGS: &[(&str, Option<Severity>, Check)] = &[
    ("cgroup-v1", None, CGROUP_V2),
    ("cgroup-unknown", None, CGROUP_V2),
    ("nsdelegate", None, CGROUP_NSDELEGATE),
    ("max-user-namespaces", Some(Severity::Error), MAX_USER_NAMESPACES),
    ("max-user-namespaces", Some(Severity::Warning), USER_NAMESPACES_ROOM),
    // A note means that it could not be tried.
    ("idmapped-mounts", Some(Severity::Error), IDMAPPED_MOUNTS),
    ("idmapped-tmpfs", None, IDMAPPED_MOUNTS),
    ("psi", None, PSI_ENABLED),
    ("subid-flawed-line", None, SUBID_GRAMMAR),
    ("subid-nsswitch", None, SUBID_NSSWITCH),
    ("kubelet-nsswitch", None, SUBID_NSSWITCH),
    ("subid-overlap", None, SUBID_NO_OVERLAP),
    ("subid-holds-account", None, SUBID_NO_HOST_USER),
    ("subid-low", None, SUBID_NO_HOST_USER),
    ("subid-past-end", None, SUBID_PAST_END),
    ("range-foreign", None, SUBID_CONVENTIONS),
    ("kubelet-directory-range", None, SUBID_KUBELET),
    ("kubelet-line-missing", None, SUBID_KUBELET),
    ("kubelet-several-lines", None, SUBID_KUBELET),
    ("kubelet-lines-differ", None, SUBID_KUBELET),
    ("kubelet-ids-per-pod", None, SUBID_KUBELET),
    ("kubelet-start-misaligned", None, SUBID_KUBELET),
    ("kubelet-start-low", None, SUBID_KUBELET),
    ("kubelet-count-misaligned", None, SUBID_KUBELET),
    ("kubelet-count-few", None, SUBID_KUBELET),
    ("kubelet-past-end", None, SUBID_TERMINAL_SLOT),
    ("kubelet-default-pool", None, KUBELET_POOL),
    ("kubelet-no-getsubids", None, KUBELET_GETSUBIDS),
    ("kubelet-no-getent", None, KUBELET_GETENT),
    ("kubelet-record-outside", None, KUBELET_RECORDS),
    ("kubelet-config-unreadable", None, KUBELET_CONFIG),
    ("containerd-nri", None, NRI_ENABLED),
    ("plugin-not-installed", None, PLUGIN_INSTALLED),
    ("nri-required", None, NRI_REQUIRED),
    ("containerd-undecodable", None, CONTAINERD_CONFIG),
    ("containerd-imports", None, CONTAINERD_CONFIG),
    ("containerd-cri-disabled", None, CONTAINERD_CONFIG),
    ("containerd-snapshotter", None, CONTAINERD_SNAPSHOTTER),
    ("crio-unreadable", None, CRIO_CONFIG),
    ("crio-undecodable", None, CRIO_CONFIG),
    ("crio-no-default-runtime", None, CRIO_CONFIG),
    ("crio-sysctl", Some(Severity::Error), CRIO_CONFIG),
    ("crio-workload", None, CRIO_CONFIG),
    ("crio-handler", None, CRIO_CONFIG),
    ("crio-conmon", None, CRIO_CONFIG),
    ("oci-hook-bad", None, CRIO_CONFIG),
    ("crio-sysctl", Some(Severity::Warning), CRIO_CONFIG_IGNORED),
    ("crio-stray-file", None, CRIO_CONFIG_IGNORED),
    ("crio-table-replaced", None, CRIO_CONFIG_IGNORED),
    ("crio-handler-ignored", None, CRIO_CONFIG_IGNORED),
    ("crio-workload-twins", None, CRIO_WORKLOAD_TWINS),
    ("crio-allowed-twice", None, CRIO_ALLOWED_TWICE),
    ("restart-ends-monitors", None, CRIO_RESTART),
];

impl Check {
    /// The check that a finding belongs to; `None` for findings about a plan and not about a node.
    #[must_use]
    pub fn of(finding: &Finding) -> Option<Check> {
        FINDINGS
            .iter()
            .find(|(id, severity, _)| {
                *id == finding.id && severity.is_none_or(|severity| severity == finding.severity)
            })
            .map(|(_, _, check)| *check)
    }

    /// The identifiers of the findings that belong to the check.
    pub fn findings(self) -> impl Iterator<Item = &'static str> {
        FINDINGS.iter().filter(move |(_, _, check)| *check == self).map(|(id, _, _)| *id)
    }
}
