//! `kubectl userns`: finds the agent of a node, and runs usernsd in the agent's container by `kubectl exec`.

mod ask;
mod demo;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::ask::Answer;
use super::ps;
use super::status::NodeStatus;
use super::terminal::{cell, line, printable};
use crate::args::kubectl::{KubectlArgs, KubectlCommand};
use crate::args::{Output, OutputForm};
use usernsd_peers::kubectl::Kubectl;
use usernsd_report::state::Container;

/// The label of the agents' pods.
const SELECTOR: &str = "app.kubernetes.io/name=usernsd";
/// Container, program and configuration file in the agents' pods.
const CONTAINER: &str = "agent";
const PROGRAM: &str = "/usernsd";
const CONFIG: &str = "--config=/etc/usernsd/config.yaml";
/// The containers of a node, as a command of usernsd's.
const PS: [&str; 2] = ["ps", "--output=json"];
/// How kubectl reports that a program in a container has ended with another exit code than 0.
const TERMINATED: &str = "command terminated with exit code ";
/// How many nodes without an agent are named.
const NAMED: usize = 10;

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    /// RFC 3339 in UTC, so that the order as texts is the order in time.
    #[serde(default)]
    creation_timestamp: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    affinity: Value,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A row of the table of all nodes.
struct Row {
    agent: Pod,
    /// `None` if the agent does not answer.
    status: Option<NodeStatus>,
}

/// A cluster with agents.
struct Cluster {
    kubectl: Kubectl,
    agents: String,
    /// `--namespace NAME`, or empty.
    namespace: Vec<String>,
}

/// Runs the command. The exit code is that of usernsd on the node.
///
/// # Errors
/// kubectl cannot be run, or there is no agent.
pub fn run(args: KubectlArgs) -> anyhow::Result<ExitCode> {
    let mut flags: Vec<OsString> = Vec::new();
    if let Some(kubeconfig) = &args.kubeconfig {
        flags.extend(["--kubeconfig".into(), kubeconfig.into()]);
    }
    if let Some(context) = &args.context {
        flags.extend(["--context".into(), context.into()]);
    }
    let cluster = Cluster {
        kubectl: Kubectl::new(flags),
        agents: args.agent_namespace,
        namespace: args.namespace.iter().flat_map(|name| ["--namespace".to_owned(), name.clone()]).collect(),
    };
    match args.command {
        KubectlCommand::Status => cluster.status(),
        KubectlCommand::Ps { all_namespaces, output } => cluster.ps(all_namespaces, output),
        KubectlCommand::Explain { pod, container, output } => {
            cluster.explain(&pod, container.as_deref(), output)
        }
        KubectlCommand::Doctor { node } => cluster.run_on_node(&node, &["doctor", CONFIG]),
        KubectlCommand::Map { node } => cluster.run_on_node(&node, &["map"]),
        KubectlCommand::Whois { node, id, uid, gid, output } => {
            let id = id.to_string();
            let mut args = vec!["whois", CONFIG, &id];
            args.extend(uid.then_some("--uid"));
            args.extend(gid.then_some("--gid"));
            args.extend((output == OutputForm::Json).then_some("--output=json"));
            cluster.run_on_node(&node, &args)
        }
        KubectlCommand::Demo { image, timeout } => {
            demo::run(cluster, demo::Demo { image, limit: Duration::from_secs(timeout) })
        }
        KubectlCommand::SupportBundle { node, output, redact } => {
            cluster.support_bundle(&node, &output, redact)
        }
    }
}

