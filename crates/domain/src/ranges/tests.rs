use proptest::prelude::*;

use super::*;
use crate::work::steps_of;

const POD: u64 = 65_536;

fn wanted(owner: &str, start: Start, count: u64, align: u64) -> WantedWindow {
    WantedWindow { start, owner: owner.into(), count, align }
}

fn containers() -> WantedWindow {
    wanted("containers", Start::Rather(200_000), 268_435_456, POD)
}

fn kubelet(pods: u64) -> WantedWindow {
    wanted("kubelet", Start::Free, pods * POD, POD)
}

fn user(start: u64, count: u64) -> Taken {
    Taken { window: Window { start, count }, by: RangeUser::User("alice".into()), except: None }
}

fn starts(wanted: &[WantedWindow], taken: &[Taken]) -> Vec<(String, u64)> {
    let placed = place(wanted, taken).unwrap();
    placed.into_iter().map(|placed| (placed.owner, placed.window.start)).collect()
}

#[test]
fn defaults_are_used_if_they_are_free() {
    let core = wanted("core", Start::Rather(100_000), POD, 1);
    let found = starts(&[containers(), core, kubelet(110)], &[]);
    // The first slot outside systemd's containers and OpenShift's namespaces.
    let want = [("containers", 200_000), ("core", 100_000), ("kubelet", 2_000_027_648)];
    assert_eq!(found, want.map(|(owner, start)| (owner.to_owned(), start)));
}

#[test]
fn a_default_that_is_taken_moves_up_with_the_reason() {
    let alice = user(231_072, POD);
    let placed = place(&[containers()], std::slice::from_ref(&alice)).unwrap();
    assert_eq!(placed[0].window.start, 327_680);
    assert_eq!(placed[0].moved, Some(alice));
    assert_eq!(placed[0].overlaps, [Convention::SystemdContainers]);
}

