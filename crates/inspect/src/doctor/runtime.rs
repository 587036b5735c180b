//! The container runtime: its answers, its files, and its OCI runtimes' features.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Doctor, PodPlace};
use crate::neighbour;
use usernsd_domain::chain::chain;
use usernsd_domain::check::runtime::{CriFacts, Crio, Joined, OciRuntime, Older, RuntimeFacts};
use usernsd_domain::check::{Answer, Probe};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::config::{Content, Effective};
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::node;
use usernsd_domain::nri_plugin::{Required, SystemPod, connections_finding};
use usernsd_domain::pairing::{Mismatch, Offer};
use usernsd_domain::provision::HostPath;
use usernsd_domain::runtime::{Runtime, RuntimeKind, choose};
use usernsd_domain::toml::{Table, Value, get, table_at};
use usernsd_linux::program::{self, ProgramError};
use usernsd_peers::cri::{Cri, CriError, NoAnswer, discover, first_answering};
use usernsd_prepare::bootstrap::restart::Loaded;
use usernsd_prepare::bootstrap::runtime::WantedSettings;
use usernsd_prepare::runtime_files::ConfRoot;
use usernsd_prepare::{bootstrap, crio};

/// A healthy runtime answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// The directories in which the program of a handler without a path is searched for.
const PATH: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

impl Doctor {
    /// The runtime that answers over CRI, and the client with which to ask it.
    pub(super) async fn ask_runtime(&self) -> (Answer<CriFacts>, Option<Cri>) {
        let mut sockets = self.place.endpoints.clone();
        if sockets.is_empty() {
            if let Err(why) = self.is_running() {
                return (Answer::NotAsked(why), None);
            }
            sockets = discover(&self.place.root).into_iter().map(|(_, path)| path).collect();
        }
        let clients = sockets.into_iter().map(|socket| Cri::new(socket).with_deadline(PATIENCE));
        let (cri, version) = match first_answering(clients).await {
            Ok(answered) => answered,
            Err(NoAnswer { errors }) if errors.is_empty() => {
                return (Answer::Missing("no CRI socket of CRI-O or containerd is there".to_owned()), None);
            }
            Err(unanswered) => {
                let denied = unanswered.errors.iter().rfind(|error| matches!(error, CriError::Denied(_)));
                // Without permission to connect, it is unknown whether the runtime answers.
                return match denied {
                    Some(denied) => (Answer::NotAsked(denied.to_string()), None),
                    None => (Answer::Missing(unanswered.to_string()), None),
                };
            }
        };
        let handlers = match cri.handlers().await {
            Ok(handlers) if handlers.is_empty() => {
                Err(format!("{} {} lists no handlers", version.name, version.version))
            }
            handlers => handlers.map_err(|error| chain(&error)),
        };
        let endpoint = cri.path().display().to_string();
        let facts = CriFacts { name: version.name, version: version.version, endpoint, handlers };
        (Answer::Given(facts), Some(cri))
    }

    /// Why a plugin that joins would harm the runtime, if it would.
    pub(super) async fn joinable(cri: Option<&Cri>, pods: &PodPlace) -> Probe<Option<String>> {
        let Some(cri) = cri else { return Err("the runtime does not answer".to_owned()) };
        let mut ends = neighbour::Ends::default();
        let join_facts =
            neighbour::observe(cri, &pods.bundles, &mut ends).await.map_err(|error| chain(&error))?;
        Ok(join_facts.refusal)
    }

    /// Whether the node has another runtime, whose NRI an agent would join.
    pub(super) async fn mismatch(&self, cri: Option<&Cri>) -> Option<Mismatch> {
        self.is_running().ok()?;
        let first = self.offer(cri?).await?;
        let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
        let own = identity(cri?.path());
        for (_, socket) in discover(&self.place.root).into_iter().filter(|(_, path)| identity(path) != own) {
            let Some(other) = self.offer(&Cri::new(socket).with_deadline(PATIENCE)).await else { continue };
            if let Some(mismatch) = Mismatch::between(&first, &other) {
                return Some(mismatch);
            }
        }
        None
    }

    /// A runtime's name and version, and its NRI socket; `None` if it does not answer or its files cannot be
    /// read.
    async fn offer(&self, cri: &Cri) -> Option<Offer> {
        let version = cri.version().await.ok()?;
        let runtime = Runtime::parse(&version.name, &version.version)?;
        let conf = bootstrap::runtime::nri_conf_of(&self.root, runtime, false, false, true).ok()??;
        let endpoint = cri.path().display().to_string();
        let answers = node::CriRuntime { name: version.name, version: version.version, endpoint };
        Some((answers, conf.on.then_some(conf.socket)))
    }

