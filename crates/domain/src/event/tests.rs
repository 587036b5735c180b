use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn subject(name: &str) -> EventSubject {
    EventSubject::Pod { namespace: "ns".into(), name: name.into(), uid: format!("uid-{name}") }
}

fn failing(name: &str, error: &str) -> PodEventFacts {
    let container =
        ContainerFacts { name: "c".into(), failed: Some(error.into()), ..ContainerFacts::default() };
    PodEventFacts { subject: subject(name), shared: vec![], containers: vec![container], misfits: vec![] }
}

fn posted(journal: &mut PostedNotices, node: &NodeFacts, pods: &[PodEventFacts]) -> Vec<(&'static str, u32)> {
    let present = pods.iter().map(|pod| pod.subject.clone()).collect();
    let occurred = journal.turn(notices(node, pods), &present, SystemTime::UNIX_EPOCH);
    occurred.iter().for_each(|one| journal.record_posted(one));
    occurred.iter().map(|one| (one.notice.reason.name(), one.count)).collect()
}

#[test]
fn a_notice_occurs_once_and_again_after_it_ended() {
    let mut journal = PostedNotices::default();
    let node = NodeFacts { ready: Some(true), ..NodeFacts::default() };
    let (bad, good) = ([failing("a", "x")], [PodEventFacts { containers: vec![], ..failing("a", "") }]);
    assert_eq!(posted(&mut journal, &node, &bad), [("CgroupOwnershipFixFailed", 1)]);
    assert!(posted(&mut journal, &node, &bad).is_empty());
    // Another error is the same notice.
    assert!(posted(&mut journal, &node, &[failing("a", "y")]).is_empty());
    assert!(posted(&mut journal, &node, &good).is_empty());
    assert_eq!(posted(&mut journal, &node, &bad), [("CgroupOwnershipFixFailed", 2)]);
    // A deleted pod is forgotten.
    assert!(posted(&mut journal, &node, &[]).is_empty());
    assert!(journal.posted.is_empty());
}

#[test]
fn a_notice_occurs_until_it_is_posted() {
    let mut journal = PostedNotices::default();
    let bad = failing("a", "x");
    let present = BTreeSet::from([bad.subject.clone()]);
    let node = NodeFacts::default();
    let first = SystemTime::UNIX_EPOCH;
    let turn = |journal: &mut PostedNotices, seconds: u64, pods: &[PodEventFacts]| {
        journal.turn(notices(&node, pods), &present, first + Duration::from_secs(seconds))
    };
    assert_eq!(turn(&mut journal, 0, std::slice::from_ref(&bad)).len(), 1);
    let again = turn(&mut journal, 90, std::slice::from_ref(&bad));
    assert_eq!((again[0].count, again[0].at), (1, first), "the time is that of the first observation");
    journal.record_posted(&again[0]);
    assert!(turn(&mut journal, 100, std::slice::from_ref(&bad)).is_empty());
    // The state ends, and begins again.
    assert!(turn(&mut journal, 110, &[]).is_empty());
    let back = turn(&mut journal, 120, std::slice::from_ref(&bad));
    assert_eq!((back[0].count, back[0].at), (2, first + Duration::from_secs(120)));
    // A notice that ends before it was posted is dropped.
    assert!(turn(&mut journal, 130, &[]).is_empty());
    assert!(journal.waiting.is_empty());
}

#[test]
fn namespaces_take_turns_and_urgent_notices_come_first() {
    let occurrence = |namespace: &str, name: &str, reason| Occurrence {
        notice: Notice::new(
            EventSubject::Pod { namespace: namespace.into(), name: name.into(), uid: name.into() },
            reason,
            "c",
            String::new(),
        ),
        count: 1,
        at: SystemTime::UNIX_EPOCH,
    };
    let mut all: Vec<Occurrence> =
        (0..20).map(|n| occurrence("evil", &format!("e{n}"), Reason::UserNotInMapping)).collect();
    all.push(occurrence("victim", "v0", Reason::CgroupOwnershipFixFailed));
    all.push(occurrence("victim", "v1", Reason::UserNamespaceLost));
    all.push(occurrence("evil", "last", Reason::UserNamespaceRefused));
    let names = |spent: fn(&str) -> f64| -> Vec<String> {
        in_turn(all.clone(), spent).iter().take(4).map(|one| one.notice.subject.key().to_owned()).collect()
    };
    assert_eq!(names(|_| 0.0), ["v1", "last", "e0", "v0"]);
    // A namespace that used its share waits for those that did not.
    assert_eq!(names(|share| if share == "evil" { 9.5 } else { 0.0 }), ["v1", "v0", "last", "e0"]);
}

