use super::*;
use crate::finding::FindingId;

const DEMAND: Demand = Demand { max_pods: 110, ids_per_pod: 65_536 };

fn here() -> KubeletEnvironment {
    KubeletEnvironment { is_present: true, getsubids: true, getent: true, ..KubeletEnvironment::default() }
}

fn with_user() -> Accounts {
    let mut accounts = Accounts::default();
    accounts.add_users(b"root:x:0:0:::\nkubelet:x:991:991:::\n");
    accounts
}

fn ids(
    environment: &KubeletEnvironment,
    accounts: &Accounts,
    uids: &str,
    gids: &str,
) -> (NextPool, Vec<FindingId>) {
    let files = [uids, gids].map(|text| SubidFile::parse(text.as_bytes()));
    let (pool, findings) = forecast(environment, accounts, [&files[0], &files[1]], DEMAND);
    (pool, findings.iter().map(|finding| finding.id).collect())
}

#[test]
fn each_rule_of_the_kubelet_has_its_name() {
    for (start, count, size, want) in [
        (65_536, 7_208_960, 65_536, vec![]),
        (65_536, 16_384_000, 65_536, vec![]),
        (1_048_576, 115_343_360, 1_048_576, vec![]),
        (
            65_536,
            7_208_960,
            65_537,
            vec![PoolFlaw::Length, PoolFlaw::Start, PoolFlaw::Low, PoolFlaw::Count, PoolFlaw::Few],
        ),
        (100_000, 7_208_960, 65_536, vec![PoolFlaw::Start]),
        (0, 7_208_960, 65_536, vec![PoolFlaw::Low]),
        (65_536, 7_208_961, 65_536, vec![PoolFlaw::Count]),
        (65_536, 7_143_424, 65_536, vec![PoolFlaw::Few]),
        // Aligned to 65,536, but not to `idsPerPod`.
        (65_536, 115_343_360, 1_048_576, vec![PoolFlaw::Start, PoolFlaw::Low]),
        // The example of kubernetes/kubernetes#141345.
        (327_680, 4_294_836_224, 65_536, vec![PoolFlaw::PastEnd]),
        (4_287_692_800, 7_208_960, 65_536, vec![]),
        (4_287_758_336, 7_208_960, 65_536, vec![PoolFlaw::PastEnd]),
        (65_536, 7_208_960, 0, vec![PoolFlaw::Length]),
    ] {
        let demand = Demand { ids_per_pod: size, ..DEMAND };
        let flaws = demand.flaws(Window { start, count });
        if size != 0 {
            assert_eq!(flaws, want, "{start}:{count} of {size}");
        }
        assert_eq!(flaws.contains(&PoolFlaw::Length), want.contains(&PoolFlaw::Length));
    }
}

