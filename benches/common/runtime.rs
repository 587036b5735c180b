//! containerd, played by the tests' fake, with containers of the bench. Separate from `common`, for the
//! benches that include the fakes.

use std::fs;
use std::path::Path;

use serde_json::Value;
use usernsd_peers::cri::v1;

use crate::common::tree::Place;
use crate::support::cri_runtime::{AfterEvents, Scenario};

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