impl Cluster {
    fn get<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let args = [&["get", "--output=json"], args].concat();
        let answer = self.kubectl.call(&args, &super::tell)?;
        if answer.code != 0 {
            bail!("kubectl {} failed", args.join(" "));
        }
        serde_json::from_slice(&answer.stdout)
            .with_context(|| format!("reading the answer of kubectl {}", args.join(" ")))
    }

    /// The agents' pods, sorted by node; of one node or of all.
    fn agents(&self, node: Option<&str>) -> anyhow::Result<Vec<Pod>> {
        let field = node.map(|node| format!("--field-selector=spec.nodeName={node}"));
        let mut args = vec!["pods", "--namespace", &self.agents, "--selector", SELECTOR];
        args.extend(field.as_deref());
        let mut found = self.get::<List<Pod>>(&args)?.items;
        for pod in &mut found {
            if pod.spec.node_name.is_empty() {
                pod.spec.node_name = intended_node(&pod.spec.affinity).unwrap_or_default().to_owned();
            }
        }
        found.sort_by(|one, other| one.spec.node_name.cmp(&other.spec.node_name));
        Ok(found)
    }

    fn agent_on(&self, node: &str) -> anyhow::Result<String> {
        let found = one_per_node(self.agents(Some(node))?).into_iter().find(Pod::is_running);
        let found = found.with_context(|| {
            format!(
                "no agent runs on node {node}: no pod with {SELECTOR} in namespace {} there is Running",
                self.agents
            )
        })?;
        Ok(found.metadata.name)
    }

    fn exec(&self, agent: &str, args: &[&str]) -> anyhow::Result<(i32, Vec<u8>)> {
        let words = ["exec", "--namespace", &self.agents, agent, "--container", CONTAINER, "--", PROGRAM];
        let on_line = |line: &str| {
            // The exit code is passed on, and usernsd has printed the reason.
            if !line.starts_with(TERMINATED) {
                super::tell(line);
            }
        };
        let answer = self.kubectl.call(&[&words, args].concat(), &on_line)?;
        Ok((answer.code, answer.stdout))
    }

    /// Runs a command on a node and prints its output.
    fn run_on_node(&self, node: &str, args: &[&str]) -> anyhow::Result<ExitCode> {
        let (code, stdout) = self.exec(&self.agent_on(node)?, args)?;
        // A compromised node may answer with other output than usernsd's, so control characters are escaped.
        super::print(&printable(&String::from_utf8_lossy(&stdout)))?;
        Ok(exit(code))
    }

    fn explain(&self, pod: &str, container: Option<&str>, output: OutputForm) -> anyhow::Result<ExitCode> {
        let namespace: Vec<&str> = self.namespace.iter().map(String::as_str).collect();
        let found: Pod = self.get(&[&["pod", pod], namespace.as_slice()].concat())?;
        if found.spec.node_name.is_empty() {
            bail!("pod {pod} is on no node yet: kubectl describe pod {pod} shows why");
        }
        let target = format!("{}/{}", found.metadata.namespace, found.metadata.name);
        // That the pod is on this node, even if the runtime has no sandbox of it yet.
        let known = format!("--pod-uid={}", found.metadata.uid);
        let mut args = vec!["explain", CONFIG, &known, &target];
        if let Some(container) = container {
            args.extend(["--container", container]);
        }
        if output == OutputForm::Json {
            args.push("--output=json");
        }
        self.run_on_node(&found.spec.node_name, &args)
    }

    fn containers(&self, agent: &str) -> anyhow::Result<Vec<Container>> {
        let (code, stdout) = self.exec(agent, &PS)?;
        if code != 0 {
            bail!("usernsd ps of {agent} failed");
        }
        serde_json::from_slice(&stdout).with_context(|| format!("reading the answer of {agent}"))
    }

    fn ps(&self, all_namespaces: bool, output: Output) -> anyhow::Result<ExitCode> {
        let wanted = match (all_namespaces, self.namespace.last()) {
            (true, _) => None,
            (false, Some(name)) => Some(name.clone()),
            (false, None) => Some(self.current_namespace()?),
        };
        let mut all = Vec::new();
        let mut failed = false;
        let agents = one_per_node(self.agents(None)?);
        for (agent, answer) in agents.iter().zip(self.ask(&agents, &PS)?) {
            // If one node fails, the others are still listed.
            match read::<Vec<Container>>(agent, answer) {
                Some(containers) => all.extend(containers),
                None => failed = true,
            }
            if !agent.is_running() {
                super::tell(&format!("node {}: no agent runs there", agent.spec.node_name));
            }
        }
        all.retain(|container| wanted.as_ref().is_none_or(|name| container.pod.namespace == *name));
        super::print(&ps::render_containers(&all, output, true))?;
        Ok(exit(if failed { 2 } else { 0 }))
    }

    /// The namespace that kubectl itself would use.
    fn current_namespace(&self) -> anyhow::Result<String> {
        let args = ["config", "view", "--minify", "--output=jsonpath={..namespace}"];
        let answer = self.kubectl.call(&args, &super::tell)?;
        let name = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        Ok(if name.is_empty() { "default".to_owned() } else { name })
    }

    fn status(&self) -> anyhow::Result<ExitCode> {
        let agents = self.agents(None)?;
        if agents.is_empty() {
            bail!(
                "no pod with {SELECTOR} is in namespace {}: is usernsd installed there? --agent-namespace names another namespace",
                self.agents
            );
        }
        let agents = one_per_node(agents);
        let (answers, nodes) = thread::scope(|scope| {
            let nodes = scope.spawn(|| self.nodes());
            // It exits 1 if there are problems.
            let answers = self.ask(&agents, &["status", "--output=json"]);
            (answers, nodes.join().unwrap_or_default())
        });
        let answers = answers?;
        let without = without_agent(&nodes, &agents);
        let rows = agents.into_iter().zip(answers);
        let rows: Vec<Row> =
            rows.map(|(agent, answer)| Row { status: read(&agent, answer), agent }).collect();
        let bad = rows.iter().any(Row::needs_attention);
        super::print(&table(rows))?;
        if let Some(without) = without {
            super::tell(&format!(
                "nodes without an agent: {without}; kubectl --namespace {} describe daemonset usernsd shows which nodes \
                 it is for",
                self.agents
            ));
        }
        Ok(exit(i32::from(bad)))
    }

    /// The names of all nodes; none without the right to list them.
    fn nodes(&self) -> Vec<String> {
        let args = ["get", "nodes", "--output=jsonpath={.items[*].metadata.name}"];
        let answer = self.kubectl.call(&args, &|_| ());
        let names = answer.map(|answer| answer.stdout).unwrap_or_default();
        String::from_utf8_lossy(&names).split_whitespace().map(str::to_owned).collect()
    }

    fn support_bundle(&self, node: &str, output: &Path, redact: bool) -> anyhow::Result<ExitCode> {
        let mut args = vec!["support-bundle", CONFIG, "--output=-"];
        if redact {
            args.push("--redact");
        }
        let agent = self.agent_on(node)?;
        let doing = || format!("writing {}", output.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(output).with_context(doing)?;
        let (code, stdout) = self.exec(&agent, &args)?;
        file.write_all(&stdout).with_context(doing)?;
        Ok(exit(code))
    }
}

