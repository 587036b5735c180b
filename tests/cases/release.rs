//! What `make release` makes, apart from compiling: `release/release.sh` with the static binary of the tests, and what
//! schemas of Kubernetes say about the manifests.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::helm::{Helm, found_or_skip};
use crate::image::static_binary;
use crate::manifests::{kind, rendered, renderer, source, with_component};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};

/// This machine's architecture, by the name that images and packages have, and another one.
const ARCHES: [&str; 2] = if cfg!(target_arch = "aarch64") { ["arm64", "amd64"] } else { ["amd64", "arm64"] };

/// The program without symbols, once for each architecture: what is packed is not run here but for this machine's.
fn binaries() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    MADE.get_or_init(|| binaries_of(static_binary())).path()
}

fn binaries_of(program: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let [own, other] = ARCHES.map(|arch| dir.path().join(format!("usernsd-linux-{arch}")));
    run(Command::new("strip").arg("-o").arg(&own).arg(program));
    fs::hard_link(&own, other).unwrap();
    dir
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// `release/release.sh` into a new directory.
#[track_caller]
fn release(parts: &str, more: &[&str]) -> tempfile::TempDir {
    release_of(binaries(), parts, more)
}

#[track_caller]
fn release_of(binaries: &Path, parts: &str, more: &[&str]) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    run(Command::new(source("release/release.sh"))
        .arg("--binaries")
        .arg(binaries)
        .arg("--out")
        .arg(out.path())
        .args(["--only", parts])
        .args(more));
    out
}

/// Whether the programs of `make release-tools` are there.
fn tools_or_skip(programs: &[&str]) -> bool {
    programs.iter().all(|program| found_or_skip(program, "make release-tools").is_some())
}

/// All that needs no compiler.
const PARTS: &str = "binaries doc image manifests machineconfig chart krew changelog provenance sums";
const BOTH: &[&str] = &["--arches", "amd64 arm64", "--registry", "registry.example"];

