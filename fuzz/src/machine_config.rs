//! Any text as a MachineConfig, as the one that a node was rendered with, or as the state of a pool: read or refused.

use usernsd_domain::provision::HostPath;
use usernsd_prepare::machineconfig::check::check;
use usernsd_prepare::machineconfig::{managed, parse};

/// A MachineConfig to be applied to any pool.
const OURS: &str = "kind: MachineConfig\nmetadata: {name: 99-worker-usernsd}\nspec: {kernelArguments: [psi=1], config: \
                    {storage: {files: [{path: /etc/subuid, contents: {source: 'data:,x'}}]}}}\n";

/// See the module.
pub fn run(bytes: &[u8]) {
    // Any bytes may stand for the rendered MachineConfig.
    let _ = managed(Some(bytes)).keeps("/etc/subuid");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for report in [check(text, "worker", OURS), check(OURS, "worker", text)].into_iter().flatten() {
        let _ = report.to_string();
    }
    if let Ok(parsed) = parse(text) {
        for file in &parsed.files {
            let _ = HostPath::parse(&file.node.path);
        }
    }
}
