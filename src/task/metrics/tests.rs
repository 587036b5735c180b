use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::domain::container::{CriId, PodName};
use crate::domain::delegation::Limits;
use crate::domain::guard::Verdict;
use crate::domain::node::Peer;
use crate::domain::record::{Outcome, Record, Source, UserNamespaceMode};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn store() -> Store {
    Store::new(NOW)
}

fn record(id: &str, outcome: Outcome, isolation: Verdict) -> Record {
    Record {
        id: CriId::parse(id).unwrap(),
        sandbox_id: String::new(),
        name: String::new(),
        pod: PodName::default(),
        pid: None,
        uid_map: None,
        gid_map: None,
        user_namespace: None,
        mode: UserNamespaceMode::Unknown,
        mount: None,
        cgroup: None,
        inode: None,
        owner: None,
        limits: Some(Limits::DEFAULT),
        outcome,
        source: Source::Nri,
        isolation,
    }
}

/// The value of a series; the series by its text.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[test]
fn every_series_exists_from_the_start() {
    let text = Metrics::new(store()).unwrap().render();
    for action in Action::ALL {
        for name in ["usernsd_fixes_total", "usernsd_fix_failures_total"] {
            assert_eq!(value(&text, &format!("{name}{{action=\"{}\"}}", action.name())), Some(0.0), "{name}");
        }
    }
    for reason in Refusal::all() {
        let series = format!("usernsd_refusals_total{{reason=\"{}\"}}", reason.name());
        assert_eq!(value(&text, &series), Some(0.0), "{series}");
    }
    for series in [
        "usernsd_already_right_total",
        "usernsd_containers{cgroup_state=\"owner_wrong\"}",
        "usernsd_lost_isolation_containers",
        "usernsd_cri_up",
        "usernsd_nri_reconnects_total",
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
    let metrics = Metrics::new(store()).unwrap();
    let ungranted = Ungranted::Namespace;
    let moves: [(&dyn Fn(), &[&str]); 10] = [
        (&|| metrics.fix(Action::ChownCgroup), &["usernsd_fixes_total{action=\"chown_cgroup\"}"]),
        (&|| metrics.fix_failed(Action::SetLimits), &["usernsd_fix_failures_total{action=\"set_limits\"}"]),
        (&|| metrics.already_right(), &["usernsd_already_right_total"]),
        (&|| metrics.refused(Skip::Gone), &["usernsd_refusals_total{reason=\"gone\"}"]),
        (
            &|| metrics.refused(&ungranted),
            &["usernsd_refusals_total{reason=\"annotation_in_this_namespace\"}"],
        ),
        (
            &|| metrics.refused(Refusal::LOST_ISOLATION),
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
            &|| metrics.reconciled(Trigger::Periodic, NOW + Duration::from_secs(1)),
            &[
                "usernsd_reconciles_total{trigger=\"periodic\"}",
                "usernsd_reconcile_last_success_timestamp_seconds",
            ],
        ),
        (
            &|| metrics.reconcile_failed(Trigger::Startup),
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
fn states_are_those_of_the_moment() {
    let store = store();
    let metrics = Metrics::new(store.clone()).unwrap();
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
    let metrics = Metrics::new(store()).unwrap();
    let text = metrics.render();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').unwrap();
        assert!(series.insert(name), "{name} twice");
        assert!(name.starts_with("usernsd_") || name.starts_with("process_"), "{name}");
        for label in ["pod=", "namespace=", "container=", "node=", "type=", "owner="] {
            assert!(!name.contains(&format!("{{{label}")) && !name.contains(&format!(",{label}")), "{name}");
        }
    }
    assert!(series.len() < 150, "{} series", series.len());
    for family in metrics.registry.gather() {
        let (name, help) = (family.name(), family.help());
        assert!(help.ends_with('.') && help.len() > 15, "{name}: {help:?}");
        let is_counter = family.get_field_type() == MetricType::COUNTER;
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
        for reserved in ["_sum", "_count", "_bucket", "_gauge", "_histogram", "_counter"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        for metric in family.get_metric() {
            assert!(metric.get_histogram().get_bucket().len() <= 14, "{name}");
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that asked nobody says so")]
fn promtool_has_nothing_to_say() {
    let text = Metrics::new(store()).unwrap().render();
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
    let said = promtool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stderr) + String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && words.trim().is_empty(), "{words}");
}
