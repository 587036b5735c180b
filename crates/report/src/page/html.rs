//! HTML from elements and texts. Input can only become a text or an attribute's value: names are `&'static
//! str`, and everything else is escaped.

use std::fmt::{self, Display, Write};

/// Elements without an end tag.
const VOID: [&str; 4] = ["br", "input", "link", "meta"];

/// A longer piece is moved into the element around it, not copied: the page's tables are ten elements deep.
const COPIED: usize = 1 << 10;

/// The usual length of a start tag with its attributes.
const TAG: usize = 64;

/// A piece of HTML.
#[derive(Debug, Clone, Default)]
pub(super) struct Html {
    /// The text before `end`, in parts.
    parts: Vec<String>,
    end: String,
}

/// An element under construction.
#[derive(Debug, Clone)]
pub(super) struct Element {
    name: &'static str,
    /// The start tag, but for its end.
    start: String,
    content: Html,
}

/// Escapes what is written through it.
struct Escaped<'a>(&'a mut String);

/// Creates an element without attributes and content.
pub(super) fn el(name: &'static str) -> Element {
    let mut start = String::with_capacity(TAG);
    start.push('<');
    start.push_str(name);
    Element { name, start, content: Html::default() }
}

// === impl Element ===

impl Element {
    /// Adds an attribute.
    pub(super) fn attr(mut self, name: &'static str, value: impl Display) -> Element {
        self.start.push(' ');
        self.start.push_str(name);
        self.start.push_str("=\"");
        escape(&mut self.start, value);
        self.start.push('"');
        self
    }

    /// Adds the attribute `class`.
    pub(super) fn class(self, value: impl Display) -> Element {
        self.attr("class", value)
    }

    /// Adds an attribute without a value, if the condition holds.
    pub(super) fn flag(mut self, name: &'static str, is_so: bool) -> Element {
        if is_so {
            self.start.push(' ');
            self.start.push_str(name);
        }
        self
    }

    pub(super) fn text(mut self, text: impl Display) -> Element {
        escape(&mut self.content.end, text);
        self
    }

    /// Adds a piece.
    pub(super) fn add(mut self, piece: impl Into<Html>) -> Element {
        self.content.add(piece.into());
        self
    }

    pub(super) fn all<T: Into<Html>>(self, pieces: impl IntoIterator<Item = T>) -> Element {
        pieces.into_iter().fold(self, Element::add)
    }

    /// Adds a part of the program without escaping it: a script or a style.
    pub(super) fn own(mut self, literal: &'static str) -> Element {
        self.content.end.push_str(literal);
        self
    }
}

impl From<Element> for Html {
    fn from(element: Element) -> Html {
        let Element { name, mut start, content: Html { mut parts, mut end } } = element;
        start.push('>');
        if VOID.contains(&name) {
            return Html { parts: Vec::new(), end: start };
        }
        if parts.is_empty() && end.len() < COPIED {
            start.push_str(&end);
            end = start;
        } else {
            parts.insert(0, start);
        }
        for part in ["</", name, ">"] {
            end.push_str(part);
        }
        Html { parts, end }
    }
}

impl<T: Into<Html>> From<Option<T>> for Html {
    fn from(piece: Option<T>) -> Html {
        piece.map(Into::into).unwrap_or_default()
    }
}

// === impl Html ===

impl Html {
    fn add(&mut self, piece: Html) {
        if piece.parts.is_empty() && piece.end.len() < COPIED {
            self.end.push_str(&piece.end);
            return;
        }
        let before = std::mem::replace(&mut self.end, piece.end);
        if !before.is_empty() {
            self.parts.push(before);
        }
        self.parts.extend(piece.parts);
    }

    /// The whole page.
    pub(super) fn document(self) -> String {
        const BEGIN: &str = "<!doctype html>\n";
        let length = self.parts.iter().map(String::len).sum::<usize>() + self.end.len();
        let mut text = String::with_capacity(BEGIN.len() + length + 1);
        text.push_str(BEGIN);
        text.extend(self.parts);
        text.push_str(&self.end);
        text.push('\n');
        text
    }
}

fn escape(out: &mut String, value: impl Display) {
    // A String takes whatever is written to it.
    let _ = write!(Escaped(out), "{value}");
}

/// Whether the character stands for itself: plain ASCII without a meaning in HTML.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'&' | b'<' | b'>' | b'"' | b'\'' | b'\\')
}

impl Write for Escaped<'_> {
    /// Escapes characters with a meaning in HTML. Characters that would affect a reader without being visible,
    /// such as those that change the direction of writing, are spelled out.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Escaped(out) = self;
        let mut rest = text;
        loop {
            let plain = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
            // ASCII ends where a character does.
            let (before, after) = rest.split_at_checked(plain).unwrap_or((rest, ""));
            out.push_str(before);
            let mut chars = after.chars();
            match chars.next() {
                None => return Ok(()),
                Some('&') => out.push_str("&amp;"),
                Some('<') => out.push_str("&lt;"),
                Some('>') => out.push_str("&gt;"),
                Some('"') => out.push_str("&quot;"),
                Some('\'') => out.push_str("&#39;"),
                Some('\\') => out.push('\\'),
                Some(char) => write!(out, "{}", char.escape_debug())?,
            }
            rest = chars.as_str();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn html(piece: impl Into<Html>) -> String {
        let Html { parts, end } = piece.into();
        parts.concat() + &end
    }

    #[test]
    fn texts_and_values_are_never_markup() {
        let hostile = "</script><img src=x onerror=\"a('b')\">&amp;\u{202e}\u{0}\n";
        let escaped =
            "&lt;/script&gt;&lt;img src=x onerror=&quot;a(&#39;b&#39;)&quot;&gt;&amp;amp;\\u{202e}\\0\\n";
        let made = el("p").attr("title", hostile).text(hostile);
        assert_eq!(html(made), format!("<p title=\"{escaped}\">{escaped}</p>"));
        assert_eq!(html(el("meta").attr("a", 1)), "<meta a=\"1\">");
        assert_eq!(html(el("details").flag("open", true).flag("x", false)), "<details open></details>");
        assert_eq!(html(None::<Element>), "");
    }

    #[test]
    fn long_pieces_keep_their_place() {
        let long = |letter: &str| letter.repeat(COPIED + 1);
        let inner = el("b").attr("c", 1).text("1").add(el("i").text(long("x"))).text("2");
        let made = el("p").text("0").add(inner).add(el("br")).add(el("u").text(long("y")));
        let want = format!("<p>0<b c=\"1\">1<i>{}</i>2</b><br><u>{}</u></p>", long("x"), long("y"));
        assert_eq!(html(made.clone()), want);
        assert_eq!(Html::from(made).document(), format!("<!doctype html>\n{want}\n"));
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_element(text in any::<String>()) {
            let made = html(el("b").attr("a", &text).text(&text));
            prop_assert_eq!(made.matches('<').count(), 2);
            prop_assert_eq!(made.matches('"').count(), 2);
            prop_assert!(!made.chars().any(|char| char.is_control()));
        }
    }
}
