//! `usernsd map`: draws this node's host IDs and their owners in a terminal.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::terminal::{self, Emphasis, Terminal};
use crate::args::OutputForm;
use usernsd_domain::map::words::{counted, grouped, ids};
use usernsd_domain::map::{Grid, Holder, Map, Row, Segment, Slot};
use usernsd_domain::ranges::Window;
use usernsd_domain::space::IdType;
use usernsd_report::map::Maps;
use usernsd_report::state::{State, read_state};
use usernsd_report::verdict::{NodeVerdict, Tone};

/// Width in columns if neither the terminal nor COLUMNS determines it.
const WIDTH: usize = 80;
/// Minimum and maximum width of a segment's picture, in columns.
const PICTURE: (usize, usize) = (12, 64);
/// The most overlaps in the list; further ones are only counted.
const LISTED: usize = 20;
/// Possible numbers of slots in a row; the largest that fits is used.
const COLUMNS: [usize; 5] = [64, 32, 16, 8, 4];

/// Terminal and size to draw for.
#[derive(Debug, Clone, Copy)]
struct Canvas {
    terminal: Terminal,
    width: usize,
}

/// The content of one place in a picture. The greatest is the most worth seeing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ink {
    Free,
    Line,
    Pod,
    Account,
    Shared,
}

