//! Resolves a host ID: to a container, present or recent, to a user or group of the host, to a range in `/etc/subuid`
//! or `/etc/subgid`, and to a pool.

use super::accounts::Account;
use super::container::PodRef;
use super::idmap::{HostId, IdMap};
use super::space::{HostIds, IdType, SlotPlace};

/// A container with its own host IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The container's identifier.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    pub pod: PodRef,
    /// The mapping of user IDs.
    pub uid_map: IdMap,
    /// The mapping of group IDs.
    pub gid_map: IdMap,
    /// Start and end of its life (RFC 3339); `None` while it runs.
    pub past: Option<(String, String)>,
}

/// A holder of a host ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostIdHolder<'a> {
    Container {
        tenant: &'a Tenant,
        /// The container ID that it maps to.
        inside: u32,
    },
    /// A user or group of the host.
    Account(&'a Account),
    /// A line of `/etc/subuid` or `/etc/subgid`.
    Range {
        /// Line number, from 1.
        line: usize,
        /// The line's owner.
        owner: &'a str,
        /// The first ID.
        start: u64,
        /// Number of IDs.
        count: u64,
    },
    /// A slot of a pool.
    Pool(SlotPlace),
}

/// Every holder of an ID, the present ones first; empty if there is none.
#[must_use]
pub fn whois<'a>(
    id: HostId,
    space: IdType,
    tenants: &'a [Tenant],
    host: Option<&'a HostIds>,
) -> Vec<HostIdHolder<'a>> {
    let of_tenant = |tenant: &'a Tenant| {
        let map = match space {
            IdType::Uid => &tenant.uid_map,
            IdType::Gid => &tenant.gid_map,
        };
        let inside = map.container_of(id)?.0;
        Some(HostIdHolder::Container { tenant, inside })
    };
    let (present, past): (Vec<&Tenant>, Vec<&Tenant>) =
        tenants.iter().partition(|tenant| tenant.past.is_none());
    let mut holders: Vec<HostIdHolder<'a>> = present.into_iter().filter_map(of_tenant).collect();
    if let Some(host) = host {
        let accounts = match space {
            IdType::Uid => host.accounts.users(),
            IdType::Gid => host.accounts.groups(),
        };
        holders.extend(accounts.iter().filter(|account| account.id == id.0).map(HostIdHolder::Account));
        let number = u64::from(id.0);
        let ranges =
            host.file(space).ranges().filter(|(_, range)| range.start <= number && number < range.end());
        holders.extend(ranges.map(|(line, range)| HostIdHolder::Range {
            line,
            owner: &range.owner,
            start: range.start,
            count: range.count,
        }));
        holders.extend(host.slot_of(space, number, 1).map(HostIdHolder::Pool));
    }
    holders.extend(past.into_iter().filter_map(of_tenant));
    holders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::subid::SubidFile;

    fn tenant(id: &str, map: &str, past: bool) -> Tenant {
        Tenant {
            id: id.into(),
            name: "c".into(),
            pod: PodRef::default(),
            uid_map: IdMap::parse(map).unwrap(),
            gid_map: IdMap::parse("0 700000 10").unwrap(),
            past: past.then(|| ("a".into(), "b".into())),
        }
    }

    #[test]
    fn all_holders_are_found_present_ones_first() {
        let mut accounts = Accounts::default();
        accounts.add_users(b"root:x:0:0:::\nstray:x:200005:0:::\n");
        accounts.add_groups(b"wheel:x:10:\n");
        let host = HostIds {
            subuid: SubidFile::parse(b"# ours\ncontainers:200000:131072\n"),
            subgid: SubidFile::parse(b""),
            accounts,
            kubelet_is_present: false,
            crio_is_here: true,
        };
        let tenants =
            [tenant("old", "0 200000 65536", true), tenant("now", "0 200000 65536\n70000 5 1", false)];
        let output_of = |id, space| -> Vec<String> {
            let word = |holder: &HostIdHolder<'_>| match holder {
                HostIdHolder::Container { tenant, inside } => format!("{} {inside}", tenant.id),
                HostIdHolder::Account(account) => account.name.clone(),
                HostIdHolder::Range { line, owner, start, count } => {
                    format!("{line}:{owner}:{start}:{count}")
                }
                HostIdHolder::Pool(slot) => format!("{} {}", slot.pool.name(), slot.index),
            };
            whois(HostId(id), space, &tenants, Some(&host)).iter().map(word).collect()
        };
        assert_eq!(
            output_of(200_005, IdType::Uid),
            ["now 5", "stray", "2:containers:200000:131072", "crio 0", "old 5"]
        );
        assert_eq!(output_of(5, IdType::Uid), ["now 70000"]);
        assert_eq!(output_of(331_071, IdType::Uid), ["2:containers:200000:131072", "crio 1"]);
        assert_eq!(output_of(331_072, IdType::Uid), [""; 0]);
        assert_eq!(output_of(700_009, IdType::Gid), ["now 9", "old 9"]);
        assert_eq!(output_of(10, IdType::Gid), ["wheel"]);
        assert_eq!(output_of(0, IdType::Uid), ["root"]);
        assert_eq!(whois(HostId(0), IdType::Uid, &tenants, None), []);
    }
}
