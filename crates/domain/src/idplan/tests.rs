mod any_node;

use super::*;
use crate::finding::{FindingId, Severity};
use crate::kubelet::PodIdsRecord;
use crate::work::steps_of;

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\n";
const GROUP: &str = "root:x:0:\n";
const DEFAULTS: &str = "core:100000:65536\ncontainers:200000:268435456\n";

/// A node with these files whose CRI-O reads the range of `containers`; `None` for a missing file.
fn node(subuid: Option<&str>, subgid: Option<&str>, passwd: &str) -> NodeIds {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let mut accounts = Accounts::default();
    accounts.add_users(passwd.as_bytes());
    accounts.add_groups(GROUP.as_bytes());
    NodeIds {
        subuid: subuid.and_then(bytes),
        subgid: subgid.and_then(bytes),
        account_files: [bytes(GROUP), None, bytes("root:*:::::::\n"), bytes(passwd)],
        accounts,
        running: Vec::new(),
        sandboxes: Vec::new(),
        unlisted: None,
        kubelet: KubeletEnvironment {
            is_present: true,
            getsubids: true,
            getent: true,
            max_pods: Some(110),
            ..KubeletEnvironment::default()
        },
        reads_containers: true,
    }
}

fn with_user(user: &str) -> String {
    format!("{PASSWD}{user}:x:1000:1000::/:\n")
}

fn content(plan: &IdPlan, path: &str) -> Option<String> {
    let change = plan.changes.iter().find(|change| change.path.as_str() == path)?;
    Some(String::from_utf8(change.new.clone().unwrap()).unwrap())
}

fn ids(plan: &IdPlan) -> Vec<FindingId> {
    plan.findings.iter().map(|finding| finding.id).collect()
}

/// The node after the plan.
fn applied(node: &NodeIds, plan: &IdPlan) -> NodeIds {
    let mut node = node.clone();
    for change in &plan.changes {
        assert!(change.is_needed(), "{change:?}");
        let new = change.new.clone();
        match change.path.as_str() {
            "etc/subuid" => node.subuid = new,
            "etc/subgid" => node.subgid = new,
            path => {
                let index = ACCOUNT_FILES.iter().position(|(_, known)| known.as_str() == path).unwrap();
                node.account_files[index] = new;
            }
        }
    }
    let mut accounts = Accounts::default();
    accounts.add_users(node.account_files[3].as_deref().unwrap());
    accounts.add_groups(node.account_files[0].as_deref().unwrap());
    node.accounts = accounts;
    node
}

#[test]
fn the_default_is_two_lines() {
    let plan = plan(&node(None, None, &with_user("core")), &DesiredIds::default()).unwrap();
    assert_eq!(content(&plan, "etc/subuid").unwrap(), DEFAULTS);
    assert_eq!(content(&plan, "etc/subgid").unwrap(), DEFAULTS);
    assert_eq!(plan.changes.len(), 2);
}

#[test]
fn the_ranges_of_users_and_groups_are_changed_together() {
    let plan = plan(&node(None, None, ""), &DesiredIds::default()).unwrap();
    let [uids, gids] = plan.changes.as_slice() else { panic!("{plan:?}") };
    assert!(must_change_together([uids, gids]) && must_change_together([gids, uids]));
    assert!(!must_change_together([uids, uids]));
    let removed = FileChange { new: None, ..gids.clone() };
    assert!(!must_change_together([uids, &removed]));
}

#[test]
fn a_range_that_nobody_reads_is_not_written_unless_it_is_asked_for() {
    let unread = NodeIds { reads_containers: false, ..node(None, None, &with_user("core")) };
    let found = plan(&unread, &DesiredIds::default()).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "core:100000:65536\n");
    let (owner, _, count) = CONTAINERS;
    let range = DesiredRange { owner: owner.to_owned(), start: None, count };
    let asked = DesiredIds { ranges: Some(vec![range]), ..DesiredIds::default() };
    let found = plan(&unread, &asked).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "containers:200000:268435456\n");
}

