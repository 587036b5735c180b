use proptest::prelude::*;

use super::*;

const ID: &str = "bf2b3d15cbd6944366e29927988ba30bc36d1efee00c28fb4c6d5b2036e462b0";
const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const INODE: u64 = 4711;

fn path(text: &str) -> CgroupPath {
    CgroupPath::parse(text).unwrap()
}

fn scope() -> CgroupPath {
    path(&format!("/kubepods.slice/crio-{ID}.scope"))
}

fn map(text: &str) -> IdMap {
    IdMap::parse(text).unwrap()
}

fn specified() -> SpecifiedNamespaces {
    SpecifiedNamespaces {
        uid_map: map("0 200000 65536"),
        gid_map: map("0 300000 65536"),
        pid_namespace: true,
    }
}

fn above(at: &str) -> Ancestor {
    Ancestor { path: path(at), uid: 0, gid: 0, mode: 0o755 }
}

/// A proof of a container with that mapping, for the rules that take one.
pub(crate) fn proven(uid_map: IdMap, user_namespace: InUserNamespace, delegate: Option<bool>) -> Proven {
    Proven { user_namespace, uid_map, delegate }
}

/// Everything is as it should be, of a container that runs.
fn good<'a>(id: &'a CriId, specified: &'a SpecifiedNamespaces, place: &'a str) -> Evidence<'a> {
    Evidence {
        id,
        cgroups_path: place,
        specified,
        specifies_user_namespace: true,
        is_started: true,
        opened: Opened::Beneath {
            path: scope(),
            inode: INODE,
            above: vec![above("/"), above("/kubepods.slice")],
        },
        init: Some(InitProcess {
            pid: 17,
            is_named: true,
            inner_numbers: vec![1],
            cgroup: scope().join("init.scope").unwrap(),
        }),
        mapping: Some(Mapping {
            user_namespace: UserNamespace { inode: Some(1), is_hosts: false },
            uid_map: specified.uid_map.clone(),
            gid_map: Some(specified.gid_map.clone()),
        }),
        unit: Some(Scope { control_group: scope(), control_group_id: Some(INODE), delegate: true }),
    }
}

fn place() -> String {
    format!("kubepods.slice:crio:{ID}")
}

/// A single piece of evidence differs.
#[derive(Debug, Clone)]
enum Flip {
    Id,
    PathOfAnother,
    PathOfNoForm,
    Escaped,
    OpenedAnother,
    Stopped,
    AncestorOwner { index: usize, uid: u32, gid: u32, mode: u32 },
    AncestorUnseen { index: usize },
    NoProcess,
    NotFirst(Vec<u32>),
    ProcessElsewhere(&'static str),
    MapsUnread,
    UidMap(u32),
    GidMap(u32),
    UnitElsewhere,
    UnitOfAnotherInode(u64),
}

impl Flip {
    fn apply(self, evidence: &mut Evidence<'_>) -> Point {
        let beneath = |evidence: &mut Evidence<'_>, change: &dyn Fn(&mut CgroupPath, &mut Vec<Ancestor>)| {
            let Opened::Beneath { path, above, .. } = &mut evidence.opened else { panic!() };
            change(path, above);
        };
        match self {
            Flip::Id | Flip::PathOfAnother | Flip::PathOfNoForm => Point::Name,
            Flip::Escaped => {
                evidence.opened = Opened::Escapes(scope());
                Point::Opened
            }
            Flip::OpenedAnother => {
                beneath(evidence, &|path, _| *path = scope().join("x").unwrap());
                Point::Opened
            }
            Flip::Stopped => {
                evidence.opened = Opened::Stopped(Ancestor { uid: 200_000, ..above("/kubepods.slice") });
                Point::Ancestors
            }
            Flip::AncestorOwner { index, uid, gid, mode } => {
                beneath(evidence, &|_, above| {
                    let path = above[index].path.clone();
                    above[index] = Ancestor { path, uid, gid, mode };
                });
                Point::Ancestors
            }
            Flip::AncestorUnseen { index } => {
                beneath(evidence, &|_, above| drop(above.remove(index)));
                Point::Ancestors
            }
            Flip::NoProcess => {
                evidence.init = None;
                Point::InitProcess
            }
            Flip::NotFirst(numbers) => {
                evidence.init.as_mut().unwrap().inner_numbers = numbers;
                Point::InitProcess
            }
            Flip::ProcessElsewhere(at) => {
                evidence.init.as_mut().unwrap().cgroup = path(at);
                Point::InitProcess
            }
            Flip::MapsUnread => {
                evidence.mapping = None;
                Point::Mapping
            }
            Flip::UidMap(first) => {
                evidence.mapping.as_mut().unwrap().uid_map = map(&format!("0 {first} 65536"));
                Point::Mapping
            }
            Flip::GidMap(first) => {
                evidence.mapping.as_mut().unwrap().gid_map = Some(map(&format!("0 {first} 65536")));
                Point::Mapping
            }
            Flip::UnitElsewhere => {
                evidence.unit.as_mut().unwrap().control_group = path("/system.slice");
                Point::Unit
            }
            Flip::UnitOfAnotherInode(inode) => {
                evidence.unit.as_mut().unwrap().control_group_id = Some(inode);
                Point::Unit
            }
        }
    }
}

