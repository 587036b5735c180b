//! Which message is found in which line.

use super::recognise;

mod admission;
mod inside;
mod node;
mod operations;
mod reading;
mod reports;
mod sentences;
mod wordings;

/// The identifier of the message that is found in a line.
fn found(line: &str) -> Option<&'static str> {
    recognise(line).map(|found| found.id.name())
}

/// Each line has this message.
fn are(lines: &[(&str, &str)]) {
    let other = |(line, want): &(&str, &str)| match found(line) {
        Some(id) if id == *want => None,
        found => Some(format!("{found:?} and not {want}: {line}")),
    };
    let others: Vec<String> = lines.iter().filter_map(other).collect();
    assert!(others.is_empty(), "\n{}", others.join("\n"));
}