#[test]
fn a_default_gives_way_to_a_line_of_the_kubelet_that_works() {
    const GOOD: &str = "kubelet:1048576:7208960\n";
    let bad = format!("kubelet:524288:65536\n{GOOD}");
    for [uids, gids] in [[bad.as_str(), &bad], [GOOD, &bad], [GOOD, "kubelet:1048576:7208961\n"], [&bad, ""]]
    {
        let mut before = node(Some(uids), Some(gids), &with_user("kubelet"));
        before.kubelet.records =
            vec![PodIdsRecord { pod: "a".into(), window: Ok(Window { start: 1_048_576, count: 65_536 }) }];
        let found = plan(&before, &DesiredIds::default()).unwrap();
        let after = applied(&before, &found);
        let want = Some(format!("{GOOD}containers:8257536:268435456\n").into_bytes());
        assert_eq!([&after.subuid, &after.subgid], [&want, &want], "{uids:?} {gids:?}");
    }
}

#[test]
fn the_default_of_containers_is_halved_until_there_is_room() {
    let line = |start: u64| format!("alice:{start}:{}\n", (1_u64 << 32) - start);
    for (start, want) in [
        (65_536_000, Some("containers:200000:33554432")),
        (331_072, Some("containers:65536:262144")),
        (131_071, None),
    ] {
        let text = line(start);
        let before = node(Some(&text), Some(&text), PASSWD);
        match (plan(&before, &DesiredIds::default()), want) {
            (Ok(found), Some(want)) => {
                assert_eq!(content(&found, "etc/subuid").unwrap(), format!("{text}{want}\n"));
                assert!(ids(&found).contains(&FindingId::RangeSmaller), "{:?}", found.findings);
            }
            (Err(refused), None) => {
                assert!(refused.to_string().contains("no 268435456 IDs in a row are free"), "{refused}");
            }
            (found, want) => panic!("{start}: {found:?}, not {want:?}"),
        }
    }
}

/// The C library does not find such a user, and a second line of that name would not be added.
#[test]
fn a_user_with_an_invalid_number_is_not_made_in_part() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    for number in ["-1", "0x3df", "", "99999999999"] {
        let passwd = format!("{PASSWD}kubelet:x:{number}:1::/:/bin/false\n");
        let refused = plan(&node(Some(DEFAULTS), Some(DEFAULTS), &passwd), &desired).unwrap_err();
        assert!(refused.to_string().contains("with an invalid number"), "{number}: {refused}");
    }
    let good = format!("{PASSWD}kubelet:x:991:1::/:/bin/false\n");
    plan(&node(Some(DEFAULTS), Some(DEFAULTS), &good), &desired).unwrap();
}

#[test]
fn the_kubelets_user_comes_last() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    let found = plan(&before, &desired).unwrap();
    let order: Vec<&str> = found.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(order, ["etc/subuid", "etc/subgid", "etc/group", "etc/shadow", "etc/passwd"]);
    assert_eq!(content(&found, "etc/subuid").unwrap(), format!("{DEFAULTS}kubelet:2000027648:7208960\n"));
    assert!(content(&found, "etc/passwd").unwrap().contains("\nkubelet:x:999:999:"));
    assert!(!ids(&found).contains(&FindingId::KubeletDefaultPool), "{:?}", found.findings);
    assert_eq!(plan(&applied(&before, &found), &desired).unwrap().changes, []);

    for (change, want) in [
        ((|node: &mut NodeIds| node.kubelet.getsubids = false) as fn(&mut NodeIds), "getsubids is missing"),
        (|node| node.kubelet.nsswitch_subid = Some("sss".into()), "nsswitch.conf"),
        (|node| node.account_files[3] = None, "/etc/passwd or /etc/group is missing"),
    ] {
        let mut node = before.clone();
        change(&mut node);
        let refused = plan(&node, &desired).unwrap_err().to_string();
        assert!(refused.starts_with("the user kubelet is not made: ") && refused.contains(want), "{refused}");
    }
}

