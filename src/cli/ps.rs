//! `usernsd ps`: lists the containers of this node.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use unicode_width::UnicodeWidthStr;

use super::terminal::{cell, json};
pub use crate::args::Output;
use usernsd_domain::container::CgroupMount;
use usernsd_domain::delegation::Skip;
use usernsd_domain::node::{PeerState, StartPath};
use usernsd_domain::record::{CgroupState, OutcomeName};
use usernsd_report::state::{Container, Mapping, Named, State, read_state};
use usernsd_report::verdict::{Assessment, NodeVerdict, assess, in_place};

/// A column: its heading, and the function that renders its cells.
type Column = (&'static str, fn(&Container) -> String);

const COLUMNS: [Column; 8] = [
    ("NAMESPACE", |container| or_dash(&container.pod.namespace)),
    ("POD", |container| or_dash(&container.pod.name)),
    ("CONTAINER", |container| or_dash(&container.name)),
    ("ID", |container| container.id.chars().take(13).collect()),
    ("HOST-UIDS", host_uids),
    ("CGROUP-OWNER", |container| number(container.cgroup.owner)),
    ("MOUNT", mount),
    ("STATE", verdict),
];

const WIDE: [Column; 8] = [
    ("PID", |container| number(container.pid)),
    ("SOURCE", |container| or_dash(container.source.as_str())),
    ("OUTCOME", |container| or_dash(container.outcome.as_str())),
    ("DESCENDANTS", |container| number(container.cgroup.limits.as_ref().map(|limits| limits.descendants))),
    ("DEPTH", |container| number(container.cgroup.limits.as_ref().map(|limits| limits.depth))),
    ("INODE", |container| number(container.cgroup.inode)),
    ("UNIT", |container| or_dash(container.cgroup.unit.as_deref().unwrap_or_default())),
    ("CGROUP", |container| or_dash(container.cgroup.path.as_deref().unwrap_or_default())),
];

/// Reads the agent's state and prints it. Problems in the list do not change the exit code.
///
/// # Errors
/// Nobody answers on the socket, or stdout is closed.
pub fn run(socket: &Path, output: Output, headers: bool) -> anyhow::Result<ExitCode> {
    let state = read_state(socket)?;
    super::print(&render(&state, output, headers))?;
    if headers && output != Output::Json {
        super::tell(&summary(&state));
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks whether the agent is ready: exits 0 if it is, otherwise 1 after printing what it waits for.
///
/// # Errors
/// Nobody answers on the socket.
pub fn ready(socket: &Path) -> anyhow::Result<ExitCode> {
    match in_place(&read_state(socket)?, SystemTime::now()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(waits) => {
            super::tell(waits);
            Ok(ExitCode::from(1))
        }
    }
}

/// Renders the containers of a state document as text.
#[must_use]
pub fn render(state: &State, output: Output, headers: bool) -> String {
    render_containers(&state.containers, output, headers)
}

/// Renders any containers.
pub(super) fn render_containers(containers: &[Container], output: Output, headers: bool) -> String {
    // Sorted by name for people; the document is sorted by ID.
    let mut containers: Vec<&Container> = containers.iter().collect();
    containers.sort_by_key(|container| {
        (&container.pod.namespace, &container.pod.name, &container.name, &container.id)
    });
    match output {
        Output::Table => table(&COLUMNS, &containers, headers),
        Output::Wide => {
            let columns: Vec<Column> = COLUMNS.into_iter().chain(WIDE).collect();
            table(&columns, &containers, headers)
        }
        Output::Json => json(&containers),
    }
}

/// A summary of the node in one line: its containers, and how many problems `usernsd status` lists.
#[must_use]
pub fn summary(state: &State) -> String {
    let problems = match NodeVerdict::of(state).problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    let listed = if problems.starts_with("no") { "" } else { " (usernsd status)" };
    // The agent usually joins; on a runtime without NRI, no call is expected.
    let called = match state.peers.start_path.known() {
        Some(StartPath::LaunchedPlugin) => "; the launched plugin is called before containers start",
        Some(StartPath::Nobody) if !state.peers.nri.state.is(PeerState::Off) => {
            "; nobody is called before containers start"
        }
        _ => "",
    };
    format!("{}; {problems} on this node{listed}{called}", containers(state))
}

/// How many containers there are: `2 containers, 1 in user namespaces`.
pub(super) fn containers(state: &State) -> String {
    let all = state.containers.len();
    let mapped = state.containers.iter().filter(|container| has_own_user_namespace(container)).count();
    let plural = if all == 1 { "container" } else { "containers" };
    format!("{all} {plural}, {mapped} in user namespaces")
}

fn has_own_user_namespace(container: &Container) -> bool {
    !is_in_hosts(container) && container.uid_map.is_some()
}

/// Whether the container has no user namespace of its own. One whose root is the host's root counts as such
/// in metrics, but does have one.
fn is_in_hosts(container: &Container) -> bool {
    container.state.is(CgroupState::HostUserNamespace)
        && !container.outcome.is(OutcomeName::Skipped(Skip::RootIsHostRoot))
}

fn host_uids(container: &Container) -> String {
    if is_in_hosts(container) {
        return "host".to_owned();
    }
    let range = |extent: &Mapping| {
        let last = u64::from(extent.host_id) + u64::from(extent.length.saturating_sub(1));
        format!("{}-{last}", extent.host_id)
    };
    match container.uid_map.as_deref() {
        None | Some([]) => "-".to_owned(),
        Some([only]) => range(only),
        Some([first, rest @ ..]) => format!("{},+{}", range(first), rest.len()),
    }
}

fn mount(container: &Container) -> String {
    match &container.mount {
        Some(Named::Known(CgroupMount::ReadWrite)) => "rw".to_owned(),
        Some(Named::Known(CgroupMount::ReadOnly)) => "ro".to_owned(),
        Some(Named::Known(CgroupMount::Absent)) | None => "-".to_owned(),
        Some(Named::Unknown(other)) => other.clone(),
    }
}

/// The worst known problem as one word.
fn verdict(container: &Container) -> String {
    match (assess(container), &container.state) {
        (Assessment::Unknown, Named::Unknown(later)) => or_dash(&later.replace('_', "-")),
        (assessment, _) => assessment.name().to_owned(),
    }
}

fn number(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn table(columns: &[Column], containers: &[&Container], headers: bool) -> String {
    let heading = headers.then(|| columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    let rows =
        containers.iter().map(|container| columns.iter().map(|(_, of)| cell(&of(container))).collect());
    let rows: Vec<Vec<String>> = heading.into_iter().chain(rows).collect();

    let mut widths = vec![0; columns.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            // Three spaces between columns, like kubectl.
            line.push_str(&" ".repeat(width - cell.width() + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ids_are_printed_as_ranges() {
        let extent = |host_id, length| Mapping { container_id: 0, host_id, length };
        for (map, want) in [
            (None, "-"),
            (Some(vec![]), "-"),
            (Some(vec![extent(200_000, 65_536)]), "200000-265535"),
            (Some(vec![extent(1, 1), extent(5, 5), extent(50, 5)]), "1-1,+2"),
            (Some(vec![extent(u32::MAX, u32::MAX)]), "4294967295-8589934589"),
            (Some(vec![extent(7, 0)]), "7-7"),
        ] {
            let text = serde_json::json!({
                "id": "a", "sandboxId": "", "name": "", "pod": {"namespace": "", "name": "", "uid": ""},
                "cgroup": {}, "state": "ok", "outcome": "", "source": "", "isolation": "good"
            });
            let mut container: Container = serde_json::from_value(text).unwrap();
            container.uid_map = map;
            assert_eq!(host_uids(&container), want);
        }
    }

    #[test]
    fn a_container_with_the_hosts_root_differs_from_one_in_the_hosts_namespace() {
        let of = |outcome: &str| -> Container {
            serde_json::from_value(serde_json::json!({
                "id": "a", "sandboxId": "", "name": "", "pod": {"namespace": "", "name": "", "uid": ""},
                "uidMap": [{"containerId": 0, "hostId": 0, "length": 65536}],
                "cgroup": {}, "state": "host_user_namespace", "outcome": outcome, "source": "", "isolation": "good"
            }))
            .unwrap()
        };
        let output_of = |one: &Container| {
            (host_uids(one), verdict(one), assess(one).is_problem(), has_own_user_namespace(one))
        };
        assert_eq!(output_of(&of("host_user_namespace")), ("host".into(), "host".into(), false, false));
        assert_eq!(output_of(&of("root_is_host_root")), ("0-65535".into(), "host-root".into(), true, true));
    }
}
