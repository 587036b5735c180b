//! Tests whether systemd can resolve a user, by running a transient service as that user.

use std::time::Duration;

use zbus::{OwnedObjectPath, Variant};

use super::error::SystemdError;
use super::{MANAGER, MANAGER_PATH, Systemd, body};

/// Name of the transient service. It appears in the journal, so it names its purpose.
const SERVICE: &str = "usernsd-probe.service";
/// Pause between two reads of the result; starting `true` takes some milliseconds.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 100;

impl Systemd {
    /// Whether systemd can resolve `user` (a name or a number) by the host's NSS, so that the user can own a
    /// unit (`User=` in systemd.exec(5)). Runs `/bin/true` as that user, as a transient service.
    ///
    /// # Errors
    /// See [`SystemdError`]; systemd refuses transient units to anyone but root.
    pub async fn can_resolve_user(&self, user: &str) -> Result<bool, SystemdError> {
        // A failed unit of an earlier run would block the name.
        let _ = self.unit_call("ResetFailedUnit").await;
        let _ = self.stop_probe().await;
        let exec: Vec<(&str, Vec<&str>, bool)> = vec![("/bin/true", vec!["true"], false)];
        let properties: Vec<(&str, Variant<'_>)> = vec![
            ("Description", Variant::from("usernsd asks whether this user is known")),
            ("Type", Variant::from("oneshot")),
            ("RemainAfterExit", Variant::from(true)),
            ("User", Variant::from(user)),
            ("ExecStart", Variant::from(exec)),
        ];
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        const CALL: &str = "StartTransientUnit";
        let arguments = (SERVICE, "replace", properties, auxiliary);
        let reply = self.call(CALL, MANAGER_PATH, MANAGER, CALL, &arguments).await?;
        let _: OwnedObjectPath = body(CALL, &reply)?;

        let mut known = false;
        for _ in 0..TRIES {
            match self.active_state(SERVICE).await?.as_deref() {
                Some("active") => {
                    known = true;
                    break;
                }
                Some("failed") => break,
                // The job is queued or running.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        let _ = self.stop_probe().await;
        let _ = self.unit_call("ResetFailedUnit").await;
        Ok(known)
    }

    async fn stop_probe(&self) -> Result<(), SystemdError> {
        const CALL: &str = "StopUnit";
        self.call(CALL, MANAGER_PATH, MANAGER, CALL, &(SERVICE, "replace")).await.map(drop)
    }

    async fn unit_call(&self, call: &'static str) -> Result<(), SystemdError> {
        self.call(call, MANAGER_PATH, MANAGER, call, &(SERVICE,)).await.map(drop)
    }
}