impl Pod {
    fn is_running(&self) -> bool {
        self.status.phase == "Running"
    }
}

impl Row {
    fn needs_attention(&self) -> bool {
        self.status.as_ref().is_none_or(|status| !status.problems.is_empty())
    }

    /// Sorts what needs attention first: agents that do not answer, then by errors, then by warnings.
    fn urgency(&self) -> (bool, usize, usize) {
        let Some(status) = &self.status else { return (true, 0, 0) };
        let errors = status.problems.iter().filter(|problem| problem.severity == "error").count();
        (false, errors, status.problems.len() - errors)
    }

    fn render(&self) -> String {
        let Pod { metadata, spec, status: Status { phase, .. } } = &self.agent;
        let [node, name, phase] = [&spec.node_name, &metadata.name, phase].map(|text| cell(text));
        let (containers, problems, worst) = match &self.status {
            Some(status) => {
                let worst = status.problems.first().map(|problem| line(&problem.what)).unwrap_or_default();
                (status.containers.to_string(), status.problems.len().to_string(), worst)
            }
            None => ("-".to_owned(), "-".to_owned(), "the agent does not answer".to_owned()),
        };
        let row = format!("{node:<30} {name:<16} {phase:<10} {containers:<12}{problems:<10}{worst}");
        row.trim_end().to_owned() + "\n"
    }
}

/// The table of all nodes, those that need attention first.
fn table(mut rows: Vec<Row>) -> String {
    rows.sort_by(|one, other| {
        let key = |row: &Row| Reverse(row.urgency());
        let node = |row: &Row| row.agent.spec.node_name.clone();
        key(one).cmp(&key(other)).then_with(|| node(one).cmp(&node(other)))
    });
    let heading = format!(
        "{:<30} {:<16} {:<10} {:<12}{:<10}{}\n",
        "NODE", "AGENT", "PHASE", "CONTAINERS", "PROBLEMS", "WORST"
    );
    std::iter::once(heading).chain(rows.iter().map(Row::render)).collect()
}

/// The nodes on which there is no agent, the first of them by name; `None` if there are none.
fn without_agent(nodes: &[String], agents: &[Pod]) -> Option<String> {
    let with: BTreeSet<&str> = agents.iter().map(|agent| agent.spec.node_name.as_str()).collect();
    let without: Vec<String> =
        nodes.iter().filter(|node| !with.contains(node.as_str())).map(|node| line(node)).collect();
    let named = without.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match without.len() {
        0 => None,
        1..=NAMED => Some(named),
        count => Some(format!("{named} and {} more", count - NAMED)),
    }
}

