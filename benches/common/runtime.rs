//! containerd, played by the tests' fake, with containers of the bench. Separate from `common`, for the
//! benches that include the fakes.

// Each bench uses only a part of this module.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use usernsd_peers::cri::v1;

use crate::common::agent::Agent;
use crate::common::tree::Place;
use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use crate::fakes::nri_runtime::{CONTAINERD, Kind, Plugin, Runtime};

/// A runtime that waits as long as a bench needs.
pub(crate) const PATIENT: Kind = Kind { request_timeout: Duration::from_secs(10), ..CONTAINERD };

const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// A scenario in which the containers run, each with its bundle; `recorded` has [`Place::recorded`] of each.
pub(crate) fn scenario(places: &[Place], recorded: &[Value]) -> Scenario {
    let mut scenario = Scenario {
        version: ("containerd".into(), "2.1.9".into()),
        after_events: AfterEvents::Stall,
        ..Scenario::default()
    };
    for (place, recorded) in places.iter().zip(recorded) {
        let bundle = Path::new(BUNDLES).join(&place.id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), place.specification().to_string()).unwrap();
        let status = v1::ContainerStatus {
            id: place.id.clone(),
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            state: v1::ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        scenario.add_container(recorded["pod"]["id"].as_str().unwrap(), status, None);
    }
    scenario
}

/// A fake runtime with its two sockets.
pub(crate) struct Peers {
    cri: PathBuf,
    _cri: FakeRuntime,
    nri: Runtime,
    recorded: Vec<Value>,
    _directory: tempfile::TempDir,
}

// === impl Peers ===

impl Peers {
    /// A runtime in which the containers of `places` run.
    pub(crate) fn new(places: &[Place]) -> Peers {
        let directory = tempfile::tempdir().unwrap();
        let cri = directory.path().join("containerd.sock");
        let recorded: Vec<Value> = places.iter().map(Place::recorded).collect();
        let _cri = FakeRuntime::start(&cri, scenario(places, &recorded));
        Peers { cri, _cri, nri: Runtime::listen(), recorded, _directory: directory }
    }

    /// Starts an agent, with more configuration (YAML) than the sockets, and serves it as the runtime until
    /// it is ready; also the time that this took.
    pub(crate) fn start(&self, binary: &str, more: &str) -> (Agent, Plugin, Duration) {
        let agent = Agent::start(
            binary,
            &format!(
                "nri: {{socketPaths: [{}]}}\nruntime: {{endpoints: [{}]}}\n{more}",
                self.nri.socket.display(),
                self.cri.display(),
            ),
        );
        let (plugin, ready) = thread::scope(|scope| {
            let ready = scope.spawn(|| agent.ready());
            let mut plugin = self.nri.register(PATIENT).unwrap();
            let pods: Vec<Value> =
                self.recorded.first().map(|first| first["pod"].clone()).into_iter().collect();
            let containers: Vec<Value> = self.recorded.iter().map(|one| one["container"].clone()).collect();
            plugin.synchronize(&pods, &containers, 50).unwrap();
            (plugin, ready.join().unwrap())
        });
        (agent, plugin, ready)
    }
}
