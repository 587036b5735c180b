use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::cluster::ClusterMetrics;
use super::*;
use crate::follow::Link;
use crate::state::{About, State};
use crate::verdict;
use usernsd_domain::accounts::Accounts;
use usernsd_domain::container::{CgroupMount, CriId, PodRef};
use usernsd_domain::delegation::{KnownLimits, Limit, Limits};
use usernsd_domain::guard::Verdict;
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::node::{
    Collected, Collector, ContainerCgroups, CriRuntime, Detail, Health, NodeKernel, Peer, PodCgroup,
    SurveyedPod,
};
use usernsd_domain::pod::Pod;
use usernsd_domain::record::{Outcome, Record, UserNamespace, UserNamespaceMode};
use usernsd_domain::space::{HostIds, Space};
use usernsd_domain::subid::SubidFile;
use usernsd_domain::user_mapping::MappingProblem;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn metrics_of(store: Store) -> Metrics {
    Metrics::new(store, Arc::new(|_| Survey::empty()), Exposition::default()).unwrap()
}

fn store() -> Store {
    Store::new(NOW)
}

fn record(id: &str, outcome: Outcome, isolation: Verdict) -> Record {
    Record {
        limits: KnownLimits::Set(Limits::DEFAULT),
        outcome,
        isolation,
        ..Record::bare(CriId::parse(id).unwrap())
    }
}

/// The value of a series; the series by its text.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[test]
fn every_series_exists_from_the_start() {
    let text = metrics_of(store()).render();
    for action in Action::ALL {
        for name in ["usernsd_fixes_total", "usernsd_fix_failures_total"] {
            assert_eq!(value(&text, &format!("{name}{{action=\"{}\"}}", action.name())), Some(0.0), "{name}");
        }
    }
    for reason in RefusalReason::all() {
        let series = format!("usernsd_refusals_total{{reason=\"{}\"}}", reason.name());
        assert_eq!(value(&text, &series), Some(0.0), "{series}");
    }
    for series in [
        "usernsd_already_right_total",
        "usernsd_containers{cgroup_state=\"owner_wrong\"}",
        "usernsd_containers{cgroup_state=\"missed\"}",
        "usernsd_missed_total{missed=\"user_namespace\"}",
        "usernsd_lost_isolation_containers",
        "usernsd_cri_up",
        "usernsd_nri_reconnects_total",
        "usernsd_nri_start_path{path=\"launched_plugin\"}",
        "usernsd_nri_plugin_reports_dropped_total",
        "usernsd_reconciles_total{trigger=\"stream_lost\"}",
        "usernsd_reconcile_failures_total{trigger=\"startup\"}",
        "usernsd_reconcile_last_success_timestamp_seconds",
        "usernsd_fix_delay_seconds_count",
        "usernsd_handling_seconds_bucket{le=\"+Inf\"}",
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}\n{text}");
    }
    assert!(text.contains(&format!("version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(!text.contains("rustc=\"unknown\"") && !text.contains("rustc=\"\""));
    for series in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        assert!(value(&text, series).is_some_and(|value| value > 1.0), "{series}\n{text}");
    }
}

