//! The families of samples about the node, its pods and its containers.

use std::sync::Arc;

use super::{Family, counter, examined, gauge, number, seconds, truth};
use usernsd_domain::assessment::Assessment;
use usernsd_domain::container::CgroupMount;
use usernsd_domain::node::{Detail, Snapshot, Survey};
use usernsd_domain::record::Record;
use usernsd_linux::log;

const fn of_pod(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { level: Detail::Pod, ..gauge(name, labels, help) }
}

const fn of_container(name: &'static str, help: &'static str) -> Family {
    Family { level: Detail::Container, ..gauge(name, &["namespace", "pod", "container"], help) }
}

pub(super) const CONTAINERS: Family =
    gauge("usernsd_containers", &["cgroup_state"], "Running containers by the state of their cgroup.");
pub(super) const PROBLEMS: Family = gauge(
    "usernsd_problems",
    &["severity"],
    "Problems of this node that someone must act on, as usernsd status lists them; error is what breaks isolation or \
     keeps pods from running.",
);
pub(super) const LOG: Family =
    counter("usernsd_log_messages_total", &["level"], "Log lines, those that were dropped included.");
pub(super) const START_PATH: Family = gauge(
    "usernsd_nri_start_path",
    &["path"],
    "The part of usernsd that the runtime calls over NRI before a container starts (1): the launched plugin, the agent, which has joined, or nobody.",
);
/// In the order of [`Peer::ALL`](usernsd_domain::node::Peer::ALL): up, reconnects.
pub(super) const PEERS: [(Family, Family); 3] = [
    (
        gauge("usernsd_cri_up", &[], "Whether the container runtime answers over CRI (1) or not (0)."),
        counter(
            "usernsd_cri_reconnects_total",
            &[],
            "Times the container runtime was reached again over CRI.",
        ),
    ),
    (
        gauge(
            "usernsd_nri_up",
            &[],
            "Whether the container runtime calls usernsd over NRI before it starts a container (1) or not (0).",
        ),
        counter(
            "usernsd_nri_reconnects_total",
            &[],
            "Times the container runtime called again over NRI after it had not.",
        ),
    ),
    (
        gauge("usernsd_systemd_up", &[], "Whether systemd answers over D-Bus (1) or not (0)."),
        counter("usernsd_systemd_reconnects_total", &[], "Times systemd was reached again over D-Bus."),
    ),
];

pub(super) const COLLECTOR_SUCCESS: Family = gauge(
    "usernsd_scrape_collector_success",
    &["collector"],
    "Whether the collector succeeded in this scrape (1) or not (0).",
);
pub(super) const COLLECTOR_DURATION: Family = gauge(
    "usernsd_scrape_collector_duration_seconds",
    &["collector"],
    "Time the collector took in this scrape.",
);
pub(super) const NODE: Family = gauge(
    "usernsd_node_info",
    &["kernel", "cri", "cri_version", "oci_runtime"],
    "Facts that determine user-namespace support on this node, empty if unknown; the value is always 1. \
     The OCI runtime is that of the default handler in the runtime's configuration, without its version, \
     because the agent starts no programs.",
);
pub(super) const PODS: Family =
    gauge("usernsd_pods", &["userns"], "Pods with a running container, by user-namespace mode.");
pub(super) const POOL_SLOTS: Family =
    gauge("usernsd_id_pool_slots", &["pool"], "Pod-sized ID ranges this pool can hold; 0 without the pool.");
pub(super) const POOL_USED: Family = gauge(
    "usernsd_id_pool_slots_used",
    &["pool"],
    "Pod-sized ID ranges of this pool in which a pod with a running container has an ID.",
);
pub(super) const POOL_SLOT_IDS: Family =
    gauge("usernsd_id_pool_slot_ids", &["pool"], "IDs in one range of this pool.");
pub(super) const POOL_FIRST: Family =
    gauge("usernsd_id_pool_first_id", &["pool"], "First host ID of this pool; 0 without the pool.");
pub(super) const SUBID_RANGES: Family =
    gauge("usernsd_subid_ranges", &["file"], "Lines of the subordinate ID file that every parser accepts.");