fn files(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_release_is_complete_and_has_the_same_bytes_twice() {
    if !tools_or_skip(&["buildah"]) || renderer().is_none() {
        return;
    }
    let (made, again) = (release(PARTS, BOTH), release(PARTS, BOTH));
    let dir = made.path();
    assert_eq!(files(dir), files(again.path()));
    for name in files(dir) {
        let same = fs::read(dir.join(&name)).unwrap() == fs::read(again.path().join(&name)).unwrap();
        assert!(same, "{name}");
    }
    let read =
        |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    run(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(dir));
    let version = env!("CARGO_PKG_VERSION");

    // The image has each architecture, and the manifests name it by its digest.
    let layout = tempfile::tempdir().unwrap();
    run(Command::new("tar").arg("-xf").arg(dir.join("usernsd-image.tar")).arg("-C").arg(layout.path()));
    let blob = |digest: &str| -> Value {
        let path = layout.path().join("blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let mut architectures = BTreeSet::new();
    for manifest in blob(digest)["manifests"].as_array().unwrap() {
        let config = blob(blob(manifest["digest"].as_str().unwrap())["config"]["digest"].as_str().unwrap());
        assert_eq!(config["architecture"], manifest["platform"]["architecture"]);
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], version);
        assert_eq!(config["config"]["Entrypoint"], json!(["/usernsd"]));
        architectures.insert(config["architecture"].as_str().unwrap().to_owned());
    }
    assert_eq!(architectures, ["amd64", "arm64"].map(str::to_owned).into());
    let image = format!("registry.example/usernsd@{digest}");
    assert_eq!(read("usernsd-image.txt"), format!("registry.example/usernsd:{version}@{digest}\n"));

    for overlay in crate::manifests::overlays() {
        let text = read(&format!("usernsd-{overlay}.yaml"));
        let images = text.lines().filter(|line| line.contains(" image: ")).count();
        assert!(images > 0 && text.matches(&format!("image: {image}\n")).count() == images, "{overlay}");
        let agents = "- key: kubernetes.io/arch\n                operator: In\n                values:\n                - amd64\n                - arm64\n";
        assert!(text.contains(agents), "{overlay}: pods run where the image does");
    }
    assert!(read("usernsd-monitoring.yaml").contains("PodMonitor"));
    for component in ["admission", "admission-required"] {
        assert!(read(&format!("usernsd-{component}.yaml")).contains("Policy"));
    }
    for role in ["worker", "master"] {
        assert_eq!(
            read(&format!("usernsd-machineconfig-{role}.yaml")),
            fs::read_to_string(source(&format!("machineconfig/{role}.yaml"))).unwrap()
        );
        assert!(read(&format!("usernsd-machineconfig-{role}-plugin.yaml")).contains("90-usernsd.conf"));
    }
    assert!(read(&format!("CHANGELOG-{version}.md")).contains("### Added"));

    // The statement names each file that was there before it.
    let provenance: Value = serde_json::from_str(&read("usernsd.provenance.json")).unwrap();
    let subjects: BTreeSet<String> = provenance["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    // Each program has its compiler's name in it.
    let builder = &provenance["predicate"]["runDetails"]["builder"]["version"];
    for arch in ARCHES {
        let compiler = builder[format!("rustc-{arch}")].as_str().unwrap_or_default();
        assert!(compiler.starts_with("rustc version 1."), "{builder}");
    }
    let mut want = files(dir);
    want.remove("SHA256SUMS");
    want.remove("usernsd.provenance.json");
    assert_eq!(subjects, want);
    let sums = read("SHA256SUMS");
    for subject in provenance["subject"].as_array().unwrap() {
        let line = format!(
            "{}  {}\n",
            subject["digest"]["sha256"].as_str().unwrap(),
            subject["name"].as_str().unwrap()
        );
        assert!(sums.contains(&line), "{line}");
    }

    // krew checks the archive's hash, and makes a link to the program in it.
    let krew: Value = serde_saphyr::from_str(&read("userns.yaml")).unwrap();
    let platforms = krew["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 2);
    for platform in platforms {
        let name = platform["uri"].as_str().unwrap().rsplit('/').next().unwrap();
        assert!(sums.contains(&format!("{}  {name}\n", platform["sha256"].as_str().unwrap())), "{name}");
        let unpacked = tempfile::tempdir().unwrap();
        run(Command::new("tar").arg("-xf").arg(dir.join(name)).arg("-C").arg(unpacked.path()));
        let program = unpacked.path().join(platform["bin"].as_str().unwrap());
        assert!(run(Command::new(program).arg("--help")).contains("kubectl userns"));
    }

    // The chart renders with the release's image, without a value.
    let Some(mut helm) = Helm::start_or_skip() else { return };
    let chart = dir.join(format!("usernsd-chart-{version}.tgz"));
    let objects = helm.template(&chart, &[], &json!({})).unwrap();
    let daemonset = objects.iter().find(|object| kind(object) == "DaemonSet").unwrap();
    assert_eq!(daemonset["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
    let pod = &daemonset["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(pod.pointer(ARCHITECTURES), Some(&json!(["amd64", "arm64"])));
}

/// Where a pod has the architectures of its nodes.
const ARCHITECTURES: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0/values";

#[test]
fn a_release_for_one_architecture_runs_on_its_nodes_only() {
    if !tools_or_skip(&["buildah"]) || renderer().is_none() {
        return;
    }
    let made = release("image manifests chart", &["--arches", ARCHES[0]]);
    let text = fs::read_to_string(made.path().join("usernsd-kubernetes.yaml")).unwrap();
    let agents = text.split("---\n").find(|document| document.contains("\nkind: DaemonSet\n")).unwrap();
    let agents: Value = serde_saphyr::from_str(agents).unwrap();
    assert_eq!(agents["spec"]["template"]["spec"].pointer(ARCHITECTURES), Some(&json!([ARCHES[0]])));

    let Some(mut helm) = Helm::start_or_skip() else { return };
    let chart = made.path().join(format!("usernsd-chart-{}.tgz", env!("CARGO_PKG_VERSION")));
    let architectures = |helm: &mut Helm, values: Value| {
        let objects = helm.template(&chart, &[], &values).unwrap();
        let agents = objects.iter().find(|object| kind(object) == "DaemonSet").unwrap();
        let affinity = &agents["spec"]["template"]["spec"]["affinity"];
        (agents["spec"]["template"]["spec"].pointer(ARCHITECTURES).cloned(), affinity["podAffinity"].clone())
    };
    assert_eq!(architectures(&mut helm, json!({})).0, Some(json!([ARCHES[0]])));
    // The user's affinity is added, but the user's node affinity replaces the chart's.
    let beside = json!({"affinity": {"podAffinity": {"x": "y"}}});
    assert_eq!(architectures(&mut helm, beside), (Some(json!([ARCHES[0]])), json!({"x": "y"})));
    let terms = json!([{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}]);
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    let own = json!({"affinity": {"nodeAffinity": required}});
    assert_eq!(architectures(&mut helm, own).0, Some(json!(["v"])));
}

/// The crates that Cargo links into the program, as "NAME VERSION", apart from the program's own.
fn linked_crates(target: &str) -> BTreeSet<String> {
    let words = [
        "tree",
        "--locked",
        "--offline",
        "--package=usernsd",
        "--edges=normal,no-proc-macro",
        "--prefix=none",
    ];
    let tree = run(Command::new(env!("CARGO")).current_dir(source(".")).args(words).args([
        "--format={p}",
        "--target",
        target,
    ]));
    let name = |line: &str| line.split(" (").next().unwrap().replacen(" v", " ", 1);
    let own = format!("usernsd {}", env!("CARGO_PKG_VERSION"));
    tree.lines().map(name).filter(|name| *name != own).collect()
}

#[test]
fn the_bill_of_materials_has_every_crate_that_is_linked_and_no_path_of_this_machine() {
    if !tools_or_skip(&["cargo-cyclonedx"]) {
        return;
    }
    let (made, again) = (release("sbom", BOTH), release("sbom", BOTH));
    let lock = fs::read_to_string(source("Cargo.lock")).unwrap();
    let quoted = |line: &str| line.split('"').nth(1).unwrap().to_owned();
    let names = lock.lines().filter(|line| line.starts_with("name = ")).map(quoted);
    // The first line with a version is that of the file's format, which is not quoted.
    let versions = lock.lines().filter(|line| line.starts_with("version = \"")).map(quoted);
    let locked: BTreeSet<String> =
        names.zip(versions).map(|(name, version)| format!("{name} {version}")).collect();
    for (arch, target) in [("amd64", "x86_64-unknown-linux-gnu"), ("arm64", "aarch64-unknown-linux-gnu")] {
        let name = format!("usernsd-linux-{arch}.cdx.json");
        let text = fs::read_to_string(made.path().join(&name)).unwrap();
        assert!(text == fs::read_to_string(again.path().join(&name)).unwrap(), "the same bytes twice");
        for path in ["/tmp/", "/root", "/home", source(".").to_str().unwrap().trim_end_matches("/.")] {
            assert!(!text.contains(path), "{name} has {path}");
        }
        let bom: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        assert_eq!(bom["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
        let components = bom["components"].as_array().unwrap();
        let named =
            |one: &Value| format!("{} {}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
        let listed: BTreeSet<String> = components.iter().map(named).collect();
        let linked = linked_crates(target);
        assert!(linked.len() > 100, "{linked:?}");
        let missing: Vec<&String> = linked.difference(&listed).collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?}");
        let strange: Vec<&String> = listed.iter().filter(|one| !locked.contains(*one)).collect();
        assert!(strange.is_empty(), "{name} has what Cargo.lock has not: {strange:?}");
        for one in components {
            // A crate from the registry has the hash of the lock file, and each has a licence.
            let own = one["name"].as_str().unwrap().starts_with("usernsd-");
            assert!(own || one["hashes"][0]["content"].is_string(), "{one}");
            assert!(one["licenses"].as_array().is_some_and(|licenses| !licenses.is_empty()), "{one}");
        }
    }
}

/// A registry on the loopback interface. Dropping it ends it.
struct Registry {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start() -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the registry", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Registry { child, port, _dir: dir }
    }
}

#[test]
fn a_pushed_image_has_the_digest_of_the_manifests() {
    if !tools_or_skip(&["buildah", "skopeo", "docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let name = format!("127.0.0.1:{}/of/someone", registry.port);
    let made = release("image", &["--arches", "amd64 arm64", "--registry", &name]);
    let push = |registry: &str| {
        let mut make = Command::new("make");
        make.current_dir(source("."))
            .args(["--silent", "push", "PUSH_FLAGS=--dest-tls-verify=false"])
            .arg(format!("REGISTRY={registry}"))
            .arg(format!("RELEASE={}", made.path().display()));
        make
    };
    run(&mut push(&name));
    let reference = fs::read_to_string(made.path().join("usernsd-image.txt")).unwrap();
    let (tagged, digest) = reference.trim().split_once('@').unwrap();
    let raw = run(Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--raw"])
        .arg(format!("docker://{tagged}")));
    let sum = run(Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh", &raw]));
    assert_eq!(format!("sha256:{}", &sum[..64]), digest);
    assert_eq!(raw.matches("\"architecture\"").count(), 2);

    // The manifests of that release name another registry.
    let refused = push("127.0.0.1:1/else").output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("was made for"), "{refused:?}");
}

/// Kinds that Kubernetes has no schema of. PodMonitor and PrometheusRule are compared with the operator's models, the
/// SCC with a type of tests/cases/manifests.rs.
const FOREIGN: &[&str] = &["PodMonitor", "PrometheusRule", "SecurityContextConstraints"];

fn as_yaml<'d>(documents: impl IntoIterator<Item = &'d Value>) -> String {
    // JSON is YAML.
    documents.into_iter().map(|document| format!("---\n{document}\n")).collect()
}

#[test]
fn every_object_fits_the_schemas_of_kubernetes_1_33_to_1_37() {
    let Some(validate) = found_or_skip("kubernetes-validate", "make helm") else { return };
    let Some(rendered) = rendered() else { return };
    let Some(node) = renderer() else { return };
    let mut documents: Vec<Value> = rendered.into_values().flatten().collect();
    for component in ["admission", "authorization", "node-condition"] {
        documents.extend(with_component(&node, component));
    }
    // Most overlays have most objects in common.
    let mut known = BTreeSet::new();
    documents.retain(|document| !FOREIGN.contains(&kind(document)) && known.insert(document.to_string()));
    let required: Vec<Value> = with_component(&node, "admission-required")
        .into_iter()
        .filter(|document| kind(document).starts_with("Mutating"))
        .collect();
    assert!(documents.len() > 40 && required.len() == 2);
    let check = |version: &str, documents: &[Value]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), as_yaml(documents)).unwrap();
        let mut command = Command::new(&validate);
        let result = command.args(["--strict", "-k", version]).arg(file.path()).output().unwrap();
        let text = String::from_utf8_lossy(&[result.stdout, result.stderr].concat()).into_owned();
        (result.status.success() && !text.contains("WARN"), text)
    };
    for version in ["1.33", "1.34", "1.35", "1.36", "1.37"] {
        let (good, result) = check(version, &documents);
        assert!(good, "{version}: {result}");
        // docs/admission.md: from 1.36 on.
        let (good, result) = check(version, &required);
        assert_eq!(good, ["1.36", "1.37"].contains(&version), "{version}: {result}");
    }
    let daemonset = documents.iter_mut().find(|document| kind(document) == "DaemonSet").unwrap();
    daemonset["spec"]["template"]["spec"]["hostPIDs"] = true.into();
    let (good, result) = check("1.37", &documents);
    assert!(!good && result.contains("hostPIDs"), "{result}");
}

#[test]
fn objects_of_the_prometheus_operator_fit_its_definitions() {
    let Some(python) = found_or_skip("python-of-tests", "make helm") else { return };
    let Some(rendered) = rendered() else { return };
    let check = |documents: &[Value]| {
        let mut child = Command::new(&python)
            .arg(source("tests/programs/monitoring_schema.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(as_yaml(documents).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut documents: Vec<Value> = rendered
        .into_values()
        .flatten()
        .filter(|document| ["PodMonitor", "PrometheusRule"].contains(&kind(document)))
        .collect();
    assert_eq!(documents.len(), 4, "two overlays, each with both");
    let (good, output) = check(&documents);
    assert!(good, "{output}");
    let monitor = documents.iter_mut().find(|document| kind(document) == "PodMonitor").unwrap();
    monitor["spec"]["podMetricsEndpoints"][0]["honourLabels"] = true.into();
    assert!(!check(&documents).0, "a misspelt field is found");
}

/// Without the operator nothing but those two kinds is missing: the API server takes the rest.
#[test]
fn only_overlays_that_say_so_need_the_prometheus_operator() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        let needs = documents.iter().any(|document| FOREIGN[..2].contains(&kind(document)));
        assert_eq!(needs, overlay.starts_with("openshift"), "{overlay}");
    }
}

#[test]
fn packages_name_their_architecture() {
    if !tools_or_skip(&["cargo-deb", "cargo-generate-rpm", "rpm"]) {
        return;
    }
    let made = release("deb rpm", &["--arches", "amd64 arm64", "--fast", "yes"]);
    let version = env!("CARGO_PKG_VERSION");
    let mut want = BTreeSet::new();
    for (deb, rpm) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let names = [format!("usernsd_{version}-1_{deb}.deb"), format!("usernsd-{version}-1.{rpm}.rpm")];
        let [debian, red_hat] = names.each_ref().map(|name| made.path().join(name));
        assert_eq!(run(Command::new("dpkg-deb").arg("--field").arg(debian).arg("Architecture")).trim(), deb);
        let query = ["--query", "--nosignature", "--queryformat=%{ARCH} %{OS}", "--package"];
        assert_eq!(run(Command::new("rpm").args(query).arg(red_hat)), format!("{rpm} linux"));
        want.extend(names);
    }
    assert_eq!(files(made.path()), want);
}

/// A node with containerd and the packages of two versions, of which the first is the older one. `kind` is deb or rpm.
fn node_with_packages(kind: &str, more: Vec<(PathBuf, String)>) -> Option<(Node, Vec<tempfile::TempDir>)> {
    if !tools_or_skip(&[if kind == "deb" { "cargo-deb" } else { "cargo-generate-rpm" }]) {
        return None;
    }
    // The older package has the program of the version before, if there is one.
    let before = std::env::var_os("USERNSD_TEST_BEFORE").map(|program| binaries_of(Path::new(&program)));
    let before = before.as_ref().map_or(binaries(), tempfile::TempDir::path);
    let packages = [(before, "0.0.9"), (binaries(), env!("CARGO_PKG_VERSION"))].map(|(binaries, version)| {
        let arguments = ["--arches", ARCHES[0], "--fast", "yes", "--package-version", version];
        release_of(binaries, kind, &arguments)
    });
    let mut binds: Vec<(PathBuf, String)> = packages
        .iter()
        .zip(["old", "new"])
        .map(|(dir, name)| (dir.path().to_owned(), format!("/srv/{name}")))
        .collect();
    binds.extend(more);
    let node = Node::boot_or_skip(&Options { runtime: Runtime::Containerd, binds, ..Options::default() })?;
    Some((node, packages.into()))
}

fn shell(node: &Node, line: &str) -> (bool, String) {
    let output = node.exec(["sh", "-c", line]);
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[track_caller]
fn sh(node: &Node, line: &str) -> String {
    let (good, output) = shell(node, line);
    assert!(good, "{line}: {output}");
    output
}

/// systemd as PID 1 of a privileged pod gets its cgroup, so that the service does its work.
#[track_caller]
fn a_systemd_pod_runs(node: &Node, number: usize) {
    wait_for("NRI", || node.journal("usernsd").contains("joined the runtime over NRI").then_some(()));
    let pods = Pods::connect(node);
    let pod = pods.run_pod(&PodSpec::new("systemd").numbered(number).privileged());
    let container = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    assert!(container.owner("").0 >= BASE);
    pods.remove_pod(&pod);
}

#[test]
fn the_deb_is_installed_upgraded_downgraded_removed_and_purged() {
    let Some((node, packages)) = node_with_packages("deb", Vec::new()) else { return };
    let new = fs::read_dir(packages[1].path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .unwrap();
    if let Some(lintian) = found_or_skip("lintian", "make release-tools") {
        run(Command::new(lintian).args(["--allow-root", "--fail-on", "error"]).arg(new));
    }
    // As docs/install-packages.md has it: apt takes a path with a slash for a file.
    let apt = |line: &str| sh(&node, &format!("DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet {line}"));
    let active = |unit: &str| shell(&node, &format!("systemctl is-active --quiet {unit}")).0;

    sh(&node, "cd /srv/old && cp *.deb /run/usernsd.deb");
    sh(&node, "cd /run && DEBIAN_FRONTEND=noninteractive apt install --yes ./usernsd.deb");
    assert!(!active("usernsd"), "the administrator starts it");
    sh(&node, "systemctl enable --now usernsd");
    a_systemd_pod_runs(&node, 1);
    assert!(sh(&node, "systemd-analyze verify usernsd.service").is_empty());
    assert!(sh(&node, "usernsd ps --no-headers; kubectl-userns --help").contains("kubectl userns"));

    // The administrator's configuration stays, and the service is restarted.
    sh(&node, "echo 'log: {level: debug}' >> /etc/usernsd/config.yaml");
    let pid = sh(&node, "systemctl show usernsd --value --property MainPID");
    apt("install /srv/new/*.deb");
    assert!(active("usernsd") && sh(&node, "systemctl show usernsd --value --property MainPID") != pid);
    assert!(sh(&node, "cat /etc/usernsd/config.yaml").contains("level: debug"));
    a_systemd_pod_runs(&node, 2);
    apt("install --allow-downgrades /srv/old/*.deb");
    assert!(active("usernsd") && sh(&node, "dpkg-query -Wf '${Version}' usernsd") == "0.0.9-1");
    a_systemd_pod_runs(&node, 3);

    // Removed, with what bootstrap wrote: it stays, and so it does if the package is purged without an answer.
    sh(&node, "usernsd bootstrap");
    let plugin = "/opt/nri/plugins/90-usernsd";
    assert!(apt("remove usernsd").contains("this node stays prepared"));
    assert!(
        !active("usernsd") && shell(&node, &format!("test -e {plugin} -a -e /etc/usernsd/config.yaml")).0
    );
    assert!(apt("purge usernsd").contains("to take it back later"));
    assert!(shell(&node, &format!("test -e {plugin} -a ! -e /etc/usernsd")).0);

    // With the answer yes all of it goes.
    apt("install /srv/new/*.deb");
    sh(&node, "echo 'usernsd usernsd/undo boolean true' | debconf-set-selections");
    let output = apt("purge usernsd");
    assert!(output.contains("taken back"), "{output}");
    let left = sh(
        &node,
        &format!("ls -d {plugin} /var/lib/usernsd /etc/usernsd /usr/bin/*usern* 2>/dev/null || true"),
    );
    assert_eq!(left, "");
    assert!(!shell(&node, "systemctl cat usernsd").0);
}

/// This machine's rpm with its libraries: the node is a Debian without it.
fn rpm() -> Option<Vec<(PathBuf, String)>> {
    let rpm = found_or_skip("rpm", "make release-tools")?;
    let mut binds =
        vec![(rpm.clone(), "/srv/rpm/rpm".to_owned()), ("/usr/lib/rpm".into(), "/usr/lib/rpm".to_owned())];
    for line in run(Command::new("ldd").arg(rpm)).lines() {
        let Some(path) = line.split(" => ").nth(1).and_then(|rest| rest.split(' ').next()) else { continue };
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        // The node's own C library is the newer one.
        if !name.starts_with("libc.") && !name.starts_with("libm.") && !name.starts_with("ld-") {
            binds.push((fs::canonicalize(path).unwrap(), format!("/srv/rpm/{name}")));
        }
    }
    Some(binds)
}

#[test]
fn the_rpm_is_installed_upgraded_downgraded_and_removed() {
    let Some(binds) = rpm() else { return };
    let Some((node, _packages)) = node_with_packages("rpm", binds) else { return };
    // Debian's rpm warns that this is a Debian; scripts run with the node's own libraries.
    let rpm = |line: &str| {
        sh(
            &node,
            &format!("LD_LIBRARY_PATH=/srv/rpm /srv/rpm/rpm --force-debian --nodeps --nosignature {line}"),
        )
    };
    let active = || shell(&node, "systemctl is-active --quiet usernsd").0;
    rpm("--install /srv/old/*.rpm");
    assert!(!active());
    sh(&node, "systemctl enable --now usernsd");
    a_systemd_pod_runs(&node, 1);
    assert!(sh(&node, "kubectl-userns --help").contains("kubectl userns"));
    sh(&node, "echo 'log: {level: debug}' >> /etc/usernsd/config.yaml");
    let pid = sh(&node, "systemctl show usernsd --value --property MainPID");
    rpm("--upgrade /srv/new/*.rpm");
    wait_for("the restart", || {
        (sh(&node, "systemctl show usernsd --value --property MainPID") != pid && active()).then_some(())
    });
    assert!(sh(&node, "cat /etc/usernsd/config.yaml").contains("level: debug"));
    a_systemd_pod_runs(&node, 2);
    rpm("--upgrade --oldpackage /srv/old/*.rpm");
    assert!(active());
    a_systemd_pod_runs(&node, 3);

    sh(&node, "usernsd bootstrap");
    assert!(rpm("--erase usernsd").contains("this node stays prepared"));
    assert!(!active());
    assert_eq!(sh(&node, "ls /usr/bin/*usern* 2>/dev/null || true"), "");
    let output = sh(&node, "/var/lib/usernsd/usernsd-undo bootstrap --undo");
    assert!(output.contains("taken back"), "{output}");
}