#[test]
fn each_method_moves_its_number_and_no_other() {
    let metrics = metrics_of(store());
    let ungranted = Ungranted::Namespace { annotation: "usernsd.io/cgroup".into() };
    let moves: &[(&dyn Fn(), &[&str])] = &[
        (&|| metrics.plugin_report(true), &["usernsd_nri_plugin_reports_total"]),
        (
            &|| metrics.plugin_report(false),
            &["usernsd_nri_plugin_reports_total", "usernsd_nri_plugin_reports_unreadable_total"],
        ),
        (&|| metrics.fix(Action::ChownCgroup), &["usernsd_fixes_total{action=\"chown_cgroup\"}"]),
        (&|| metrics.fix_failed(Action::SetLimits), &["usernsd_fix_failures_total{action=\"set_limits\"}"]),
        (&|| metrics.already_right(), &["usernsd_already_right_total"]),
        (&|| metrics.refused(Skip::Gone), &["usernsd_refusals_total{reason=\"gone\"}"]),
        (
            &|| metrics.refused(&ungranted),
            &["usernsd_refusals_total{reason=\"annotation_in_this_namespace\"}"],
        ),
        (&|| metrics.missed(Missed::WritableCgroup), &["usernsd_missed_total{missed=\"writable_cgroup\"}"]),
        (
            &|| metrics.refused(RefusalReason::LOST_ISOLATION),
            &["usernsd_refusals_total{reason=\"lost_isolation\"}"],
        ),
        (
            &|| metrics.fix_delay(Duration::from_secs(1)),
            &[
                "usernsd_fix_delay_seconds_bucket{le=\"1\"}",
                "usernsd_fix_delay_seconds_bucket{le=\"2.5\"}",
                "usernsd_fix_delay_seconds_bucket{le=\"10\"}",
                "usernsd_fix_delay_seconds_bucket{le=\"+Inf\"}",
                "usernsd_fix_delay_seconds_sum",
                "usernsd_fix_delay_seconds_count",
            ],
        ),
        (
            &|| metrics.handled(Duration::from_secs(3)),
            &["usernsd_handling_seconds_bucket{le=\"+Inf\"}", "usernsd_handling_seconds_count"],
        ),
        (
            &|| metrics.reconciled(ResyncReason::Periodic, NOW + Duration::from_secs(1)),
            &[
                "usernsd_reconciles_total{trigger=\"periodic\"}",
                "usernsd_reconcile_last_success_timestamp_seconds",
            ],
        ),
        (
            &|| metrics.reconcile_failed(ResyncReason::Startup),
            &[
                "usernsd_reconciles_total{trigger=\"startup\"}",
                "usernsd_reconcile_failures_total{trigger=\"startup\"}",
            ],
        ),
    ];
    for (act, want) in moves {
        let before = metrics.render();
        act();
        let after = metrics.render();
        let moved: BTreeSet<&str> = after
            .lines()
            .filter(|line| line.starts_with("usernsd_") && !line.starts_with("usernsd_log_"))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, now)| {
                let then = value(&before, series).unwrap();
                (now.parse::<f64>().unwrap() - then - 1.0).abs() < 1e-9
            })
            .map(|(series, _)| series)
            .collect();
        assert_eq!(moved, want.iter().copied().collect());
    }
}

#[test]
fn gauges_show_the_present_state() {
    let store = store();
    let metrics = metrics_of(store.clone());
    store.put(record("a", Outcome::Delegated, Verdict::Good));
    store.put(record("b", Outcome::Skipped(Skip::HostUserNamespace), Verdict::Lost));
    store.put(record("c", Outcome::Delegated, Verdict::Good));
    store.up(Peer::Cri, NOW);
    store.off(Peer::Nri, NOW);
    store.up(Peer::Systemd, NOW);
    store.down(Peer::Systemd, NOW, "closed");
    store.up(Peer::Systemd, NOW);
    let text = metrics.render();
    for (series, want) in [
        ("usernsd_containers{cgroup_state=\"ok\"}", Some(2.0)),
        ("usernsd_containers{cgroup_state=\"host_user_namespace\"}", Some(1.0)),
        ("usernsd_containers{cgroup_state=\"unknown\"}", Some(0.0)),
        ("usernsd_lost_isolation_containers", Some(1.0)),
        ("usernsd_cri_up", Some(1.0)),
        ("usernsd_nri_up", None),
        ("usernsd_systemd_up", Some(1.0)),
        ("usernsd_systemd_reconnects_total", Some(1.0)),
    ] {
        assert_eq!(value(&text, series), want, "{series}");
    }
    store.retain(|_| false);
    let text = metrics.render();
    assert_eq!(value(&text, "usernsd_containers{cgroup_state=\"ok\"}"), Some(0.0));
    assert_eq!(value(&text, "usernsd_lost_isolation_containers"), Some(0.0));
}

#[test]
fn names_and_series_keep_the_rules() {
    let metrics = crowded(Exposition::default());
    let text = metrics.render();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').unwrap();
        assert!(series.insert(name), "{name} twice");
        assert!(name.starts_with("usernsd_") || name.starts_with("process_"), "{name}");
        for label in ["node=", "type=", "owner=", "le_=", "instance=", "job="] {
            assert!(!name.contains(&format!("{{{label}")) && !name.contains(&format!(",{label}")), "{name}");
        }
    }
    let mut kinds = BTreeSet::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("# TYPE ") else { continue };
        let (name, kind) = rest.split_once(' ').unwrap();
        assert!(kinds.insert(name), "{name} is two families");
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} "))).unwrap();
        assert!(help.ends_with('.') && help.len() > 15 && !help.contains('\\'), "{name}: {help:?}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        for reserved in ["_sum", "_count", "_bucket", "_gauge", "_histogram", "_counter"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        // Of a histogram, the bucket of all values comes on top.
        let buckets = series.iter().filter(|series| series.starts_with(&format!("{name}_bucket{{")));
        assert!(buckets.count() <= 15, "{name}");
    }
}

