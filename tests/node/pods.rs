//! Pods on a test node, created as a kubelet does: over the runtime's CRI socket, with the types of the
//! agent's own client.
//!
//! All calls block. Several threads may share one [`Pods`]; a storm of pods is a `thread::scope`.

// Each test, bench and example that includes this module uses only a part of it.
#![allow(dead_code)]
// A failure here must fail the test. Clippy permits these calls only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use usernsd_proto::cri as v1;
use usernsd_proto::cri::runtime_service_client::RuntimeServiceClient;

use crate::node::{Node, is_machine};

/// Time limit of one call. Longer means that it hangs; a storm on a loaded machine may take a while.
const LIMIT: Duration = Duration::from_secs(120);

/// Container ID, host ID, length: in the order of `/proc/PID/uid_map`.
pub(crate) type IdMapping = (u32, u32, u32);

/// First host ID of pods for which the test specifies none.
pub(crate) const BASE: u32 = 200_000;

/// The user namespace that a pod requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    /// The own, mode POD: `hostUsers: false`.
    Own(Vec<IdMapping>),
    /// The own, with a different mapping of group IDs.
    Split { uids: Vec<IdMapping>, gids: Vec<IdMapping> },
    /// The host's, mode NODE.
    Host,
}

/// A pod to be created.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) user_namespace: UserNamespace,
    /// The runtime handler, empty for the node's default.
    pub(crate) handler: String,
    pub(crate) privileged: bool,
    /// Whether the cgroup path is one for the cgroupfs manager.
    pub(crate) cgroupfs: bool,
    /// Whether the pod has its own network namespace. Pods in the host's are created much faster, but a user
    /// namespace requires its own.
    pub(crate) own_network: bool,
}

/// A container to be created in a pod.
#[derive(Clone, Debug)]
pub(crate) struct ContainerSpec {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The program and its arguments; empty for those of the image.
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) privileged: bool,
    /// Pairs of host path and container path.
    pub(crate) mounts: Vec<(String, String)>,
    /// Whether the container has a terminal: systemd as PID 1 logs to the console, and logs nothing without
    /// one.
    pub(crate) tty: bool,
    /// A user namespace other than the pod's, as from a runtime that lost the pod's mappings.
    pub(crate) user_namespace: Option<UserNamespace>,
}

/// A created pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// ID of the sandbox.
    pub(crate) id: String,
    pub(crate) uid: String,
    pub(crate) spec: PodSpec,
    config: v1::PodSandboxConfig,
}

/// A created container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// Directory of the container's own cgroup, as a path for this process; it need not exist.
    pub(crate) cgroup: PathBuf,
    /// Directory of the pod's cgroup.
    pub(crate) pod_cgroup: PathBuf,
    /// The requested host ID of root in the container.
    pub(crate) root: u32,
    log: PathBuf,
}

/// The status of a container, as the runtime reports it.
#[derive(Clone, Debug)]
pub(crate) struct ContainerStatus {
    pub(crate) state: v1::ContainerState,
    pub(crate) exit_code: i32,
    /// The runtime's reason for the end of the container.
    pub(crate) reason: String,
    /// PID of the init process in the node's PID namespace; 0 if there is none.
    pub(crate) pid: u32,
    /// The OCI specification.
    pub(crate) spec: serde_json::Value,
}

/// The result of a command in a container.
#[derive(Clone, Debug)]
pub(crate) struct ExecOutput {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A runtime in which a test creates pods.
#[derive(Debug)]
pub(crate) struct Pods<'a> {
    pub(crate) node: &'a Node,
    runtime: tokio::runtime::Runtime,
    pub(crate) client: RuntimeServiceClient<Channel>,
    /// `cri-o` or `containerd`.
    pub(crate) runtime_name: String,
}

// === impl PodSpec, ContainerSpec ===