    /// The node's runtime, chosen as `usernsd bootstrap` chooses it, or why it is unknown. Also the pods
    /// without which the node may not come up again, if the runtime lists them.
    pub(super) async fn choose_runtime(&self, answers: bool) -> (Probe<Runtime>, Option<Vec<SystemPod>>) {
        if !answers && !self.place.may_run_programs {
            return (Err("the runtime does not answer".to_owned()), None);
        }
        let runtimes = match bootstrap::runtime::find(&self.root, &self.place.endpoints).await {
            Ok(runtimes) => runtimes,
            Err(error) => return (Err(chain(&error)), None),
        };
        let (runtime, findings) = choose(&self.place.runtime, &runtimes.seen);
        let Some(runtime) = runtime else {
            let printed = findings.into_iter().next();
            let printed = printed.map(|finding| format!("{}; {}", finding.what, finding.remedy));
            return (Err(printed.unwrap_or_else(|| "bootstrap.runtime is none".to_owned())), None);
        };
        if !runtimes.seen.has(runtime.kind()) {
            let title = runtime.kind().title();
            return (
                Err(format!("{title} is not there: neither its program nor a file of it was found")),
                None,
            );
        }
        let of_it = runtimes.pods.into_iter().find(|(kind, _)| *kind == runtime.kind());
        (Ok(runtime), of_it.map(|(_, pods)| pods.system))
    }

    /// The configuration that a running CRI-O reports as loaded.
    pub(super) async fn loaded(cri: Option<&Cri>, runtime: &Probe<Runtime>) -> Option<Loaded> {
        match (cri, runtime) {
            (Some(cri), Ok(Runtime::Crio(version))) => bootstrap::runtime::loaded_config(cri, *version).await,
            _ => None,
        }
    }

    /// The runtime's files and its OCI runtimes. Blocks for some milliseconds, and for as long as programs
    /// take to print their versions.
    pub(super) fn runtime(&self, cri: Answer<CriFacts>, runtime: &Probe<Runtime>) -> RuntimeFacts {
        let other = |kind: RuntimeKind| format!("the runtime is {}", kind.title());
        let (crio, containerd) = match runtime {
            Err(why) => (Err(why.clone()), Err(why.clone())),
            Ok(Runtime::Crio(version)) => {
                let crio = crio::examine(&self.place.root, *version).map_err(|error| chain(&error));
                let crio = crio.map(|found| Crio { older: self.older(*version), ..found });
                let crio = crio.map(|mut found| {
                    found.findings.extend(self.room_of_containers(Runtime::Crio(*version)));
                    found.findings.extend(self.no_connections(Runtime::Crio(*version)));
                    found
                });
                (crio, Err(other(RuntimeKind::Crio)))
            }
            Ok(runtime) => (Err(other(RuntimeKind::Containerd)), self.containerd(*runtime)),
        };
        let oci = match ConfRoot::open(&self.place.root) {
            Ok(conf) => self.oci(runtime, &crio, &conf),
            Err(error) => Err(chain(&error)),
        };
        let plugin = Err("not looked at".to_owned());
        let containerd_file = self.containerd_file();
        RuntimeFacts { cri, crio, containerd, containerd_file, oci, plugin, joined: Joined::Unasked }
    }

    /// The finding that no agent can join the runtime over NRI.
    fn no_connections(&self, runtime: Runtime) -> Option<Finding> {
        let conf = bootstrap::runtime::nri_conf_of(&self.root, runtime, false, false, true).ok()??;
        let plugins = HostPath::parse(&conf.plugin_dir).map(|path| self.root.list(&path));
        let names = plugins.ok().and_then(Result::ok).unwrap_or_default();
        connections_finding(&conf, names.iter().any(|name| name.ends_with("-usernsd")))
    }

    /// The finding that CRI-O has too few IDs for pods that ask it for a user namespace, if it lets them ask.
    fn room_of_containers(&self, runtime: Runtime) -> Option<Finding> {
        let reads = bootstrap::runtime::reads_containers(&self.root, Some(runtime), &self.place.crio).ok()?;
        if reads { bootstrap::ids::room_of_containers(&self.root).ok()? } else { None }
    }

    /// The CRI-O before `version` that would not start with the same files.
    fn older(&self, version: CrioVersion) -> Option<Older> {
        let may_ask = self.place.may_run_programs && self.is_running().is_ok();
        let installed = if may_ask { crio::version(Path::new("crio")).ok() } else { None };
        crio::older(&self.place.root, version, installed).ok().flatten()
    }

    /// containerd's main file, if it is there.
    fn containerd_file(&self) -> Probe<String> {
        let (_, path) = bootstrap::runtime::containerd_files(&self.root).map_err(|error| chain(&error))?;
        let is_there = HostPath::parse(&path).is_ok_and(|path| self.root.has(&path).unwrap_or(false));
        if is_there { Ok(path) } else { Err(format!("containerd's configuration was not found: no {path}")) }
    }