#[test]
fn the_number_of_problems_is_that_of_the_whole_document() {
    let mut records = crowd();
    records.push(Record {
        uid_map: IdMap::parse("0 0 1").ok(),
        user_namespace: None,
        ..container("unknown-namespace", "c", 60)
    });
    let store = store();
    for record in records {
        store.put(record);
    }
    let snapshot = store.snapshot();
    let about = About { node: String::new(), version: String::new(), uptime_at_start: None };
    let verdict = verdict::NodeVerdict::of(&State::of(&about, &snapshot, &survey_of(&snapshot)));
    let text = Metrics::new(store, Arc::new(survey_of), Exposition::default()).unwrap().render();
    for (severity, tone) in [("error", verdict::Tone::Bad), ("warning", verdict::Tone::Warning)] {
        let count = verdict.problems.iter().filter(|problem| problem.tone == tone).count();
        assert!(count > 0, "{severity}");
        let series = format!("usernsd_problems{{severity=\"{severity}\"}}");
        assert_eq!(value(&text, &series), Some(count as f64), "{severity}");
    }
}

// === pods and containers ===

/// The accounts and ranges in `/etc` on the node of these tests.
fn host_ids() -> HostIds {
    let subid = b"core:100000:65536\ncontainers:200000:6553600\n";
    let mut accounts = Accounts::default();
    accounts.add_users(b"root:x:0:0:::\ncore:x:1000:1000:::\n");
    HostIds {
        subuid: SubidFile::parse(subid),
        subgid: SubidFile::parse(subid),
        accounts,
        kubelet_is_present: false,
        crio_is_here: true,
    }
}

/// A survey like the surveyor's, without a node.
fn survey_of(snapshot: &Snapshot) -> Survey {
    let pods = Pod::of(&snapshot.containers);
    let ids: Vec<_> = pods.iter().map(Pod::ids).collect();
    let space = Space::of(&host_ids(), &ids);
    let limit = |pod: &Pod| if pod.name.name == "unbounded" { Limit::Max } else { Limit::At(250) };
    let surveyed = pods.into_iter().zip(space.shared.clone()).map(|(pod, shared)| SurveyedPod {
        cgroup: pod.is_in_user_namespace().then(|| PodCgroup {
            descendants: 7,
            limit: limit(&pod),
            fullest: (pod.name.name == "overlap-a").then(|| ContainerCgroups {
                container: pod.containers[0].id.clone(),
                descendants: 6,
                limit: 8,
            }),
        }),
        pod,
        shared,
    });
    Survey {
        pods: surveyed.collect(),
        kernel: Some(NodeKernel {
            release: "6.12.0-1 \"quoted\"".into(),
            user_namespaces: 3,
            max_user_namespaces: 1000,
        }),
        unified: true,
        host_ids: Some(host_ids()),
        collected: Collector::ALL
            .map(|collector| Collected { collector, succeeded: true, took: Duration::from_millis(1) })
            .to_vec(),
        space: Some(space),
    }
}

/// A container that has its own cgroup, in the pod's range `index`.
fn container(pod: &str, name: &str, index: u32) -> Record {
    static INODES: AtomicU64 = AtomicU64::new(1);
    let inode = INODES.fetch_add(1, Ordering::Relaxed);
    let map = || IdMap::parse(&format!("0 {} 65536", 200_000 + index * 65_536)).ok();
    Record {
        name: name.into(),
        pod: PodRef { namespace: "team-a".into(), name: pod.into(), uid: format!("uid-{pod}") },
        sandbox_id: format!("sandbox-{inode}"),
        uid_map: map(),
        gid_map: map(),
        user_namespace: Some(UserNamespace { inode: Some(u64::from(index)), is_hosts: false }),
        mode: UserNamespaceMode::Pod,
        mount: Some(CgroupMount::ReadWrite),
        inode: Some(inode),
        owner: Some(HostId(200_000 + index * 65_536)),
        ..record(&format!("c{inode}"), Outcome::Delegated, Verdict::Good)
    }
}

