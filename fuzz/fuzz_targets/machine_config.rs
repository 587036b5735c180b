//! Any text as a MachineConfig, or as the one that a node was rendered with: read or refused.
//!
//! `cargo +nightly fuzz run machine_config -- -rss_limit_mb=512 -max_len=65536`
#![no_main]

use usernsd_domain::provision::HostPath;
use usernsd_prepare::machineconfig::{managed, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Whatever it is, a file is known to be kept or not.
    let _ = managed(Some(bytes)).keeps("/etc/subuid");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(parsed) = parse(text) {
        for file in &parsed.files {
            let _ = HostPath::parse(&file.node.path);
        }
    }
});