#[test]
fn a_pool_does_not_change_under_pods() {
    let mut before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    let pod =
        |pod: &str, start| PodIdsRecord { pod: pod.into(), window: Ok(Window { start, count: 65_536 }) };
    before.kubelet.records = vec![pod("a", 626_982_912), pod("b", 2_000_027_648)];
    // The kubelet's pool does not change.
    assert_eq!(plan(&before, &DesiredIds::default()).unwrap().changes, []);
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let Err(PlanError::Stranded(stranded)) = plan(&before, &desired) else { panic!() };
    assert_eq!(stranded.len(), 1, "the other is in the new pool");
    let refused = plan(&before, &desired).unwrap_err().to_string();
    assert!(
        refused.contains("under 1 pod ")
            && refused.contains("drain")
            && refused.contains("a: its IDs 626982912")
    );
    before.kubelet.records.remove(0);
    assert!(plan(&before, &desired).is_ok());
    // A pool that is wrong already is reported, and does not prevent other changes.
    let line = format!("{DEFAULTS}kubelet:65536:131072\n");
    let mut before = node(Some(&line), Some(&line), &with_user("kubelet"));
    before.kubelet.max_pods = Some(2);
    before.kubelet.records = vec![pod("a", 626_982_912)];
    assert_eq!(ids(&plan(&before, &DesiredIds::default()).unwrap())[0], FindingId::KubeletRecordOutside);
}

#[test]
fn a_guessed_size_is_generous_and_kept() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let mut before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    (before.kubelet.max_pods, before.kubelet.has_config) = (None, true);
    let found = plan(&before, &desired).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), format!("{DEFAULTS}kubelet:2000027648:67108864\n"));
    assert!(ids(&found).contains(&FindingId::KubeletPodsUnsaid));
    let mut after = applied(&before, &found);
    assert_eq!(plan(&after, &desired).unwrap().changes, []);
    // If a smaller number is configured later, the line is large enough.
    after.kubelet.max_pods = Some(250);
    assert_eq!(plan(&after, &desired).unwrap().changes, []);

    // No range and no convention gives way for a guess.
    before.kubelet.ids_per_pod = Some(1 << 20);
    let found = plan(&before, &desired).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), format!("{DEFAULTS}kubelet:2000683008:115343360\n"));
    before.kubelet.ids_per_pod = None;
    before.running = vec![(7, Window { start: 2_020_000_000, count: 100_000_000 })];
    let found = plan(&before, &desired).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), format!("{DEFAULTS}kubelet:2000027648:16777216\n"));

    // For a kubelet without a readable configuration nothing is guessed.
    before.kubelet.has_config = false;
    assert_eq!(plan(&before, &desired).unwrap_err(), PlanError::Demand(None));
    before.kubelet.config_unreadable = Some("/x: no".into());
    let refused = plan(&before, &desired).unwrap_err().to_string();
    assert!(
        refused.starts_with("the number of pods that the kubelet may run is unknown: /x: no; set"),
        "{refused}"
    );
}

#[test]
fn an_unknown_directory_service_does_not_count_as_a_kubelet_that_cannot_start() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let mut before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    before.kubelet.max_pods = None;
    before.kubelet.directory = kubelet::Directory::Unasked("files ldap".into());
    assert_eq!(plan(&before, &desired).unwrap_err(), PlanError::Demand(None));
}

#[test]
fn a_good_line_in_one_file_repairs_the_other() {
    const LINE: &str = "kubelet:700055552:14417920\n";
    let good = format!("{DEFAULTS}{LINE}");
    let bad = format!("{DEFAULTS}kubelet:700055552:14417920\r\n");
    for [uids, gids] in [[DEFAULTS, &good], [&good, DEFAULTS], [&bad, &bad], [&bad, &good], [DEFAULTS, &bad]]
    {
        let mut before = node(Some(uids), Some(gids), &with_user("kubelet"));
        before.kubelet.records =
            vec![PodIdsRecord { pod: "a".into(), window: Ok(Window { start: 700_055_552, count: 65_536 }) }];
        let found = plan(&before, &DesiredIds::default()).unwrap();
        let after = applied(&before, &found);
        let want = Some(good.clone().into_bytes());
        assert_eq!([&after.subuid, &after.subgid], [&want, &want], "{uids:?} {gids:?}");
        assert_eq!(
            ids(&found).contains(&FindingId::SubidFlawedLine),
            format!("{uids}{gids}").contains('\r'),
            "{:?}",
            found.findings
        );
    }
    // Of two lines, the one that pods' IDs are from.
    let two = format!("{DEFAULTS}kubelet:2000027648:7208960\n{LINE}");
    let mut before = node(Some(&two), Some(&two), &with_user("kubelet"));
    before.kubelet.records =
        vec![PodIdsRecord { pod: "a".into(), window: Ok(Window { start: 700_055_552, count: 65_536 }) }];
    assert_eq!(content(&plan(&before, &DesiredIds::default()).unwrap(), "etc/subuid").unwrap(), good);
    // Without a configured number of pods, whether it is too short would be a guess.
    let short = format!("{DEFAULTS}kubelet:700055552:3276800\n");
    let mut before = node(Some(DEFAULTS), Some(&short), &with_user("kubelet"));
    before.kubelet.max_pods = None;
    assert_eq!(content(&plan(&before, &DesiredIds::default()).unwrap(), "etc/subuid").unwrap(), short);
    // CRI-O reads it, so it keeps its range.
    let text = "containers:400000000:65536\r\n";
    let found = plan(&node(Some(text), Some(text), PASSWD), &DesiredIds::default()).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "containers:400000000:65536\n");
    assert!(ids(&found).contains(&FindingId::SubidFlawedLine), "{:?}", found.findings);
}

