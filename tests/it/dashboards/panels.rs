//! The two dashboards: the expression of each panel. `UPDATE=1 cargo nextest run --test it dashboards::`
//! writes the files from here. In an expression, `{S` stands for the selection by job, cluster and instance.

use super::render::{
    Board, Panel, Step, bars, column, flags, heatmap, lines, row, stacked, stat, table, timeline, yes_no,
};

const GOOD_AT_0: &[Step] = &[(None, "green"), (Some(1.0), "red")];
const WATCH_AT_1: &[Step] = &[(None, "green"), (Some(1.0), "orange")];
const GOOD_AT_1: &[Step] = &[(None, "red"), (Some(0.9), "orange"), (Some(1.0), "green")];
const FILLING: &[Step] = &[(None, "green"), (Some(0.8), "orange"), (Some(0.9), "red")];
const NEUTRAL: &[Step] = &[(None, "blue")];

/// 1 if the agent answers. If an exporter serves for it, `up` is the exporter's. A node has two targets while
/// its agent is being replaced, and one that answers is enough. The selection of all jobs matches any job, and
/// `up` exists for every job.
const AGENT: &str = r#"min by (cluster, instance) (usernsd_exporter_agent_up{S}) or max by (cluster, instance) (up{S, job="usernsd"})"#;
const AGENT_HERE: &str = r#"min(min by (cluster, instance) (usernsd_exporter_agent_up{S}) or max by (cluster, instance) (up{S, job="usernsd"}))"#;
const AGENTS_DOWN: &str = r#"count((min by (cluster, instance) (usernsd_exporter_agent_up{S}) or max by (cluster, instance) (up{S, job="usernsd"})) == 0) or vector(0)"#;
/// A node without data is not ready.
const READY: &str = r#"min by (cluster, instance) (usernsd_node_ready{S}) or 0 * max by (cluster, instance) (up{S, job="usernsd"})"#;
const READY_HERE: &str = r#"min(min by (cluster, instance) (usernsd_node_ready{S}) or 0 * max by (cluster, instance) (up{S, job="usernsd"}))"#;
const SHARE_READY: &str = r#"avg(min by (cluster, instance) (usernsd_node_ready{S}) or 0 * max by (cluster, instance) (up{S, job="usernsd"}))"#;

const HOST_ROOT: &str = r#"count(usernsd_pod_host_root_id{S, id_type="uid"} == 0 and on (cluster, instance, namespace, pod) usernsd_pod_info{S, userns!="host"}) or vector(0)"#;
/// IDs that are in no pool belong to no other owner.
const OVERLAPS: &str = r#"sum(usernsd_id_range_overlaps{S, kind!="pod_outside_pool"})"#;
const POOL: &str =
    "max by (cluster, instance) (usernsd_id_pool_slots_used{S} / (usernsd_id_pool_slots{S} > 0))";
const NOT_OK: &str = r#"sum by (cluster, instance) (usernsd_containers{S, cgroup_state=~"owner_wrong|unlimited|missed|unknown"})"#;

/// The dashboard of all nodes.
pub(crate) fn fleet() -> Board {
    Board {
        file: "dashboards/fleet.json",
        uid: "usernsd-fleet",
        title: "usernsd / Fleet",
        description: "Can the nodes run pods in user namespaces, is isolation whole, and which node needs a look?",
        panels: [verdict(), nodes(), causes(), capacity(), work()].concat(),
    }
}

