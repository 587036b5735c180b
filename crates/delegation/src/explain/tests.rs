use super::*;
use usernsd_domain::idmap::HostId;
use usernsd_domain::words::Word as _;

fn facts(now: PresentPlan) -> ExplainFacts {
    ExplainFacts {
        namespace: "default".into(),
        pod: "web".into(),
        name: "app".into(),
        ended: None,
        now: Some(now),
        isolation: Verdict::Good,
        opt_in: OptInResult::Nothing,
        agent: AgentRecord::Silent("nothing answers".into()),
        is_unlimited: false,
        forbids_mounts: None,
    }
}

fn chown() -> PresentPlan {
    PresentPlan::Plan(Plan::Chown { owner: HostId(200_000), files: vec![], directory: true })
}

fn inspected(outcome: &str, reason: Option<&str>) -> AgentRecord {
    AgentRecord::Inspected {
        outcome: OutcomeName::named(outcome),
        reason: reason.map(str::to_owned),
        source: "nri".into(),
    }
}

#[test]
fn every_reason_is_explained_and_followed_by_a_step() {
    for skip in Skip::ALL {
        let diagnosis = Diagnosis::of(&facts(PresentPlan::Skip(skip, None)));
        assert!(!diagnosis.because.is_empty(), "{skip}");
        let is_right = matches!(
            skip,
            Skip::HostUserNamespace | Skip::ReadOnlyMount | Skip::NoCgroupMount | Skip::BeingMade
        );
        assert_eq!(diagnosis.problems.is_empty(), is_right, "{skip}: {diagnosis:?}");
        assert!(skip == Skip::NoCgroupMount || !diagnosis.next.is_empty(), "{skip}");
    }
}

#[test]
fn a_right_cgroup_is_a_problem_only_if_it_is_unlimited() {
    let right = facts(PresentPlan::Plan(Plan::AlreadyRight { owner: HostId(200_000) }));
    for agent in [inspected("delegated", None), inspected("already_right", None), AgentRecord::Unaware] {
        let diagnosis = Diagnosis::of(&ExplainFacts { agent, ..right.clone() });
        assert!(diagnosis.problems.is_empty() && diagnosis.next.is_empty(), "{diagnosis:?}");
    }
    let diagnosis = Diagnosis::of(&ExplainFacts { is_unlimited: true, ..right });
    assert_eq!(diagnosis.problems, ["nothing limits the cgroups that the pod may create"]);
    assert_eq!(diagnosis.next, [START_AGENT]);
}

#[test]
fn a_container_that_owns_a_read_only_cgroup_without_limits_has_a_problem() {
    let read_only = facts(PresentPlan::Skip(Skip::ReadOnlyMount, None));
    assert!(Diagnosis::of(&read_only).problems.is_empty());
    for (agent, next) in [
        (AgentRecord::Silent("no socket".into()), Some(START_AGENT)),
        (inspected("read_only_mount", None), Some("set delegation.mechanism")),
        (AgentRecord::Unaware, None),
    ] {
        let diagnosis = Diagnosis::of(&ExplainFacts { is_unlimited: true, agent, ..read_only.clone() });
        assert_eq!(diagnosis.problems, ["nothing limits the cgroups that the pod may create"]);
        let found = diagnosis.next.iter().find(|step| next.is_some_and(|next| step.starts_with(next)));
        assert_eq!(found.is_some(), next.is_some(), "{diagnosis:?}");
    }
}

#[test]
fn a_profile_that_forbids_mounts_is_named() {
    let right = facts(PresentPlan::Plan(Plan::AlreadyRight { owner: HostId(200_000) }));
    let diagnosis = Diagnosis::of(&ExplainFacts { forbids_mounts: Some("crio-default".into()), ..right });
    assert!(diagnosis.problems.is_empty(), "the cgroup is right: {diagnosis:?}");
    assert!(
        diagnosis.because.iter().any(|line| line.contains("AppArmor profile crio-default forbids")),
        "{diagnosis:?}"
    );
    assert!(
        diagnosis.next.iter().any(|line| line.contains("localhostProfile: usernsd-systemd")),
        "{diagnosis:?}"
    );
}

#[test]
fn a_problem_is_explained_exactly_if_the_container_is_assessed_as_one() {
    // Nothing is known of the cgroup, and that is worth an explanation.
    let unknown = [Skip::NotUnified, Skip::Closed, Skip::Gone, Skip::Unproven];
    for skip in Skip::ALL {
        for (opt_in, is_unlimited) in
            [(OptInResult::Nothing, false), (OptInResult::Missed, false), (OptInResult::Nothing, true)]
        {
            // The limits of a container are known only if its cgroup is.
            let is_unlimited = is_unlimited && !matches!(skip, Skip::HostUserNamespace | Skip::BeingMade);
            let facts = ExplainFacts { opt_in, is_unlimited, ..facts(PresentPlan::Skip(skip, None)) };
            let is_problem = facts.assessment().is_problem() || unknown.contains(&skip);
            assert_eq!(!Diagnosis::of(&facts).problems.is_empty(), is_problem, "{skip} {:?}", facts.opt_in);
        }
    }
    let right = || PresentPlan::Plan(Plan::AlreadyRight { owner: HostId(200_000) });
    for now in [right(), chown(), PresentPlan::Failed("EIO".into())] {
        for (is_unlimited, isolation) in
            [(false, Verdict::Good), (true, Verdict::Good), (false, Verdict::Lost)]
        {
            let facts = ExplainFacts { is_unlimited, isolation, ..facts(now.clone()) };
            assert_eq!(
                !Diagnosis::of(&facts).problems.is_empty(),
                facts.assessment().is_problem(),
                "{facts:?}"
            );
        }
    }
}