#[test]
fn a_changed_pool_is_a_warning_if_a_kubelet_is_present() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let mut before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    let severity = |node: &NodeIds| {
        let found = plan(node, &desired).unwrap().findings;
        found.iter().find(|finding| finding.id == FindingId::KubeletRestart).unwrap().severity
    };
    assert_eq!(severity(&before), Severity::Warning);
    before.kubelet.is_present = false;
    assert_eq!(severity(&before), Severity::Note);
}

#[test]
fn pods_that_only_the_runtime_lists_keep_the_pool_too() {
    let desired = DesiredIds {
        kubelet: KubeletOptions { user: KubeletUser::Create, ..KubeletOptions::default() },
        ..DesiredIds::default()
    };
    let mut before = node(Some(DEFAULTS), Some(DEFAULTS), PASSWD);
    let window = |start| Window { start, count: 65_536 };
    // A pod in CRI-O's own range is not the kubelet's, and one in the new pool fits.
    before.sandboxes = vec![("auto".into(), window(262_144)), ("in".into(), window(2_000_027_648))];
    let found = plan(&before, &desired).unwrap();
    before.sandboxes.push(("out".into(), window(626_982_912)));
    let Err(PlanError::Stranded(stranded)) = plan(&before, &desired) else { panic!() };
    assert_eq!(stranded.iter().map(|one| one.pod.as_str()).collect::<Vec<_>>(), ["out"]);

    // The change can be undone while they run, too.
    let mut after = applied(&before, &found);
    after.sandboxes = vec![("in".into(), window(2_000_027_648))];
    let without = |node: &NodeIds, lines: bool| {
        let mut node = node.clone();
        if lines {
            (node.subuid, node.subgid) = (Some(DEFAULTS.into()), Some(DEFAULTS.into()));
        }
        node
    };
    let stuck = without(&after, true);
    assert!(check_pool([&before, &after, &without(&after, false)], &desired).is_ok());
    let refused = check_pool([&before, &after, &stuck], &desired).unwrap_err();
    assert!(matches!(&refused, PlanError::Stuck(why) if why.contains("not a line")), "{refused}");
    // The kubelet did not start at first.
    assert!(!check_pool([&stuck, &after, &stuck], &desired).unwrap().is_empty());
}

#[test]
fn an_existing_line_that_works_is_kept() {
    let users = with_user("kubelet");
    for lines in [
        "containers:100000:16000000\nkubelet:2000027648:7208960\n",
        "containers:1000000:5\ncontainers:2000000:5\nkubelet:65536:16384000\nx:0x5:\n",
        "kubelet:65536:7208960\ncontainers:200000:268435456",
    ] {
        let found = plan(&node(Some(lines), Some(lines), &users), &DesiredIds::default()).unwrap();
        assert_eq!(found.changes, [], "{lines:?}");
    }
    let shared = "containers:100000:16000000\nalice:200000:65536\nbob:65536:9\n";
    let passwd = format!("{PASSWD}corp:x:150000:5:::\n");
    let found = plan(&node(Some(shared), Some(shared), &passwd), &DesiredIds::default()).unwrap();
    assert_eq!(found.changes, []);
    assert_eq!(ids(&found).iter().filter(|id| **id == FindingId::SubidOverlap).count(), 2);
    assert_eq!(ids(&found).iter().filter(|id| **id == FindingId::SubidHoldsAccount).count(), 2);
}