/// A node with pods in every state, and with hostile names.
fn crowd() -> Vec<Record> {
    let initial = || IdMap::parse("0 0 4294967295").ok();
    let hosts = Some(UserNamespace { inode: Some(99), is_hosts: true });
    let shared = |name: &str| Record { owner: Some(HostId(0)), ..container(name, "c", 7) };
    let hostile = |name: &str| container(name, "c", 50);
    let long = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    let mut records = vec![
        container("good", "first", 0),
        container("good", "second", 0),
        Record {
            mount: Some(CgroupMount::ReadOnly),
            owner: Some(HostId(0)),
            ..container("read-only", "c", 1)
        },
        // Two with the same range, each owned by root.
        shared("overlap-a"),
        shared("overlap-b"),
        Record {
            uid_map: IdMap::parse("0 0 1\n1 3000000 65535").ok(),
            owner: Some(HostId(0)),
            outcome: Outcome::Skipped(Skip::RootIsHostRoot),
            ..container("root", "c", 8)
        },
        Record { mode: UserNamespaceMode::Auto, ..container("unbounded", "c", 9) },
        container("lost", "isolated", 10),
        Record {
            uid_map: initial(),
            gid_map: initial(),
            user_namespace: hosts,
            mount: None,
            outcome: Outcome::Skipped(Skip::HostUserNamespace),
            isolation: Verdict::Lost,
            ..container("lost", "again", 10)
        },
        Record {
            uid_map: initial(),
            gid_map: initial(),
            user_namespace: hosts,
            mode: UserNamespaceMode::Host,
            mount: None,
            outcome: Outcome::Skipped(Skip::HostUserNamespace),
            ..container("host", "c", 0)
        },
        container(&long, "c", 11),
        // A container that was restarted, and a pod whose successor exists already.
        container("good", "first", 0),
        container("good", "Not A Name", 0),
    ];
    let successor = container("good", "first", 0);
    records.push(Record {
        pod: PodRef { uid: "successor\"}\n".into(), ..successor.pod.clone() },
        uid_map: IdMap::parse("0 1000000 65536").ok(),
        gid_map: IdMap::parse("0 1000000 65536").ok(),
        owner: Some(HostId(1_000_000)),
        ..successor
    });
    for name in [
        "<script>alert(1)</script>",
        "\u{202e}live",
        "a\"} 1\nusernsd_node_ready 0",
        "a\\",
        &"x".repeat(254),
        "",
    ] {
        records.push(hostile(name));
    }
    records
}

fn crowded(exposition: Exposition) -> Metrics {
    let store = store();
    for record in crowd() {
        store.put(record);
    }
    store.up(Peer::Cri, NOW);
    store.set_runtime(CriRuntime { name: "cri-o".into(), version: "1.36.3".into(), endpoint: String::new() });
    Metrics::new(store, Arc::new(survey_of), exposition).unwrap()
}

