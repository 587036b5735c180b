//! `kubectl userns demo`: runs systemd in a pod with a user namespace, shows how it looks from both sides, and deletes
//! the pod, also when it is interrupted.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{CONFIG, Cluster, SELECTOR, is_ready, one_per_node};
use crate::args::Output;
use crate::cli::ps;
use crate::cli::terminal::{line, printable};
use crate::cli::{print, tell};
use crate::compose;
use usernsd_domain::lock::lock;

/// How often the pod is looked at until it runs.
const INTERVAL: Duration = Duration::from_secs(1);
/// When the kubelet ends the pod if nobody could delete it, in seconds.
const DEADLINE: u32 = 900;
/// How much later than kubectl's failure its cause, a signal, may be received.
const INTERRUPTION: Duration = Duration::from_millis(100);
/// The exit code after SIGINT or SIGTERM, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;
/// Reasons for which the kubelet waits that do not go away by themselves.
const HOPELESS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// The options of the command.
#[derive(Debug, Clone)]
pub(super) struct Demo {
    /// An image with systemd as its entry point.
    pub image: String,
    /// How long to wait until systemd runs.
    pub limit: Duration,
}

/// A demonstration that goes on.
struct Run {
    cluster: Cluster,
    demo: Demo,
    namespace: String,
    pod: String,
    /// Whether the pod has been deleted, after which it must not be created. Held while it is created: whoever deletes it
    /// waits until the API server has answered.
    deleted: Mutex<bool>,
}

