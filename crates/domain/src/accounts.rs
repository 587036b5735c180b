//! Users and groups of the host: passwd(5), group(5), shadow(5), gshadow(5).

use std::collections::{BTreeMap, BTreeSet};

use super::ranges::{FIRST, RangeUser, Taken, Window};
use super::work::step;

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name, the first field of the line.
    pub name: String,
    /// User or group ID, the third field.
    pub id: u32,
}

/// The users and groups in the node's own files, without those of a directory service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<Account>,
    /// Index in `users` of the first user with each name. Every line of subuid(5) is looked up here, and a node may
    /// have thousands of both.
    by_name: BTreeMap<String, usize>,
}

/// An account file, named by its manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountFile {
    /// group(5).
    Group,
    /// gshadow(5).
    Gshadow,
    /// shadow(5).
    Shadow,
    /// passwd(5).
    Passwd,
}

/// See [`Accounts::may_share`].
#[must_use]
pub fn are_lxds(owner: &str, other: &str) -> bool {
    let is_root = |owner: &str| matches!(owner, "root" | "0");
    (is_root(owner) && other == "lxd") || (is_root(other) && owner == "lxd")
}

// === impl Accounts ===

impl Accounts {
    /// Adds the users of a file such as `/etc/passwd`. Lines without a name or an ID are skipped.
    pub fn add_users(&mut self, passwd: &[u8]) {
        accounts(passwd).for_each(|user| self.add_user(user));
    }

    /// Adds one user.
    pub fn add_user(&mut self, user: Account) {
        self.by_name.entry(user.name.clone()).or_insert(self.users.len());
        self.users.push(user);
    }

    /// Adds the groups of a file such as `/etc/group`. Lines without a name or an ID are skipped.
    pub fn add_groups(&mut self, group: &[u8]) {
        self.groups.extend(accounts(group));
    }

    /// The users, in the order in which they were added.
    #[must_use]
    pub fn users(&self) -> &[Account] {
        &self.users
    }

    /// The groups, in the order in which they were added.
    #[must_use]
    pub fn groups(&self) -> &[Account] {
        &self.groups
    }

    /// The first user with that name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Account> {
        step();
        self.users.get(*self.by_name.get(name)?)
    }

    /// Whether two owners of subuid(5) are the same user: by name, by number, or by the name of another user with the
    /// same number, as `getsubids` looks them up.
    #[must_use]
    pub fn is_same(&self, owner: &str, other: &str) -> bool {
        let id_of = |owner: &str| self.user(owner).map(|user| user.id).or_else(|| owner.parse().ok());
        owner == other || id_of(owner).is_some_and(|id| id_of(other) == Some(id))
    }

    /// Whether these owners of subuid(5) may have the same IDs: one user, or `root` and `lxd`. LXD's package gives these
    /// two the same range: LXD runs as `root`, and looks up `lxd`.
    #[must_use]
    pub fn may_share(&self, owner: &str, other: &str) -> bool {
        let are = |root: &str, lxd: &str| self.is_same(root, "root") && self.is_same(lxd, "lxd");
        self.is_same(owner, other) || are_lxds(owner, other) || are(owner, other) || are(other, owner)
    }

    /// The accounts' IDs that are above the host's own range, and so cannot be given to a pod.
    #[must_use]
    pub fn taken(&self) -> Vec<Taken> {
        let one = |by: fn(String) -> RangeUser| {
            move |account: &Account| Taken {
                window: Window { start: account.id.into(), count: 1 },
                by: by(account.name.clone()),
                except: None,
            }
        };
        let users = self.users.iter().map(one(RangeUser::User));
        let groups = self.groups.iter().map(one(RangeUser::Group));
        users.chain(groups).filter(|taken| taken.window.start >= FIRST).collect()
    }

    /// An ID that no user, no group and none of `others` has: the highest free system ID (`SYS_UID_MAX` of
    /// login.defs(5) is 999), as `useradd --system` chooses.
    #[must_use]
    pub fn free_system_id(&self, others: &BTreeSet<u32>) -> Option<u32> {
        let account = |id| self.users.iter().chain(&self.groups).any(|account| account.id == id);
        let has = |id| account(id) || others.contains(&id);
        (101..=999).rev().find(|id| !has(*id))
    }
}

// === impl AccountFile ===

impl AccountFile {
    /// A line for a user or group without a login.
    #[must_use]
    pub fn line(self, name: &str, id: u32) -> String {
        match self {
            AccountFile::Group => format!("{name}:x:{id}:\n"),
            AccountFile::Gshadow => format!("{name}:!*::\n"),
            AccountFile::Shadow => format!("{name}:!*:::::::\n"),
            AccountFile::Passwd => format!("{name}:x:{id}:{id}:Owner of pods' IDs:/:/usr/sbin/nologin\n"),
        }
    }

