//! The capabilities of the terminal on stdout: colours, non-ASCII characters, number of columns.

use std::io::{self, IsTerminal};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// The longest text of one item, in characters; the rest is cut.
const MAX_TEXT: usize = 2_000;
/// The longest text in a cell, which is the length of Kubernetes' longest names.
const MAX_CELL: usize = 253;
/// The minimum width in columns; lines are not broken further.
const NARROWEST: usize = 30;

/// The capabilities of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Colours are shown.
    pub color: bool,
    /// Non-ASCII characters are shown.
    pub unicode: bool,
    /// Number of columns; `None` if lines are not broken, as in a pipe.
    pub width: Option<usize>,
}

/// Emphasis of a mark or word; never the only indication of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emphasis {
    /// Something is as it should be.
    Good,
    /// Something needs attention.
    Warning,
    /// Something is broken.
    Bad,
    /// Less important than the rest.
    Faint,
    Strong,
}

/// Escapes everything that could affect a terminal or mislead a reader, except the characters of `plain`: characters
/// that move the cursor, change the direction of reading, hide, combine or break the line. A text of more than `most`
/// characters is cut, and ends with `cut`.
fn escape(text: &str, plain: &[char], most: usize, cut: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, char) in text.chars().enumerate() {
        if index == most {
            out.push_str(cut);
            break;
        }
        if plain.contains(&char) {
            out.push(char);
        } else {
            // Escapes characters that are not printable, and combining marks.
            out.extend(char.escape_debug());
        }
    }
    out
}

/// Escapes a text of several lines: it may come from containers and files.
#[must_use]
pub fn printable(text: &str) -> String {
    escape(text, &['\n', '\'', '"', '\\'], usize::MAX, "")
}

/// Escapes a text within a line.
#[must_use]
pub fn line(text: &str) -> String {
    escape(text, &['\'', '"'], MAX_TEXT, "…")
}

/// Escapes the text of a table's cell. A space would look like the start of the next column, so it is escaped too.
#[must_use]
pub fn cell(text: &str) -> String {
    escape(text, &['\'', '"'], MAX_CELL, "…").replace(' ', "\\u{20}")
}

/// A document for programs, in ASCII: JSON itself permits C1 controls and direction marks.
#[must_use]
pub fn json(document: &impl Serialize) -> String {
    // Strings and numbers can always be represented in JSON.
    ascii(&serde_json::to_string_pretty(document).unwrap_or_default()) + "\n"
}

fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        if char.is_ascii() && char != '\x7f' {
            out.push(char);
        } else {
            let mut units = [0; 2];
            char.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

impl Terminal {
    /// A pipe or a file, for which all output is ASCII.
    pub const PLAIN: Terminal = Terminal { color: false, unicode: false, width: None };

    /// Determines the capabilities of stdout.
    #[must_use]
    pub fn of_stdout(no_color: bool) -> Terminal {
        let width = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        Terminal::of(|name| std::env::var(name).ok(), io::stdout().is_terminal(), width, no_color)
    }

    /// Determines the capabilities from the environment: no colour if stdout is no terminal, if `NO_COLOR` is
    /// set and not empty (no-color.org), or if the terminal is dumb.
    fn of(
        variable: impl Fn(&str) -> Option<String>,
        is_terminal: bool,
        width: Option<usize>,
        no_color: bool,
    ) -> Terminal {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        // setlocale(3): the first of these variables that is set determines the encoding.
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
        Terminal {
            color: is_terminal && !no_color && !dumb && set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            width: width.filter(|width| is_terminal && *width > 0),
        }
    }

    /// Adds the emphasis to a text.
    #[must_use]
    pub fn paint(self, tone: Emphasis, text: &str) -> String {
        let code = match tone {
            Emphasis::Good => "32",
            Emphasis::Warning => "33",
            Emphasis::Bad => "31;1",
            Emphasis::Faint => "2",
            Emphasis::Strong => "1",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Escapes a text within a line, and the characters that this terminal cannot show.
    #[must_use]
    pub fn harmless(self, text: &str) -> String {
        let escaped = escape(text, &['\'', '"', '\\'], MAX_TEXT, "...");
        if self.unicode {
            return escaped;
        }
        let mut out = String::with_capacity(escaped.len());
        for char in escaped.chars() {
            match char.is_ascii() {
                true => out.push(char),
                false => out.extend(char.escape_unicode()),
            }
        }
        out
    }

    /// Breaks a text into lines: the first starts after `first` columns, the others are indented by `rest`.
    #[must_use]
    pub fn wrap(self, text: &str, first: usize, rest: usize) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let width = width.max(NARROWEST);
        let mut out = String::new();
        let mut column = first;
        for (index, word) in text.split(' ').enumerate() {
            let needs = word.width();
            let fresh = column == rest && index > 0;
            if index > 0 && !fresh && column + 1 + needs > width {
                out.push('\n');
                out.push_str(&" ".repeat(rest));
                column = rest;
            } else if index > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += needs;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terminal(variables: &[(&str, &str)], is_terminal: bool, no_color: bool) -> Terminal {
        let of =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Terminal::of(of, is_terminal, Some(80), no_color)
    }

    #[test]
    fn printed_lines_cannot_affect_a_terminal() {
        let text = "a \"b\" 'c' \\ ä …\nx";
        assert_eq!(printable(text), text);
        assert_eq!(printable("\u{1b}]0;x\u{7}\u{202e}"), "\\u{1b}]0;x\\u{7}\\u{202e}");
    }

    #[test]
    fn a_cell_cannot_affect_a_terminal() {
        for (text, want) in [
            ("web-0", "web-0"),
            ("日本", "日本"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\u{202e}txt", "\\u{202e}txt"),
            ("\u{2066}\u{200f}\u{61c}", "\\u{2066}\\u{200f}\\u{61c}"),
            ("a\u{200b}b\u{feff}\u{ad}", "a\\u{200b}b\\u{feff}\\u{ad}"),
            ("e\u{301}", "e\\u{301}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{e0041}", "\\u{e0041}"),
            ("two words", "two\\u{20}words"),
            ("a\\nb", "a\\\\nb"),
            ("it's \"it\"", "it's\\u{20}\"it\""),
        ] {
            assert_eq!(cell(text), want, "{text:?}");
        }
        assert_eq!(cell(&"x".repeat(9_999)).chars().count(), MAX_CELL + 1);
        assert_eq!(line("two words\tand \\n"), "two words\\tand \\\\n");
    }

    #[test]
    fn colours_are_used_only_if_the_terminal_and_the_user_want_them() {
        const TERM: (&str, &str) = ("TERM", "xterm");
        assert!(terminal(&[TERM], true, false).color);
        assert!(terminal(&[TERM, ("NO_COLOR", "")], true, false).color, "set and empty is not set");
        for (variables, is_terminal, no_color) in [
            (&[TERM, ("NO_COLOR", "1")][..], true, false),
            (&[("TERM", "dumb")], true, false),
            (&[], true, false),
            (&[TERM], false, false),
            (&[TERM], true, true),
        ] {
            let terminal = terminal(variables, is_terminal, no_color);
            assert!(!terminal.color, "{variables:?}");
            assert_eq!(terminal.paint(Emphasis::Bad, "x"), "x");
        }
        assert_eq!(terminal(&[], false, false).width, None, "in a pipe nobody looks at lines");
    }

    #[test]
    fn the_first_locale_variable_that_is_set_determines_the_encoding() {
        for (variables, want) in [
            (&[("LANG", "en_US.UTF-8")][..], true),
            (&[("LANG", "C.utf8")], true),
            (&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")], false),
            (&[("LC_ALL", ""), ("LANG", "en_US.UTF-8")], true),
            (&[("LC_CTYPE", "de_DE.ISO-8859-1"), ("LANG", "de_DE.UTF-8")], false),
            (&[], false),
        ] {
            assert_eq!(terminal(variables, true, false).unicode, want, "{variables:?}");
        }
    }

    #[test]
    fn texts_of_others_cannot_affect_the_terminal() {
        let unicode = Terminal { unicode: true, ..Terminal::PLAIN };
        for (text, utf8, ascii) in [
            ("a b 'c' \"d\" \\e", "a b 'c' \"d\" \\e", "a b 'c' \"d\" \\e"),
            ("\x1b[31m", "\\u{1b}[31m", "\\u{1b}[31m"),
            ("日\u{202e}", "日\\u{202e}", "\\u{65e5}\\u{202e}"),
            ("a\nb", "a\\nb", "a\\nb"),
        ] {
            assert_eq!(unicode.harmless(text), utf8);
            assert_eq!(Terminal::PLAIN.harmless(text), ascii);
        }
        assert!(Terminal::PLAIN.harmless(&"x".repeat(9_999)).len() < 2_100);
    }

    #[test]
    fn wrapped_lines_fit_the_width() {
        let narrow = Terminal { width: Some(30), ..Terminal::PLAIN };
        let text = narrow.wrap("one two three four five six seven eight nine ten", 10, 4);
        assert_eq!(text, "one two three four\n    five six seven eight nine\n    ten");
        assert!(
            Terminal { width: Some(1), ..narrow }.wrap("aa bb", 0, 4) == "aa bb",
            "not narrower than that"
        );
        assert_eq!(Terminal::PLAIN.wrap("one two", 100, 4), "one two");
        let long = narrow.wrap(&format!("x {} y", "z".repeat(50)), 0, 2);
        assert_eq!(long.lines().count(), 3);
    }

    proptest! {
        #[test]
        fn a_cell_never_contains_a_separator(text in any::<String>()) {
            let cell = cell(&text);
            prop_assert!(!cell.chars().any(|char| char.is_control() || char.is_whitespace()), "{cell:?}");
        }

        #[test]
        fn json_in_ascii_has_the_same_value(text in any::<String>()) {
            let json = json(&text);
            prop_assert!(json.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