fn flips() -> impl Strategy<Value = Flip> {
    let owner = (0..2_usize, any::<u32>(), any::<u32>(), 0..0o7777_u32)
        .prop_map(|(index, uid, gid, mode)| Flip::AncestorOwner { index, uid, gid, mode })
        .prop_filter(
            "root's alone",
            |flip| !matches!(flip, Flip::AncestorOwner { uid: 0, gid: 0, mode, .. } if mode & 0o022 == 0),
        );
    prop_oneof![
        Just(Flip::Id),
        Just(Flip::PathOfAnother),
        Just(Flip::PathOfNoForm),
        Just(Flip::Escaped),
        Just(Flip::OpenedAnother),
        Just(Flip::Stopped),
        owner,
        (0..2_usize, 1..0o777_u32).prop_map(|(index, mode)| Flip::AncestorOwner {
            index,
            uid: 0,
            gid: 0,
            mode: mode | 0o002
        }),
        (0..2_usize).prop_map(|index| Flip::AncestorUnseen { index }),
        Just(Flip::NoProcess),
        prop::collection::vec(0..5_u32, 0..4)
            .prop_filter("the first", |numbers| numbers != &[1])
            .prop_map(Flip::NotFirst),
        prop::sample::select(vec!["/", "/kubepods.slice", "/system.slice/x.scope"])
            .prop_map(Flip::ProcessElsewhere),
        Just(Flip::MapsUnread),
        (0..4_000_000_u32).prop_filter("the same", |id| *id != 200_000).prop_map(Flip::UidMap),
        (0..4_000_000_u32).prop_filter("the same", |id| *id != 300_000).prop_map(Flip::GidMap),
        Just(Flip::UnitElsewhere),
        any::<u64>().prop_filter("the same", |inode| *inode != INODE).prop_map(Flip::UnitOfAnotherInode),
    ]
}

proptest! {
    #[test]
    fn nothing_is_proven_if_any_piece_of_evidence_differs(flip in flips()) {
        let (mut id, mut place, specified) = (CriId::parse(ID).unwrap(), place(), specified());
        match flip {
            Flip::Id => id = CriId::parse(OTHER).unwrap(),
            Flip::PathOfAnother => place = format!("kubepods.slice:crio:{OTHER}"),
            Flip::PathOfNoForm => "kubepods".clone_into(&mut place),
            _ => {}
        }
        let mut evidence = good(&id, &specified, &place);
        let point = flip.apply(&mut evidence);
        let refused = prove(&evidence).unwrap_err();
        prop_assert_eq!(refused.point, point, "{}", refused.reason);
        prop_assert!(!refused.reason.is_empty());
    }
}

#[test]
fn a_container_is_proven_if_all_evidence_agrees() {
    let (id, specified, place) = (CriId::parse(ID).unwrap(), specified(), place());
    let good = good(&id, &specified, &place);
    let want = proven(specified.uid_map.clone(), InUserNamespace::Own, Some(true));
    assert_eq!(prove(&good), Ok(want.clone()));
    // systemd could not be asked.
    let unasked = Evidence { unit: None, ..good.clone() };
    assert_eq!(prove(&unasked), Ok(Proven { delegate: None, ..want.clone() }));
    // An older systemd has no cgroup IDs.
    let old = Scope { control_group_id: None, ..good.unit.clone().unwrap() };
    assert_eq!(prove(&Evidence { unit: Some(old), ..good.clone() }), Ok(want.clone()));
    // The source has no mappings.
    let unspecified = SpecifiedNamespaces { pid_namespace: true, ..SpecifiedNamespaces::default() };
    assert_eq!(prove(&Evidence { specified: &unspecified, ..good.clone() }), Ok(want.clone()));
    // Before it runs, its process need not be the first of a PID namespace.
    let mut waiting = Evidence { is_started: false, ..good.clone() };
    waiting.init.as_mut().unwrap().inner_numbers.clear();
    assert_eq!(prove(&waiting), Ok(want));
}

#[test]
fn a_container_without_a_user_namespace_of_its_own_is_proven_whatever_is_mapped() {
    let (id, specified, place) = (CriId::parse(ID).unwrap(), specified(), place());
    let mut evidence = good(&id, &specified, &place);
    evidence.mapping.as_mut().unwrap().uid_map = map("0 0 4294967295");
    let self_made = Evidence { specifies_user_namespace: false, ..evidence.clone() };
    assert_eq!(prove(&self_made).unwrap().user_namespace(), InUserNamespace::SelfMade);
    assert_eq!(prove(&evidence).unwrap_err().point, Point::Mapping);
    evidence.mapping.as_mut().unwrap().user_namespace.is_hosts = true;
    assert_eq!(prove(&evidence).unwrap().user_namespace(), InUserNamespace::Hosts);
}

#[test]
fn a_directory_below_a_scope_is_the_runtimes_while_the_scope_is_roots() {
    let scope = scope();
    let container = scope.join("container").unwrap();
    let deeper = container.join("init.scope").unwrap();
    for ([directory, processes], process, want) in [
        ([0, 0], &scope, None),
        ([0, 0], &container, Some("container")),
        ([0, 0], &deeper, Some("container")),
        ([200_000, 200_000], &deeper, None),
        // Set back, or about to be handed over.
        ([0, 200_000], &deeper, None),
        ([0, 0], &path("/system.slice"), None),
    ] {
        let owners = ScopeOwners { directory: HostId(directory), processes: HostId(processes) };
        assert_eq!(runtimes_child(&scope, owners, process), want, "{owners:?} {process}");
    }
}

#[test]
fn the_page_lists_the_points_in_their_order() {
    let page = include_str!("../../../../docs/architecture.md");
    let section = page.split("## Proof of identity").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let numbered: Vec<&str> = section
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(". ")?;
            number.parse::<usize>().ok().map(|_| rest)
        })
        .collect();
    assert_eq!(numbered.len(), Point::ALL.len(), "{numbered:?}");
    for (line, point) in numbered.iter().zip(Point::ALL) {
        assert!(line.starts_with(&format!("**{}**", point.title())), "{line:?} is not {point:?}");
    }
}