#[test]
fn the_kubelet_uses_the_default_pool_or_its_line_or_does_not_start() {
    let line = "kubelet:65536:7208960\n";
    let window = Window { start: 65_536, count: 7_208_960 };
    let user = with_user();
    let none = Accounts::default();
    let default = NextPool::Default(DEMAND);
    assert_eq!(ids(&here(), &none, "", ""), (default, vec![FindingId::KubeletDefaultPool]));
    assert_eq!(ids(&KubeletEnvironment::default(), &none, "", ""), (default, vec![]));
    assert_eq!(
        ids(&here(), &none, line, line),
        (default, vec![FindingId::KubeletDefaultPool, FindingId::KubeletLineUnused])
    );
    assert_eq!(ids(&here(), &user, line, line), (NextPool::Line(window, DEMAND), vec![]));
    for (uids, gids, want) in [
        ("", "", FindingId::KubeletLineMissing),
        (line, "", FindingId::KubeletLineMissing),
        ("", line, FindingId::KubeletLineMissing),
        (line, "kubelet:65536:7274496\n", FindingId::KubeletLinesDiffer),
        ("kubelet:65536:7208960\nkubelet:7340032:65536\n", line, FindingId::KubeletSeveralLines),
        // By number it is the same user.
        ("kubelet:65536:7208960\n991:7340032:65536\n", line, FindingId::KubeletSeveralLines),
        ("kubelet:65536:7208960\r\n", line, FindingId::KubeletLineMissing),
        ("kubelet:1:7208960\n", "kubelet:1:7208960\n", FindingId::KubeletStartMisaligned),
    ] {
        let (pool, found) = ids(&here(), &user, uids, gids);
        assert_eq!((pool, found[0]), (NextPool::WontStart, want), "{uids:?} {gids:?}");
    }
    assert_eq!(ids(&here(), &user, "991:65536:7208960\n", line), (NextPool::Line(window, DEMAND), vec![]));
    let wraps = "kubelet:327680:4294836224\n";
    let (pool, found) = ids(&here(), &user, wraps, wraps);
    assert!(matches!(pool, NextPool::Line(..)) && found == [FindingId::KubeletPastEnd]);
    let sss = KubeletEnvironment { nsswitch_subid: Some("sss".into()), ..here() };
    assert_eq!(ids(&sss, &user, line, line), (NextPool::CannotTell, vec![FindingId::KubeletNsswitch]));
    let files = KubeletEnvironment { nsswitch_subid: Some("files".into()), ..here() };
    assert_eq!(ids(&files, &user, line, line).1, vec![]);
    let bare = KubeletEnvironment { getsubids: false, getent: false, ..here() };
    assert_eq!(
        ids(&bare, &user, line, line),
        (NextPool::WontStart, vec![FindingId::KubeletNoGetent, FindingId::KubeletNoGetsubids])
    );
}

#[test]
fn a_missing_program_is_looked_for_in_the_path_of_the_unit() {
    let mut accounts = Accounts::default();
    accounts.add_users(b"kubelet:x:991:991::/:/bin/sh\n");
    let file = SubidFile::parse(b"kubelet:65536:7208960\n");
    let search_path = SearchPath { unit: "k3s.service".into(), path: "/run/wrappers/bin:/usr/bin".into() };
    for (search_path, what, remedy) in [
        (None, "getsubids is missing: ", "install getsubids (uidmap, shadow-utils-subid), or remove"),
        (
            Some(search_path),
            "getsubids is not in the PATH of k3s.service (/run/wrappers/bin:/usr/bin): ",
            "NixOS: path = [ pkgs.shadow ]",
        ),
    ] {
        let bare = KubeletEnvironment { getsubids: false, search_path, ..here() };
        let (pool, found) = forecast(&bare, &accounts, [&file, &file], DEMAND);
        assert_eq!(pool, NextPool::WontStart);
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert!(finding.what.starts_with(what), "{}", finding.what);
        assert!(finding.remedy.contains(remedy), "{}", finding.remedy);
    }
}

#[test]
fn a_record_outside_the_pool_is_stranded() {
    let record =
        |pod: &str, start, count| PodIdsRecord { pod: pod.into(), window: Ok(Window { start, count }) };
    let pool = NextPool::Line(Window { start: 131_072, count: 7_208_960 }, DEMAND);
    let bad = PodIdsRecord { pod: "bad".into(), window: Err("not JSON".into()) };
    let records = [
        record("first", 131_072, 65_536),
        record("last", 7_274_496, 65_536),
        record("again", 131_072, 65_536),
        record("low", 65_536, 65_536),
        record("high", 7_340_032, 65_536),
        record("long", 196_608, 131_072),
        record("askew", 196_609, 65_536),
        bad.clone(),
    ];
    let output: Vec<String> = pool.stranded(&records).iter().map(ToString::to_string).collect();
    let want = [
        "askew: its first ID 196609 is not a multiple of 65536",
        "bad: not JSON",
        // "again" comes before "first".
        "first: its IDs 131072:65536 (131072 to 196607) are those of pod again",
        "high: its IDs 7340032:65536 (7340032 to 7405567) are outside the pool",
        "long: it has 131072 IDs, not 65536",
        "low: its IDs 65536:65536 (65536 to 131071) are outside the pool",
    ];
    assert_eq!(output, want);
    // The default pool contains nearly all IDs.
    assert_eq!(NextPool::Default(DEMAND).stranded(&[record("x", 4_294_901_760, 65_536)]), []);
    assert_eq!(NextPool::Default(DEMAND).stranded(&[record("x", 0, 65_536)]).len(), 1);
    assert_eq!(NextPool::WontStart.stranded(&[bad]), []);
}

