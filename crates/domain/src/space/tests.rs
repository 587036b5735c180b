use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::accounts::Account;

/// Number of IDs in the properties' small ID space.
const WORLD: u64 = 40;

fn windows(text: &[(u64, u64)]) -> IdSet {
    text.iter().map(|&(start, count)| Window { start, count }).collect()
}

fn pod(start: u64, count: u64) -> PodIds {
    PodIds { uids: windows(&[(start, count)]), gids: windows(&[(start, count)]) }
}

fn file(lines: &[(&str, u64, u64)]) -> SubidFile {
    let text: String =
        lines.iter().map(|(owner, start, count)| format!("{owner}:{start}:{count}\n")).collect();
    SubidFile::parse(text.as_bytes())
}

fn users(names: &[(&str, u32)]) -> Accounts {
    let mut accounts = Accounts::default();
    names.iter().for_each(|(name, id)| accounts.add_user(Account { name: (*name).to_owned(), id: *id }));
    accounts
}

fn host(lines: &[(&str, u64, u64)], names: &[(&str, u32)]) -> HostIds {
    HostIds {
        subuid: file(lines),
        subgid: file(lines),
        accounts: users(names),
        kubelet_is_present: false,
        crio_is_here: true,
    }
}

fn overlaps(host: &HostIds, pods: &[PodIds]) -> Vec<(&'static str, u64)> {
    let space = Space::of(host, pods);
    let all = OverlapKind::ALL.map(|kind| (kind.name(), space.overlaps_of(kind)));
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_good_node_has_no_overlaps() {
    let host = host(
        &[("core", 100_000, 65_536), ("containers", 200_000, 655_360), ("kubelet", 1_048_576, 6_553_600)],
        &[("root", 0), ("core", 1000), ("kubelet", 997), ("nobody", 65_534)],
    );
    let pods = [pod(200_000, 65_536), pod(1_048_576, 65_536), pod(1_114_112, 65_536)];
    assert_eq!(overlaps(&host, &pods), []);
    let space = Space::of(&host, &pods);
    let pools = space.pools.iter().map(|pool| (pool.name.name(), pool.first(), pool.slots, pool.used));
    assert_eq!(
        pools.collect::<Vec<_>>(),
        [("kubelet", Some(1_048_576), 100, 2), ("crio", Some(200_000), 10, 1)]
    );
    assert_eq!(space.subid_ranges, [3, 3]);
    assert_eq!(space.shared, [[0; 4]; 3]);
}

#[test]
fn each_overlap_has_its_name() {
    let lines = [("core", 100_000, 65_536), ("containers", 200_000, 655_360)];
    let names = [("root", 0), ("core", 1000), ("big", 300_000), ("far", 5_000_000)];
    let good = host(&lines, &[("root", 0), ("core", 1000)]);
    let crowded = host(&lines, &names);
    for (host, pods, want) in [
        // Overlaps in user and in group IDs count as one pair.
        (&good, vec![pod(200_000, 65_536), pod(265_535, 65_536)], vec![("pod_pod", 1)]),
        (&good, vec![pod(200_000, 65_536), pod(200_000, 65_536), pod(200_000, 10)], vec![("pod_pod", 3)]),
        (&good, vec![pod(100_000, 65_536)], vec![("pod_subid", 1), ("pod_outside_pool", 1)]),
        (&good, vec![pod(855_359, 2)], vec![("pod_outside_pool", 1)]),
        (&good, vec![pod(0, 65_536)], vec![("pod_host_user", 2), ("pod_outside_pool", 1)]),
        (&crowded, vec![], vec![("subid_host_user", 1)]),
        (&crowded, vec![pod(300_000, 1)], vec![("pod_host_user", 1), ("subid_host_user", 1)]),
    ] {
        assert_eq!(overlaps(host, &pods), want, "{pods:?}");
    }
    let meeting = host(&[("a", 100, 10), ("b", 109, 10), ("b", 100, 1), ("c", 119, 1)], &[]);
    assert_eq!(overlaps(&meeting, &[]), [("subid_subid", 1)]);
    // The same user by name and by number, and the same range written twice.
    let same = host(&[("core", 100, 10), ("1000", 105, 10), ("core", 100, 10)], &[("core", 1000)]);
    assert_eq!(overlaps(&same, &[]), []);
    // In one space only.
    let groups = HostIds { subuid: SubidFile::default(), ..meeting };
    assert_eq!(overlaps(&groups, &[]), [("subid_subid", 1)]);
}

#[test]
fn shared_ids_are_counted_once() {
    let host = host(&[("core", 100, 50), ("containers", 1_000, 1_000)], &[("a", 1_010), ("b", 1_010)]);
    let mut uids_only = pod(1_000, 100);
    uids_only.gids = IdSet::default();
    let space = Space::of(&host, &[uids_only, pod(1_050, 100), pod(1_060, 10), pod(140, 20)]);
    // 1,050 to 1,099 with the second pod, and 1,060 to 1,069 of these with the third as well.
    assert_eq!(space.shared, [[50, 1, 0, 0], [50, 0, 0, 0], [10, 0, 0, 0], [0, 0, 10, 20]]);
}

#[test]
fn the_kubelet_without_a_user_has_nearly_all_ids() {
    let lines = [("core", 100_000, 65_536), ("kubelet", 1_048_576, 65_536)];
    let host = HostIds { kubelet_is_present: true, ..host(&lines, &[("core", 1000)]) };
    let space = Space::of(&host, &[pod(2_147_483_648, 65_536)]);
    let [kubelet, crio] = space.pools.as_slice() else { panic!("{:?}", space.pools) };
    assert_eq!((kubelet.slots, kubelet.used, kubelet.first()), (65_535, 1, Some(65_536)));
    assert_eq!((crio.slots, crio.used, crio.first()), (0, 0, None));
    assert_eq!(space.overlaps, [0; 6]);
    // With the user, the kubelet uses its line; without a pool nothing is outside.
    let read = HostIds { accounts: users(&[("kubelet", 997)]), ..host.clone() };
    assert_eq!(Space::of(&read, &[]).pools[0].slots, 1);
    // The kubelet's range from a directory service is in no file.
    let lines = file(&[("containers", 200_000, 65_536)]);
    let elsewhere = HostIds { subuid: lines.clone(), subgid: lines, ..read };
    assert_eq!(Space::of(&elsewhere, &[pod(2_147_483_648, 65_536)]).overlaps, [0; 6]);
    let none = HostIds {
        kubelet_is_present: false,
        crio_is_here: true,
        subuid: file(&[]),
        subgid: file(&[]),
        ..host
    };
    assert_eq!(Space::of(&none, &[pod(5, 5)]).overlaps, [0; 6]);
}

#[test]
fn no_runtime_but_crio_takes_ids_of_containers() {
    let lines = [("containers", 200_000, 655_360), ("kubelet", 1_048_576, 6_553_600)];
    let crio = host(&lines, &[("root", 0), ("kubelet", 997)]);
    let containerd = HostIds { crio_is_here: false, ..crio.clone() };
    let in_containers = [pod(200_000, 65_536)];
    let names = |host: &HostIds| -> Vec<&str> {
        Space::of(host, &in_containers).pools.iter().map(|pool| pool.name.name()).collect()
    };
    assert_eq!((names(&crio), names(&containerd)), (vec!["kubelet", "crio"], vec!["kubelet"]));
    assert_eq!(overlaps(&crio, &in_containers), []);
    assert_eq!(overlaps(&containerd, &in_containers), [("pod_outside_pool", 1)]);
    let slot = |host: &HostIds| host.slot_of(IdType::Uid, 200_000, 65_536).map(|slot| slot.pool);
    assert_eq!((slot(&crio), slot(&containerd)), (Some(PoolName::Crio), None));
}

#[test]
fn a_slot_is_used_if_a_pod_has_an_id_in_it() {
    let host = host(&[("containers", 65_536, 3 * 65_536 + 10), ("containers", 1 << 20, 65_536)], &[]);
    for (pods, used) in [
        (vec![], 0),
        (vec![pod(65_536, 1), pod(65_537, 1)], 1),
        (vec![pod(65_536 + 65_535, 2)], 2),
        (vec![pod(0, 1 << 32)], 4),
        // In the remainder.
        (vec![pod(4 * 65_536, 5)], 0),
        (vec![pod(1 << 20, 1)], 1),
    ] {
        let crio = &Space::of(&host, &pods).pools[1];
        assert_eq!((crio.slots, crio.used, crio.first()), (4, used, Some(65_536)), "{pods:?}");
    }
}

// === the same, one ID at a time ===

fn has(set: &[(u64, u64)], id: u64) -> bool {
    set.iter().any(|(start, count)| (*start..start + count).contains(&id))
}

fn ids() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((0..WORLD, 0..8_u64), 0..4)
}

