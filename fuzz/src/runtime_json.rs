//! Any JSON that a runtime or a hook's caller writes is taken or refused: no panic.

use usernsd_domain::container::CriId;
use usernsd_peers::oci::{identity_of, parse_spec, parse_state};

/// See the module.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_state(text);
    if let Ok(spec) = parse_spec(text) {
        let _ = identity_of(&spec.annotations, &spec.cgroups_path);
        if let Ok(id) = CriId::parse("a") {
            let _ = spec.into_container(id, None).cgroup_mount();
        }
    }
}