    /// The table of containerd's main file; empty if there is none.
    fn containerd_table(&self, conf: &ConfRoot) -> Probe<Table> {
        let (_, path) = bootstrap::runtime::containerd_files(&self.root).map_err(|error| chain(&error))?;
        match conf.toml(&path).map(|file| file.content) {
            None => Ok(Table::new()),
            Some(Content::Toml(table)) => Ok(table),
            Some(Content::NotToml(why) | Content::Unreadable(why)) => Err(format!("{path}: {why}")),
        }
    }

    /// The findings on containerd's configuration.
    fn containerd(&self, runtime: Runtime) -> Probe<Vec<Finding>> {
        let wanted = WantedSettings {
            crio: &self.place.crio,
            containerd_nri: true,
            hook: &self.place.hook,
            // NRI has a check of its own.
            required: Required::Off,
            plugin_missing: None,
            system_pods: None,
        };
        let part = bootstrap::runtime::plan_by_rules(&self.root, Some(runtime), wanted);
        let part = part.map_err(|error| chain(&error))?;
        let mut findings = part.findings;
        findings.extend(self.no_connections(runtime));
        for change in part.changes.iter().filter(|change| change.is_needed() && change.new.is_some()) {
            let what = format!("NRI is off; {} would switch it on", change.path);
            let remedy = "usernsd bootstrap; then restart containerd: usernsd bootstrap --restart";
            findings.push(Finding::warning(FindingId::ContainerdNri, what, remedy));
        }
        Ok(findings)
    }

    /// The default handler's OCI runtime, with its program's path from the files. The program is not
    /// started, so its version is unknown.
    pub(super) fn default_oci_runtime(&self, runtime: &Probe<Runtime>, crio: &Probe<Crio>) -> Option<String> {
        let path = match (runtime, crio) {
            (_, Ok(crio)) => {
                let path =
                    crio.effective.default_handler().map_or("", |handler| handler.text("runtime_path"));
                if path.is_empty() { crio.effective.default_runtime.value.clone() } else { path.to_owned() }
            }
            (Ok(Runtime::Containerd(_)), _) => {
                default_of_containerd(&self.containerd_table(&ConfRoot::open(&self.place.root).ok()?).ok()?)
            }
            _ => return None,
        };
        Some(path.rsplit('/').next().unwrap_or_default().to_owned())
    }

    fn oci(&self, runtime: &Probe<Runtime>, crio: &Probe<Crio>, conf: &ConfRoot) -> Probe<Vec<OciRuntime>> {
        let names = match (runtime, crio) {
            (_, Ok(crio)) => of_crio(&crio.effective),
            (Ok(Runtime::Containerd(_)), _) => of_containerd(&self.containerd_table(conf)?),
            _ => return Err("which OCI runtimes are used is not known".to_owned()),
        };
        if !self.place.may_run_programs {
            return Err("the agent starts no programs; see cri_userns_handler, or usernsd doctor".to_owned());
        }
        if !self.is_own_root() {
            return Err(format!("programs below {} are not started", self.place.root.display()));
        }
        let mut paths: Vec<String> = names.into_iter().map(|name| located(name, conf)).collect();
        paths.sort();
        paths.dedup();
        Ok(paths.into_iter().map(ask_program).collect())
    }
}

/// The programs of the handlers that start OCI runtimes.
fn of_crio(effective: &Effective) -> Vec<String> {
    let handlers =
        effective.handlers.iter().filter(|(_, handler)| matches!(handler.text("runtime_type"), "" | "oci"));
    let path = |(name, handler): (&String, &usernsd_domain::crio::config::Entry)| match handler
        .text("runtime_path")
    {
        "" => name.clone(),
        path => path.to_owned(),
    };
    handlers.map(path).collect()
}

/// The plugin that has containerd's handlers, in versions 3 and 2 of its file.
const PLUGINS: [&str; 2] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];

/// The program of `default_runtime_name`, by default `runc`; for a shim other than runc's, the handler's
/// own name.
fn default_of_containerd(table: &Table) -> String {
    let text = |table: &Table, key: &str| match get(table, key) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let found = PLUGINS.iter().find_map(|plugin| table_at(table, &["plugins", plugin, "containerd"]));
    let name =
        found.and_then(|found| text(found, "default_runtime_name")).unwrap_or_else(|| "runc".to_owned());
    let handler = found.and_then(|found| table_at(found, &["runtimes", &name]));
    let is_runc = handler.is_none_or(|handler| {
        text(handler, "runtime_type").is_none_or(|kind| kind == "io.containerd.runc.v2")
    });
    let options = handler.and_then(|handler| table_at(handler, &["options"]));
    match options.and_then(|options| text(options, "BinaryName")) {
        Some(path) => path,
        None if is_runc => "runc".to_owned(),
        None => name,
    }
}

