//! The map of host IDs, from a state document.

use std::collections::BTreeMap;

use crate::state::{Container, IdSpace, PodState, State};
use usernsd_domain::map::{Claim, Grid, Holder, Map, PoolSource};
use usernsd_domain::ranges::Window;
use usernsd_domain::record::CgroupState;
use usernsd_domain::space::{CRIO_USER, IdType};

/// The maps to show: of user IDs, of group IDs if they differ, and the pools.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    /// The map of user IDs, then that of group IDs.
    pub spaces: Vec<Map>,
    /// The pools that the node has, as user IDs.
    pub pools: Vec<PoolSource>,
}

// === impl Maps ===

impl Maps {
    /// The maps of a document; `None` if it does not contain the owners of IDs.
    #[must_use]
    pub fn of(state: &State) -> Option<Maps> {
        let ids = state.id_space.as_ref()?;
        let pools = pools(ids);
        let pods = Pods::of(state);
        let space = |space| Map::of(space, &claims(ids, &pods, &pools, space), &pools);
        let users = space(IdType::Uid);
        let groups = space(IdType::Gid);
        // Accounts of the host are always distinct owners.
        let matters = |map: &Map| {
            let windows = map.segments.iter().flat_map(|segment| segment.claims.clone());
            let windows = windows.filter(|claim| !matches!(claim.holder, Holder::Account(_)));
            (
                windows.collect::<Vec<_>>(),
                map.overlaps.iter().map(|overlap| overlap.window).collect::<Vec<_>>(),
            )
        };
        let spaces = if matters(&users) == matters(&groups) { vec![users] } else { vec![users, groups] };
        Some(Maps { spaces, pools })
    }

    /// The pools as rows of `columns` slots.
    #[must_use]
    pub fn grids(&self, columns: usize) -> Vec<Grid> {
        let users = self.spaces.first();
        self.pools.iter().filter_map(|pool| Some(users?.grid(pool, columns))).collect()
    }
}

/// The pods with host IDs of their own, by display name.
struct Pods<'a>(Vec<(String, Vec<&'a Container>)>);

