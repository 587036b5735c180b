use proptest::prelude::*;

use super::*;

fn window(start: u64, count: u64) -> Window {
    Window { start, count }
}

fn pod(name: &str, start: u64, count: u64) -> Claim {
    Claim { window: window(start, count), holder: Holder::Pod(name.into()) }
}

fn line(owner: &str, start: u64, count: u64, is_pool: bool) -> Claim {
    Claim { window: window(start, count), holder: Holder::Subid { owner: owner.into(), is_pool, user: None } }
}

fn user(name: &str, id: u64) -> Claim {
    Claim { window: window(id, 1), holder: Holder::Account(name.into()) }
}

fn pool(name: &str, start: u64, count: u64) -> PoolSource {
    PoolSource { name: name.into(), windows: vec![window(start, count)], slot_ids: 65_536 }
}

#[test]
fn segments_are_host_ids_pools_and_the_gaps_between() {
    let claims = [user("root", 0), line("core", 100_000, 65_536, false), pod("a", 524_288, 65_536)];
    let map = Map::of(IdType::Uid, &claims, &[pool("kubelet", 524_288, 110 * 65_536)]);
    let seen: Vec<_> = map
        .segments
        .iter()
        .map(|segment| (segment.window.start, segment.kind.clone(), segment.claims.len(), segment.weight))
        .collect();
    assert_eq!(
        seen,
        [
            (0, SegmentKind::System, 1, 3),
            (1_000, SegmentKind::Users, 0, 3),
            (60_001, SegmentKind::Reserved, 0, 3),
            (65_536, SegmentKind::Between, 1, 4),
            (524_288, SegmentKind::Pool(vec!["kubelet".into()]), 1, 16),
            (7_733_248, SegmentKind::Between, 0, 2),
        ]
    );
    assert_eq!(map.segments.last().unwrap().window.end(), 1 << 32);
    assert!(map.overlaps.is_empty());
}

#[test]
fn the_used_part_of_a_large_pool_is_drawn_larger() {
    let large = pool("crio", 200_000, 4_096 * 65_536);
    let map = Map::of(IdType::Uid, &[pod("a", 200_000 + 70 * 65_536, 65_536)], std::slice::from_ref(&large));
    let pools: Vec<_> =
        map.segments.iter().filter(|segment| matches!(segment.kind, SegmentKind::Pool(_))).collect();
    let sizes: Vec<_> = pools.iter().map(|segment| (segment.window.count / 65_536, segment.weight)).collect();
    assert_eq!(sizes, [(128, 16), (3_968, 4)]);
    let grid = map.grid(&large, 32);
    assert_eq!((grid.slots, grid.used), (4_096, 1));
    let rows: Vec<_> = grid
        .rows
        .iter()
        .map(|row| match row {
            Row::Slots(slots) => {
                (slots.len() as u64, slots.iter().filter(|slot| !slot.pods.is_empty()).count())
            }
            Row::Free { count, .. } => (*count, 0),
        })
        .collect();
    assert_eq!(rows, [(32, 0), (32, 0), (32, 1), (4_000, 0)]);
}

#[test]
fn overlaps_are_found_between_holders_that_may_not_share() {
    let pools = [pool("crio", 200_000, 10 * 65_536)];
    let ours = line("containers", 200_000, 655_360, true);
    for (what, claims, want) in [
        ("a pod in its pool", vec![ours.clone(), pod("a", 200_000, 65_536)], vec![]),
        ("two pods", vec![pod("a", 200_000, 65_536), pod("b", 200_000, 65_536)], vec![(200_000, 65_536, 2)]),
        ("partly", vec![pod("a", 200_000, 65_536), pod("b", 265_535, 65_536)], vec![(265_535, 1, 2)]),
        ("one pod in pieces", vec![pod("a", 200_000, 5), pod("a", 200_002, 5)], vec![]),
        ("a user", vec![ours.clone(), user("x", 200_001)], vec![(200_001, 1, 2)]),
        (
            "a strange line",
            vec![pod("a", 200_000, 65_536), line("x", 1, 300_000, false)],
            vec![(200_000, 65_536, 2)],
        ),
        ("one owner twice", vec![line("x", 1, 10, false), line("x", 5, 10, false)], vec![]),
        ("two names of one ID", vec![user("root", 0), user("toor", 0)], vec![]),
        (
            "three",
            vec![ours, pod("a", 200_000, 9), pod("b", 200_000, 9), user("x", 200_004)],
            // The pool's line is involved in one ID only, but the overlap is one piece.
            vec![(200_000, 9, 4)],
        ),
    ] {
        let map = Map::of(IdType::Uid, &claims, &pools);
        let found: Vec<_> = map
            .overlaps
            .iter()
            .map(|found| (found.window.start, found.window.count, found.holders.len()))
            .collect();
        assert_eq!(found, want, "{what}");
    }
}

#[test]
fn nested_pools_are_separate_segments() {
    let pools = [pool("kubelet", 65_536, (1 << 32) - 65_536), pool("crio", 200_000, 655_360)];
    let map = Map::of(IdType::Uid, &[pod("a", 65_536, 65_536)], &pools);
    let both = SegmentKind::Pool(vec!["kubelet".into(), "crio".into()]);
    assert!(
        map.segments.iter().any(|segment| segment.kind == both && segment.window == window(200_000, 655_360))
    );
    assert_eq!(map.grid(&pools[0], 32).slots, 65_535);
    assert!(map.grid(&pools[0], 32).rows.len() < 10);
}

proptest! {
    #[test]
    fn a_map_covers_all_ids_for_any_input(
        pods in proptest::collection::vec((0..1_u64 << 32, 0..1_u64 << 32), 0..8),
        pools in proptest::collection::vec((0..1_u64 << 32, 0..1_u64 << 32, 0..100_000_u64), 0..3),
        columns in 0..100_usize,
    ) {
        let claims: Vec<Claim> = pods.iter().map(|(start, count)| pod("p", *start, *count)).collect();
        let pools: Vec<PoolSource> = pools
            .into_iter()
            // As large as the kernel allows ranges to be, and slots of a sensible size.
            .map(|(start, count, ids)| PoolSource {
                name: "x".into(), windows: vec![window(start, count)], slot_ids: if ids < 10_000 { 0 } else { ids },
            })
            .collect();
        let map = Map::of(IdType::Gid, &claims, &pools);
        let mut next = 0;
        for segment in &map.segments {
            prop_assert_eq!(segment.window.start, next);
            next = segment.window.end();
            prop_assert!(segment.weight > 0);
        }
        prop_assert_eq!(next, 1 << 32);
        for pool in &pools {
            let grid = map.grid(pool, columns);
            let rows = grid.rows.iter().map(|row| match row {
                Row::Slots(slots) => slots.len() as u64,
                Row::Free { count, .. } => *count,
            });
            prop_assert_eq!(rows.sum::<u64>(), grid.slots);
        }
    }
}
