//! Services: start time and restart.

use std::time::{Duration, Instant, SystemTime};

use zbus::{OwnedObjectPath, OwnedVariant};

use super::error::{SystemdError, answer};
use super::{MANAGER, MANAGER_PATH, NO_SUCH_UNIT, PROPERTIES, Systemd, body, convert, path};

/// Pause between two questions whether a job has ended.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long a restarted service is watched if its type sends no readiness notification. A service that
/// rejects its configuration ends in its first moments.
const SETTLES: Duration = Duration::from_secs(5);

impl Systemd {
    /// The start time of a service's main process; `None` if it does not run or there is no such unit.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn running_since(&self, unit: &str) -> Result<Option<SystemTime>, SystemdError> {
        const CALL: &str = "Get ExecMainStartTimestamp";
        if self.active_state(unit).await?.as_deref() != Some("active") {
            return Ok(None);
        }
        let get = ("org.freedesktop.systemd1.Service", "ExecMainStartTimestamp");
        let reply = self.call(CALL, &path::of_unit(unit), PROPERTIES, "Get", &get).await?;
        // Microseconds since 1970; 0 if it never started.
        let at: u64 = convert(CALL, body::<OwnedVariant>(CALL, &reply)?)?;
        Ok((at > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(at)))
    }

    /// Restarts a unit and waits until it runs again. For a service without readiness notification (`Type=`
    /// of systemd.service(5); the kubelet is one), systemd considers it running at once, so it is watched for
    /// some seconds.
    ///
    /// # Errors
    /// See [`SystemdError`]; also if the unit does not run afterwards.
    pub async fn restart_unit(&self, unit: &str, patience: Duration) -> Result<(), SystemdError> {
        const CALL: &str = "RestartUnit";
        const JOB: &str = "Get State";
        let until = Instant::now() + patience;
        let reply = self.call(CALL, MANAGER_PATH, MANAGER, CALL, &(unit, "replace")).await?;
        let job: OwnedObjectPath = body(CALL, &reply)?;
        // The job's object disappears when the job has ended.
        let get = ("org.freedesktop.systemd1.Job", "State");
        loop {
            match self.call(JOB, job.as_str(), PROPERTIES, "Get", &get).await {
                Err(error) if NO_SUCH_UNIT.iter().any(|name| error.is_named(name)) => break,
                Err(error) => return Err(error),
                Ok(_) if Instant::now() >= until => {
                    return Err(SystemdError::Deadline { call: CALL, within: patience });
                }
                Ok(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        let settled =
            if self.notifies_readiness(unit).await? { Instant::now() } else { Instant::now() + SETTLES };
        loop {
            match self.active_state(unit).await?.as_deref() {
                Some("active") if Instant::now() >= settled => return Ok(()),
                Some("active") => tokio::time::sleep(PAUSE).await,
                other => return Err(answer(CALL, format!("{unit} is {}", other.unwrap_or("gone")))),
            }
        }
    }

    async fn notifies_readiness(&self, unit: &str) -> Result<bool, SystemdError> {
        const CALL: &str = "Get Type";
        let get = ("org.freedesktop.systemd1.Service", "Type");
        let reply = self.call(CALL, &path::of_unit(unit), PROPERTIES, "Get", &get).await?;
        let kind: String = convert(CALL, body::<OwnedVariant>(CALL, &reply)?)?;
        Ok(matches!(kind.as_str(), "notify" | "notify-reload" | "dbus" | "forking" | "oneshot"))
    }

    pub(super) async fn active_state(&self, unit: &str) -> Result<Option<String>, SystemdError> {
        const CALL: &str = "Get ActiveState";
        let get = ("org.freedesktop.systemd1.Unit", "ActiveState");
        match self.call(CALL, &path::of_unit(unit), PROPERTIES, "Get", &get).await {
            Ok(reply) => convert(CALL, body::<OwnedVariant>(CALL, &reply)?).map(Some),
            Err(error) if NO_SUCH_UNIT.iter().any(|name| error.is_named(name)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