impl PodSpec {
    /// A pod with its own user namespace, with the host IDs [`BASE`] to `BASE + 65535`.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            annotations: Vec::new(),
            user_namespace: UserNamespace::Own(vec![(0, BASE, 65_536)]),
            handler: String::new(),
            privileged: false,
            cgroupfs: false,
            own_network: true,
        }
    }

    pub(crate) fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    pub(crate) fn in_host_user_namespace(self) -> Self {
        Self { user_namespace: UserNamespace::Host, ..self }
    }

    pub(crate) fn mapped(self, mappings: &[IdMapping]) -> Self {
        Self { user_namespace: UserNamespace::Own(mappings.to_vec()), ..self }
    }

    /// A different range for each pod, as the kubelet assigns them. Many containers with one range reach a
    /// kernel limit of 200 keys for each user (`kernel.keys.maxkeys`), because each container has a session
    /// keyring.
    pub(crate) fn numbered(self, index: usize) -> Self {
        let index = u32::try_from(index).unwrap();
        self.mapped(&[(0, BASE + 65_536 * index, 65_536)])
    }

    pub(crate) fn handler(self, handler: &str) -> Self {
        Self { handler: handler.to_owned(), ..self }
    }

    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cgroupfs(self) -> Self {
        Self { cgroupfs: true, ..self }
    }
}

impl ContainerSpec {
    /// A container that runs systemd as PID 1.
    pub(crate) fn systemd() -> Self {
        Self::of("localhost/systemd:1", &[])
    }

    /// A container that runs a script in busybox's shell.
    pub(crate) fn script(script: &str) -> Self {
        Self::of("localhost/busybox:1", &["/bin/sh", "-c", script])
    }

    /// A container that sleeps and ignores all signals except SIGKILL.
    pub(crate) fn sleeping() -> Self {
        Self::of("localhost/busybox:1", &["/bin/sleep", "2147483647"])
    }

    pub(crate) fn of(image: &str, command: &[&str]) -> Self {
        Self {
            name: "c".to_owned(),
            image: image.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: Vec::new(),
            run_as_user: None,
            privileged: false,
            mounts: Vec::new(),
            tty: false,
            user_namespace: None,
        }
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(crate) fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    pub(crate) fn user(self, uid: i64) -> Self {
        Self { run_as_user: Some(uid), ..self }
    }

    pub(crate) fn mount(mut self, host: &str, container: &str) -> Self {
        self.mounts.push((host.to_owned(), container.to_owned()));
        self
    }

    pub(crate) fn tty(self) -> Self {
        Self { tty: true, ..self }
    }

    /// Without `container`, systemd would detect `kvm`, and try what only works in a virtual machine.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }
}

// === impl UserNamespace ===

impl UserNamespace {
    fn options(&self) -> v1::UserNamespace {
        let mode = match self {
            Self::Own(_) | Self::Split { .. } => v1::NamespaceMode::Pod,
            Self::Host => v1::NamespaceMode::Node,
        };
        v1::UserNamespace { mode: mode.into(), uids: self.ids(), gids: self.group_ids() }
    }

    /// The mapping in CRI's types.
    pub(crate) fn ids(&self) -> Vec<v1::IdMapping> {
        cri(self.mappings())
    }

    fn group_ids(&self) -> Vec<v1::IdMapping> {
        match self {
            Self::Split { gids, .. } => cri(gids),
            _ => self.ids(),
        }
    }

    fn mappings(&self) -> &[IdMapping] {
        match self {
            Self::Own(mappings) | Self::Split { uids: mappings, .. } => mappings,
            Self::Host => &[],
        }
    }
}

fn cri(mappings: &[IdMapping]) -> Vec<v1::IdMapping> {
    let id = |&(container_id, host_id, length)| v1::IdMapping { host_id, container_id, length };
    mappings.iter().map(id).collect()
}

// === impl Container ===

impl Container {
    /// Owner and group of a file in the container's cgroup; "" is the directory itself.
    #[track_caller]
    pub(crate) fn owner(&self, file: &str) -> (u32, u32) {
        owner(&self.cgroup.join(file))
    }

    /// The container's standard output and error; empty before its start.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A line is "TIME stdout F text"; F ends a line, P is continued by the next one.
        let mut log = String::new();
        for line in text.lines() {
            let mut fields = line.splitn(4, ' ').skip(2);
            let (tag, text) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            log.push_str(text);
            if tag == "F" {
                log.push('\n');
            }
        }
        log
    }
}

