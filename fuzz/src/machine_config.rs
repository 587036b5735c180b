//! Any text as a MachineConfig, or as the one that a node was rendered with: read or refused.

use usernsd_domain::provision::HostPath;
use usernsd_prepare::machineconfig::{managed, parse};

/// See the module.
pub fn run(bytes: &[u8]) {
    // Any bytes may stand for the rendered MachineConfig.
    let _ = managed(Some(bytes)).keeps("/etc/subuid");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(parsed) = parse(text) {
        for file in &parsed.files {
            let _ = HostPath::parse(&file.node.path);
        }
    }
}