fn naive_common(one: &[(u64, u64)], other: &[(u64, u64)]) -> u64 {
    (0..2 * WORLD).filter(|id| has(one, *id) && has(other, *id)).count() as u64
}

proptest! {
    #[test]
    fn sets_agree_with_counting(one in ids(), other in ids()) {
        let (a, b) = (windows(&one), windows(&other));
        prop_assert_eq!(a.len(), naive_common(&one, &one));
        prop_assert_eq!(a.common(&b).len(), naive_common(&one, &other));
        prop_assert_eq!(a.common(&b), b.common(&a));
        let apart = a.windows().iter().zip(a.windows().iter().skip(1));
        prop_assert!(apart.clone().all(|(one, next)| one.end() < next.start));
    }

    #[test]
    fn overlaps_agree_with_counting(
        uids in vec(ids(), 0..5),
        gids in vec(ids(), 0..5),
        lines in vec((0..4_usize, 0..WORLD, 1..6_u64), 0..5),
        accounts in vec(0..WORLD, 0..4),
    ) {
        let names = ["containers", "kubelet", "core", "other"];
        let lines: Vec<(&str, u64, u64)> = lines.iter().map(|(n, start, count)| (names[*n], *start, *count)).collect();
        let accounts: Vec<(String, u64)> =
            accounts.iter().enumerate().map(|(n, id)| (format!("u{n}"), *id)).collect();
        let host = HostIds {
            subuid: file(&lines),
            subgid: SubidFile::default(),
            accounts: users(
                &accounts.iter().map(|(name, id)| (name.as_str(), *id as u32)).collect::<Vec<_>>(),
            ),
            kubelet_is_present: false,
            crio_is_here: true,
        };
        let pods: Vec<PodIds> =
            uids.iter().zip(&gids).map(|(uids, gids)| PodIds { uids: windows(uids), gids: windows(gids) }).collect();
        let space = Space::of(&host, &pods);

        let meet = |one: &[(u64, u64)], other: &[(u64, u64)]| naive_common(one, other) > 0;
        let line = |name: &str| -> Vec<(u64, u64)> {
            lines.iter().filter(|(owner, ..)| *owner == name).map(|(_, start, count)| (*start, *count)).collect()
        };
        let account = |id: u64| [(id, 1)];
        let n = pods.len();
        let pairs = |count: usize| (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)));
        let pod_pod = pairs(n).filter(|(a, b)| meet(&uids[*a], &uids[*b]) || meet(&gids[*a], &gids[*b])).count();
        let pod_user = (0..n)
            .flat_map(|pod| accounts.iter().map(move |account| (pod, account.1)))
            .filter(|(pod, id)| meet(&uids[*pod], &account(*id)))
            .count();
        let pod_subid = (0..n)
            .flat_map(|pod| ["core", "other"].map(move |name| (pod, name)))
            .filter(|(pod, name)| meet(&uids[*pod], &line(name)))
            .count();
        let pools: Vec<(u64, u64)> = line("containers").into_iter().chain(line("kubelet")).collect();
        // There is a pool for user IDs only.
        let outside = (0..n)
            .filter(|pod| !pools.is_empty() && (0..2 * WORLD).any(|id| has(&uids[*pod], id) && !has(&pools, id)))
            .count();
        let subid_subid = pairs(4).filter(|(a, b)| meet(&line(names[*a]), &line(names[*b]))).count();
        let subid_user = names
            .iter()
            .flat_map(|name| accounts.iter().map(move |account| (name, account.1)))
            .filter(|(name, id)| meet(&line(name), &account(*id)))
            .count();
        let want = [pod_pod, pod_user, pod_subid, outside, subid_subid, subid_user].map(|count| count as u64);
        prop_assert_eq!(space.overlaps, want);

        for (index, shared) in space.shared.iter().enumerate() {
            let others = |of: &[Vec<(u64, u64)>]| -> Vec<(u64, u64)> {
                of.iter().take(n).enumerate().filter(|(other, _)| *other != index).flat_map(|(_, ids)| ids.clone()).collect()
            };
            let want = naive_common(&uids[index], &others(&uids)).max(naive_common(&gids[index], &others(&gids)));
            prop_assert_eq!(shared[0], want);
        }
    }
}