/// Owner and group of a file.
#[track_caller]
pub(crate) fn owner(path: &Path) -> (u32, u32) {
    match fs::symlink_metadata(path) {
        Ok(metadata) => (metadata.uid(), metadata.gid()),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// The time limit for one answer, and the pause between two questions. A whole machine is slower than a node, and has one
/// processor, which questions without a pause would keep busy.
fn patience() -> (Duration, Duration) {
    if is_machine() { (3 * LIMIT, Duration::from_millis(200)) } else { (LIMIT, Duration::from_millis(10)) }
}

/// Calls `ask` until it returns a value.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let (limit, pause) = patience();
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(pause);
    }
}

// === impl Pods ===

impl<'a> Pods<'a> {
    /// Connects to the node's runtime, which answers already, because its unit has reported readiness.
    #[track_caller]
    pub(crate) fn connect(node: &'a Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = node.cri_socket();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
        };
        let client = RuntimeServiceClient::new(channel).max_decoding_message_size(16 << 20);
        let mut pods = Self { node, runtime, client, runtime_name: String::new() };
        pods.runtime_name = pods.wait_until_it_answers();
        pods
    }

    /// Waits until the runtime answers, for example after a restart; returns its name.
    #[track_caller]
    pub(crate) fn wait_until_it_answers(&self) -> String {
        wait_for("the runtime", || {
            let mut client = self.client.clone();
            let request = v1::VersionRequest { version: "v1".to_owned() };
            self.wait(async move { client.version(request).await }).ok()
        })
        .runtime_name
    }

    pub(crate) fn wait<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let (limit, _) = patience();
            match tokio::time::timeout(limit, call).await {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded(format!("no answer in {limit:?}"))),
            }
        })
    }

    /// Creates the pod's cgroup, as a kubelet does, and then the sandbox.
    #[track_caller]
    pub(crate) fn run_pod(&self, spec: &PodSpec) -> Pod {
        self.try_run_pod(spec).unwrap()
    }

    pub(crate) fn try_run_pod(&self, spec: &PodSpec) -> Result<Pod, Status> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let uid = format!("{:08x}-0000-4000-8000-000000000000", COUNT.fetch_add(1, Ordering::Relaxed));
        let below = self.cgroup_path(spec, &uid);
        if spec.cgroupfs {
            fs::create_dir_all(self.node.cgroup_root().join(below.trim_start_matches('/'))).unwrap();
        } else {
            let slice = below.rsplit('/').next().unwrap_or_default();
            self.node.run(["systemctl", "start", slice]);
        }
        let log_directory = format!("/var/log/pods/{}_{}_{uid}", spec.namespace, spec.name);
        fs::create_dir_all(self.node.path(&log_directory)).unwrap();
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: spec.name.clone(),
                uid: uid.clone(),
                namespace: spec.namespace.clone(),
                attempt: 0,
            }),
            hostname: if spec.own_network { spec.name.clone() } else { String::new() },
            log_directory,
            labels: self.labels(spec, &uid),
            annotations: spec.annotations.iter().cloned().collect(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: below,
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(spec, &spec.user_namespace)),
                    privileged: spec.privileged,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: spec.handler.clone() };
        let mut client = self.client.clone();
        let answer = self.wait(async move { client.run_pod_sandbox(request).await })?;
        Ok(Pod { id: answer.pod_sandbox_id, uid, spec: spec.clone(), config })
    }

    /// Stops and removes a pod and all its containers.
    #[track_caller]
    pub(crate) fn remove_pod(&self, pod: &Pod) {
        let (mut client, pod_sandbox_id) = (self.client.clone(), pod.id.clone());
        let request = v1::StopPodSandboxRequest { pod_sandbox_id };
        self.wait(async move { client.stop_pod_sandbox(request).await }).unwrap();
        let (mut client, pod_sandbox_id) = (self.client.clone(), pod.id.clone());
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        self.wait(async move { client.remove_pod_sandbox(request).await }).unwrap();
    }

    #[track_caller]
    pub(crate) fn create(&self, pod: &Pod, spec: &ContainerSpec) -> Container {
        self.try_create(pod, spec).unwrap()
    }

    pub(crate) fn try_create(&self, pod: &Pod, spec: &ContainerSpec) -> Result<Container, Status> {
        self.try_create_with(pod, spec, |_| {})
    }

    /// Like [`Pods::try_create`], but `change` may modify the request.
    pub(crate) fn try_create_with(
        &self,
        pod: &Pod,
        spec: &ContainerSpec,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Container, Status> {
        let mut labels = self.labels(&pod.spec, &pod.uid);
        labels.insert("io.kubernetes.container.name".to_owned(), spec.name.clone());
        let user_namespace = spec.user_namespace.as_ref().unwrap_or(&pod.spec.user_namespace);
        let log_path = format!("{}.log", spec.name);
        let log = self.node.path(&pod.config.log_directory).join(&log_path);
        let mut config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: spec.name.clone(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: spec.image.clone(),
                user_specified_image: spec.image.clone(),
                ..Default::default()
            }),
            command: spec.command.clone(),
            envs: spec
                .env
                .iter()
                .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into() })
                .collect(),
            mounts: spec
                .mounts
                .iter()
                .map(|(host, container)| v1::Mount {
                    host_path: host.clone(),
                    container_path: container.clone(),
                    ..Default::default()
                })
                .collect(),
            labels,
            log_path,
            tty: spec.tty,
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(&pod.spec, user_namespace)),
                    privileged: spec.privileged,
                    run_as_user: spec.run_as_user.map(|value| v1::Int64Value { value }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let mut sandbox_config = pod.config.clone();
        if let Some(linux) = &mut sandbox_config.linux
            && let Some(context) = &mut linux.security_context
        {
            context.namespace_options = Some(namespaces(&pod.spec, user_namespace));
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut client = self.client.clone();
        let id = self.wait(async move { client.create_container(request).await })?.container_id;
        let pod_cgroup = self.pod_cgroup(pod);
        let name = match (self.runtime_name.as_str(), pod.spec.cgroupfs) {
            ("cri-o", true) => format!("crio-{id}"),
            ("cri-o", false) => format!("crio-{id}.scope"),
            (_, true) => id.clone(),
            (_, false) => format!("cri-containerd-{id}.scope"),
        };
        let root = user_namespace.mappings().iter().find(|(inside, ..)| *inside == 0);
        let root = root.map_or(0, |&(_, host, _)| host);
        Ok(Container { id, cgroup: pod_cgroup.join(name), pod_cgroup, root, log })
    }

    #[track_caller]
    pub(crate) fn start(&self, container: &Container) {
        self.try_start(container).unwrap();
    }

    pub(crate) fn try_start(&self, container: &Container) -> Result<(), Status> {
        let (mut client, container_id) = (self.client.clone(), container.id.clone());
        let request = v1::StartContainerRequest { container_id };
        self.wait(async move { client.start_container(request).await }).map(drop)
    }

    /// Creates and starts a container.
    #[track_caller]
    pub(crate) fn run(&self, pod: &Pod, spec: &ContainerSpec) -> Container {
        let container = self.create(pod, spec);
        self.start(&container);
        container
    }

    /// Kills the container, without a grace period.
    pub(crate) fn stop(&self, container: &Container) {
        let (mut client, container_id) = (self.client.clone(), container.id.clone());
        let request = v1::StopContainerRequest { container_id, timeout: 0 };
        self.wait(async move { client.stop_container(request).await }).unwrap();
    }

    /// Stops a container with the request's grace period; returns when it has ended.
    pub(crate) fn stop_gracefully(&self, request: v1::StopContainerRequest) {
        let mut client = self.client.clone();
        self.wait(async move { client.stop_container(request).await }).unwrap();
    }

    pub(crate) fn remove(&self, container: &Container) {
        let (mut client, container_id) = (self.client.clone(), container.id.clone());
        let request = v1::RemoveContainerRequest { container_id };
        self.wait(async move { client.remove_container(request).await }).unwrap();
    }

    #[track_caller]
    pub(crate) fn status(&self, container: &Container) -> ContainerStatus {
        let (mut client, container_id) = (self.client.clone(), container.id.clone());
        let request = v1::ContainerStatusRequest { container_id, verbose: true };
        let answer = self.wait(async move { client.container_status(request).await }).unwrap();
        let mut info: serde_json::Value =
            answer.info.get("info").map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
        let status = answer.status.unwrap_or_default();
        ContainerStatus {
            state: status.state(),
            exit_code: status.exit_code,
            reason: format!("{} {}", status.reason, status.message).trim().to_owned(),
            pid: info["pid"].as_u64().unwrap_or_default().try_into().unwrap(),
            spec: info["runtimeSpec"].take(),
        }
    }

    /// Waits until the container has ended; returns its exit code.
    #[track_caller]
    pub(crate) fn exit_code(&self, container: &Container) -> i32 {
        wait_for("the container's end", || {
            let status = self.status(container);
            (status.state == v1::ContainerState::ContainerExited).then_some(status.exit_code)
        })
    }

    #[track_caller]
    pub(crate) fn is_running(&self, container: &Container) -> bool {
        self.status(container).state == v1::ContainerState::ContainerRunning
    }

    /// Runs a command in the container, as `kubectl exec` does.
    #[track_caller]
    pub(crate) fn exec(&self, container: &Container, command: &[&str]) -> ExecOutput {
        let request = v1::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let mut client = self.client.clone();
        let answer = self.wait(async move { client.exec_sync(request).await }).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        ExecOutput { code: answer.exit_code, stdout: text(answer.stdout), stderr: text(answer.stderr) }
    }

    /// Waits until systemd in the container has started or ended; returns the state from `systemctl
    /// is-system-running`, or the exit code.
    #[track_caller]
    pub(crate) fn systemd_state(&self, container: &Container) -> Result<String, i32> {
        wait_for("systemd in a container", || {
            let status = self.status(container);
            if status.state == v1::ContainerState::ContainerExited {
                return Some(Err(status.exit_code));
            }
            // The container may end before this call arrives.
            let request = v1::ExecSyncRequest {
                container_id: container.id.clone(),
                cmd: ["systemctl", "is-system-running"].map(str::to_owned).to_vec(),
                timeout: 30,
            };
            let mut client = self.client.clone();
            let answer = self.wait(async move { client.exec_sync(request).await }).ok()?;
            let output = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
            (!matches!(output.as_str(), "" | "initializing" | "starting" | "offline")).then_some(Ok(output))
        })
    }

    /// Reads a file in the node's `/proc` of the container's init process.
    pub(crate) fn proc(&self, container: &Container, file: &str) -> String {
        let pid = self.status(container).pid;
        fs::read_to_string(self.node.path(&format!("proc/{pid}/{file}"))).unwrap()
    }

    /// Directory of the pod's cgroup, as a path for this process.
    pub(crate) fn pod_cgroup(&self, pod: &Pod) -> PathBuf {
        self.node.cgroup_root().join(self.cgroup_path(&pod.spec, &pod.uid).trim_start_matches('/'))
    }

    /// The pod's cgroup as a kubelet names it.
    fn cgroup_path(&self, spec: &PodSpec, uid: &str) -> String {
        if spec.cgroupfs {
            return format!("/kubepods/besteffort/pod{uid}");
        }
        // A dash would add a level to the slice's path.
        let uid = uid.replace('-', "_");
        format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice")
    }

    fn labels(&self, spec: &PodSpec, uid: &str) -> HashMap<String, String> {
        [("namespace", &spec.namespace), ("name", &spec.name), ("uid", &uid.to_owned())]
            .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.clone()))
            .into()
    }
}

fn namespaces(spec: &PodSpec, user_namespace: &UserNamespace) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: if spec.own_network { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Node }.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        userns_options: Some(user_namespace.options()),
        ..Default::default()
    }
}
