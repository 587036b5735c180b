//! The container image of usernsd on a test node: a static binary, built once a test run, and the image that
//! buildah makes of it by `daemonset/Containerfile`.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::node::{Node, Options, is_machine};

/// Where the node has `charts/`, `daemonset/`, `dashboards/` and `examples/` of this source.
pub(crate) const SOURCE: &str = "/srv/usernsd";
/// Where the node has the static binary, as the image's build context.
const CONTEXT: &str = "/srv/image";
/// The image's name, which is the one in `daemonset/overlays/kubernetes`.
pub(crate) const NAME: &str = concat!("localhost/usernsd:", env!("CARGO_PKG_VERSION"));

/// A static binary, as images have it. Built here, so that it is from the same source as the tests; or the
/// one that `USERNSD_TEST_IMAGE_BINARY` names, which `make image` has built, to measure it.
pub(crate) fn static_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(binary) = std::env::var_os("USERNSD_TEST_IMAGE_BINARY") {
            return binary.into();
        }
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--bin", "usernsd", "--target", &target])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // target/debug/usernsd, beside which target/TARGET/debug/usernsd is.
        let own = Path::new(env!("CARGO_BIN_EXE_usernsd")).ancestors().nth(2).unwrap();
        own.join(target).join("debug/usernsd")
    })
}

/// Gives a node this source's manifests and the image's binary.
pub(crate) fn bind(options: &mut Options) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["charts", "daemonset", "dashboards", "examples"] {
        options.binds.push((source.join(directory), format!("{SOURCE}/{directory}")));
    }
    options.binds.push((static_binary().to_owned(), format!("{CONTEXT}/usernsd")));
}

/// Builds the image on a node that has been booted with [`bind`]; podman and buildah have it then.
#[track_caller]
pub(crate) fn build(node: &Node) {
    // podman has a default AppArmor profile, and does not read the manifests' appArmorProfile.
    let profile = if is_machine() { "apparmor_profile = \"unconfined\"\n" } else { "" };
    // Where this machine lacks a controller the node has a wrapper that does without it.
    node.write(
        "/etc/containers/containers.conf",
        format!(
            "[containers]\npids_limit = 0\n{profile}[engine]\nruntime = \"crun\"\n\
             [engine.runtimes]\ncrun = [\"/usr/local/libexec/crun\", \"/usr/bin/crun\"]\n"
        ),
    );
    node.write("/etc/containers/policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    node.run([
        "buildah",
        "build",
        "--quiet",
        "--network=none",
        concat!("--build-arg=VERSION=", env!("CARGO_PKG_VERSION")),
        "--build-arg=REVISION=test",
        &format!("--tag={NAME}"),
        &format!("--file={SOURCE}/daemonset/Containerfile"),
        CONTEXT,
    ]);
}