/// user_namespaces(7): mapping one ID takes no privilege.
#[test]
fn a_process_that_maps_one_id_does_not_block_a_range() {
    let mut before = node(None, None, PASSWD);
    before.running =
        vec![(41, Window { start: 300_000, count: 1 }), (42, Window { start: 300_001, count: 1 })];
    let plan = plan(&before, &DesiredIds::default()).unwrap();
    assert_eq!(content(&plan, "etc/subuid").unwrap(), "containers:200000:268435456\n");
    let output = plan.findings.iter().find(|finding| finding.id == FindingId::RangeInUse).unwrap();
    assert!(output.what.contains("process 41 has mapped the ID 300000"), "{}", output.what);
    assert!(output.what.ends_with("the range of containers, and 1 more are like it"), "{}", output.what);
}

/// Unlisted pods may have any IDs.
#[test]
fn nothing_changes_if_the_runtimes_pods_are_unknown() {
    let mut before = node(None, None, PASSWD);
    before.unlisted = Some("listing timed out".to_owned());
    assert_eq!(
        plan(&before, &DesiredIds::default()),
        Err(PlanError::Unlisted("listing timed out".to_owned()))
    );
    // Without a change nothing is refused.
    before.subuid = Some(b"containers:200000:268435456\n".to_vec());
    before.subgid = before.subuid.clone();
    assert!(plan(&before, &DesiredIds::default()).unwrap().changes.is_empty());
}

#[test]
fn a_default_range_avoids_running_pods() {
    let mut before = node(None, None, PASSWD);
    before.running = vec![(42, Window { start: 626_982, count: 65_536 })];
    let found = plan(&before, &DesiredIds::default()).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "containers:720896:268435456\n");
    let moved = found.findings.iter().find(|finding| finding.id == FindingId::RangeMoved).unwrap();
    assert!(moved.what.contains("the user namespace of process 42"), "{}", moved.what);
    // A process in CRI-O's own range is where it should be.
    let line = "containers:200000:268435456\n";
    let mut before = node(Some(line), None, PASSWD);
    before.running = vec![(42, Window { start: 626_982, count: 65_536 })];
    let found = plan(&before, &DesiredIds::default()).unwrap();
    assert_eq!(content(&found, "etc/subgid").unwrap(), line);
    assert_eq!(content(&found, "etc/subuid"), None);
}

#[test]
fn a_configured_range_is_applied_or_refused() {
    let desired = |owner: &str, start, count| DesiredIds {
        ranges: Some(vec![DesiredRange { owner: owner.into(), start, count }]),
        ..DesiredIds::default()
    };
    let lines = "containers:200000:65536\n# x\ncontainers:300000:65536\nalice:400000:65536\n";
    let before = node(Some(lines), Some(lines), PASSWD);
    let found = plan(&before, &desired("containers", Some(500_000), 10)).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "containers:500000:10\n# x\nalice:400000:65536\n");
    assert!(ids(&found).contains(&FindingId::ContainersRangeCached));
    let found = plan(&before, &desired("containers", None, 100)).unwrap();
    assert_eq!(content(&found, "etc/subuid").unwrap(), "containers:200000:100\n# x\nalice:400000:65536\n");
    let refused = plan(&before, &desired("containers", Some(399_999), 10)).unwrap_err().to_string();
    assert!(refused.contains("line 4 of /etc/subgid (alice)") && refused.ends_with(" is free"), "{refused}");
    let passwd = with_user("core");
    let both = DesiredIds {
        ranges: Some(
            ["core", "1000"]
                .map(|owner| DesiredRange { owner: owner.into(), start: None, count: 5 })
                .to_vec(),
        ),
        ..DesiredIds::default()
    };
    assert!(matches!(plan(&node(None, None, &passwd), &both), Err(PlanError::Twice(..))));
    let kubelet = |start, ids_per_pod| DesiredIds {
        kubelet: KubeletOptions {
            user: KubeletUser::Create,
            start,
            ids_per_pod,
            ..KubeletOptions::default()
        },
        ..DesiredIds::default()
    };
    let before = node(None, None, PASSWD);
    let refused = plan(&before, &kubelet(Some(100_000), None)).unwrap_err().to_string();
    assert!(refused.contains("100000 is not a multiple of 65536"), "{refused}");
    assert!(matches!(plan(&before, &kubelet(None, Some(65_537))), Err(PlanError::Flawed(_))));
    let found = plan(&before, &kubelet(Some(300_023_808), Some(65_536))).unwrap();
    assert!(content(&found, "etc/subuid").unwrap().contains("kubelet:300023808:7208960\n"));
}