/// `BinaryName` of each handler of the runc shim, by default `runc` (containerd `docs/cri/config.md`).
/// Versions 2 and 3 of the file name the plugin differently.
fn of_containerd(table: &Table) -> Vec<String> {
    let runtimes =
        PLUGINS.iter().find_map(|plugin| table_at(table, &["plugins", plugin, "containerd", "runtimes"]));
    let mut names = Vec::new();
    for handler in runtimes.into_iter().flatten().map(|(_, handler)| handler) {
        let Value::Table(handler) = handler else { continue };
        if !matches!(get(handler, "runtime_type"), Some(Value::Text(kind)) if kind == "io.containerd.runc.v2")
        {
            continue;
        }
        let options = table_at(handler, &["options"]);
        names.push(match options.and_then(|options| get(options, "BinaryName")) {
            Some(Value::Text(path)) if !path.is_empty() => path.clone(),
            _ => "runc".to_owned(),
        });
    }
    if names.is_empty() {
        names.push("runc".to_owned());
    }
    names
}

/// The path of a program; its bare name if it is in none of the directories.
fn located(name: String, conf: &ConfRoot) -> String {
    if name.starts_with('/') {
        return name;
    }
    PATH.iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| conf.has_program(path) == Some(true))
        .unwrap_or(name)
}

fn ask_program(path: String) -> OciRuntime {
    let printed = |argument| match program::run(Path::new(&path), &[argument], PATIENCE) {
        Ok(printed) if printed.success => Ok(printed.stdout),
        Ok(printed) => Err(printed.stderr.lines().next().unwrap_or("it prints nothing").to_owned()),
        Err(ProgramError::Start { error, .. }) => Err(chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    let version = printed("--version").map(|text| text.lines().next().unwrap_or_default().trim().to_owned());
    let idmap = printed("features").and_then(|text| idmap_of(&text));
    OciRuntime { version, idmap, path }
}

/// `linux.mountExtensions.idmap.enabled` (OCI runtime-spec `features-linux.md`). A runtime that leaves it
/// out has no support.
fn idmap_of(features: &str) -> Probe<bool> {
    let features: serde_json::Value =
        serde_json::from_str(features).map_err(|error| format!("its features are no JSON: {error}"))?;
    let enabled = features.pointer("/linux/mountExtensions/idmap/enabled");
    Ok(enabled.and_then(serde_json::Value::as_bool).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_prepare::runtime_files::parse;

    fn table(text: &str) -> Table {
        let Content::Toml(table) = parse(text.as_bytes()) else { panic!("no TOML") };
        table
    }

    #[test]
    fn the_programs_of_containerds_handlers_are_found() {
        assert_eq!(of_containerd(&Table::new()), ["runc"]);
        let text = |plugin: &str| {
            let of = format!("plugins.\"{plugin}\".containerd.runtimes");
            format!(
                "[{of}.runc]\nruntime_type = \"io.containerd.runc.v2\"\n[{of}.crun]\nruntime_type = \"io.containerd.runc.v2\"\n\
                 [{of}.crun.options]\nBinaryName = \"/x/crun\"\n[{of}.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"
            )
        };
        for plugin in ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"] {
            assert_eq!(of_containerd(&table(&text(plugin))), ["/x/crun", "runc"], "{plugin}");
        }
    }

    #[test]
    fn the_program_of_the_default_handler_is_found() {
        let of = "plugins.\"io.containerd.cri.v1.runtime\".containerd";
        for (text, want) in [
            (String::new(), "runc"),
            (
                format!(
                    "[{of}]\ndefault_runtime_name = \"kata\"\n[{of}.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"
                ),
                "kata",
            ),
            (format!("[{of}.runtimes.runc.options]\nBinaryName = \"/x/crun\"\n"), "/x/crun"),
            (
                format!(
                    "[{of}]\ndefault_runtime_name = \"fast\"\n[{of}.runtimes.fast]\nruntime_type = \"io.containerd.runc.v2\"\n"
                ),
                "runc",
            ),
        ] {
            assert_eq!(default_of_containerd(&table(&text)), want, "{text}");
        }
    }

    #[test]
    fn support_for_mapped_mounts_is_read_from_the_features() {
        for (text, want) in [
            (r#"{"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#, Ok(true)),
            (r#"{"linux":{"mountExtensions":{"idmap":{"enabled":false}}}}"#, Ok(false)),
            (r#"{"linux":{}}"#, Ok(false)),
        ] {
            assert_eq!(idmap_of(text), want);
        }
        assert!(idmap_of("usage: x").is_err());
    }

    #[test]
    fn a_missing_program_is_reported() {
        let gone = ask_program("/no/such/runc".into());
        assert!(gone.version.is_err() && gone.idmap.is_err());
        let no_runtime = ask_program("/bin/false".into());
        assert!(no_runtime.idmap.is_err());
    }
}