impl<'a> Pods<'a> {
    fn of(state: &'a State) -> Pods<'a> {
        let containers: BTreeMap<&str, &Container> =
            state.containers.iter().map(|container| (container.id.as_str(), container)).collect();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for pod in &state.pods {
            *names.entry(name(pod)).or_default() += 1;
        }
        let pods = state.pods.iter().map(|pod| {
            let own = pod.containers.iter().filter_map(|id| containers.get(id.as_str()).copied());
            let own = own.filter(|container| has_own_ids(container)).collect();
            let known = name(pod);
            // Two pods with one name are two owners.
            let is_alone = names.get(&known).is_none_or(|count| *count == 1);
            (if is_alone { known } else { format!("{known} ({})", pod.uid) }, own)
        });
        Pods(pods.collect())
    }
}

fn name(pod: &PodState) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Whether its mapping belongs to a user namespace of its own.
#[must_use]
pub fn has_own_ids(container: &Container) -> bool {
    match &container.user_namespace {
        Some(namespace) => !namespace.host,
        None => !container.state.is(CgroupState::HostUserNamespace) && container.uid_map.is_some(),
    }
}

fn pools(ids: &IdSpace) -> Vec<PoolSource> {
    let windows = |ranges: &[crate::state::Range]| {
        ranges.iter().map(|range| Window { start: range.start, count: range.count }).collect()
    };
    let pools = ids.pools.iter().filter(|pool| !pool.ranges.is_empty());
    pools
        .map(|pool| PoolSource {
            name: pool.name.clone(),
            windows: windows(&pool.ranges),
            slot_ids: pool.slot_ids,
        })
        .collect()
}

fn claims(ids: &IdSpace, pods: &Pods<'_>, pools: &[PoolSource], space: IdType) -> Vec<Claim> {
    // Pods get group IDs from the ranges of the owners of the pools' user IDs.
    let in_pool = |window: Window| pools.iter().any(|pool| pool.windows.contains(&window));
    let window = |start, count| Window { start, count };
    let lines = ids.subordinate_ranges.iter();
    let owners: Vec<&str> = lines
        .clone()
        .filter(|line| line.file == IdType::Uid.file() && in_pool(window(line.start, line.count)))
        .map(|line| line.owner.as_str())
        .collect();
    // Owners are looked up as `getsubids` does: by name, otherwise by number.
    let user_of = |owner: &str| {
        let users = ids.accounts.iter().filter(|account| account.id_type.is(IdType::Uid));
        let named = users.filter(|account| account.name == owner).map(|account| account.id).next();
        named.or_else(|| owner.parse().ok())
    };
    let lines = lines.filter(|line| line.file == space.file()).map(|line| Claim {
        window: window(line.start, line.count),
        holder: Holder::Subid {
            owner: line.owner.clone(),
            // Without CRI-O no pod gets IDs from that line, so it is not shared.
            is_pool: line.owner == CRIO_USER || owners.contains(&line.owner.as_str()),
            user: user_of(&line.owner),
        },
    });
    let accounts = ids.accounts.iter().filter(|account| account.id_type.is(space)).map(|account| Claim {
        window: window(account.id.into(), 1),
        holder: Holder::Account(account.name.clone()),
    });
    let pods = pods.0.iter().flat_map(|(name, containers)| {
        let maps = containers.iter().filter_map(|container| match space {
            IdType::Uid => container.uid_map.as_ref(),
            IdType::Gid => container.gid_map.as_ref(),
        });
        let extents = maps.flatten().map(|extent| window(extent.host_id.into(), extent.length.into()));
        // Containers of one pod have the same IDs.
        let extents: usernsd_domain::space::IdSet = extents.collect();
        let extents = extents.windows().to_vec();
        extents.into_iter().map(|window| Claim { window, holder: Holder::Pod(name.clone()) })
    });
    accounts.chain(lines).chain(pods).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_domain::accounts::{Account, Accounts};
    use usernsd_domain::space::{HostIds, OverlapKind, Space};
    use usernsd_domain::subid::SubidFile;

    /// The number of overlaps of subordinate ranges that are counted, and of those that are drawn.
    fn overlaps(lines: &str, users: &[(&str, u32)]) -> (u64, usize) {
        let file = || SubidFile::parse(lines.as_bytes());
        let mut accounts = Accounts::default();
        for (name, id) in users {
            accounts.add_user(Account { name: (*name).to_owned(), id: *id });
        }
        let host = HostIds {
            subuid: file(),
            subgid: file(),
            accounts,
            kubelet_is_present: false,
            crio_is_here: false,
        };
        let space = Space::of(&host, &[]);
        let ids = IdSpace::of(&host, &space);
        let pools = pools(&ids);
        let map = Map::of(IdType::Uid, &claims(&ids, &Pods(Vec::new()), &pools, IdType::Uid), &pools);
        (space.overlaps_of(OverlapKind::SubidSubid), map.overlaps.len())
    }

    #[test]
    fn a_user_by_two_names_may_share_with_itself_where_overlaps_are_counted_and_where_they_are_drawn() {
        let users = [("anna", 1000), ("ann", 1000), ("bob", 1001)];
        for lines in ["anna:100000:65536\nann:100000:65536\n", "anna:100000:65536\n1000:100000:65536\n"] {
            assert_eq!(overlaps(lines, &users), (0, 0), "{lines}");
        }
        assert_eq!(
            overlaps("lxd:1000000:1000000000\nroot:1000000:1000000000\n", &users),
            (0, 0),
            "LXD's own"
        );
        let (counted, drawn) = overlaps("lxd:1000000:65536\nbob:1000000:65536\n", &users);
        assert!(counted > 0 && drawn > 0);
        let (counted, drawn) = overlaps("anna:100000:65536\nbob:100000:65536\n", &users);
        assert!(counted > 0 && drawn > 0);
    }
}
