//! What the terminal that stdout is can show: colours, letters beyond ASCII, how many columns.

use std::io::{self, IsTerminal};

use unicode_width::UnicodeWidthStr;

/// Longest text of one item; the rest is cut.
const MAX_TEXT: usize = 2_000;
/// Narrower than this nothing is readable: lines are not broken further.
const NARROWEST: usize = 30;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Colours.
    pub color: bool,
    /// Letters and marks beyond ASCII.
    pub unicode: bool,
    /// Columns; `None` where nobody looks at lines, such as in a pipe.
    pub width: Option<usize>,
}

/// How a mark or word is to stand out; never the only sign of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Look at it.
    Warning,
    /// It is broken.
    Bad,
    /// Less than the rest.
    Faint,
    /// A heading.
    Strong,
}

/// Lines without what would do something to a terminal: texts of containers and files are in them.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\'' | '"' | '\\' => out.push(char),
            _ => out.extend(char.escape_debug()),
        }
    }
    out
}

impl Terminal {
    /// A pipe or a file, in which every byte is to be ASCII.
    pub const PLAIN: Terminal = Terminal { color: false, unicode: false, width: None };

    /// What stdout is.
    #[must_use]
    pub fn of_stdout(no_color: bool) -> Terminal {
        let width = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        Terminal::of(|name| std::env::var(name).ok(), io::stdout().is_terminal(), width, no_color)
    }

    /// What the environment says of it: no colour where stdout is no terminal, where `NO_COLOR` is set
    /// and not empty (no-color.org), or on a terminal that is dumb.
    fn of(
        variable: impl Fn(&str) -> Option<String>,
        is_terminal: bool,
        width: Option<usize>,
        no_color: bool,
    ) -> Terminal {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        // setlocale(3): the first of these that is set names the encoding.
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
        Terminal {
            color: is_terminal && !no_color && !dumb && set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            width: width.filter(|width| is_terminal && *width > 0),
        }
    }

    /// The text with that tone.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A text that can do nothing to the terminal: what would move the cursor, change the direction
    /// of reading, hide or combine is spelled out, and what the terminal has no letter for.
    #[must_use]
    pub fn harmless(self, text: &str) -> String {
        let mut out = String::new();
        for (index, char) in text.chars().enumerate() {
            match char {
                _ if index == MAX_TEXT => {
                    out.push_str("...");
                    break;
                }
                '\'' | '"' | '\\' => out.push(char),
                _ if !char.is_ascii() && !self.unicode => out.extend(char.escape_unicode()),
                _ => out.extend(char.escape_debug()),
            }
        }
        out
    }

    /// The text in lines, the first after `first` columns, the others indented by `rest`.
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
    use super::*;

    fn terminal(variables: &[(&str, &str)], is_terminal: bool, no_color: bool) -> Terminal {
        let of =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Terminal::of(of, is_terminal, Some(80), no_color)
    }

    #[test]
    fn what_is_said_does_nothing_to_a_terminal() {
        let text = "a \"b\" 'c' \\ ä …\nx";
        assert_eq!(printable(text), text);
        assert_eq!(printable("\u{1b}]0;x\u{7}\u{202e}"), "\\u{1b}]0;x\\u{7}\\u{202e}");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
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
            assert_eq!(terminal.paint(Tone::Bad, "x"), "x");
        }
        assert_eq!(terminal(&[], false, false).width, None, "in a pipe nobody looks at lines");
    }

    #[test]
    fn the_first_variable_that_is_set_names_the_encoding() {
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
    fn texts_do_nothing() {
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
    fn lines_end_at_the_width() {
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
}