#[test]
fn a_directory_service_is_reported() {
    let mut before = node(None, None, PASSWD);
    before.kubelet.nsswitch_subid = Some("sss".into());
    assert!(ids(&plan(&before, &DesiredIds::default()).unwrap()).contains(&FindingId::SubidNsswitch));
}

/// A node with this many users, each with a line in both files, and as many processes and pods.
fn crowded(count: u64) -> NodeIds {
    let start = |index: u64| 300_000 + index * 1000;
    let lines: String = (0..count).map(|index| format!("user{index}:{}:1000\n", start(index))).collect();
    // Malformed lines too, which are compared with those after.
    let flawed: String = (0..count / 10).map(|index| format!("flawed{index}:1\n")).collect();
    let users: String =
        (0..count).map(|index| format!("user{index}:x:{}:1::/:\n", 100_000 + index)).collect();
    let files = lines + &flawed;
    let mut node = node(Some(&files), Some(&files), &users);
    let window = |index: u64| Window { start: start(index), count: 1000 };
    node.running = (0..count).map(|index| (index as u32 + 2, window(index))).collect();
    node.sandboxes = (0..count).map(|index| (format!("pod{index}"), window(index))).collect();
    node
}

#[test]
fn lines_for_more_owners_than_can_be_planned_are_refused() {
    let lines: String = (0..=1_000).map(|at| format!("u{at}:{}:1\n", 100_000 + at)).collect();
    let node = node(None, None, PASSWD);
    let all = plan_lines(&node, [lines.as_bytes(); 2], &KubeletOptions::default()).unwrap_err().to_string();
    assert_eq!(all, "gives 1001 owners ranges, of at most 1000 at once; leave some out");
    let (_, fewer) = lines.split_once('\n').unwrap();
    assert!(plan_lines(&node, [fewer.as_bytes(); 2], &KubeletOptions::default()).is_ok());
}

#[test]
fn planning_takes_time_linear_in_users_and_lines() {
    let desired = DesiredIds {
        ranges: Some(
            ["containers", "user7", "none"]
                .map(|owner| DesiredRange { owner: owner.to_owned(), start: None, count: 65_536 })
                .to_vec(),
        ),
        ..DesiredIds::default()
    };
    let steps = |count| {
        let node = crowded(count);
        let (planned, planning) = steps_of(|| plan(&node, &desired));
        assert!(planned.is_ok(), "{planned:?}");
        let (found, examining) = steps_of(|| examine(&node, &DesiredIds::default()));
        assert!(!found.is_empty());
        planning + examining
    };
    let (few, many) = (steps(200), steps(2000));
    assert!(few > 0 && many < few * 15, "{few} steps with 200 users, {many} with 2000");
}

#[test]
fn one_range_of_root_and_lxd_is_no_overlap_and_one_with_another_is() {
    const LXD: &str = "lxd:1000000:1000000000\nroot:1000000:1000000000\n";
    let found = |text: &str| {
        let node = node(Some(text), Some(text), PASSWD);
        ids(&plan(&NodeIds { reads_containers: false, ..node }, &DesiredIds::default()).unwrap())
            .contains(&FindingId::SubidOverlap)
    };
    assert!(!found(LXD));
    // By number, and with fewer for the one: what older packages and administrators write.
    assert!(!found(&LXD.replace("root", "0")));
    assert!(!found(&LXD.replace("lxd:1000000:1000000000", "lxd:1000000:65536")));
    assert!(found(&LXD.replace("root", "1")));
    assert!(found(&format!("{LXD}bob:2000000:5\n")));
    assert!(found("lxd:1000000:65536\nbob:1000000:65536\n"));
}
