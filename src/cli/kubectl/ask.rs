//! The same question to the agents of many nodes: through one `kubectl proxy`, and by `kubectl exec` if a websocket is
//! refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::timeout;

use super::{CONTAINER, Cluster, PROGRAM, Pod};
use crate::cli::tell;
use crate::cli::terminal::line;
use crate::compose;
use usernsd_domain::chain::chain;
use usernsd_peers::kube::{Exec, KubeError};

/// How many agents are asked at a time. Each takes a connection of kubectl's, and two of the API server's.
const ASKED_AT_ONCE: usize = 128;
/// How many kubectls run at a time, with some 50 MB each.
const KUBECTLS_AT_ONCE: usize = 16;
/// Time limit for an agent's answer; longer than the one for reading the agent's state on its node.
const PATIENCE: Duration = Duration::from_secs(20);

/// The exit code and the standard output of usernsd on a node; `None` if it was not run. Unless the agent does not run,
/// the reason has been printed.
pub(super) type Answer = Option<(i32, Vec<u8>)>;

impl Cluster {
    /// Runs a command of usernsd's on the node of each agent that runs. The answers are in the agents' order.
    ///
    /// # Errors
    /// kubectl cannot be run, or no program may be run in any of the pods.
    pub(super) fn ask(&self, agents: &[Pod], args: &[&str]) -> anyhow::Result<Vec<Answer>> {
        let running: Vec<&Pod> = agents.iter().filter(|agent| agent.is_running()).collect();
        let mut answers = if running.is_empty() { Vec::new() } else { self.ask_running(&running, args)? };
        answers.reverse();
        let answer = |agent: &Pod| if agent.is_running() { answers.pop().flatten() } else { None };
        Ok(agents.iter().map(answer).collect())
    }

    fn ask_running(&self, agents: &[&Pod], args: &[&str]) -> anyhow::Result<Vec<Answer>> {
        let paths = format!("^/api/v1/namespaces/{}/pods/[^/]+/exec$", self.agents);
        let proxy = self.kubectl.proxy(&paths, tell)?;
        let command = [&[PROGRAM], args].concat();
        let asked = compose::runtime()?.block_on(async {
            let exec = Exec::through(proxy.socket(), &self.agents, CONTAINER);
            let asked = stream::iter(agents);
            let asked = asked.map(|agent| timeout(PATIENCE, exec.run(&agent.metadata.name, &command)));
            asked.buffered(ASKED_AT_ONCE).collect::<Vec<_>>().await
        });
        drop(proxy);

        let mut answers = Vec::with_capacity(agents.len());
        let mut refused = Vec::new();
        for (index, (agent, answer)) in agents.iter().zip(asked).enumerate() {
            let failed = |why: &str| {
                tell(&format!("node {}: {}", line(&agent.spec.node_name), line(why)));
                None
            };
            answers.push(match answer {
                Ok(Ok(ended)) => {
                    if ended.code != 0 && ended.stdout.is_empty() {
                        failed(String::from_utf8_lossy(&ended.stderr).trim_end())
                    } else {
                        Some((ended.code, ended.stdout))
                    }
                }
                // A websocket takes the right to get pods/exec, which other ways of kubectl's do not; and there are
                // proxies that let none pass.
                Ok(Err(KubeError::Forbidden(_) | KubeError::Refused { .. })) => {
                    refused.push(index);
                    None
                }
                Ok(Err(error)) => failed(&chain(&error)),
                Err(_) => failed(&format!("no answer within {} s", PATIENCE.as_secs())),
            });
        }
        self.ask_by_kubectl(agents, args, &refused, &mut answers)?;
        Ok(answers)
    }

    /// Asks these agents with a kubectl each. If the first may not be asked either, the others are not tried.
    fn ask_by_kubectl(
        &self,
        agents: &[&Pod],
        args: &[&str],
        refused: &[usize],
        answers: &mut [Answer],
    ) -> anyhow::Result<()> {
        let ask = |index: &usize| -> Answer {
            let (code, stdout) = self.exec(&agents.get(*index)?.metadata.name, args).ok()?;
            (code == 0 || !stdout.is_empty()).then_some((code, stdout))
        };
        let Some((first, others)) = refused.split_first() else { return Ok(()) };
        let found = ask(first);
        if found.is_none() {
            if refused.len() == agents.len() {
                bail!(
                    "no program can be run in the agents' pods; it takes the rights to get and create pods/exec in \
                     namespace {}",
                    self.agents
                );
            }
            let nodes = refused.iter().filter_map(|index| Some(agents.get(*index)?.spec.node_name.as_str()));
            tell(&format!("not asked: {}", line(&nodes.collect::<Vec<_>>().join(", "))));
            return Ok(());
        }
        let found = std::iter::once(found).chain(each(others, ask));
        for (index, answer) in refused.iter().zip(found) {
            if let Some(place) = answers.get_mut(*index) {
                *place = answer;
            }
        }
        Ok(())
    }
}

/// Calls `ask` for each item, several at a time; the answers are in the items' order.
fn each<I: Sync, T: Send>(items: &[I], ask: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut answers = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return answers };
            answers.push((index, ask(item)));
        }
    };
    let mut answers: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..KUBECTLS_AT_ONCE.min(items.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_in_the_order_of_the_questions() {
        let items: Vec<usize> = (0..50).collect();
        assert_eq!(each(&items, |item| *item), items);
    }
}