fn verdict() -> Vec<Panel> {
    vec![
        row("Verdict"),
        stat(
            "Nodes ready",
            "percentunit",
            SHARE_READY,
            GOOD_AT_1,
            "Can the fleet run pods in user namespaces? The share of nodes on which every required check passes. A node whose agent is away counts as not ready.",
        ),
        stat(
            "Agents down",
            "short",
            AGENTS_DOWN,
            WATCH_AT_1,
            "Does every agent answer, by itself or to its exporter? The panels below lack the other nodes.",
        ),
        stat(
            "Isolation lost",
            "short",
            "sum(usernsd_lost_isolation_containers{S})",
            GOOD_AT_0,
            "Does a container run in the host's user namespace although its pod asked for its own? Must be 0.",
        ),
        stat(
            "Pods with the host's root",
            "short",
            HOST_ROOT,
            GOOD_AT_0,
            "Is root in a user-namespaced pod root on the node? Must be 0: its isolation is only in name.",
        ),
        stat(
            "ID range overlaps",
            "short",
            OVERLAPS,
            GOOD_AT_0,
            "Do two owners share host IDs? Pairs of ranges that overlap although they must not. Must be 0.",
        ),
        stat(
            "Wrong cgroup owner",
            "short",
            r#"sum(usernsd_containers{S, cgroup_state="owner_wrong"})"#,
            WATCH_AT_1,
            "How many containers cannot use their cgroup now although they should own it?",
        ),
        stat(
            "Pods in user namespaces",
            "short",
            r#"sum(usernsd_pods{S, userns=~"pod|auto"})"#,
            NEUTRAL,
            "How many running pods have a user namespace of their own?",
        ),
        stat(
            "Share of pods",
            "percentunit",
            r#"sum(usernsd_pods{S, userns=~"pod|auto"}) / sum(usernsd_pods{S})"#,
            NEUTRAL,
            "Which share of all running pods have a user namespace of their own?",
        ),
        stat(
            "Fullest ID pool",
            "percentunit",
            "max(usernsd_id_pool_slots_used{S} / (usernsd_id_pool_slots{S} > 0))",
            FILLING,
            "How near is a node to refusing the next pod? At 100 % it fails.",
        ),
        stat(
            "Nodes with drift",
            "short",
            "count(max by (cluster, instance) (usernsd_config_drift{S}) > 0) or vector(0)",
            WATCH_AT_1,
            "On how many nodes does someone else edit the files that usernsd writes?",
        ),
        stat(
            "Restart pending",
            "short",
            "count(max by (cluster, instance) (usernsd_config_restart_pending{S}) > 0) or vector(0)",
            WATCH_AT_1,
            "On how many nodes does the runtime or the kubelet run with an older configuration than the one on disk?",
        ),
        stat(
            "Failed changes",
            "short",
            "sum(increase(usernsd_fix_failures_total{S}[$__range]))",
            WATCH_AT_1,
            "How many changes did the agents attempt in vain in the time shown?",
        ),
    ]
}

fn nodes() -> Vec<Panel> {
    vec![
        row("Nodes"),
        table(
            "Nodes",
            "Where to look? One line for each node, the worst first; a name links to the node.",
            24,
            9,
        )
        .query("Agent", AGENT)
        .query("Ready", READY)
        .query("Isolation lost", "max by (cluster, instance) (usernsd_lost_isolation_containers{S})")
        .query(
            "Overlaps",
            r#"sum by (cluster, instance) (usernsd_id_range_overlaps{S, kind!="pod_outside_pool"})"#,
        )
        .query("Containers not ok", NOT_OK)
        .query("Fullest pool", POOL)
        .query("Drift", "max by (cluster, instance) (usernsd_config_drift{S})")
        .query("Restart pending", "max by (cluster, instance) (usernsd_config_restart_pending{S})")
        .info("version", "max by (cluster, instance, version) (usernsd_build_info{S})")
        .names(&[("cluster", "Cluster"), ("instance", "Node"), ("version", "Version")])
        .sorted("Ready", false)
        .with(yes_no("Agent", "red", "green"))
        .with(yes_no("Ready", "red", "green"))
        .with(yes_no("Drift", "green", "orange"))
        .with(yes_no("Restart pending", "green", "orange"))
        .with(column("Isolation lost", "short", GOOD_AT_0))
        .with(column("Overlaps", "short", GOOD_AT_0))
        .with(column("Containers not ok", "short", WATCH_AT_1))
        .with(column("Fullest pool", "percentunit", FILLING))
        .linked_to_node(),
        timeline(
            "Node ready",
            "When did it begin? Red: at least one required check fails, or the agent is away.",
            24,
            8,
        )
        .line("{{instance}}", READY)
        .mapped(flags("not ready", "red", "ready", "green")),
    ]
}

