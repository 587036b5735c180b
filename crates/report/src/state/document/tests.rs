use std::sync::Arc;

use std::time::SystemTime;
use usernsd_domain::check::configuration::ConfigFacts;

use super::*;
use usernsd_domain::accounts::Accounts;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::container::{CgroupMount, CriId};
use usernsd_domain::delegation::Skip;
use usernsd_domain::guard::Verdict;
use usernsd_domain::history::Past;
use usernsd_domain::idmap::HostId;
use usernsd_domain::node::{ContainerCgroups, LaunchedPlugin, PodCgroup, StartPath, SurveyedPod};
use usernsd_domain::pod::Pod as DomainPod;
use usernsd_domain::record::{Source, UserNamespace, UserNamespaceMode};
use usernsd_domain::space::{HostIds, OverlapKind, Space};
use usernsd_domain::subid::SubidFile;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn the_document_agrees_with_its_page() {
    let slice = "kubepods-podc7f11ee7_e178_4dea_9d8c_c005ad648988.slice";
    let path = format!("/kubepods.slice/{slice}/crio-abc.scope/container/fake.scope");
    let record = Record {
        id: CriId::parse("abc").unwrap(),
        sandbox_id: "def".into(),
        name: "web".into(),
        pod: PodRef { namespace: "team-a".into(), name: "web-0".into(), uid: "u-1".into() },
        pid: Some(4242),
        uid_map: Some(IdMap::parse("0 200000 65536\n").unwrap()),
        gid_map: Some(IdMap::parse("0 300000 65536\n").unwrap()),
        user_namespace: Some(UserNamespace { inode: Some(4_026_533_021), is_hosts: false }),
        mode: UserNamespaceMode::Pod,
        mount: Some(CgroupMount::ReadOnly),
        cgroup: Some(CgroupPath::parse(&path).unwrap()),
        inode: Some(77),
        owner: Some(HostId(0)),
        limits: delegation::KnownLimits::Set(delegation::Limits { descendants: 250, depth: 50 }),
        outcome: Outcome::Skipped(Skip::ReadOnlyMount),
        source: Source::Nri,
        isolation: Verdict::Good,
        stage: usernsd_domain::isolation::Stage::Ready,
        missed: false,
    };
    let event = recent_events::Event {
        number: 1,
        at: at(60),
        kind: recent_events::EventKind::LeftAlone,
        what: Skip::Unproven.name(),
        container: CriId::parse("abc").unwrap(),
        name: "web".into(),
        pod: record.pod.clone(),
        sentence: Skip::Unproven.meaning().into(),
    };
    let ended = Record { id: CriId::parse("fed").unwrap(), name: "init".into(), ..record.clone() };
    let mut peers = node::Peers::new(at(0));
    peers.cri.up(at(10));
    peers.nri.down(at(11), "no such file".into());
    peers.systemd.off(at(12));
    let snapshot = Snapshot {
        started: at(9),
        reconciled: Some(at(40)),
        runtime: Some(node::CriRuntime {
            name: "cri-o".into(),
            version: "1.36.3".into(),
            endpoint: "/run/crio/crio.sock".into(),
        }),
        peers,
        start_path: StartPath::Nobody,
        mismatch: None,
        plugins: vec![LaunchedPlugin {
            pid: 812,
            version: "0.1.0".into(),
            runtime: "cri-o".into(),
            runtime_version: "1.36.3".into(),
            since: at(3),
            responds: false,
            settings: "cbf29ce484222325".into(),
            problems: vec![],
            dropped: 0,
        }],
        containers: vec![Arc::new(record)],
        events: vec![Arc::new(event)],
        examined: Some(Arc::new(Examined {
            checked: Vec::new(),
            asked: Err(String::new()),
            configuration: ConfigFacts {
                failure: Err(String::new()),
                drift: Err(String::new()),
                pending: Err(String::new()),
                has_pods_outside: false,
            },
            oci_runtime: None,
            writes: None,
        })),
        past: vec![Arc::new(Past::of(&ended, at(20), at(30)).unwrap())],
    };
    let about = About {
        node: "worker-1".into(),
        version: "0.1.0".into(),
        uptime_at_start: Some(Duration::from_millis(31_640)),
    };
    let pods = DomainPod::of(&snapshot.containers);
    let mut accounts = Accounts::default();
    accounts.add_users(b"root:x:0:0:::\n");
    accounts.add_groups(b"wheel:x:10:\n");
    let host_ids = HostIds {
        subuid: SubidFile::parse(b"# ours\ncontainers:200000:655360\n"),
        subgid: SubidFile::parse(b"core:300000:65536\n"),
        accounts,
        kubelet_is_present: false,
        crio_is_here: true,
    };
    let ids: Vec<_> = pods.iter().map(DomainPod::ids).collect();
    let space = Space::of(&host_ids, &ids);
    let limit = delegation::Limit::At(250);
    let surveyed = |(pod, shared): (DomainPod, [u64; 4])| SurveyedPod {
        pod,
        cgroup: Some(PodCgroup {
            descendants: 3,
            limit,
            fullest: Some(ContainerCgroups {
                container: CriId::parse("abc").unwrap(),
                descendants: 2,
                limit: 108,
            }),
        }),
        shared,
    };
    let survey = Survey {
        pods: pods.into_iter().zip(space.shared.clone()).map(surveyed).collect(),
        host_ids: Some(host_ids),
        kernel: Some(node::NodeKernel {
            release: "6.12.0".into(),
            user_namespaces: 3,
            max_user_namespaces: 63_000,
        }),
        unified: true,
        collected: vec![],
        space: Some(space),
    };
    // The page's example has no problems of pods.
    let state = State { checks: Vec::new(), ..State::of(&about, &snapshot, &survey) };
    let text = String::from_utf8(state.render()).unwrap();
    assert!(text.ends_with("}\n") && text.lines().count() == 1);
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);

    let page = include_str!("../../../../../docs/state.md");
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let example: serde_json::Value = serde_json::from_str(example).unwrap();
    assert_eq!(serde_json::to_value(&state).unwrap(), example, "docs/state.md shows another document");
    for name in usernsd_domain::record::CgroupState::ALL.map(|state| state.name()) {
        assert!(page.contains(&format!("`{name}`")), "docs/state.md lacks {name}");
    }
    for name in recent_events::EventKind::ALL.map(recent_events::EventKind::name) {
        assert!(page.contains(&format!("`{name}`")), "docs/state.md lacks {name}");
    }
    for name in OverlapKind::ALL.map(OverlapKind::name) {
        assert!(page.contains(&format!("`{name}`")), "docs/state.md lacks {name}");
    }
    for name in Skip::ALL.map(Skip::name).into_iter().chain(Source::ALL.map(Source::name)) {
        assert!(page.contains(&format!("`{name}`")), "docs/state.md lacks {name}");
    }
}
