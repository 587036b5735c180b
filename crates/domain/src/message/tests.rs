//! Which message is found in which line.

use super::recognise;

mod admission;
mod inside;
mod node;
mod reading;
mod reports;
mod wordings;

/// The identifier of the message that is found in a line.
fn found(line: &str) -> Option<&'static str> {
    recognise(line).map(|found| found.id.name())
}

/// Each line has this message.
fn are(lines: &[(&str, &str)]) {
    for (line, want) in lines {
        assert_eq!(found(line), Some(*want), "{line}");
    }
}
