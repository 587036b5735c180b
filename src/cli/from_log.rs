//! `usernsd explain --from-log`: explains the error messages in a log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::terminal;
use crate::args::OutputForm;
use usernsd_inspect::explain::KnownMessage;
use usernsd_messages::Message;
use usernsd_messages::log::{self, Found, Reading, Understood};

/// Limit of bytes read from a log.
const MAX_BYTES: u64 = 64 << 20;
/// Width of the left column.
const LEFT: usize = 9;
/// The longest part of a similar message's sample that is shown, in characters.
const MAX_SAMPLE: usize = 120;

/// A known message as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    #[serde(flatten)]
    message: KnownMessage,
    /// The number of lines that contain the message.
    count: usize,
}

/// An unknown message as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unknown<'a> {
    id: Option<&'static str>,
    line: &'a str,
    count: usize,
    program: Option<&'a str>,
    /// The operation during which the program logged the message.
    step: Option<&'static str>,
    /// The usual meaning of the kernel's error in that operation.
    usual: Option<&'static str>,
    /// Where the cause shows, or what avoids it.
    next: Option<&'static str>,
    /// Why no entry covers the message, if it is a text of the sources that were read.
    reason: Option<&'static str>,
    /// Identifiers of the most similar known messages.
    nearest: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Known(Known),
    Unknown(Unknown<'a>),
}

fn read_log(log: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    log.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Explains the messages in `line`, in the file of that name, or in the standard input for `-`, newest first. Exits 1 if none is known.
///
/// # Errors
/// The standard input cannot be read, or stdout is closed.
pub(super) fn run(line: &str, form: OutputForm) -> anyhow::Result<ExitCode> {
    let text = if line == "-" {
        read_log(std::io::stdin().lock()).context("reading the log from the standard input")?
    } else if Path::new(line).is_file() {
        // No message is the name of a file.
        File::open(line).and_then(read_log).with_context(|| format!("reading the log {line}"))?
    } else {
        line.to_owned()
    };
    let reading = log::read(&text);
    super::print(&render(&reading, form))?;
    if reading.known.is_empty() {
        super::tell(if reading.unknown.is_empty() {
            "None of these messages is known to usernsd; docs/errors.md lists those that are."
        } else {
            "None of these messages is known to usernsd."
        });
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(reading: &Reading, form: OutputForm) -> String {
    let Reading { known, unknown } = reading;
    if form == OutputForm::Json {
        let known = known.iter().map(|found| {
            Row::Known(Known {
                message: KnownMessage::new(found.what, found.line.clone()),
                count: found.count,
            })
        });
        let rows: Vec<Row<'_>> =
            known.chain(unknown.iter().map(|found| Row::Unknown(Unknown::of(found)))).collect();
        return terminal::json(&rows);
    }
    let texts: Vec<String> = known.iter().map(known_text).chain(unknown.iter().map(unknown_text)).collect();
    texts.join("\n")
}

fn known_text(found: &Found<&'static Message>) -> String {
    let Message { id, cause, fix, page, .. } = found.what;
    let mut text = head(&found.line, found.count);
    let more = if page.is_empty() { String::new() } else { format!(", docs/{page}") };
    for (name, value) in [("Cause", *cause), ("Fix", fix), ("More", &format!("docs/errors.md#{id}{more}"))] {
        let _ = writeln!(text, "{name:<LEFT$}{value}");
    }
    text
}

fn unknown_text(found: &Found<Understood>) -> String {
    let Understood { program, step, usual, next, listed, nearest } = &found.what;
    let mut text = head(&found.line, found.count);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<LEFT$}{value}");
    };
    line("Known", "no");
    if let Some(program) = program {
        line("Program", program);
    }
    if let Some(step) = step {
        line("Step", step.name());
    }
    if let Some(usual) = usual {
        line("Usually", usual);
    }
    if let Some(next) = next {
        line("Next", next);
    }
    if let Some((_, reason)) = listed {
        line("Text", &format!("found in the program's sources, but not explained: {}", reason.sentence()));
    }
    for (index, near) in nearest.iter().enumerate() {
        let name = if index == 0 { "Nearest" } else { "" };
        let sample: String = near.sample.chars().take(MAX_SAMPLE).collect();
        let cut = if sample.len() < near.sample.len() { "…" } else { "" };
        line(name, &format!("docs/errors.md#{}: {sample}{cut}", near.id));
    }
    text
}

/// The line itself, and how often it occurs.
fn head(line: &str, count: usize) -> String {
    let mut text = format!("{:<LEFT$}{}\n", "Message", terminal::line(line.trim()));
    if count > 1 {
        let _ = writeln!(text, "{:<LEFT$}{count} times, this the last", "Seen");
    }
    text
}

// === impl Unknown ===

impl Unknown<'_> {
    fn of(found: &Found<Understood>) -> Unknown<'_> {
        let Understood { program, step, usual, next, listed, nearest } = &found.what;
        Unknown {
            id: None,
            line: &found.line,
            count: found.count,
            program: program.as_deref(),
            step: step.map(log::Step::name),
            usual: *usual,
            next: *next,
            reason: listed.map(|(_, reason)| reason.sentence()),
            nearest: nearest.iter().map(|message| message.id.name()).collect(),
        }
    }
}