#[test]
fn a_configured_window_is_refused_with_a_free_one_offered() {
    let fixed = wanted("kubelet", Start::Fixed(131_072), 110 * POD, POD);
    let error = place(&[fixed, containers()], &[user(300_000, 1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kubelet: 131072:7208960 (131072 to 7340031) overlaps with the user alice, 300000:1 (300000 to 300000); \
         2000027648:7208960 (2000027648 to 2007236607) is free"
    );
    for (start, count) in
        [(0, POD), (65_535, 1), (LIMIT, 1), (LIMIT - 1, 2), (u64::MAX, u64::MAX), (FIRST, 0)]
    {
        let error = place(&[wanted("x", Start::Fixed(start), count, 1)], &[]).unwrap_err();
        assert!(matches!(error, NoPlace::OutOfBounds { .. }), "{start}:{count}: {error}");
    }
    assert!(place(&[wanted("x", Start::Fixed(LIMIT - 1), 1, 1)], &[]).is_ok());
    let two = [wanted("a", Start::Fixed(FIRST), 2, 1), wanted("b", Start::Fixed(FIRST + 1), 2, 1)];
    assert!(matches!(place(&two, &[]), Err(NoPlace::Taken { .. })));
}

#[test]
fn an_owners_own_pods_are_no_obstacle() {
    let own = Taken { except: Some("kubelet".into()), ..user(FIRST, POD) };
    let here = wanted("kubelet", Start::Fixed(FIRST), POD, POD);
    assert!(place(std::slice::from_ref(&here), std::slice::from_ref(&own)).is_ok());
    assert!(place(&[WantedWindow { owner: "containers".into(), ..here }], &[own]).is_err());
}

#[test]
fn conventions_are_overlapped_if_there_is_no_room() {
    for (count, start, overlaps) in [
        // Seven slots below systemd's containers.
        (7 * POD, 65_536, vec![]),
        (8 * POD, 2_000_027_648, vec![]),
        (2_248 * POD, 2_000_027_648, vec![]),
        (2_249 * POD, 65_536, vec![Convention::SystemdContainers]),
        (15_257 * POD, 65_536, vec![Convention::SystemdContainers]),
        (20_000 * POD, 2_147_418_112, vec![Convention::UpperHalf]),
        (65_534 * POD, 65_536, Convention::ALL.to_vec()),
    ] {
        let placed = place(&[wanted("kubelet", Start::Free, count, POD)], &[]).unwrap();
        assert_eq!((placed[0].window.start, &placed[0].overlaps), (start, &overlaps), "{count}");
    }
    let full = place(&[wanted("kubelet", Start::Free, 65_535 * POD, POD)], &[]).unwrap_err();
    assert_eq!(
        full.to_string(),
        "kubelet: no 4294901760 IDs in a row are free; ask for fewer under bootstrap.kubelet, or free some"
    );
}

#[test]
fn planning_looks_at_what_is_taken_a_bounded_number_of_times() {
    const TAKEN: u64 = 1_000;
    // Nothing fits between them, whatever convention is dropped.
    let taken: Vec<Taken> = (0..TAKEN).map(|at| user(FIRST + at * 2 * POD, POD)).collect();
    let one = |at: usize| wanted(&format!("u{at:04}"), Start::Rather(FIRST), 2 * POD, POD);
    let list: Vec<WantedWindow> = (0..MOST_OWNERS).map(one).collect();
    let (placed, steps) = steps_of(|| place(&list, &taken));
    assert_eq!(placed.unwrap().len(), MOST_OWNERS);
    let owners = MOST_OWNERS as u64;
    // One pass for whom it meets, one for each convention that is dropped.
    let passes = 2 + Convention::ALL.len() as u64;
    assert!(steps <= owners * passes * (TAKEN + owners), "{steps} steps");

    // A window below all others is found without examining them.
    let above: Vec<Taken> = (1..=TAKEN).map(|at| user(FIRST + at * 2 * POD, POD)).collect();
    let free = WantedWindow { start: Start::Free, ..one(0) };
    let (placed, steps) = steps_of(|| place(&[free], &above));
    assert_eq!(placed.unwrap()[0].window.start, FIRST);
    assert!(steps <= 4, "{steps} steps");
}

/// The kubelet's checks of its line, as documented in the facts (`MakeUserNsManager`), implemented again with numbers
/// that cannot wrap.
fn kubelet_takes(start: u64, count: u64, ids_per_pod: u64, max_pods: u64) -> bool {
    let fits_u32 = u32::try_from(start).is_ok() && u32::try_from(count).is_ok();
    let length_is_multiple_of_64k = ids_per_pod.is_multiple_of(65_536);
    let start_is_aligned = start.is_multiple_of(ids_per_pod);
    let start_is_not_the_hosts = start >= ids_per_pod;
    let count_is_aligned = count.is_multiple_of(ids_per_pod);
    let is_enough = count / ids_per_pod >= max_pods;
    // Not a check of the kubelet: it would wrap around to the host's root.
    let does_not_wrap = start + count <= 4_294_901_760;
    fits_u32
        && length_is_multiple_of_64k
        && start_is_aligned
        && start_is_not_the_hosts
        && count_is_aligned
        && is_enough
        && does_not_wrap
}

fn some_start() -> impl Strategy<Value = Start> {
    prop_oneof![
        any::<u32>().prop_map(|start| Start::Fixed(start.into())),
        any::<u32>().prop_map(|start| Start::Unchanged(start.into())),
        any::<u32>().prop_map(|start| Start::Rather(start.into())),
        Just(Start::Free),
    ]
}

fn some_taken() -> impl Strategy<Value = Vec<Taken>> {
    let start = prop_oneof![any::<u32>(), 0..3_000_000_u32, 2_000_000_000..2_150_000_000_u32];
    let count = prop_oneof![1..70_000_u64, 1..400_000_000_u64, Just(u64::MAX)];
    let one = (start, count, 0..4_u8).prop_map(|(start, count, whose)| Taken {
        window: Window { start: start.into(), count },
        by: RangeUser::Pod(format!("{start}")),
        except: (whose == 0).then(|| "kubelet".into()),
    });
    proptest::collection::vec(one, 0..8)
}

fn some_wanted() -> impl Strategy<Value = Vec<WantedWindow>> {
    let name = prop_oneof![Just("containers"), Just("core"), Just("kubelet"), Just("other")];
    let one = (name, some_start(), 1..1_000_000_000_u64, prop_oneof![Just(1), Just(POD), Just(POD * 3)])
        .prop_map(|(name, start, count, align)| wanted(name, start, count, align));
    proptest::collection::vec(one, 0..5).prop_map(|mut list| {
        list.sort_by(|a, b| a.owner.cmp(&b.owner));
        list.dedup_by(|a, b| a.owner == b.owner);
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn windows_never_overlap_and_never_wrap(wanted in some_wanted(), taken in some_taken()) {
        let Ok(placed) = place(&wanted, &taken) else { return Ok(()) };
        prop_assert_eq!(placed.len(), wanted.len());
        for (index, one) in placed.iter().enumerate() {
            let (first, last) = (one.window.start, one.window.start + one.window.count - 1);
            prop_assert!(first >= 65_536 && last < (1 << 32) - 65_536);
            let asked = wanted.iter().find(|wanted| wanted.owner == one.owner).unwrap();
            prop_assert_eq!(one.window.count, asked.count);
            match asked.start {
                Start::Fixed(start) => prop_assert_eq!(first, start),
                Start::Unchanged(start) | Start::Rather(start) if first == start => {}
                _ => prop_assert!(first.is_multiple_of(asked.align)),
            }
            let others = placed.iter().skip(index + 1).map(|other| (other.window, None));
            let known = taken.iter().map(|taken| (taken.window, taken.except.clone()));
            for (other, except) in others.chain(known) {
                if except.as_ref() != Some(&one.owner) {
                    let apart = u128::from(last) < u128::from(other.start)
                        || u128::from(other.start) + u128::from(other.count) <= u128::from(first);
                    prop_assert!(apart, "{one:?} meets {other:?}");
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(wanted in some_wanted(), taken in some_taken(), turn in 0..8_usize) {
        let first = place(&wanted, &taken);
        let (mut wanted, mut taken) = (wanted, taken);
        wanted.reverse();
        taken.reverse();
        let middle = turn.min(taken.len());
        taken.rotate_left(middle);
        prop_assert_eq!(place(&wanted, &taken), first);
    }

    #[test]
    fn the_kubelet_accepts_the_planned_line(
        pods in 1..3_000_u64, size in 1..17_u64, taken in some_taken(), with_containers: bool,
    ) {
        let ids = size * POD;
        let mut list = vec![wanted("kubelet", Start::Free, pods * ids, ids)];
        list.extend(with_containers.then(containers));
        if let Ok(placed) = place(&list, &taken) {
            let window = placed.iter().find(|one| one.owner == "kubelet").unwrap().window;
            prop_assert!(kubelet_takes(window.start, window.count, ids, pods), "{window:?}");
        }
    }

    #[test]
    fn an_offered_window_is_free(wanted in some_wanted(), taken in some_taken()) {
        let Err(NoPlace::Taken { owner, free: Some(free), .. } | NoPlace::OutOfBounds { owner, free: Some(free), .. }) =
            place(&wanted, &taken) else { return Ok(()) };
        let mut again: Vec<WantedWindow> = wanted.into_iter().filter(|one| one.owner == owner).collect();
        again[0].start = Start::Fixed(free.start);
        prop_assert!(place(&again, &taken).is_ok());
    }
}

proptest! {
    #[test]
    fn the_first_window_that_holds_another_is_found(
        windows in prop::collection::vec((0..30_u64, 0..12_u64), 0..8),
        wanted in (0..30_u64, 0..12_u64),
    ) {
        let window = |(start, count)| Window { start, count };
        let windows: Vec<Window> = windows.into_iter().map(window).collect();
        let wanted = window(wanted);
        let holders = Holders::new(windows.iter().enumerate().map(|(index, window)| (*window, index)));
        let naive = windows.iter().position(|window| window.holds(wanted));
        prop_assert_eq!(holders.of(wanted).copied(), naive);
    }
}