/// Reads the agent's state and prints the map. Problems shown in the map do not change the exit code.
///
/// # Errors
/// Nobody answers on the socket, or stdout is closed.
pub fn run(socket: &Path, output: OutputForm) -> anyhow::Result<ExitCode> {
    let state = read_state(socket)?;
    let text = match output {
        OutputForm::Table => {
            let terminal = Terminal::of_stdout(false);
            // A pipe has no width, but the shell may pass it on.
            let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
            render(&state, Terminal { width: terminal.width.or(columns), ..terminal })
        }
        // Strings and numbers can always be represented in JSON.
        OutputForm::Json => terminal::json(&document(&state)),
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Draws the map of a state document as text.
#[must_use]
pub fn render(state: &State, terminal: Terminal) -> String {
    let width = terminal.width.filter(|width| *width > 0).unwrap_or(WIDTH);
    let canvas = Canvas { terminal, width };
    let mut text = verdict(state, terminal);
    let Some(maps) = Maps::of(state) else { return text };
    for map in &maps.spaces {
        text += &strip(map, canvas);
    }
    let columns = COLUMNS.into_iter().find(|columns| 12 + 2 * columns <= canvas.width).unwrap_or(4);
    for grid in maps.grids(columns) {
        text += &slots(&grid, canvas);
    }
    text + &legend(canvas)
}

/// The map of a state document as JSON.
#[must_use]
pub fn document(state: &State) -> Value {
    let window = |window: &Window| json!({"start": window.start, "count": window.count});
    let holder = |holder: &Holder| {
        let kind = match holder {
            Holder::Account(_) => "account",
            Holder::Subid { .. } => "subordinate_range",
            Holder::Pod(_) => "pod",
        };
        json!({"kind": kind, "name": holder.name()})
    };
    let segment = |segment: &Segment| {
        let claims = segment.claims.iter().map(|claim| {
            let (window, holder) = (claim.window, holder(&claim.holder));
            json!({"start": window.start, "count": window.count, "holder": holder})
        });
        json!({
            "start": segment.window.start,
            "count": segment.window.count,
            "name": segment.name(),
            "claims": claims.collect::<Vec<_>>(),
            "shared": segment.shared.iter().map(window).collect::<Vec<_>>(),
        })
    };
    let overlap = |overlap: &usernsd_domain::map::Overlap| {
        let holders: Vec<Value> = overlap.holders.iter().map(holder).collect();
        json!({"start": overlap.window.start, "count": overlap.window.count, "holders": holders})
    };
    let space = |map: &Map| {
        json!({
            "idType": map.space.name(),
            "segments": map.segments.iter().map(segment).collect::<Vec<_>>(),
            "overlaps": map.overlaps.iter().map(overlap).collect::<Vec<_>>(),
        })
    };
    let used = |grid: &Grid| -> Vec<Value> {
        let rows = grid.rows.iter().filter_map(|row| match row {
            Row::Slots(slots) => Some(slots),
            Row::Free { .. } => None,
        });
        let used = rows.flatten().filter(|slot| !slot.pods.is_empty());
        used.map(|slot| json!({"start": slot.window.start, "pods": slot.pods, "shared": slot.is_shared}))
            .collect()
    };
    let pool = |grid: &Grid| json!({"name": grid.name, "slotIds": grid.slot_ids, "slots": grid.slots, "used": used(grid)});
    let maps = Maps::of(state);
    json!({
        "node": state.node.name,
        "spaces": maps.iter().flat_map(|maps| &maps.spaces).map(space).collect::<Vec<_>>(),
        "pools": maps.iter().flat_map(|maps| maps.grids(64)).map(|grid| pool(&grid)).collect::<Vec<_>>(),
    })
}

// === impl Canvas ===

impl Canvas {
    fn mark(self, tone: Tone) -> String {
        let (look, mark) = match (tone, self.terminal.unicode) {
            (Tone::Good, true) => (Emphasis::Good, "✓"),
            (Tone::Good, false) => (Emphasis::Good, "+"),
            (Tone::Warning, _) => (Emphasis::Warning, "!"),
            (Tone::Bad, true) => (Emphasis::Bad, "✗"),
            (Tone::Bad, false) => (Emphasis::Bad, "x"),
        };
        self.terminal.paint(look, mark)
    }

    /// Text of the map itself, whose only non-ASCII character is the dash.
    fn words(self, text: &str) -> String {
        if self.terminal.unicode { text.to_owned() } else { text.replace('–', "-") }
    }

    fn ink(self, ink: Ink) -> String {
        let char = match (ink, self.terminal.unicode) {
            (Ink::Free, true) => "·",
            (Ink::Free, false) => ".",
            (Ink::Line, true) => "▂",
            (Ink::Line, false) => "_",
            (Ink::Pod, true) => "█",
            (Ink::Pod, false) => "#",
            (Ink::Account, true) => "•",
            (Ink::Account, false) => "o",
            (Ink::Shared, true) => "╳",
            (Ink::Shared, false) => "!",
        };
        match ink {
            Ink::Free => self.terminal.paint(Emphasis::Faint, char),
            Ink::Pod => self.terminal.paint(Emphasis::Strong, char),
            Ink::Shared => self.terminal.paint(Emphasis::Bad, char),
            Ink::Line | Ink::Account => char.to_owned(),
        }
    }
}

/// The headline of a node, and its problems.
pub(super) fn verdict(state: &State, terminal: Terminal) -> String {
    let canvas = Canvas { terminal, width: WIDTH };
    let verdict = NodeVerdict::of(state);
    let harmless = |text: &str| canvas.terminal.harmless(text);
    let name = harmless(&state.node.name);
    let mut text = format!("{} {name}: {}\n", canvas.mark(verdict.tone()), verdict.short());
    for problem in &verdict.problems {
        let colon = if problem.where_.is_empty() { "" } else { ": " };
        text += &format!(
            "  {} {}{colon}{}\n",
            canvas.mark(problem.tone),
            harmless(&problem.what),
            harmless(&problem.where_)
        );
    }
    text
}

fn strip(map: &Map, canvas: Canvas) -> String {
    let heading = match map.space {
        IdType::Uid => "HOST USER IDS",
        IdType::Gid => "HOST GROUP IDS",
    };
    let spelled = |text: String| canvas.terminal.harmless(&text);
    let rows: Vec<(String, String, String, &Segment)> = map
        .segments
        .iter()
        .map(|segment| {
            let range = format!("{}–{}", segment.window.start, segment.window.end() - 1);
            (canvas.words(&range), spelled(segment.name()), spelled(segment.notes()), segment)
        })
        .collect();
    let widest =
        |of: fn(&(String, String, String, &Segment)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let range_width = widest(|row| row.0.width()).max(heading.len());
    let name_width = widest(|row| row.1.width());
    let notes_width = widest(|row| row.2.width());
    let left = canvas.width.saturating_sub(range_width + name_width + notes_width + 6);
    let (least, most) = PICTURE;
    let picture = (left >= least).then(|| left.min(most));
    let scale = if picture.is_some() { "  each line to its own scale" } else { "" };
    let mut text = format!("\n{heading}{}\n", scale);
    for (range, name, notes, segment) in &rows {
        let mut line = range.clone() + &" ".repeat(range_width - range.width() + 2);
        line += name;
        line += &" ".repeat(name_width - name.width() + 2);
        if let Some(width) = picture {
            line.extend(inks(segment, width).into_iter().map(|ink| canvas.ink(ink)));
            line += "  ";
        }
        line += notes;
        text += line.trim_end();
        text.push('\n');
    }
    for overlap in map.overlaps.iter().take(LISTED) {
        let holders: Vec<String> =
            overlap.holders.iter().take(LISTED).map(|holder| spelled(holder.name_in(map.space))).collect();
        let more = overlap.holders.len() - holders.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let ids = canvas.words(&ids(overlap.window));
        text += &format!("{} {ids}: {}{more}\n", canvas.ink(Ink::Shared), holders.join(", "));
    }
    let more = map.overlaps.len().saturating_sub(LISTED);
    if more > 0 {
        text += &format!("  and {}\n", counted(more as u64, "more overlap", "more overlaps"));
    }
    text
}

/// A segment divided into `width` places, each with the content that is most worth seeing.
fn inks(segment: &Segment, width: usize) -> Vec<Ink> {
    let mut inks = vec![Ink::Free; width];
    let claims = segment.claims.iter().map(|claim| {
        let ink = match claim.holder {
            Holder::Subid { .. } => Ink::Line,
            Holder::Pod(_) => Ink::Pod,
            Holder::Account(_) => Ink::Account,
        };
        (claim.window, ink)
    });
    let shared = segment.shared.iter().map(|window| (*window, Ink::Shared));
    for (window, ink) in claims.chain(shared) {
        let place = |id: u64| {
            let part = u128::from(id - segment.window.start) * width as u128
                / u128::from(segment.window.count.max(1));
            usize::try_from(part).unwrap_or(width)
        };
        let (first, last) = (place(window.start), place(window.end() - 1));
        for at in inks.iter_mut().take(last + 1).skip(first) {
            *at = ink.max(*at);
        }
    }
    inks
}

fn slots(grid: &Grid, canvas: Canvas) -> String {
    let mut text = format!(
        "\nPOOL {}  {} of {} used, {} IDs each\n",
        canvas.terminal.harmless(&grid.name),
        grouped(grid.used),
        counted(grid.slots, "slot", "slots"),
        grouped(grid.slot_ids)
    );
    for row in &grid.rows {
        match row {
            Row::Slots(slots) => {
                let first = slots.first().map_or(0, |slot| slot.window.start);
                let cells: Vec<String> = slots.iter().map(|slot| canvas.ink(ink(slot))).collect();
                text += &format!("{first:>10}  {}\n", cells.join(" "));
            }
            Row::Free { window, count } => {
                text += &format!("{:>10}  {} free\n", window.start, counted(*count, "slot", "slots"));
            }
        }
    }
    text
}

fn ink(slot: &Slot) -> Ink {
    match (slot.is_shared, slot.pods.is_empty()) {
        (true, _) => Ink::Shared,
        (false, true) => Ink::Free,
        (false, false) => Ink::Pod,
    }
}

fn legend(canvas: Canvas) -> String {
    let keys = [
        (Ink::Pod, "pod"),
        (Ink::Line, "subordinate range"),
        (Ink::Account, "user or group"),
        (Ink::Shared, "shared"),
        (Ink::Free, "free"),
    ];
    let keys: Vec<String> = keys.iter().map(|(ink, text)| format!("{} {text}", canvas.ink(*ink))).collect();
    format!("\n{}\n", keys.join("  "))
}