pub(super) const OVERLAPS: Family = gauge(
    "usernsd_id_range_overlaps",
    &["kind"],
    "Pairs of owners whose host ID ranges overlap although they must not; of kind pod_outside_pool, pods with IDs \
     that are in no pool although the node has one.",
);
pub(super) const PODS_OMITTED: Family = gauge(
    "usernsd_metrics_pods_omitted",
    &[],
    "Pods without series of their own in this scrape: beyond the limit, with a name that Kubernetes would \
     not accept, or older than another pod of that name.",
);
pub(super) const CONTAINERS_OMITTED: Family = gauge(
    "usernsd_metrics_containers_omitted",
    &[],
    "Containers of pods with series that have none of their own: beyond what fits into a scrape, with a \
     name that Kubernetes would not accept, or older than another container of that name.",
);
pub(super) const POD: Family = of_pod(
    "usernsd_pod_info",
    &["namespace", "pod", "uid", "userns"],
    "Identity of a pod with a running container; the value is always 1.",
);
pub(super) const POD_ROOT: Family = of_pod(
    "usernsd_pod_host_root_id",
    &["namespace", "pod", "id_type"],
    "Host ID that container ID 0 maps to in a pod that has, or asked for, its own user namespace; 0 means root on \
     the host.",
);
pub(super) const POD_MAPPED: Family = of_pod(
    "usernsd_pod_mapped_ids",
    &["namespace", "pod", "id_type"],
    "Number of host IDs mapped into the pod (sum of all extents).",
);
pub(super) const POD_OVERLAP: Family = of_pod(
    "usernsd_pod_overlap_ids",
    &["namespace", "pod", "kind"],
    "Host IDs that this pod shares with another owner, or with kind pod_outside_pool, that are in no pool: \
     the larger number of user and group IDs; present only while there are any.",
);
pub(super) const POD_DESCENDANTS: Family = of_pod(
    "usernsd_pod_cgroup_descendants",
    &["namespace", "pod"],
    "Cgroups below the cgroup of a pod with its own user namespace (cgroup.stat nr_descendants).",
);
pub(super) const POD_DESCENDANTS_MAX: Family = of_pod(
    "usernsd_pod_cgroup_descendants_max",
    &["namespace", "pod"],
    "Limit of cgroups below the pod's cgroup (cgroup.max.descendants), at most a minute old; +Inf when unlimited.",
);
pub(super) const POD_DESCENDANTS_USED: Family = of_pod(
    "usernsd_pod_cgroup_descendants_used_ratio",
    &["namespace", "pod"],
    "Largest share in use of a limit of cgroups in the pod (0 to 1): of the pod's own limit, or of a limit of one of its \
     containers, which a container reaches first; 0 without a limit.",
);
pub(super) const OWNER_CORRECT: Family = of_container(
    "usernsd_container_cgroup_owner_correct",
    "Whether the container's cgroup has the right owner (1) or not (0): one of the container's users if \
     /sys/fs/cgroup is writable in it, otherwise one of them or root.",
);
pub(super) const WRITABLE: Family = of_container(
    "usernsd_container_cgroup_writable",
    "Whether /sys/fs/cgroup is mounted read-write in the container (1) or not (0).",
);
pub(super) const CONTAINER_LOST: Family = of_container(
    "usernsd_container_lost_isolation",
    "The container runs in the host's user namespace although its pod asked for its own; present only then, and 1.",
);

/// The series of the node that have no labels, each with the function that gives its value; `None`: no sample.
pub(super) type OfNode = (Family, fn(&Snapshot, &Survey) -> Option<f64>);
pub(super) const OF_NODE: [OfNode; 7] = [
    (
        gauge(
            "usernsd_lost_isolation_containers",
            &[],
            "Running containers in the host's user namespace although their pod asked for its own.",
        ),
        |snapshot, _| {
            let is_lost = |record: &&Arc<Record>| record.assessment() == Assessment::IsolationLost;
            Some(number(snapshot.containers.iter().filter(is_lost).count() as u64))
        },
    ),
    (
        counter(
            "usernsd_log_messages_dropped_total",
            &[],
            "Log lines that were dropped because the log was not read fast enough.",
        ),
        |_, _| Some(number(log::dropped())),
    ),
    (
        counter(
            "usernsd_nri_plugin_reports_dropped_total",
            &[],
            "Reports of the launched plugins that no agent fetched in time, since these plugins started.",
        ),
        |snapshot, _| Some(number(snapshot.plugins.iter().map(|plugin| plugin.dropped).sum())),
    ),
    (
        gauge(
            "usernsd_reconcile_last_success_timestamp_seconds",
            &[],
            "Unix time of the last successful inspection of all containers; 0 before the first.",
        ),
        |snapshot, _| Some(seconds(snapshot.reconciled)),
    ),
    (
        gauge(
            "usernsd_node_ready",
            &[],
            "Whether this node can run pods in user namespaces (1) or not (0): cgroup v2, a kernel that allows user \
     namespaces, a container runtime that answers, and no failed check of severity error.",
        ),
        |snapshot, survey| Some(truth(survey.is_ready(snapshot))),
    ),
    (
        gauge(
            "usernsd_user_namespaces",
            &[],
            "Distinct user namespaces with a live process, including the host's; counted in the background of a \
     scrape after containers have changed, at the latest after a minute.",
        ),
        |_, survey| survey.kernel.as_ref().map(|kernel| number(kernel.user_namespaces)),
    ),
    (gauge("usernsd_user_namespaces_max", &[], "The user.max_user_namespaces sysctl."), |_, survey| {
        survey.kernel.as_ref().map(|kernel| number(kernel.max_user_namespaces))
    }),
];

/// The series of a container, each with the function that gives its value.
pub(super) type OfContainer = (&'static Family, fn(&Record) -> Option<f64>);
pub(super) const OF_CONTAINER: [OfContainer; 3] = [
    (&OWNER_CORRECT, |record| record.has_right_owner().map(truth)),
    (&WRITABLE, |record| record.mount.map(|mount| truth(mount == CgroupMount::ReadWrite))),
    (&CONTAINER_LOST, |record| (record.assessment() == Assessment::IsolationLost).then_some(1.0)),
];

/// All families of [`super::Knowledge`] but those of [`OF_NODE`] and [`PEERS`].
pub(super) const KNOWLEDGE: &[&Family] = &[
    &examined::CHECK,
    &examined::DRIFT,
    &examined::PENDING,
    &examined::WRITES,
    &CONTAINERS,
    &PROBLEMS,
    &LOG,
    &START_PATH,
    &COLLECTOR_SUCCESS,
    &COLLECTOR_DURATION,
    &NODE,
    &PODS,
    &POOL_SLOTS,
    &POOL_USED,
    &POOL_SLOT_IDS,
    &POOL_FIRST,
    &SUBID_RANGES,
    &OVERLAPS,
    &PODS_OMITTED,
    &CONTAINERS_OMITTED,
    &POD,
    &POD_ROOT,
    &POD_MAPPED,
    &POD_OVERLAP,
    &POD_DESCENDANTS,
    &POD_DESCENDANTS_MAX,
    &POD_DESCENDANTS_USED,
    &OWNER_CORRECT,
    &WRITABLE,
    &CONTAINER_LOST,
];