fn causes() -> Vec<Panel> {
    vec![
        row("Causes"),
        lines("Failed checks", "short", "One cause or many? Nodes on which a check fails, by check.", 8, 8)
            .line("{{check}}", "count by (check) (usernsd_check_passed{S} == 0)"),
        lines("Peers not reached", "short", "Which peer of the agents is away, and on how many nodes?", 8, 8)
            .line("CRI", "count(usernsd_cri_up{S} == 0) or vector(0)")
            .line("NRI", "count(usernsd_nri_up{S} == 0) or vector(0)")
            .line("systemd", "count(usernsd_systemd_up{S} == 0) or vector(0)"),
        bars("Refusals", "short", "What was skipped, not adjusted or refused, and why?", 8, 8).line(
            "{{reason}}",
            "sum by (reason) (increase(usernsd_refusals_total{S}[$__rate_interval])) > 0",
        ),
    ]
}

fn capacity() -> Vec<Panel> {
    vec![
        row("Capacity"),
        lines("Fullest ID pools", "percentunit", "Which 10 pools fill up, and how fast?", 12, 8)
            .line(
                "{{instance}} {{pool}}",
                "topk(10, usernsd_id_pool_slots_used{S} / (usernsd_id_pool_slots{S} > 0))",
            )
            .limited(FILLING),
        stacked(
            "Pods by user namespace",
            "short",
            "How do the pods run: in their own user namespace, or the host's?",
            12,
            8,
        )
        .line("{{userns}}", "sum by (userns) (usernsd_pods{S})"),
    ]
}

fn work() -> Vec<Panel> {
    vec![
        row("Work of the agents"),
        heatmap("Delay until the cgroup is owned",
            "How long does a container see a wrong owner? Time from its start until its cgroup was its own.", 12, 8)
            .line("{{le}}", "sum by (le) (increase(usernsd_fix_delay_seconds_bucket{S}[$__rate_interval]))"),
        lines("Delay, p50 and p99", "s", "How long does a container wait for its cgroup, typically and at worst?", 12, 8)
            .line("p50", "histogram_quantile(0.5, sum by (le) (rate(usernsd_fix_delay_seconds_bucket{S}[$__rate_interval])))")
            .line("p99", "histogram_quantile(0.99, sum by (le) (rate(usernsd_fix_delay_seconds_bucket{S}[$__rate_interval])))"),
        lines("Changes", "ops", "What do the agents do, and does it fail?", 8, 8)
            .line("{{action}}", "sum by (action) (rate(usernsd_fixes_total{S}[$__rate_interval]))")
            .line("{{action}} failed", "sum by (action) (rate(usernsd_fix_failures_total{S}[$__rate_interval])) > 0"),
        lines("Time the runtime waited, p99", "s", "Do the agents slow down container starts? The target is 1 ms.", 8, 8)
            .line("p99", "histogram_quantile(0.99, sum by (le) (rate(usernsd_handling_seconds_bucket{S}[$__rate_interval])))"),
        stacked("Versions", "short", "How far has a roll-out progressed?", 8, 8)
            .line("{{version}} {{revision}}", "count by (version, revision) (usernsd_build_info{S})"),
    ]
}

/// The dashboard of one node, or of the worst of those selected.
pub(crate) fn node() -> Board {
    Board {
        file: "dashboards/node.json",
        uid: "usernsd-node",
        title: "usernsd / Node",
        description: "What is wrong on this node, who owns which host IDs, and what does the agent do? Select one node.",
        panels: [node_verdict(), node_ids(), node_containers(), node_agent()].concat(),
    }
}

