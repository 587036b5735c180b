//! `usernsd explain`: everything about one container.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;

use super::from_log;
use super::terminal::{Terminal, json, line};
use crate::args::{ExplainArgs, OutputForm};
use crate::compose;
use usernsd_config::Settings;
use usernsd_inspect::explain::{
    Cgroup, DirectoryOwner, ExplainNode, ExplainTarget, Explanation, Extent, Namespace, ProcessRow, Volume,
    explain,
};
use usernsd_linux::privilege;
use usernsd_peers::cri;

/// The longest command line that is shown, in characters.
const MAX_COMMAND: usize = 100;
/// Width of the left column.
const LEFT: usize = 11;

/// Marks for people: never by colour alone, and as words if the terminal supports only ASCII.
struct Marks {
    good: &'static str,
    bad: &'static str,
    note: &'static str,
}

/// Examines containers and prints the result. Exits 1 if something is wrong with one.
///
/// # Errors
/// The node could not be examined, or stdout is closed.
pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    if let Some(line) = &args.from_log {
        return from_log::run(line, args.output);
    }
    if !privilege::is_root() {
        bail!("explain looks into other users' processes; become root (sudo usernsd explain …)");
    }
    let (file, overrides) = args.node.into_parts();
    let node = node(Settings::load(file.as_deref(), overrides)?);
    let runtime = compose::runtime()?;
    let target = args.target.unwrap_or_default();
    let target = ExplainTarget {
        name: &target,
        container: args.container.as_deref(),
        pod_uid: args.pod_uid.as_deref().filter(|uid| !uid.is_empty()),
    };
    let all = runtime.block_on(explain(&node, target))?;
    let text = match args.output {
        OutputForm::Json => json(&all),
        OutputForm::Table => {
            let marks = Marks::of(Terminal::of_stdout(true));
            all.iter().map(|one| render(one, &marks)).collect::<Vec<_>>().join("\n")
        }
    };
    super::print(&text)?;
    let bad = all.iter().any(|one| !one.problems.is_empty());
    Ok(ExitCode::from(u8::from(bad)))
}

pub(super) fn node(settings: Settings) -> ExplainNode {
    ExplainNode {
        endpoints: cri::sockets(&settings.host_root, &settings.runtime.endpoints),
        host_root: settings.host_root,
        bus: settings.systemd.map(|systemd| systemd.bus_socket),
        state_socket: settings.state_socket.path,
        rules: settings.rules,
        limits: settings.limits,
        adjust: settings.adjust,
    }
}

// === impl Marks ===

impl Marks {
    fn of(terminal: Terminal) -> Marks {
        if terminal.unicode {
            Marks { good: "√", bad: "×", note: "‼" }
        } else {
            Marks { good: "ok", bad: "WRONG", note: "NOTE" }
        }
    }
}

