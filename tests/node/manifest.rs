//! Pods on a test node from manifests, created as a kubelet does: volumes, users, capabilities and the order
//! of containers, as far as the manifests in `examples/` need it. A field that this module does not support
//! fails the test instead of being ignored.

// A failure here must fail the test. Clippy permits these calls only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;
use usernsd_peers::cri::v1;

use crate::pods::{Container, ContainerSpec, IdMapping, Pod, PodSpec, Pods, UserNamespace, wait_for};

/// A directory on a file system that supports ID-mapped mounts, as a kubelet's volumes for such pods must be.
const VOLUMES: &str = "/run/kubelet-volumes";

/// The paths that the kubelet masks if `procMount` is not set (`pkg/securitycontext/util.go`).
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A manifest: one pod, and the ConfigMaps that it mounts.
pub(crate) struct Manifest {
    pod: core::Pod,
    config_maps: Vec<core::ConfigMap>,
}

/// A running pod with its containers.
pub(crate) struct Applied {
    pub(crate) pod: Pod,
    containers: BTreeMap<String, Container>,
}

// === impl Manifest ===

impl Manifest {
    /// Reads the documents of a YAML file below `examples/`.
    #[track_caller]
    pub(crate) fn example(name: &str) -> Self {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (mut pods, mut config_maps) = (Vec::new(), Vec::new());
        for document in text.split("\n---\n") {
            let value: Value =
                serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{path}: {error}"));
            match value["kind"].as_str() {
                Some("Pod") => pods.push(typed(&path, &value)),
                Some("ConfigMap") => config_maps.push(typed(&path, &value)),
                // The API server handles this object; the kubelet only requests a token for it.
                Some("ServiceAccount") => drop(typed::<core::ServiceAccount>(&path, &value)),
                kind => panic!("{path}: a kubelet makes nothing of {kind:?}"),
            }
        }
        let [pod] = <[core::Pod; 1]>::try_from(pods).unwrap_or_else(|_| panic!("{path}: not one pod"));
        Self { pod, config_maps }
    }

    fn spec(&self) -> &core::PodSpec {
        self.pod.spec.as_ref().unwrap()
    }

    fn config_map(&self, name: &str) -> BTreeMap<String, String> {
        let found = self.config_maps.iter().find(|map| map.metadata.name.as_deref() == Some(name));
        found.unwrap_or_else(|| panic!("no ConfigMap {name}")).data.clone().unwrap_or_default()
    }
}

/// An unknown field is an error: an API server would drop it, and the pod would be a different one.
fn typed<T: serde::Serialize + serde::de::DeserializeOwned>(path: &str, value: &Value) -> T {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(serde_json::to_value(&typed).unwrap(), *value, "{path}: a field that the API does not know");
    typed
}

// === impl Applied ===

impl Applied {
    #[track_caller]
    pub(crate) fn container(&self, name: &str) -> &Container {
        self.containers.get(name).unwrap_or_else(|| panic!("no container {name}"))
    }
}

// === impl Pods ===