fn node_verdict() -> Vec<Panel> {
    vec![
        row("Verdict"),
        stat("Ready", "bool_yes_no", READY_HERE, &[(None, "red"), (Some(1.0), "green")],
            "Can this node run pods in user namespaces? Every required check passes, and the agent answers."),
        stat("Isolation lost", "short", "sum(usernsd_lost_isolation_containers{S})", GOOD_AT_0,
            "Does a container run in the host's user namespace although its pod asked for its own? Must be 0."),
        stat("ID range overlaps", "short", OVERLAPS, GOOD_AT_0,
            "Do two owners share host IDs? Must be 0."),
        stat("Free ranges", "short", "min(usernsd_id_pool_slots{S} - usernsd_id_pool_slots_used{S} and usernsd_id_pool_slots{S} > 0)",
            &[(None, "red"), (Some(1.0), "orange"), (Some(10.0), "green")],
            "How many more pods in user namespaces fit? Of the smallest pool in use."),
        stat("Time until full", "s",
            "min((usernsd_id_pool_slots{S} - usernsd_id_pool_slots_used{S}) / (deriv(usernsd_id_pool_slots_used{S}[6h]) > 0))",
            &[(None, "red"), (Some(86400.0), "orange"), (Some(604_800.0), "green")],
            "When is a pool full, at the pace of the last 6 hours? Empty if no pool fills up.")
            .empty("not filling"),
        stat("User namespaces used", "percentunit", "max(usernsd_user_namespaces{S} / usernsd_user_namespaces_max{S})", FILLING,
            "How near is the node to the kernel's limit, user.max_user_namespaces?"),
        table("Failed checks", "What must be repaired? Each check has a page in the runbooks.", 8, 7)
            .query("", "usernsd_check_passed{S} == 0")
            .names(&[("instance", "Node"), ("check", "Check"), ("severity", "Severity")])
            .sorted("Severity", false)
            .linked_to_check()
            .empty("every check passes"),
        table("Containers without isolation", "Which containers run in the host's user namespace although their pod asked for its own?", 8, 7)
            .query("", "usernsd_container_lost_isolation{S} == 1")
            .names(&[("instance", "Node"), ("namespace", "Namespace"), ("pod", "Pod"), ("container", "Container")])
            .empty("none"),
        timeline("Agent and peers", "Did the agent answer, did it reach the runtime and systemd, and when not?", 8, 7)
            .line("agent", AGENT_HERE)
            .line("CRI", "min(usernsd_cri_up{S})")
            .line("NRI", "min(usernsd_nri_up{S})")
            .line("systemd", "min(usernsd_systemd_up{S})")
            .mapped(flags("away", "red", "reached", "green")),
    ]
}

