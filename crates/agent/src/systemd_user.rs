//! Delegation by systemd (`mechanism: systemd-user`). A user record registers the mapped root on the host,
//! and the scope's property `User=` names it. systemd then delegates the scope before the runtime
//! continues, so the start does not wait for the agent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use usernsd_domain::chain::chain;
use usernsd_domain::idmap::HostId;
use usernsd_linux::userdb::UserDb;
use usernsd_peers::systemd::Systemd;

/// A host ID that no pod has: the kubelet's last slot of 65,536 IDs ends with the invalid ID 2³² − 1, so a
/// pod in that slot could not start.
const PROBE: HostId = HostId(4_294_901_760);
/// Age beyond which a record must belong to a pod that ended while the agent was absent.
const OLD: Duration = Duration::from_secs(3600);

/// The mechanism; off until systemd has shown that it resolves a record.
#[derive(Debug)]
pub struct SystemdUser {
    userdb: UserDb,
    minimum_host_id: HostId,
    works: AtomicBool,
}

// === impl SystemdUser ===

impl SystemdUser {
    /// Not in use yet, see [`SystemdUser::find_out`].
    #[must_use]
    pub fn new(userdb: UserDb, minimum_host_id: HostId) -> SystemdUser {
        if let Err(error) = userdb.sweep(OLD) {
            warn!(error = %chain(&error), "could not remove old user records");
        }
        SystemdUser { userdb, minimum_host_id, works: AtomicBool::new(false) }
    }

    /// Tests whether systemd resolves a record, with an ID that no pod has.
    pub async fn find_out(&self, systemd: &Systemd) {
        let tried = async {
            self.userdb.put(PROBE).map_err(|error| format!("writing a user record: {error}"))?;
            systemd.can_resolve_user(&UserDb::name_of(PROBE)).await.map_err(|error| chain(&error))
        };
        let result = tried.await;
        self.forget(PROBE);
        match &result {
            Ok(true) => {
                info!("systemd resolves user records: it hands cgroups over when it creates their scopes")
            }
            Ok(false) => warn!(
                "systemd does not resolve user records (install libnss-systemd, and add \"systemd\" to passwd in \
                 nsswitch.conf); the agent hands cgroups over"
            ),
            Err(reason) => warn!(
                %reason,
                "could not find out whether systemd resolves user records; the agent hands cgroups over"
            ),
        }
        self.works.store(result == Ok(true), Ordering::Relaxed);
    }

    /// Whether systemd can be asked to delegate scopes.
    #[must_use]
    pub fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// The owner for a pod with this mapped root; `None` for one that must never be an owner.
    #[must_use]
    pub fn owner(&self, root: HostId) -> Option<HostId> {
        (root != HostId::ROOT && root >= self.minimum_host_id).then_some(root)
    }

    /// Writes the owner's record; if that fails, logs the error and returns false.
    #[must_use]
    pub fn make_known(&self, owner: HostId) -> bool {
        match self.userdb.put(owner) {
            Ok(()) => true,
            Err(error) => {
                warn!(%owner, error = %chain(&error), "could not make the owner known to systemd; the agent hands the cgroup over");
                false
            }
        }
    }

    /// Removes the owner's record.
    pub fn forget(&self, owner: HostId) {
        if let Err(error) = self.userdb.remove(owner) {
            warn!(%owner, error = %chain(&error), "could not remove a user record");
        }
    }
}
