//! `usernsd explain --from-log`: what is behind a line of a log.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::ps::{ascii, harmless};
use crate::args::Form;
use usernsd_inspect::explain::Said;

/// No more of the standard input is read.
const MAX_BYTES: u64 = 64 << 20;

/// Prints what is known of the messages in `line`, or in the standard input for `-`. Exits 1 where
/// none is known.
///
/// # Errors
/// The standard input cannot be read, or stdout is closed.
pub(super) fn run(line: &str, form: Form) -> anyhow::Result<ExitCode> {
    let text = if line == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MAX_BYTES).read_to_end(&mut bytes);
        read.context("reading the log from the standard input")?;
        String::from_utf8_lossy(&bytes).into_owned()
    } else {
        line.to_owned()
    };
    // Each once, however often it is said.
    let mut known: Vec<Said> = Vec::new();
    for said in text.lines().filter_map(Said::of) {
        if !known.iter().any(|other| other.id == said.id) {
            known.push(said);
        }
    }
    super::print(&render(&known, form))?;
    if known.is_empty() {
        super::tell("No message here is one that usernsd knows; docs/errors.md lists them.");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(known: &[Said], form: Form) -> String {
    if form == Form::Json {
        // Strings and numbers only: JSON can hold all of it.
        return ascii(&serde_json::to_string_pretty(known).unwrap_or_default()) + "\n";
    }
    let one = |said: &Said| {
        let line: Vec<String> = said.line.trim().split(' ').map(harmless).collect();
        let more = if said.page.is_empty() { String::new() } else { format!(", docs/{}", said.page) };
        format!(
            "Message  {}\nCause    {}\nFix      {}\nMore     docs/errors.md#{}{more}\n",
            line.join(" "),
            said.cause,
            said.fix,
            said.id
        )
    };
    known.iter().map(one).collect::<Vec<_>>().join("\n")
}