#[test]
fn every_state_has_its_series() {
    let text = crowded(Exposition::default()).render();
    let long = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    let pod = |metric: &str, pod: &str, rest: &str| {
        let rest = if rest.is_empty() { String::new() } else { format!(",{rest}") };
        format!("usernsd_pod_{metric}{{namespace=\"team-a\",pod=\"{pod}\"{rest}}}")
    };
    let of = |metric: &str, pod: &str, name: &str| {
        format!("usernsd_container_{metric}{{namespace=\"team-a\",pod=\"{pod}\",container=\"{name}\"}}")
    };
    let plain = |series: &str| format!("usernsd_{series}");
    for (series, want) in [
        (plain("node_ready"), Some(1.0)),
        (
            plain(
                "node_info{kernel=\"6.12.0-1 \\\"quoted\\\"\",cri=\"cri-o\",cri_version=\"1.36.3\",oci_runtime=\"\"}",
            ),
            Some(1.0),
        ),
        (plain("problems{severity=\"error\"}"), Some(5.0)),
        (plain("problems{severity=\"warning\"}"), Some(3.0)),
        (plain("user_namespaces"), Some(3.0)),
        (plain("user_namespaces_max"), Some(1000.0)),
        (plain("pods{userns=\"auto\"}"), Some(1.0)),
        (plain("pods{userns=\"host\"}"), Some(1.0)),
        (plain("pods{userns=\"unknown\"}"), Some(0.0)),
        (plain("containers{cgroup_state=\"host_user_namespace\"}"), Some(3.0)),
        (plain("lost_isolation_containers"), Some(1.0)),
        (plain("id_pool_slots{pool=\"crio\"}"), Some(100.0)),
        (plain("id_pool_slots{pool=\"kubelet\"}"), Some(0.0)),
        (plain("id_pool_slot_ids{pool=\"crio\"}"), Some(65_536.0)),
        (plain("id_pool_first_id{pool=\"crio\"}"), Some(200_000.0)),
        (plain("subid_ranges{file=\"subgid\"}"), Some(2.0)),
        // root and the successor of good: of the IDs below 200,000 only host ID 0 is in use.
        (plain("id_range_overlaps{kind=\"pod_host_user\"}"), Some(1.0)),
        (plain("id_range_overlaps{kind=\"pod_outside_pool\"}"), Some(1.0)),
        (plain("id_range_overlaps{kind=\"pod_subid\"}"), Some(0.0)),
        (plain("scrape_collector_success{collector=\"subid\"}"), Some(1.0)),
        (plain("scrape_collector_duration_seconds{collector=\"cgroup\"}"), Some(0.001)),
        (pod("info", "good", "uid=\"\",userns=\"pod\""), Some(1.0)),
        (pod("info", "host", "uid=\"uid-host\",userns=\"host\""), Some(1.0)),
        (pod("info", "unbounded", "uid=\"uid-unbounded\",userns=\"auto\""), Some(1.0)),
        (pod("host_root_id", "good", "id_type=\"uid\""), Some(1_000_000.0)),
        (pod("host_root_id", "root", "id_type=\"uid\""), Some(0.0)),
        (pod("host_root_id", "root", "id_type=\"gid\""), Some(724_288.0)),
        (pod("host_root_id", "lost", "id_type=\"gid\""), Some(0.0)),
        (pod("host_root_id", "host", "id_type=\"uid\""), None),
        (pod("mapped_ids", "root", "id_type=\"uid\""), Some(65_536.0)),
        (pod("mapped_ids", "lost", "id_type=\"uid\""), Some(4_294_967_295.0)),
        (pod("overlap_ids", "overlap-a", "kind=\"pod_pod\""), Some(65_536.0)),
        (pod("overlap_ids", "overlap-b", "kind=\"pod_pod\""), Some(65_536.0)),
        (pod("overlap_ids", "root", "kind=\"pod_host_user\""), Some(1.0)),
        (pod("overlap_ids", "root", "kind=\"pod_outside_pool\""), Some(1.0)),
        (pod("overlap_ids", "read-only", "kind=\"pod_pod\""), None),
        (pod("cgroup_descendants", "good", ""), Some(7.0)),
        (pod("cgroup_descendants_max", "good", ""), Some(250.0)),
        (pod("cgroup_descendants_max", "unbounded", ""), Some(f64::INFINITY)),
        (pod("cgroup_descendants", "host", ""), None),
        (pod("cgroup_descendants_used_ratio", "good", ""), Some(0.028)),
        (pod("cgroup_descendants_used_ratio", "overlap-a", ""), Some(0.75)),
        (pod("cgroup_descendants_used_ratio", "unbounded", ""), Some(0.0)),
        (pod("mapped_ids", &long, "id_type=\"gid\""), Some(65_536.0)),
        (of("cgroup_owner_correct", "read-only", "c"), Some(1.0)),
        (of("cgroup_writable", "read-only", "c"), Some(0.0)),
        (of("cgroup_owner_correct", "overlap-a", "c"), Some(0.0)),
        (of("cgroup_writable", "overlap-a", "c"), Some(1.0)),
        (of("lost_isolation", "lost", "again"), Some(1.0)),
        (of("lost_isolation", "lost", "isolated"), None),
        (of("cgroup_owner_correct", "lost", "again"), None),
        (of("cgroup_writable", "host", "c"), None),
        // The older of two pods named good, five hostile names, and one without a name.
        (plain("metrics_pods_omitted"), Some(7.0)),
        (plain("metrics_containers_omitted"), Some(0.0)),
    ] {
        assert_eq!(value(&text, &series), want, "{series}\n{text}");
    }
    assert!(!text.contains("alert(1)") && !text.contains('\u{202e}') && text.is_ascii());
}

#[test]
fn the_newest_container_has_the_series_if_several_have_its_name() {
    let store = store();
    store.put(Record { mount: Some(CgroupMount::ReadOnly), ..container("p", "c", 0) });
    store.put(container("p", "c", 0));
    store.put(container("p", "Not A Name", 0));
    let text = Metrics::new(store, Arc::new(survey_of), Exposition::default()).unwrap().render();
    let series = "usernsd_container_cgroup_writable{namespace=\"team-a\",pod=\"p\",container=\"c\"}";
    assert_eq!(value(&text, series), Some(1.0), "{text}");
    assert_eq!(value(&text, "usernsd_metrics_containers_omitted"), Some(2.0));
}