/// Parses an agent's answer; reports to the user if that fails.
fn read<T: DeserializeOwned>(agent: &Pod, answer: Answer) -> Option<T> {
    let (_, stdout) = answer?;
    match serde_json::from_slice(&stdout) {
        Ok(read) => Some(read),
        Err(error) => {
            super::tell(&format!("node {}: its answer cannot be read: {error}", agent.spec.node_name));
            None
        }
    }
}

/// The node for which a DaemonSet made a pod that is not scheduled yet.
fn intended_node(affinity: &Value) -> Option<&str> {
    let terms = affinity
        .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")?
        .as_array()?;
    let field = terms.iter().filter_map(|term| term.pointer("/matchFields/0"));
    let named = field.filter(|field| field.get("key").is_some_and(|key| key == "metadata.name"));
    named.filter_map(|field| field.pointer("/values/0")?.as_str()).next()
}

/// One agent for each node. During an update a node has two with the same containers: the newer one is taken
/// once it is ready.
fn one_per_node(agents: Vec<Pod>) -> Vec<Pod> {
    let rank =
        |pod: &Pod| (pod.status.phase == "Running", is_ready(pod), pod.metadata.creation_timestamp.clone());
    let mut best: BTreeMap<String, Pod> = BTreeMap::new();
    for agent in agents {
        let node = agent.spec.node_name.clone();
        if best.get(&node).is_none_or(|known| rank(known) < rank(&agent)) {
            best.insert(node, agent);
        }
    }
    best.into_values().collect()
}

fn is_ready(pod: &Pod) -> bool {
    pod.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_two_agents_on_a_node_the_newer_ready_one_is_asked() {
        let pod = |name: &str, node: &str, created: &str, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": created}, "spec": {"nodeName": node},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let (early, late) = ("2026-11-28T10:00:00Z", "2026-11-28T11:00:00Z");
        let chosen = |ready: &str| -> Vec<String> {
            let agents = vec![
                pod("new", "a", late, ready),
                pod("old", "a", early, "True"),
                pod("other", "b", early, "False"),
            ];
            one_per_node(agents).into_iter().map(|pod| pod.metadata.name).collect()
        };
        assert_eq!(chosen("False"), ["old", "other"]);
        assert_eq!(chosen("True"), ["new", "other"]);
    }

    fn row(node: &str, phase: &str, problems: Option<&[&str]>) -> Row {
        let agent = serde_json::from_value(json!({
            "metadata": {"name": format!("usernsd-{node}")}, "spec": {"nodeName": node},
            "status": {"phase": phase},
        }))
        .unwrap();
        let status = problems.map(|severities| {
            let problems: Vec<_> = severities
                .iter()
                .map(|severity| json!({"severity": severity, "what": format!("of {node}"), "details": ""}))
                .collect();
            serde_json::from_value(json!({"node": node, "containers": 3, "problems": problems})).unwrap()
        });
        Row { agent, status }
    }

    #[test]
    fn nodes_that_need_attention_are_first_in_the_table() {
        let rows = vec![
            row("a", "Running", Some(&[])),
            row("b", "Running", Some(&["warning", "warning"])),
            row("c", "Running", Some(&["error"])),
            row("d", "Running", None),
            row("e", "Running", Some(&["error", "error"])),
            row("f", "Pending", None),
            row("g", "Running", Some(&["error", "warning"])),
            row("0", "Running", Some(&[])),
        ];
        let table = table(rows);
        let order: Vec<&str> = table.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(order, ["d", "f", "e", "g", "c", "b", "0", "a"], "{table}");
        let of = |node: &str| table.lines().find(|line| line.starts_with(node)).unwrap();
        assert!(of("c").ends_with("of c") && of("d").ends_with("the agent does not answer"), "{table}");
    }

    #[test]
    fn the_first_nodes_without_an_agent_are_named() {
        let agents = [row("b", "Running", Some(&[])).agent, row("d", "Pending", None).agent];
        let nodes = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(without_agent(&nodes(&["b", "d"]), &agents), None);
        assert_eq!(without_agent(&[], &agents), None, "the user may not list nodes");
        assert_eq!(without_agent(&nodes(&["a", "b", "c\u{1b}"]), &agents).unwrap(), "a, c\\u{1b}");
        let many: Vec<String> = (10..30).map(|node| format!("n{node}")).collect();
        assert!(without_agent(&many, &agents).unwrap().ends_with("n18, n19 and 10 more"));
    }

    #[test]
    fn a_pod_that_is_not_scheduled_has_the_node_of_its_affinity() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n7"]},
            ]}],
        }}});
        assert_eq!(intended_node(&affinity), Some("n7"));
        assert_eq!(intended_node(&Value::Null), None);
    }
}