/// One container as text.
fn render(one: &Explanation, marks: &Marks) -> String {
    let mut page = Page { text: String::new() };
    let container = &one.container;
    let state = match (container.exit_code, container.pid) {
        (Some(code), _) => format!("{}, code {code}", container.state),
        (None, Some(pid)) => format!("{}, process {pid}", container.state),
        (None, None) => container.state.to_owned(),
    };
    let id: String = container.id.chars().take(13).collect();
    page.line(
        "Container",
        [format!("{}/{} {}", container.namespace, container.pod, container.name), id, state]
            .iter()
            .map(|part| part.trim_end())
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("   "),
    );
    asked(&mut page, one);
    if let Some(got) = &one.got {
        if let Some(namespace) = &got.user_namespace {
            let whose = if namespace.host { "the host's" } else { "its own" };
            page.line("User ns", format!("{}, {whose}", namespace.inode));
        }
        page.sub("inside", "host                     count");
        for (kind, map) in [("uid", &got.uid_map), ("gid", &got.gid_map)] {
            for part in map {
                extent(&mut page, kind, part);
            }
        }
        if let Some(found) = &got.cgroup {
            cgroup(&mut page, found, one.owner_is_right, marks);
        }
        let name = |namespace: &Namespace| format!("{} {}", namespace.kind, namespace.inode);
        let (hosts, own): (Vec<_>, Vec<_>) = got.namespaces.iter().partition(|namespace| namespace.host);
        page.line("Namespaces", format!("own: {}", list(own.into_iter().map(name))));
        page.more(format!(
            "the host's: {}",
            list(hosts.into_iter().map(|namespace| namespace.kind.to_owned()))
        ));
        processes(&mut page, &got.processes, got.more_processes);
        let security = &got.security;
        page.line("Can", format!("{} (bounding set: {})", few(&security.effective), few(&security.bounding)));
        page.more(format!(
            "no new privileges: {}, seccomp: {}, label: {}",
            yes(security.no_new_privileges),
            security.seccomp,
            security.label.as_deref().unwrap_or("none"),
        ));
        for (index, sysctl) in got.sysctls.iter().enumerate() {
            let meaning =
                sysctl.meaning.as_ref().map(|meaning| format!("   ({meaning})")).unwrap_or_default();
            page.line(
                if index == 0 { "Sysctls" } else { "" },
                format!("{} = {}{meaning}", sysctl.name, sysctl.value),
            );
        }
        volumes(&mut page, &got.volumes, marks);
    }
    for text in &one.unseen {
        page.line("Unseen", text.clone());
    }
    for (index, problem) in one.problems.iter().enumerate() {
        page.line(if index == 0 { "Problems" } else { "" }, format!("{} {problem}", marks.bad));
    }
    for message in &one.messages {
        page.line("In its log", message.line.clone());
    }
    for (index, because) in one.because.iter().enumerate() {
        page.line(if index == 0 { "Why" } else { "" }, because.clone());
    }
    for (index, next) in one.next.iter().enumerate() {
        page.line(if index == 0 { "Next" } else { "" }, next.clone());
    }
    page.text
}

fn asked(page: &mut Page, one: &Explanation) {
    let Some(asked) = &one.asked else { return };
    let userns = match asked.user_namespace {
        Some("own") => "a user namespace of its own",
        Some(_) => "the host's user namespace",
        None => "no user namespace, according to the runtime",
    };
    let handler = if asked.runtime_handler.is_empty() { "default" } else { asked.runtime_handler.as_str() };
    page.line("Asked for", format!("{userns}, runtime handler: {handler}"));
    let annotation = |(key, value): &(String, String)| format!("{key}={value}");
    if !asked.annotations.is_empty() {
        // With only one annotation, precedence is not mentioned.
        let decided = asked.decided_by.as_ref().filter(|_| asked.annotations.len() > 1);
        let decided = decided.map(|key| format!("; {key} decides")).unwrap_or_default();
        page.more(format!("annotations: {}{decided}", list(asked.annotations.iter().map(annotation))));
    }
    let (security, number) =
        (&asked.security, |id: Option<u32>| id.map_or("-".to_owned(), |id| id.to_string()));
    page.more(format!(
        "user {}:{}, privileged: {}, read-only root: {}, no new privileges: {}, seccomp: {}, label: {}",
        number(security.user),
        number(security.group),
        asked.privileged.map_or("unknown", yes),
        yes(security.read_only_root),
        yes(security.no_new_privileges),
        if security.seccomp { "filter" } else { "none" },
        security.label.as_deref().unwrap_or("none"),
    ));
    page.more(format!("capabilities: {}", few(&security.capabilities)));
}

fn extent(page: &mut Page, kind: &str, part: &Extent) {
    let range =
        |first: u32| format!("{first}-{}", u64::from(first) + u64::from(part.length.saturating_sub(1)));
    let pool = part.pool.as_ref().map(|pool| format!("   {pool}")).unwrap_or_default();
    let (inside, outside) = (range(part.container_id), range(part.host_id));
    page.sub(&format!("{kind} {inside}"), &format!("{outside:<24} {}{pool}", part.length));
}

