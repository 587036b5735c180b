//! `usernsd status`: how many problems this node has, and which.

use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::terminal::{self, Terminal};
use super::{map, ps};
use crate::args::OutputForm;
use usernsd_domain::assessment::Tone;
use usernsd_report::state::{State, read_state};
use usernsd_report::verdict::NodeVerdict;

/// The output of `usernsd status -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Number of running containers.
    pub containers: usize,
    /// Problems that need an action, the worst first.
    pub problems: Vec<StatusProblem>,
}

/// One problem of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusProblem {
    /// `error` or `warning`.
    pub severity: String,
    /// The problem, one sentence without a full stop.
    pub what: String,
    /// Where it is, or what to do; may be empty.
    pub details: String,
}

/// Reads the agent's state and prints the node's problems. Exits 1 if it has any.
///
/// # Errors
/// Nobody answers on the socket, or stdout is closed.
pub fn run(socket: &Path, output: OutputForm) -> anyhow::Result<ExitCode> {
    let state = read_state(socket)?;
    let status = NodeStatus::of(&state);
    super::print(&match output {
        OutputForm::Table => render(&state, Terminal::of_stdout(false)),
        // Strings and numbers can always be represented in JSON.
        OutputForm::Json => terminal::json(&status),
    })?;
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Renders the problems of a state document as text.
#[must_use]
pub fn render(state: &State, terminal: Terminal) -> String {
    format!("{}{}\n", map::verdict(state, terminal), ps::containers(state))
}

// === impl NodeStatus ===

impl NodeStatus {
    /// The status of a node by its state document.
    #[must_use]
    pub fn of(state: &State) -> NodeStatus {
        let problems = NodeVerdict::of(state).problems.into_iter().map(|problem| StatusProblem {
            severity: match problem.tone {
                Tone::Bad => "error",
                Tone::Good | Tone::Warning => "warning",
            }
            .to_owned(),
            what: problem.what,
            details: problem.where_,
        });
        NodeStatus {
            node: state.node.name.clone(),
            containers: state.containers.len(),
            problems: problems.collect(),
        }
    }
}