#[test]
fn a_node_without_users_may_keep_a_kubelet_from_starting() {
    let bare = KubeletEnvironment { no_passwd: true, ..here() };
    let (_, found) = ids(&bare, &Accounts::default(), "", "");
    assert_eq!(found, [FindingId::PasswdMissing, FindingId::KubeletDefaultPool]);
    // In the agent's pod the file may not be mounted.
    let hidden = KubeletEnvironment { is_hidden: true, ..bare };
    assert!(!ids(&hidden, &Accounts::default(), "", "").1.contains(&FindingId::PasswdMissing));
}

#[test]
fn nsswitch_is_parsed() {
    let text = b"passwd: files sss # subid: sss\n# subid: sss\n  subid :  sss   files\nsubid: files\n";
    assert_eq!(nsswitch(text, "subid").as_deref(), Some("sss files"));
    assert_eq!(nsswitch(text, "shadow"), None);
    assert!(reads_files("files") && reads_files("") && !reads_files("sss files"));
}

#[test]
fn a_directory_may_have_the_user_and_its_range() {
    let unasked = KubeletEnvironment { directory: Directory::Unasked("files sss".into()), ..here() };
    assert_eq!(
        ids(&unasked, &Accounts::default(), "", ""),
        (NextPool::CannotTell, vec![FindingId::KubeletUserUnknown])
    );
    let line = "kubelet:327680:7208960\n";
    let window = Window { start: 327_680, count: 7_208_960 };
    let found = KubeletEnvironment { directory: Directory::HasUser("files sss".into()), ..here() };
    let pool = NextPool::Line(window, DEMAND);
    assert_eq!(ids(&found, &with_user(), line, line), (pool, vec![FindingId::KubeletUserElsewhere]));

    let elsewhere = |output| KubeletEnvironment {
        nsswitch_subid: Some("sss".into()),
        getsubids_output: Some(output),
        ..here()
    };
    // The files differ, and are not read.
    assert_eq!(ids(&elsewhere(Ok(window)), &with_user(), "", ""), (pool, vec![FindingId::KubeletNsswitch]));
    let few = Window { start: 327_680, count: 65_536 };
    assert_eq!(
        ids(&elsewhere(Ok(few)), &with_user(), line, line),
        (NextPool::WontStart, vec![FindingId::KubeletNsswitch, FindingId::KubeletCountFew])
    );
    assert_eq!(
        ids(&elsewhere(Err("it has none".into())), &with_user(), line, line),
        (NextPool::WontStart, vec![FindingId::KubeletNsswitch, FindingId::KubeletDirectoryRange])
    );
}

#[test]
fn getsubids_is_read_as_the_kubelet_reads_it() {
    let good = "0: kubelet 327680 7208960\n";
    assert_eq!(of_getsubids(good, good), Ok(Window { start: 327_680, count: 7_208_960 }));
    for (uids, gids, want) in [
        (good, "0: kubelet 1 2\n", "other ranges for groups"),
        ("", "", "0 ranges"),
        ("0: kubelet 1 2\n1: kubelet 3 4\n", "0: kubelet 1 2\n1: kubelet 3 4\n", "2 ranges"),
        ("0: kubelet 1\n", "0: kubelet 1\n", "cannot parse"),
        ("0: kubelet 1 4294967296\n", "0: kubelet 1 4294967296\n", "cannot parse"),
        ("0: other 1 2\n", "0: other 1 2\n", "cannot parse"),
    ] {
        let why = of_getsubids(uids, gids).unwrap_err();
        assert!(why.contains(want), "{uids:?} {why}");
    }
}

#[test]
fn actions_in_nsswitch_are_not_sources() {
    for (sources, want) in [
        ("files", false),
        ("files [NOTFOUND=return]", false),
        ("files [!SUCCESS=return] sss", true),
        ("altfiles files", false),
        ("", false),
    ] {
        assert_eq!(has_others(sources, &["files", "altfiles"]), want, "{sources}");
    }
}
