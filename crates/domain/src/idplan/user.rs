//! Creates the user `kubelet`.

use std::collections::BTreeSet;

use super::{ACCOUNT_FILES, KubeletUser, PlanError, Planner, lines_change};
use crate::accounts::{AccountFile, Accounts};
use crate::kubelet;
use crate::provision::{Attributes, FileChange};
use crate::subid::SubidFile;

impl Planner<'_> {
    /// Creates the user `kubelet` if configured; returns the accounts as they will be.
    pub(super) fn user(&self, changes: &mut Vec<FileChange>) -> Result<Accounts, PlanError> {
        let mut accounts = self.node.accounts.clone();
        let asked = self.desired.kubelet.user == KubeletUser::Create;
        if !asked || accounts.user(kubelet::USER).is_some() {
            return Ok(accounts);
        }
        if !self.node.kubelet.getsubids {
            return Err(PlanError::NoUser(
                "getsubids is missing, and if there is a user kubelet, the kubelet does not start without it; install it \
                 (uidmap, shadow-utils-subid)",
            ));
        }
        if self.node.kubelet.nsswitch_subid.as_deref().is_some_and(|source| !kubelet::reads_files(source)) {
            return Err(PlanError::NoUser(
                "nsswitch.conf has getsubids ask a directory, where this program cannot see whether the kubelet would \
                 find its range; make the user there",
            ));
        }
        // The existing group, unless a user has its number: two users with one number have each other's lines.
        let group = accounts.groups().iter().find(|group| group.name == kubelet::USER).map(|group| group.id);
        if let Some(id) = group
            && accounts.users().iter().any(|user| user.id == id)
        {
            return Err(PlanError::NoUser(
                "there is a group kubelet whose number is another user's; remove the group",
            ));
        }
        let owners: BTreeSet<u32> = self
            .files
            .iter()
            .flat_map(SubidFile::ranges)
            .filter_map(|(_, range)| range.owner.parse().ok())
            .collect();
        let Some(id) = group.or_else(|| accounts.free_system_id(&owners)) else {
            return Err(PlanError::NoUser("no system user ID from 101 to 999 is free"));
        };
        let missing = "/etc/passwd or /etc/group is missing";
        for ((file, path), old) in ACCOUNT_FILES.iter().zip(&self.node.account_files) {
            let is_needed = matches!(file, AccountFile::Passwd | AccountFile::Group);
            let Some(bytes) = old else {
                // A system without shadow files has the password field in the other files.
                if is_needed {
                    return Err(PlanError::NoUser(missing));
                }
                continue;
            };
            let new = file.with(bytes, kubelet::USER, id);
            // The line would have been found, if it were one that the C library understands.
            if new.is_none()
                && (*file == AccountFile::Passwd || (*file == AccountFile::Group && group.is_none()))
            {
                return Err(PlanError::NoUser(
                    "/etc/passwd or /etc/group has a line for kubelet with an invalid number, so that nobody finds it; remove \
                     that line, or correct it",
                ));
            }
            if let Some(new) = new {
                let reason = format!("the kubelet looks for a user {} ({id})", kubelet::USER);
                let attributes = if is_needed { Attributes::READABLE } else { Attributes::SECRET };
                changes.push(lines_change(path.clone(), old.clone(), Some(new), attributes, vec![reason]));
            }
        }
        accounts.add_users(AccountFile::Passwd.line(kubelet::USER, id).as_bytes());
        Ok(accounts)
    }
}
