//! `usernsd doctor`: checks this node, and prints problems with their remedies.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::terminal::{self, Emphasis, Terminal};
use crate::args::{DoctorArgs, DoctorOutput};
use crate::compose;
use usernsd_config::{Overrides, Settings};
use usernsd_domain::check::{Category, Check, CheckOutcome, Checked, Problem, Summary};
use usernsd_domain::runtime::{RuntimeChoice, RuntimeKind, RuntimeOverride};
use usernsd_inspect::doctor::{AgentResults, Doctor, PodPlace};
use usernsd_report::state::{CheckState, read_state};

/// Directory of the checks' pages.
const PAGES: &str = "docs/runbooks/checks";
/// Width of the column of names.
const NAMES: usize = 20;
/// Column where names begin, after the mark.
const NAME: usize = 4;
/// Column of what is below a name.
const DEEP: usize = 6;

/// The complete result as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: u64,
    /// `null` if checks that decide it were not made.
    ready: Option<bool>,
    errors: usize,
    warnings: usize,
    notes: usize,
    passed: usize,
    skipped: usize,
    verdict: &'a str,
    checks: Vec<CheckState>,
}

/// Makes the checks and prints them, category by category. Exits 0 if all passed, 1 if something is wrong.
///
/// # Errors
/// The checks could not be made, or stdout is closed.
pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    for id in &args.ignore {
        if Check::named(id).is_none() {
            bail!("--ignore {id}: there is no such check; write one of: {}", names());
        }
    }
    let output = if args.quiet { DoctorOutput::Short } else { args.output };
    let terminal = Terminal::of_stdout(args.no_color);
    let (ignore, strict) = (args.ignore.clone(), args.strict);
    let (doctor, pods, agent) = doctor(args)?;

    let mut all = Vec::new();
    let mut tell = |category: Category, checked: Vec<Checked>| -> anyhow::Result<()> {
        let kept: Vec<Checked> =
            checked.into_iter().filter(|one| !ignore.iter().any(|id| id == one.check.name())).collect();
        if output != DoctorOutput::Json {
            super::print(&section(category, &kept, output == DoctorOutput::Short, terminal))?;
        }
        all.extend(kept);
        Ok(())
    };
    compose::runtime()?.block_on(doctor.check(&agent, &pods, &mut tell))?;
    let summary = Summary::of(&all);
    match output {
        DoctorOutput::Json => super::print(&json(&all))?,
        DoctorOutput::Table | DoctorOutput::Short => {
            super::print(&terminal.wrap(&format!("{}\n", summary.verdict()), 0, 0))?;
        }
    }
    Ok(if summary.is_good(strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn names() -> String {
    Check::ALL.map(Check::name).join(", ")
}

/// The node to check, and what its agent reports.
fn doctor(args: DoctorArgs) -> anyhow::Result<(Doctor, PodPlace, AgentResults)> {
    // The agent of this node has no results about another root.
    let ask = !args.no_agent && (args.root.is_none() || args.socket.is_some());
    let host_root = args.root.as_deref().map(super::bootstrap::absolute).transpose()?;
    let overrides = Overrides { host_root, state_socket: args.socket.clone(), ..Overrides::default() };
    let settings = compose::of_node(Settings::load(args.config.as_deref(), overrides)?);
    let agent = match ask.then(|| read_state(&settings.state_socket.path)) {
        Some(Ok(state)) => AgentResults::new(state.checks.iter().filter_map(CheckState::checked)),
        // If the socket is given explicitly, no answer is an error.
        Some(Err(error)) if args.socket.is_some() => return Err(error.into()),
        Some(Err(_)) | None => AgentResults::default(),
    };
    let pods =
        PodPlace { rules: settings.rules, limits: settings.limits, bundles: compose::bundles(&settings) };
    let mut place = compose::examined(&settings, true);
    if let Some(version) = args.crio_version {
        let choice = RuntimeChoice::Only(RuntimeKind::Crio);
        place.runtime = RuntimeOverride { choice, crio: Some(version), ..place.runtime };
    }
    let doctor = Doctor::new(place)?;
    Ok((doctor, pods, agent))
}

/// All checks as JSON.
#[must_use]
pub fn json(all: &[Checked]) -> String {
    let summary = Summary::of(all);
    let document = Document {
        version: 1,
        ready: summary.is_ready(),
        errors: summary.errors,
        warnings: summary.warnings,
        notes: summary.notes,
        passed: summary.passed,
        skipped: summary.skipped,
        verdict: &summary.verdict(),
        checks: all.iter().map(CheckState::from).collect(),
    };
    terminal::json(&document)
}

/// One category as text; with `short` only the failed checks.
#[must_use]
pub fn section(category: Category, checked: &[Checked], short: bool, terminal: Terminal) -> String {
    let shown: Vec<&Checked> = checked.iter().filter(|one| !short || one.is_failed()).collect();
    if shown.is_empty() {
        return String::new();
    }
    let heading = category.name().replace('_', " ");
    let mut text = terminal.paint(Emphasis::Strong, &heading) + "\n";
    for (index, one) in shown.iter().enumerate() {
        // In a pipe each check has a line, which grep(1) finds.
        let why = match &one.outcome {
            CheckOutcome::Skipped(why) if terminal.width.is_some() => why,
            _ => {
                text.push_str(&line(one, terminal));
                continue;
            }
        };
        let same: Vec<&Checked> =
            shown.iter().copied().filter(|other| other.outcome == one.outcome).collect();
        if same.len() == 1 {
            text.push_str(&line(one, terminal));
        } else if !shown.iter().take(index).any(|earlier| earlier.outcome == one.outcome) {
            text.push_str(&skipped_together(why, &same, terminal));
        }
    }
    text.push('\n');
    text
}

/// Checks that were skipped for the same reason, in the place of the first: the reason once, then their names.
fn skipped_together(why: &str, checks: &[&Checked], terminal: Terminal) -> String {
    let sentence = terminal.harmless(&format!("{} checks skipped: {why}", checks.len()));
    let names: Vec<&str> = checks.iter().map(|one| one.check.name()).collect();
    format!(
        "  {} {}\n{}{}\n",
        terminal.paint(Emphasis::Faint, "-"),
        terminal.paint(Emphasis::Faint, &terminal.wrap(&sentence, NAME, DEEP)),
        " ".repeat(DEEP),
        terminal.wrap(&names.join(", "), DEEP, DEEP),
    )
}

/// The mark of a check and its tone; in ASCII if the terminal supports nothing else.
fn mark(checked: &Checked, terminal: Terminal) -> (&'static str, Emphasis) {
    let (unicode, ascii, tone) = match checked.word() {
        "pass" => ("√", "+", Emphasis::Good),
        "note" => ("i", "i", Emphasis::Faint),
        "warn" => ("‼", "!", Emphasis::Warning),
        "fail" => ("×", "x", Emphasis::Bad),
        _ => ("-", "-", Emphasis::Faint),
    };
    (if terminal.unicode { unicode } else { ascii }, tone)
}

fn line(checked: &Checked, terminal: Terminal) -> String {
    let (mark, tone) = mark(checked, terminal);
    let id = checked.check.name();
    let narrow = terminal.width.is_some_and(|width| width < 60);
    let (sentence, problems) = match &checked.outcome {
        CheckOutcome::Passed(seen) => (seen.clone(), &[][..]),
        CheckOutcome::Skipped(why) => (format!("skipped: {why}"), &[][..]),
        CheckOutcome::Failed(problems) => {
            (problems.first().map(|first| first.what.clone()).unwrap_or_default(), problems.as_slice())
        }
    };
    let sentence = terminal.harmless(&sentence);
    let mut text = format!("  {} ", terminal.paint(tone, mark));
    let gap = NAMES.max(id.len()) + 2;
    let (column, space) =
        if narrow { (DEEP, format!("\n{}", " ".repeat(DEEP))) } else { (NAME + gap, String::new()) };
    let name = if narrow { id.to_owned() } else { format!("{id:<gap$}") };
    let sentence = terminal.wrap(&sentence, column, DEEP);
    let faint = matches!(checked.outcome, CheckOutcome::Skipped(_));
    let sentence = if faint { terminal.paint(Emphasis::Faint, &sentence) } else { sentence };
    text.push_str(&format!("{name}{space}{sentence}\n"));
    let deep = |text: &str| format!("{}{}\n", " ".repeat(DEEP), terminal.wrap(text, DEEP, DEEP + 2));
    for (index, Problem { what, remedy }) in problems.iter().enumerate() {
        if index > 0 {
            text.push_str(&deep(&terminal.harmless(what)));
        }
        // A remedy that several problems share is printed once, after the last of them.
        let again = problems.get(index + 1).is_some_and(|next| next.remedy == *remedy);
        if !remedy.is_empty() && !again {
            text.push_str(&deep(&format!("fix: {}", terminal.harmless(remedy))));
        }
    }
    if !problems.is_empty() {
        text.push_str(&deep(&format!("see {PAGES}/{id}.md")));
    }
    text
}