#[test]
fn a_cgroup_with_the_wrong_owner_is_explained_by_a_cause() {
    for (agent, because, next) in [
        (AgentRecord::Silent("no socket".into()), "no usernsd agent answers", Some(START_AGENT)),
        (AgentRecord::Unaware, "its next resync will", None),
        (inspected("failed", Some("chown: EPERM")), "chown: EPERM", Some(AGENT_LOG)),
        (inspected("delegated", None), "something changed it since", Some("usernsd ps -o wide")),
    ] {
        let diagnosis = Diagnosis::of(&ExplainFacts { agent, ..facts(chown()) });
        assert_eq!(diagnosis.problems, ["the cgroup should belong to host user 200000 and does not"]);
        assert!(diagnosis.because.join(" ").contains(because), "{diagnosis:?}");
        assert_eq!(diagnosis.next.first().map(String::as_str), next);
    }
}

#[test]
fn a_container_that_restarts_needs_no_new_pod() {
    let running =
        ExplainFacts { opt_in: OptInResult::Missed, ..facts(PresentPlan::Skip(Skip::ReadOnlyMount, None)) };
    assert!(Diagnosis::of(&running).next.contains(&"kubectl -n default delete pod web".to_owned()));
    let ended = Ended { code: 255, reason: String::new() };
    let ended = Diagnosis::of(&ExplainFacts { ended: Some(ended), now: None, ..running });
    assert!(
        ended.next.iter().any(|next| next.starts_with("wait for the container's next restart")),
        "{ended:?}"
    );
    assert!(!ended.next.contains(&"kubectl -n default delete pod web".to_owned()));
}

#[test]
fn a_pod_without_a_container_is_explained_by_what_is_missing() {
    let waiting = |has_sandbox, ids| {
        let (namespace, pod) = ("default".to_owned(), "web".to_owned());
        Diagnosis::of_waiting(&Waiting { namespace, pod, has_sandbox, ids })
    };
    let diagnosis = waiting(false, ChosenIds::Range { first: 131_072, count: 65_536 });
    assert_eq!(diagnosis.problems, ["no sandbox"]);
    assert_eq!(diagnosis.because[1], "The kubelet assigned the host IDs 131072 to 196607 to it.");
    assert!(diagnosis.next[0].starts_with("kubectl -n default describe pod web; "), "{:?}", diagnosis.next);
    assert_eq!(waiting(true, ChosenIds::None).problems, ["no container yet"]);
    assert!(waiting(false, ChosenIds::None).because[1].contains("hostUsers: false"));
    // A fact that cannot be seen is not reported as missing.
    let unseen = waiting(false, ChosenIds::Unseen);
    assert!(unseen.because[1].contains("cannot be seen") && !unseen.because[1].contains("hostUsers"));
}

#[test]
fn lost_isolation_outweighs_everything() {
    let diagnosis = Diagnosis::of(&ExplainFacts {
        isolation: Verdict::Lost,
        ..facts(PresentPlan::Skip(Skip::HostUserNamespace, None))
    });
    assert_eq!(diagnosis.problems, ["isolation lost"]);
    assert_eq!(diagnosis.next, ["kubectl -n default delete pod web"]);
}

#[test]
fn an_opt_in_without_effect_is_a_problem() {
    let read_only = facts(PresentPlan::Skip(Skip::ReadOnlyMount, None));
    let diagnosis = Diagnosis::of(&ExplainFacts { opt_in: OptInResult::Missed, ..read_only.clone() });
    assert_eq!(diagnosis.problems, ["asked for a writable cgroup in vain"]);
    assert_eq!(diagnosis.next, [START_AGENT, "kubectl -n default delete pod web"]);
    let namespace = Ungranted::Namespace { annotation: "usernsd.io/cgroup".into() };
    let diagnosis =
        Diagnosis::of(&ExplainFacts { opt_in: OptInResult::Ungranted(namespace), ..read_only.clone() });
    assert_eq!(
        diagnosis.because,
        ["Annotation usernsd.io/cgroup asks for a writable cgroup, but pods of this namespace may not ask \
                 (optIn.namespaces)."]
    );
    let declined =
        DecidingAnnotation { key: "cgroup.usernsd.io/container.app".into(), value: "read-only".into() };
    let diagnosis = Diagnosis::of(&ExplainFacts { opt_in: OptInResult::Declined(declined), ..read_only });
    assert!(diagnosis.problems.is_empty());
    assert_eq!(
        diagnosis.because,
        ["/sys/fs/cgroup is read-only in it: annotation cgroup.usernsd.io/container.app is \"read-only\"."]
    );
}

#[test]
fn the_end_of_a_container_is_explained_with_the_runtimes_reason() {
    let ended = Ended { code: 255, reason: "Error".into() };
    let facts = ExplainFacts { now: None, ended: Some(ended), ..facts(chown()) };
    let diagnosis = Diagnosis::of(&facts);
    assert_eq!(diagnosis.problems, ["ended with exit code 255"]);
    assert_eq!(diagnosis.because, ["It ended with exit code 255 (Error). Its cgroup is gone with it."]);
    let well = ExplainFacts { ended: Some(Ended { code: 0, reason: String::new() }), ..facts };
    assert!(Diagnosis::of(&well).problems.is_empty());
}