fn cgroup(page: &mut Page, found: &Cgroup, owner_is_right: Option<bool>, marks: &Marks) {
    page.line("Cgroup", found.path.clone());
    let delegate = found.delegate.map(|delegate| format!(", Delegate={}", yes(delegate))).unwrap_or_default();
    if let Some(unit) = &found.unit {
        page.sub("unit", &format!("{unit}{delegate}"));
    }
    page.sub("mount", found.mount.unwrap_or("unknown"));
    let owner = |place: &DirectoryOwner| {
        let inside = place.owner_inside.map_or("nobody".to_owned(), |id| format!("user {id}"));
        format!("inode {}, owner {} ({inside} inside)", place.inode, place.owner)
    };
    let mark = owner_is_right
        .map_or(String::new(), |is_right| format!("   {}", if is_right { marks.good } else { marks.bad }));
    if let Some(place) = &found.outside {
        page.sub("outside", &format!("{}{mark}", owner(place)));
    }
    if let Some(place) = &found.inside {
        let same = found.outside.as_ref().is_some_and(|outside| outside.inode == place.inode);
        let word = if same { "the same one" } else { "another one" };
        page.sub("inside", &format!("{}   {word}", owner(place)));
    }
    let mut owners: Vec<(u32, Vec<&str>)> = Vec::new();
    for file in &found.files {
        match owners.iter_mut().find(|(owner, _)| *owner == file.owner) {
            Some((_, names)) => names.push(&file.name),
            None => owners.push((file.owner, vec![&file.name])),
        }
    }
    for (owner, names) in owners {
        page.sub("files", &format!("owner {owner}: {}", names.join(", ")));
    }
    let number = |limit: Option<u32>| limit.map_or("max".to_owned(), |limit| limit.to_string());
    let used = |used: Option<u64>| used.map(|used| format!(" ({used} used)")).unwrap_or_default();
    if let Some(limits) = &found.own_limits {
        page.sub(
            "own limit",
            &format!("max.descendants {}{}", number(limits.max_descendants), used(limits.descendants)),
        );
    }
    if let Some(limits) = &found.limits {
        let used = used(limits.descendants);
        let (descendants, depth) = (number(limits.max_descendants), number(limits.max_depth));
        let mark = if limits.is_bounded() { marks.good } else { marks.note };
        page.sub("pod limits", &format!("max.descendants {descendants}{used}, max.depth {depth}   {mark}"));
    }
    for (file, value) in &found.controllers {
        page.sub(file, value);
    }
}

fn processes(page: &mut Page, rows: &[ProcessRow], more: usize) {
    let number = |id: Option<u32>, none: &str| id.map_or(none.to_owned(), |id| id.to_string());
    for (index, row) in rows.iter().enumerate() {
        if index == 0 {
            page.line("Processes", format!("{:>8} {:>10} {:>8}  COMMAND", "PID", "HOST-USER", "INSIDE"));
        }
        let (user, inside) = (number(row.user, "-"), number(row.user_inside, "nobody"));
        let command: String = row.command.chars().take(MAX_COMMAND).collect();
        let indent = "  ".repeat(row.level.min(20));
        page.more(format!("{:>8} {user:>10} {inside:>8}  {indent}{command}", row.pid));
    }
    if more > 0 {
        page.more(format!("and {more} more"));
    }
}

fn volumes(page: &mut Page, volumes: &[Volume], marks: &Marks) {
    for (index, volume) in volumes.iter().enumerate() {
        let mapped = if volume.id_mapped { ", IDs mapped" } else { "" };
        let mode = if volume.read_only { "ro" } else { "rw" };
        let owner = match (volume.owner, volume.owner_inside) {
            (Some(owner), Some(inside)) => format!(", owner {owner} (user {inside} inside)"),
            (Some(owner), None) => format!(", owner {owner} (nobody inside)"),
            (None, _) => ", owner not looked at".to_owned(),
        };
        let notes = [&volume.problem, &volume.note].into_iter().flatten();
        let note: String = notes.map(|note| format!("   {} {note}", marks.note)).collect();
        let text = format!("{}   {} {mode}{mapped}{owner}{note}", volume.path, volume.kind);
        page.line(if index == 0 { "Volumes" } else { "" }, text);
    }
}

/// All names, or their number if there are many.
fn few(names: &[String]) -> String {
    match names.len() {
        0 => "nothing".to_owned(),
        1..=16 => names.join(" "),
        // Linux 5.9 to 6.18 have 41 capabilities.
        41.. => "everything".to_owned(),
        many => format!("{many} capabilities"),
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Lines with a name in the left column.
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, text: String) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}", format!("{name:<LEFT$}{}", line(&text)).trim_end());
    }

    fn more(&mut self, text: String) {
        self.line("", text);
    }

    fn sub(&mut self, name: &str, text: &str) {
        self.line("", format!("{name:<16}{text}"));
    }
}