#[test]
fn series_are_omitted_according_to_detail_and_limit() {
    let render = |detail, max_pods| crowded(Exposition { detail, max_pods }).render();
    let lines = |text: &str, start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    for (detail, pods, containers) in [(Detail::Node, 0, 0), (Detail::Pod, 9, 0), (Detail::Container, 9, 9)] {
        let text = render(detail, 512);
        assert_eq!(lines(&text, "usernsd_pod_info{"), pods, "{detail:?}");
        assert_eq!(
            lines(&text, "usernsd_container_cgroup_owner_correct{"),
            containers - usize::from(containers > 0),
            "{detail:?}\n{text}"
        );
        let omitted = if detail == Detail::Node { 0.0 } else { 7.0 };
        assert_eq!(value(&text, "usernsd_metrics_pods_omitted"), Some(omitted), "{detail:?}");
        // Sums do not depend on the detail.
        assert_eq!(value(&text, "usernsd_lost_isolation_containers"), Some(1.0));
    }
    let text = render(Detail::Container, 4);
    let mut kept: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("usernsd_pod_info{"))
        .filter_map(|line| line.split('"').nth(3))
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, ["lost", "overlap-a", "overlap-b", "root"]);
    assert_eq!(value(&text, "usernsd_metrics_pods_omitted"), Some(12.0));
}

/// Prometheus rejects a scrape beyond its limit as a whole.
#[test]
fn many_containers_do_not_cost_the_scrape() {
    let monitor = include_str!("../../../../dashboards/podmonitor.yaml");
    let limit = monitor.lines().find_map(|line| line.strip_prefix("  sampleLimit: ")).unwrap();
    let limit: usize = limit.parse().unwrap();
    let store = store();
    let (pods, each) = (512, 40);
    // The newest come first, so this one is last.
    store.put(Record { owner: Some(HostId(0)), ..container("pod-99", "wrong", 99) });
    for pod in 0..pods {
        for index in 0..each {
            store.put(container(&format!("pod-{pod}"), &format!("c{index}"), pod));
        }
    }
    let text = Metrics::new(store, Arc::new(survey_of), Exposition::default()).unwrap().render();
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    let link = Link { health: Health::new(NOW), last_document: None, documents: 0 };
    let exporter = ExporterMetrics::new(watch::Sender::new(link).subscribe()).unwrap();
    ClusterMetrics::new(&exporter, Exposition::default()).unwrap();
    let own = exporter.render().lines().filter(|line| !line.starts_with('#')).count();
    let misfits = MappingProblem::NAMES.len() * Exposition::default().max_pods;
    let of_all = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(of_all + own + misfits < limit, "{of_all} + {own} + {misfits} samples");
    assert_eq!(count("usernsd_pod_info{"), 512);
    let shown = count("usernsd_container_cgroup_writable{");
    assert!(shown > 512, "{shown} containers");
    let omitted = value(&text, "usernsd_metrics_containers_omitted");
    assert_eq!(omitted, Some(f64::from(pods * each + 1) - shown as f64));
    // The container with a problem is included, and the pods share the rest evenly.
    let series =
        "usernsd_container_cgroup_owner_correct{namespace=\"team-a\",pod=\"pod-99\",container=\"wrong\"}";
    assert_eq!(value(&text, series), Some(0.0));
    for pod in 0..pods {
        let of_pod = format!("usernsd_container_cgroup_writable{{namespace=\"team-a\",pod=\"pod-{pod}\",");
        let of_pod = count(&of_pod) - usize::from(pod == 99);
        assert!([shown / 512, shown / 512 + 1].contains(&of_pod), "{of_pod} of pod-{pod}");
    }
}

#[test]
fn a_removed_container_leaves_no_series() {
    let store = store();
    store.put(container("p", "c", 0));
    let metrics = Metrics::new(store.clone(), Arc::new(survey_of), Exposition::default()).unwrap();
    assert!(metrics.render().contains("pod=\"p\""));
    store.retain(|_| false);
    assert!(!metrics.render().contains("pod=\"p\""));
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that is skipped prints it")]
fn promtool_accepts_the_exposition() {
    let text = crowded(Exposition::default()).render();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("promtool is not on PATH (Debian package prometheus): not asked");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.trim().is_empty(), "{words}");
}