fn node_ids() -> Vec<Panel> {
    vec![
        row("Host IDs"),
        table("Host ID ranges",
            "Which host users is each pod? First and last host user ID; a mapping of several pieces has gaps. The map is on the agent's own page.", 14, 10)
            .query("First", r#"max by (cluster, instance, namespace, pod) (usernsd_pod_host_root_id{S, id_type="uid"})"#)
            .query("Last", r#"max by (cluster, instance, namespace, pod) (usernsd_pod_host_root_id{S, id_type="uid"} + usernsd_pod_mapped_ids{S, id_type="uid"} - 1)"#)
            .query("Shared with others", r#"sum by (cluster, instance, namespace, pod) (usernsd_pod_overlap_ids{S, kind!="pod_outside_pool"})"#)
            .query("In no pool", r#"sum by (cluster, instance, namespace, pod) (usernsd_pod_overlap_ids{S, kind="pod_outside_pool"})"#)
            .names(&[("instance", "Node"), ("namespace", "Namespace"), ("pod", "Pod")])
            .sorted("First", false)
            .with(column("First", "none", &[(None, "red"), (Some(1.0), "text")]))
            .with(column("Last", "none", &[(None, "text")]))
            .with(column("Shared with others", "none", GOOD_AT_0))
            .with(column("In no pool", "none", WATCH_AT_1)),
        lines("ID pool ranges", "short", "How many ranges does each pool have, and how many are used?", 10, 10)
            .line("{{pool}} used", "sum by (pool) (usernsd_id_pool_slots_used{S})")
            .line("{{pool}} all", "sum by (pool) (usernsd_id_pool_slots{S}) > 0"),
    ]
}

fn node_containers() -> Vec<Panel> {
    vec![
        row("Containers"),
        stacked("Containers by cgroup state", "short", "Do the containers own their cgroups?", 12, 8)
            .line("{{cgroup_state}}", "sum by (cgroup_state) (usernsd_containers{S})"),
        table("Containers with a wrong cgroup owner", "Which containers have a cgroup that belongs to another owner?", 12, 8)
            .query("", "usernsd_container_cgroup_owner_correct{S} == 0")
            .names(&[("instance", "Node"), ("namespace", "Namespace"), ("pod", "Pod"), ("container", "Container")])
            .empty("none"),
        lines("Cgroups made, of those allowed", "percentunit", "Which 10 pods, or containers in them, come near their limit of cgroups?", 12, 8)
            .line("{{namespace}}/{{pod}}", "topk(10, usernsd_pod_cgroup_descendants_used_ratio{S})")
            .limited(FILLING),
        lines("Memory pressure", "percentunit",
            "Which 10 user-namespaced pods wait for memory? Share of time, from the kubelet (1.34 or later).", 12, 8)
            .line("{{namespace}}/{{pod}}", r#"topk(10, sum by (cluster, namespace, pod) (rate(container_pressure_memory_waiting_seconds_total{container!=""}[$__rate_interval])) * on (cluster, namespace, pod) group_left () max by (cluster, namespace, pod) (usernsd_pod_info{S, userns!="host"}))"#),
    ]
}

fn node_agent() -> Vec<Panel> {
    vec![
        row("Agent"),
        lines("Changes", "ops", "What does the agent do, and does it fail?", 8, 8)
            .line("{{action}}", "sum by (action) (rate(usernsd_fixes_total{S}[$__rate_interval]))")
            .line("{{action}} failed", "sum by (action) (rate(usernsd_fix_failures_total{S}[$__rate_interval])) > 0"),
        lines("Delay and waiting, p99", "s",
            "How long do containers wait for their cgroup, and the runtime for the agent?", 8, 8)
            .line("cgroup owned", "histogram_quantile(0.99, sum by (le) (rate(usernsd_fix_delay_seconds_bucket{S}[$__rate_interval])))")
            .line("runtime waits", "histogram_quantile(0.99, sum by (le) (rate(usernsd_handling_seconds_bucket{S}[$__rate_interval])))"),
        bars("Refusals", "short", "What was skipped, not adjusted or refused, and why?", 8, 8)
            .line("{{reason}}", "sum by (reason) (increase(usernsd_refusals_total{S}[$__rate_interval])) > 0"),
        lines("Container events", "ops", "Does the runtime still send events to the agent?", 8, 8)
            .line("{{event}}", "sum by (event) (rate(usernsd_cri_events_total{S}[$__rate_interval]))"),
        lines("Inspections of all containers", "ops", "Is what was missed repaired, and does that fail?", 8, 8)
            .line("{{trigger}}", "sum by (trigger) (rate(usernsd_reconciles_total{S}[$__rate_interval]))")
            .line("{{trigger}} failed", "sum by (trigger) (rate(usernsd_reconcile_failures_total{S}[$__rate_interval])) > 0"),
        lines("Log lines", "ops", "Does the agent complain? The log names the cause.", 8, 8)
            .line("{{level}}", r#"sum by (level) (rate(usernsd_log_messages_total{S, level=~"error|warn"}[$__rate_interval]))"#),
        lines("Memory", "bytes", "Does the agent keep to its memory? The target is 12 MiB with 500 containers.", 8, 8)
            .line("{{instance}}", "process_resident_memory_bytes{S}"),
        lines("CPU", "percentunit", "Does the agent keep to its CPU time? Share of one core.", 8, 8)
            .line("{{instance}}", "rate(process_cpu_seconds_total{S}[$__rate_interval])"),
        lines("Time of a scrape, by collector", "s", "Which part of the metrics is slow to read?", 8, 8)
            .line("{{collector}}", "max by (collector) (usernsd_scrape_collector_duration_seconds{S})"),
    ]
}