impl Pods<'_> {
    /// Creates what `kubectl apply` of the manifest creates: runs the pod's init containers one after
    /// another, then starts its containers. `root` is the host ID of root in the pod.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &Manifest, root: u32) -> Applied {
        let spec = manifest.spec();
        assert_eq!(spec.host_users, Some(false), "these are examples of pods in user namespaces");
        let name = manifest.pod.metadata.name.clone().unwrap();
        let mapping = (0, root, 65_536);
        let mut sandbox = PodSpec::new(&name).mapped(&[mapping]);
        for (key, value) in manifest.pod.metadata.annotations.iter().flatten() {
            sandbox = sandbox.annotated(key, value);
        }
        let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
        sandbox.privileged = all().any(|container| context(container).privileged == Some(true));
        let pod = self.run_pod(&sandbox);
        let volumes = self.volumes(manifest, &pod);

        let mut containers = BTreeMap::new();
        for container in spec.init_containers.iter().flatten() {
            let made = self.start_container(manifest, &pod, container, &volumes, mapping);
            if container.restart_policy.as_deref() == Some("Always") {
                self.wait_for_probe(container.startup_probe.as_ref(), &made);
            } else {
                let code = self.exit_code(&made);
                assert_eq!(code, 0, "{}: {}{}", container.name, made.log(), self.status(&made).reason);
            }
            containers.insert(container.name.clone(), made);
        }
        for container in &spec.containers {
            let made = self.start_container(manifest, &pod, container, &volumes, mapping);
            self.wait_for_probe(container.readiness_probe.as_ref(), &made);
            containers.insert(container.name.clone(), made);
        }
        Applied { pod, containers }
    }

    #[track_caller]
    fn wait_for_probe(&self, probe: Option<&core::Probe>, container: &Container) {
        let Some(probe) = probe else { return };
        let words = probe.exec.as_ref().and_then(|exec| exec.command.clone()).expect("a probe that execs");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        wait_for(&format!("the probe {words:?}"), || {
            assert!(self.is_running(container), "it ended: {}", container.log());
            (self.exec(container, &words).code == 0).then_some(())
        });
    }

    /// Creates the volumes' directories on the node; returns them by volume name.
    fn volumes(&self, manifest: &Manifest, pod: &Pod) -> BTreeMap<String, String> {
        let context = manifest.spec().security_context.clone().unwrap_or_default();
        let mut made = BTreeMap::new();
        for volume in manifest.spec().volumes.iter().flatten() {
            let path = format!("{VOLUMES}/{}/{}", pod.uid, volume.name);
            let there = self.node.path(&path);
            fs::create_dir_all(&there).unwrap();
            let mut files: Vec<(PathBuf, String, u32)> = Vec::new();
            let mode = if volume.empty_dir.is_some() {
                0o777
            } else if let Some(source) = &volume.config_map {
                let map = manifest.config_map(&source.name);
                files.extend(map.into_iter().map(|(name, text)| (there.join(name), text, 0o644)));
                0o755
            } else if let Some(projected) = &volume.projected {
                for source in projected.sources.iter().flatten() {
                    let token = source.service_account_token.as_ref().expect("a projected token");
                    // `pkg/volume/projected`: only the owner may read it if a user or group is set.
                    let mode = if context.fs_group.is_some() { 0o600 } else { 0o644 };
                    files.push((there.join(&token.path), "a token\n".to_owned(), mode));
                }
                0o755
            } else {
                panic!("volume {}: of a kind that is not known here", volume.name);
            };
            fs::set_permissions(&there, fs::Permissions::from_mode(mode)).unwrap();
            for (file, text, mode) in &files {
                fs::write(file, text).unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(*mode)).unwrap();
            }
            // `pkg/volume/volume_linux.go`: the group gets the owner's permissions.
            if let Some(group) = context.fs_group {
                let group = u32::try_from(group).unwrap();
                let all = files.iter().map(|(file, ..)| file).chain([&there]);
                for path in all {
                    chown(path, None, Some(group)).unwrap();
                    let mode = fs::metadata(path).unwrap().permissions().mode();
                    let more = if path.is_dir() { 0o2770 } else { 0o440 };
                    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 | more)).unwrap();
                }
            }
            made.insert(volume.name.clone(), path);
        }
        made
    }

    #[track_caller]
    fn start_container(
        &self,
        manifest: &Manifest,
        pod: &Pod,
        container: &core::Container,
        volumes: &BTreeMap<String, String>,
        mapping: IdMapping,
    ) -> Container {
        let context = context(container);
        let of_pod = manifest.spec().security_context.clone().unwrap_or_default();
        let user = context.run_as_user.or(of_pod.run_as_user);
        if context.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
            assert!(user.is_some_and(|user| user != 0), "{}: runAsNonRoot, and runs as root", container.name);
        }
        let mut spec =
            ContainerSpec::of(&local(container.image.as_deref().unwrap()), &[]).named(&container.name);
        spec.command = container.command.iter().chain(&container.args).flatten().cloned().collect();
        spec.tty = container.tty.unwrap_or_default();
        spec.privileged = context.privileged.unwrap_or_default();
        spec.run_as_user = user;
        for variable in container.env.iter().flatten() {
            spec = spec.env(&variable.name, variable.value.as_deref().expect("a plain variable"));
        }
        let ids = UserNamespace::Own(vec![mapping]).ids();
        let mounts = container.volume_mounts.iter().flatten().map(|mount| v1::Mount {
            host_path: format!("{}/{}", volumes[&mount.name], mount.sub_path.as_deref().unwrap_or_default())
                .trim_end_matches('/')
                .to_owned(),
            container_path: mount.mount_path.clone(),
            readonly: mount.read_only.unwrap_or_default(),
            uid_mappings: ids.clone(),
            gid_mappings: ids.clone(),
            ..Default::default()
        });
        let mounts: Vec<v1::Mount> = mounts.collect();
        let strings = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let made = self.try_create_with(pod, &spec, |config| {
            config.mounts = mounts;
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            let group = context.run_as_group.or(of_pod.run_as_group);
            security.run_as_group = group.map(|value| v1::Int64Value { value });
            security.supplemental_groups = of_pod.fs_group.into_iter().collect();
            security.no_new_privs = context.allow_privilege_escalation == Some(false);
            security.readonly_rootfs = context.read_only_root_filesystem.unwrap_or_default();
            if let Some(capabilities) = &context.capabilities {
                security.capabilities = Some(v1::Capability {
                    add_capabilities: capabilities.add.clone().unwrap_or_default(),
                    drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
                    ..Default::default()
                });
            }
            let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
            if !spec.privileged && !unmasked {
                security.masked_paths = strings(&MASKED);
                security.readonly_paths = strings(&READ_ONLY);
            }
            // The node's runtime has its own default profile.
            security.seccomp = context.seccomp_profile.as_ref().map(|profile| {
                assert_eq!(profile.type_, "RuntimeDefault");
                v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                    ..Default::default()
                }
            });
        });
        let made = made.unwrap_or_else(|status| panic!("{}: {status}", container.name));
        self.start(&made);
        made
    }
}

fn context(container: &core::Container) -> core::SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// The node's name of an image; the node has these images and no registry.
fn local(image: &str) -> String {
    let name = match image {
        "docker.io/library/busybox:1.37" => "busybox",
        "registry.example.com/systemd-nginx:1" | "registry.example.com/workbench:1" => "systemd",
        "registry.example.com/podman:1" => "podman",
        _ => panic!("no image stands for {image}"),
    };
    format!("localhost/{name}:1")
}