    /// The file with that line added: at the end, but before the NIS entries of nsswitch's `compat` mode. `None` if
    /// the name exists already.
    #[must_use]
    pub fn with(self, bytes: &[u8], name: &str, id: u32) -> Option<Vec<u8>> {
        let is_it = |line: &[u8]| {
            line.trim_ascii_start().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
        };
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.iter().any(|line| is_it(line)) {
            return None;
        }
        let first_included = lines.iter().position(|line| line.starts_with(b"+") || line.starts_with(b"-"));
        let (before, after) = lines.split_at_checked(first_included.unwrap_or(lines.len()))?;
        let mut new = before.concat();
        if new.last().is_some_and(|byte| *byte != b'\n') {
            new.push(b'\n');
        }
        new.extend_from_slice(self.line(name, id).as_bytes());
        new.extend(after.concat());
        Some(new)
    }
}

/// Name and ID: the first and the third field of passwd(5) and of group(5). glibc and Go skip blanks at the beginning of a
/// line.
fn accounts(bytes: &[u8]) -> impl Iterator<Item = Account> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.trim_ascii_start().split(|byte| *byte == b':');
        let name = String::from_utf8_lossy(fields.next()?).into_owned();
        let id = std::str::from_utf8(fields.nth(1)?).ok()?.trim().parse().ok()?;
        (!name.is_empty() && !name.starts_with(['#', '+', '-'])).then_some(Account { name, id })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Accounts {
        let mut accounts = Accounts::default();
        accounts.add_users(
            b"root:x:0:0::/:/bin/sh\n#no:x:5:5\nbad\nbad:x:y:\ncore:x:1000:1000::/:\nalso:x:1000:1000::/:\n\
              corp\xff:x:300000:1:::\n+@nis::::::\n-x:x:70000:\n \t#no:x:6:6\n\t last:x:999:7::/:",
        );
        accounts.add_groups(b"root:x:0:\nbig:x:400000:core\nsystem:x:998:\n");
        accounts
    }

    #[test]
    fn users_and_groups_are_parsed() {
        let accounts = some();
        let names: Vec<_> = accounts.users.iter().map(|user| (user.name.as_str(), user.id)).collect();
        let want = [("root", 0), ("core", 1000), ("also", 1000), ("corp\u{fffd}", 300_000), ("last", 999)];
        assert_eq!(names, want);
        let taken: Vec<String> = accounts.taken().iter().map(ToString::to_string).collect();
        let want = [
            "the user corp\u{fffd}, 300000:1 (300000 to 300000)",
            "the group big, 400000:1 (400000 to 400000)",
        ];
        assert_eq!(taken, want);
        // A user has 999, a group 998.
        assert_eq!(accounts.free_system_id(&BTreeSet::new()), Some(997));
        assert_eq!(accounts.free_system_id(&BTreeSet::from([997, 996])), Some(995));
    }

    #[test]
    fn an_owner_is_found_by_name_number_and_second_name() {
        let accounts = some();
        for (owner, name, want) in [
            ("core", "core", true),
            ("1000", "core", true),
            ("also", "core", true),
            ("1001", "core", false),
            ("ghost", "ghost", true),
            ("1000", "ghost", false),
        ] {
            assert_eq!(accounts.is_same(name, owner), want, "{name} {owner}");
            assert_eq!(accounts.is_same(owner, name), want, "{owner} {name}");
        }
    }

    #[test]
    fn a_new_account_is_appended_before_nis_entries() {
        let line = "kubelet:x:997:\n";
        for (before, after) in [
            ("", line.to_owned()),
            ("root:x:0:\n", format!("root:x:0:\n{line}")),
            ("root:x:0:", format!("root:x:0:\n{line}")),
            ("root:x:0:\n+\nlocal:x:5:\n", format!("root:x:0:\n{line}+\nlocal:x:5:\n")),
            ("kubelet2:x:5:\n", format!("kubelet2:x:5:\n{line}")),
        ] {
            let new = AccountFile::Group.with(before.as_bytes(), "kubelet", 997).unwrap();
            assert_eq!(String::from_utf8(new).unwrap(), after);
        }
        assert_eq!(AccountFile::Group.with(b"kubelet:x:5:\n", "kubelet", 997), None);
        assert_eq!(AccountFile::Group.with(b"a:x:1:\n \tkubelet:x:5:\n", "kubelet", 997), None);
        for (file, fields) in [
            (AccountFile::Passwd, 7),
            (AccountFile::Shadow, 9),
            (AccountFile::Group, 4),
            (AccountFile::Gshadow, 4),
        ] {
            assert_eq!(file.line("kubelet", 997).trim_end().split(':').count(), fields, "{file:?}");
        }
    }
}
