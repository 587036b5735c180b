//! Blocks of commands in the documents, and whether a command printed what a block shows.

// Each test program that includes this module uses a part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Block {
    /// `FILE:LINE` of the block's fence.
    pub(crate) place: String,
    /// The node on which it is run: `node`, `fresh` or none.
    pub(crate) on: String,
    /// The line above the block.
    pub(crate) above: String,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn blocks(path: &Path) -> Vec<Block> {
    let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display();
    let text = fs::read_to_string(path).unwrap();
    let (mut found, mut above) = (Vec::new(), String::new());
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if !line.trim().is_empty() {
                above = line.trim().to_owned();
            }
            continue;
        };
        let lines: Vec<String> = lines
            .by_ref()
            .map(|(_, line)| line.trim_end().to_owned())
            .take_while(|line| line.trim() != "```")
            .collect();
        let mut words = info.split_whitespace();
        if matches!(words.next(), Some("console" | "sh" | "bash" | "shell")) {
            let on = words.next().unwrap_or_default().to_owned();
            found.push(Block { place: format!("{name}:{}", number + 1), on, above: above.clone(), lines });
        }
        above.clear();
    }
    found
}

/// Replaces everything that may differ between runs by one character.
pub(crate) fn normal(line: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut out = Vec::new();
    for word in line.split_whitespace() {
        let is_id = |piece: &str| piece.len() >= 7 && piece.chars().all(|sign| sign.is_ascii_hexdigit());
        let mut pieces = String::new();
        for piece in word.split_inclusive(|sign: char| !sign.is_ascii_alphanumeric()) {
            let bare = piece.trim_end_matches(|sign: char| !sign.is_ascii_alphanumeric());
            let rest = &piece[bare.len()..];
            let number = bare.len() > 1 && bare.chars().all(|sign| sign.is_ascii_digit());
            pieces.push_str(if is_id(bare) || number { "#" } else { bare });
            pieces.push_str(rest);
        }
        out.push(if MONTHS.contains(&word) { "MONTH".to_owned() } else { pieces });
    }
    out.join(" ")
}

/// Whether the output has the expected lines; `...` stands for any number of lines.
pub(crate) fn agrees(want: &[&str], output: &[&str]) -> bool {
    match want.split_first() {
        None => output.is_empty(),
        Some((&"...", rest)) => (0..=output.len()).any(|skip| agrees(rest, &output[skip..])),
        Some((line, rest)) => {
            output.first().is_some_and(|first| normal(first) == normal(line)) && agrees(rest, &output[1..])
        }
    }
}