#[test]
fn a_pool_is_low_from_nine_tenths_until_it_is_below_eight() {
    let mut journal = PostedNotices::default();
    let with = |used| NodeFacts { pools: vec![("kubelet".into(), used, 100)], ..NodeFacts::default() };
    let mut turn = |used| posted(&mut journal, &with(used), &[]).len();
    assert_eq!([turn(85), turn(90), turn(85), turn(90), turn(79), turn(85), turn(91)], [0, 1, 0, 0, 0, 0, 1]);
    assert!(
        posted(&mut journal, &NodeFacts { pools: vec![("crio".into(), 0, 0)], ..with(0) }, &[]).is_empty()
    );
}

#[test]
fn lost_isolation_is_reported_per_container_or_for_the_pod() {
    let container = ContainerFacts { name: "c".into(), lost: true, ..ContainerFacts::default() };
    let pod = PodEventFacts {
        subject: subject("a"),
        shared: vec![(OverlapKind::PodOutsidePool, 5), (OverlapKind::PodPod, 7)],
        containers: vec![container],
        misfits: vec![MappingProblem::HostUsersLost, MappingProblem::FsGroupNotInMapping { group: 70_000 }],
    };
    let node = NodeFacts::default();
    let found = |pod: &PodEventFacts| -> Vec<_> {
        notices(&node, std::slice::from_ref(pod)).iter().map(|one| one.reason.name()).collect()
    };
    assert_eq!(found(&pod), ["UserNamespaceLost", "UserNamespaceRangeOverlap", "UserNotInMapping"]);
    let unseen = PodEventFacts { containers: vec![], shared: vec![], ..pod };
    assert_eq!(found(&unseen), ["UserNamespaceLost", "UserNotInMapping"]);
}

#[test]
fn missed_and_stopped_containers_are_reported_for_the_pod() {
    let missed = ContainerFacts { name: "a".into(), missed: true, ..ContainerFacts::default() };
    let ended = ContainerFacts { name: "b".into(), ended: Some("ended".into()), ..ContainerFacts::default() };
    let pod = PodEventFacts {
        subject: subject("p"),
        shared: vec![],
        containers: vec![missed, ended],
        misfits: vec![],
    };
    let found = notices(&NodeFacts::default(), &[pod]);
    let found: Vec<_> = found.iter().map(|one| (one.reason.name(), one.which.as_str())).collect();
    assert_eq!(found, [("WritableCgroupMissed", "a"), ("ContainerEnded", "b")]);
    assert!(Reason::WritableCgroupMissed.is_warning() && Reason::ContainerEnded.is_warning());
}

#[test]
fn event_names_are_accepted_by_the_api_server() {
    let long = "a".repeat(253);
    let notice = Notice::new(subject(&long), Reason::UserNotInMapping, "c", "n".repeat(3000) + "é");
    let name = notice.event_name("node-1");
    assert!(name.len() <= 253 && crate::pod::is_dns_name(&name), "{name}");
    assert_eq!(notice.note.len(), 1024);
    assert_eq!(name, notice.event_name("node-1"));
    assert_ne!(name, notice.event_name("node-2"));
    // If a release changes this name, it posts every Event again.
    let node = Notice::new(EventSubject::Node, Reason::UserNamespacePoolLow, "kubelet", String::new());
    assert_eq!(node.event_name("node-1"), "node-1.606e9ed698a0de4d");
    for reason in Reason::ALL {
        let page = include_str!("../../../../docs/kubernetes.md");
        assert!(page.contains(&format!("`{}`", reason.name())), "docs/kubernetes.md lacks {}", reason.name());
    }
}

proptest! {
    #[test]
    fn notes_are_cut_at_characters(note in any::<String>()) {
        let long = note.repeat(200);
        let notice = Notice::new(EventSubject::Node, Reason::UserNamespacePoolLow, "", long.clone());
        prop_assert!(notice.note.len() <= 1024 && long.starts_with(&notice.note));
    }
}