/// Runs the demonstration. Exits 0 if systemd runs, and root in the pod is no user of the node's.
///
/// # Errors
/// A right is missing, there is no agent, or the pod cannot be created.
pub(super) fn run(cluster: Cluster, demo: Demo) -> anyhow::Result<ExitCode> {
    let namespace = match cluster.namespace.last() {
        Some(name) => name.clone(),
        None => cluster.current_namespace()?,
    };
    cluster.may(&namespace)?;
    if one_per_node(cluster.agents(None)?).is_empty() {
        bail!(
            "no agent is in namespace {}: is usernsd installed there? --agent-namespace names another namespace",
            cluster.agents
        );
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let pod = format!("usernsd-demo-{:x}-{:x}", now.as_secs() & 0xff_ffff, std::process::id());
    let run = Arc::new(Run { cluster, demo, namespace, pod, deleted: Mutex::new(false) });
    let steps = async {
        let (ended, end) = oneshot::channel();
        let steps = Arc::clone(&run);
        let started = thread::Builder::new().name("demo".to_owned()).spawn(move || {
            // Nobody listens any more after an interruption.
            let _ = ended.send(steps.show());
        });
        started.context("starting a thread")?;
        end.await.context("the demonstration has ended without a result")?
    };
    let result = compose::runtime()?.block_on(async {
        let mut interruption = pin!(compose::signalled());
        let failed = tokio::select! {
            // First, so that signals are received before anything is created.
            biased;
            signalled = &mut interruption => return signalled.map(|()| ExitCode::from(INTERRUPTED)),
            result = steps => match result {
                Ok(code) => return Ok(code),
                Err(failed) => failed,
            },
        };
        // A terminal interrupts kubectl too, whose failure may be noticed first.
        match timeout(INTERRUPTION, interruption).await {
            Ok(signalled) => signalled.map(|()| ExitCode::from(INTERRUPTED)),
            Err(_) => Err(failed),
        }
    });
    run.delete();
    result
}

impl Cluster {
    /// Checks every right that the demonstration needs, before anything is created.
    fn may(&self, namespace: &str) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for (verb, resource, place) in [
            ("create", "pods", namespace),
            ("get", "pods", namespace),
            ("delete", "pods", namespace),
            ("create", "pods/exec", namespace),
            ("list", "pods", self.agents.as_str()),
            ("create", "pods/exec", self.agents.as_str()),
        ] {
            // It prints yes or no, and exits with 1 for no, but also if there is no answer.
            let answer =
                self.kubectl.call(&["auth", "can-i", verb, resource, "--namespace", place], &tell)?;
            match String::from_utf8_lossy(&answer.stdout).trim() {
                "yes" => {}
                output if output.starts_with("no") => {
                    missing.push(format!("{verb} {resource} in namespace {place}"))
                }
                _ => bail!("kubectl could not ask whether you may {verb} {resource} in namespace {place}"),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "you may not {}; ask an administrator of the cluster for these rights, or name another namespace with \
             --namespace",
            missing.join(", nor ")
        )
    }
}

impl Run {
    /// All steps, each shown as the command that does it.
    fn show(&self) -> anyhow::Result<ExitCode> {
        self.until_agents_are_ready()?;
        self.create()?;
        let started = Instant::now();
        let found = self.until_it_runs(started)?;
        let node = found.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.print(&format!("runs on node {node}"))?;
        let state = self.systemd(started)?;
        self.typed("systemctl is-system-running", &format!("{state}\n"))?;
        let map = self.inside(&["cat", "/proc/self/uid_map"])?;
        self.typed("cat /proc/self/uid_map", &map)?;
        let cgroup = self.inside(&["ls", "-ldn", "/sys/fs/cgroup"])?;
        self.typed("ls -ldn /sys/fs/cgroup", &cgroup)?;

        let agent = self.cluster.agent_on(&node)?;
        let mut containers = self.cluster.containers(&agent)?;
        containers.retain(|one| one.pod.namespace == self.namespace && one.pod.name == self.pod);
        let table = ps::render_containers(&containers, Output::Table, true);
        print(&format!("\n$ kubectl userns ps\n{table}"))?;
        let explained = self.explain(&agent)?;
        let verdict = verdict(&state, &map, explained);
        print(&match &verdict {
            Ok(user) => format!(
                "\nIt works: systemd runs in the pod as root, which is user {user} on the node, in a cgroup of its own.\n"
            ),
            Err(why) => format!("\nIt does not work: {why}.\n"),
        })?;
        Ok(ExitCode::from(u8::from(verdict.is_err())))
    }

    fn print(&self, what: &str) -> anyhow::Result<()> {
        Ok(print(&format!("{}\n", line(&format!("pod {}/{} {what}", self.namespace, self.pod))))?)
    }

    /// Shows a command in the pod with its output.
    fn typed(&self, command: &str, output: &str) -> anyhow::Result<()> {
        Ok(print(&format!("\n$ kubectl exec {} -- {command}\n{}", self.pod, printable(output)))?)
    }

    /// Waits until the agents of all nodes are ready: the pod may get to any. Some nodes may never be.
    fn until_agents_are_ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut last = String::new();
        loop {
            let agents = one_per_node(self.cluster.agents(None)?);
            let ready = agents.iter().filter(|agent| is_ready(agent)).count();
            if ready == agents.len() {
                return Ok(());
            }
            if started.elapsed() > self.demo.limit {
                if ready > 0 {
                    return Ok(());
                }
                bail!(
                    "no agent is ready; kubectl --namespace {} get pods --selector {SELECTOR} lists them",
                    self.cluster.agents
                );
            }
            let now = format!("{ready} of {} agents are ready\n", agents.len());
            if last != now {
                print(&now)?;
                last = now;
            }
            thread::sleep(INTERVAL);
        }
    }

    fn create(&self) -> anyhow::Result<()> {
        let deleted = lock(&self.deleted);
        if *deleted {
            bail!("the demonstration was interrupted");
        }
        let args = ["create", "--filename=-", "--request-timeout=30s"];
        let answer = self.cluster.kubectl.call_with(&args, manifest(self).to_string().as_bytes(), &tell)?;
        if answer.code != 0 {
            bail!(
                "the pod could not be created in namespace {}; another one can be named with --namespace",
                self.namespace
            );
        }
        self.print(&format!("is created, with the image {}", self.demo.image))
    }

    /// Waits until the container runs.
    fn until_it_runs(&self, started: Instant) -> anyhow::Result<Value> {
        let mut last = String::new();
        loop {
            let found: Value = self.cluster.get(&["pod", &self.pod, "--namespace", &self.namespace])?;
            let status = found.pointer("/status/containerStatuses/0/state");
            let of = |path: &str| {
                status.and_then(|status| status.pointer(path)).and_then(Value::as_str).unwrap_or_default()
            };
            if status.is_some_and(|status| status.get("running").is_some()) {
                return Ok(found);
            }
            if let Some(code) = status.and_then(|status| status.pointer("/terminated/exitCode")) {
                self.explain_if_there(&found)?;
                bail!("systemd ended with {code}: see above, and kubectl userns status");
            }
            let reason = of("/waiting/reason");
            if HOPELESS.contains(&reason) {
                let image = if reason.contains("Image") {
                    "; --image names another image that has systemd"
                } else {
                    ""
                };
                self.explain_if_there(&found)?;
                bail!(
                    "the pod does not start: {}{image}",
                    line(&format!("{reason}: {}", of("/waiting/message")))
                );
            }
            let unscheduled =
                found.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
            let unscheduled =
                unscheduled.filter(|one| one.get("reason").is_some_and(|reason| reason == "Unschedulable"));
            let why = unscheduled.filter_map(|one| one.get("message")?.as_str()).next().unwrap_or(reason);
            if started.elapsed() > self.demo.limit {
                self.explain_if_there(&found)?;
                bail!("the pod did not start within {} s: {}", self.demo.limit.as_secs(), line(why));
            }
            if last != why {
                why.clone_into(&mut last);
                self.print(&format!("waits: {why}"))?;
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Waits until systemd has started everything; the state that it is in then.
    fn systemd(&self, started: Instant) -> anyhow::Result<String> {
        loop {
            let output =
                self.inside(&["systemctl", "is-system-running"]).unwrap_or_default().trim().to_owned();
            // Units of an image may fail, as they do outside of a pod.
            if ["running", "degraded"].contains(&output.as_str()) {
                return Ok(output);
            }
            if started.elapsed() > self.demo.limit {
                bail!(
                    "systemd does not run after {} s, but is {:?}; kubectl logs {} has its messages",
                    self.demo.limit.as_secs(),
                    output,
                    self.pod
                );
            }
            // The pod may be gone meanwhile.
            self.until_it_runs(started)?;
            thread::sleep(INTERVAL);
        }
    }

    /// What a program in the pod prints.
    fn inside(&self, words: &[&str]) -> anyhow::Result<String> {
        let exec = ["exec", "--namespace", &self.namespace, &self.pod, "--"];
        let answer = self.cluster.kubectl.call(&[&exec, words].concat(), &|_| ())?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// Prints the explanation by the node's agent; returns whether it contains no problem.
    fn explain(&self, agent: &str) -> anyhow::Result<bool> {
        let target = format!("{}/{}", self.namespace, self.pod);
        let (code, stdout) = self.cluster.exec(agent, &["explain", CONFIG, &target])?;
        print(&format!(
            "\n$ kubectl userns explain {}\n{}",
            self.pod,
            printable(&String::from_utf8_lossy(&stdout))
        ))?;
        Ok(code == 0)
    }

    /// The same for a pod that does not run, if it is on a node with an agent.
    fn explain_if_there(&self, found: &Value) -> anyhow::Result<()> {
        let Some(node) = found.pointer("/spec/nodeName").and_then(Value::as_str) else { return Ok(()) };
        match self.cluster.agent_on(node) {
            Ok(agent) => self.explain(&agent).map(|_| ()),
            Err(error) => {
                tell(&format!("{error:#}"));
                Ok(())
            }
        }
    }

    /// Deletes the pod, if it was created.
    fn delete(&self) {
        let mut deleted = lock(&self.deleted);
        *deleted = true;
        let by_hand =
            || tell(&format!("to delete it: kubectl delete pod --namespace {} {}", self.namespace, self.pod));
        let words = [
            "delete",
            "pod",
            "--namespace",
            &self.namespace,
            &self.pod,
            "--ignore-not-found",
            "--wait=false",
        ];
        match self.cluster.kubectl.call(&words, &tell) {
            Ok(answer) if answer.code == 0 => {
                // Empty for a pod that is not there.
                let output = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
                if !output.is_empty() {
                    tell(&printable(&output));
                }
            }
            _ => by_hand(),
        }
    }
}

/// The manifest of the pod that runs systemd.
fn manifest(run: &Run) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": run.pod,
            "namespace": run.namespace,
            "labels": {"app.kubernetes.io/name": "usernsd-demo"},
            "annotations": {"usernsd.io/systemd": "true"},
        },
        "spec": {
            "hostUsers": false,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "systemd",
                "image": run.demo.image,
                // Without a console systemd logs nothing.
                "tty": true,
                "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            }],
        },
    })
}

/// The user on the node that root in the pod is, or what is wrong.
fn verdict(state: &str, map: &str, explained: bool) -> Result<u32, String> {
    let mut numbers = map.split_whitespace();
    let (Some("0"), Some(Ok(host))) = (numbers.next(), numbers.next().map(str::parse::<u32>)) else {
        return Err(format!("the user namespace of the pod cannot be read: {:?}", map.trim()));
    };
    if host == 0 {
        return Err("the pod has no user namespace of its own: root in it is root on the node".to_owned());
    }
    if !explained {
        return Err(format!(
            "systemd is {state}, but the node's agent has found a problem: see Problems above"
        ));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_needs_a_user_namespace_and_an_agent_without_complaints() {
        assert_eq!(verdict("running", "         0     200000      65536\n", true), Ok(200_000));
        assert!(verdict("running", "0 0 4294967295\n", true).unwrap_err().contains("root on the node"));
        assert!(verdict("running", "0 200000 65536\n", false).unwrap_err().contains("Problems"));
        for map in ["", "1 2 3", "0 x 1"] {
            assert!(verdict("running", map, true).unwrap_err().contains("cannot be read"), "{map}");
        }
    }
}
