//! Services, against the fake systemd: their start times and restarts.

use std::time::{Duration, SystemTime};

use crate::fakes::systemd::{FakeScope, FakeSystemd, Scenario};
use usernsd_peers::systemd::{Systemd, SystemdError};

const CRIO: &str = "crio.service";
const PATIENCE: Duration = Duration::from_millis(300);

fn scenario(active_state: &str) -> Scenario {
    Scenario {
        version: "252".into(),
        units: [("crio_2eservice".to_owned(), (CRIO.to_owned(), FakeScope::default()))].into(),
        active_state: active_state.into(),
        started: 1_500_000,
        ..Scenario::default()
    }
}

async fn rig(scenario: Scenario) -> (tempfile::TempDir, FakeSystemd, Systemd) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    let fake = FakeSystemd::start(&socket, scenario);
    let systemd = Systemd::connect(&socket).await.unwrap();
    (directory, fake, systemd)
}

#[tokio::test]
async fn the_start_time_of_a_running_service_is_read() {
    let since = Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000));
    for (state, unit, want) in [
        ("active", CRIO, since),
        ("inactive", CRIO, None),
        ("failed", CRIO, None),
        ("active", "no.service", None),
    ] {
        let (_directory, _fake, systemd) = rig(scenario(state)).await;
        assert_eq!(systemd.running_since(unit).await.unwrap(), want, "{state} {unit}");
    }
    let (_directory, _fake, systemd) = rig(Scenario { started: 0, ..scenario("active") }).await;
    assert_eq!(systemd.running_since(CRIO).await.unwrap(), None);
}

#[tokio::test]
async fn a_restart_ends_with_its_job_or_an_error() {
    let (_directory, _fake, systemd) = rig(scenario("active")).await;
    systemd.restart_unit(CRIO, PATIENCE).await.unwrap();

    let (_directory, _fake, systemd) = rig(scenario("failed")).await;
    let error = systemd.restart_unit(CRIO, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("crio.service is failed"), "{error}");

    let (_directory, _fake, systemd) = rig(Scenario { job_stays: true, ..scenario("active") }).await;
    let error = systemd.restart_unit(CRIO, PATIENCE).await.unwrap_err();
    assert_eq!(error, SystemdError::Deadline { call: "RestartUnit", within: PATIENCE });
}

#[tokio::test]
async fn a_service_without_a_readiness_notification_is_watched() {
    for (kind, says_so) in [("simple", false), ("exec", false), ("notify", true), ("notify-reload", true)] {
        let ends = Scenario { kind: kind.into(), ends_after: Some(3), ..scenario("active") };
        let (_directory, _fake, systemd) = rig(ends).await;
        match systemd.restart_unit(CRIO, PATIENCE).await {
            Ok(()) => assert!(says_so, "{kind}"),
            Err(error) => {
                assert!(
                    !says_so && error.to_string().contains("crio.service is activating"),
                    "{kind}: {error}"
                );
            }
        }
        let stays = Scenario { kind: kind.into(), ..scenario("active") };
        let (_directory, _fake, systemd) = rig(stays).await;
        systemd.restart_unit(CRIO, PATIENCE).await.unwrap();
    }
}
