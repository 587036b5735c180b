//! HTML from elements and texts. Input can only become a text or an attribute's value: names are `&'static
//! str`, and everything else is escaped.

use std::fmt::{Display, Write};

/// Elements without an end tag.
const VOID: [&str; 4] = ["br", "input", "link", "meta"];

/// A piece of HTML.
#[derive(Debug, Clone, Default)]
pub(super) struct Html(String);

/// An element under construction.
#[derive(Debug, Clone)]
pub(super) struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

/// Creates an element without attributes and content.
pub(super) fn el(name: &'static str) -> Element {
    Element { name, attributes: String::new(), content: String::new() }
}

// === impl Element ===

impl Element {
    /// Adds an attribute.
    pub(super) fn attr(mut self, name: &'static str, value: impl Display) -> Element {
        self.attributes.push(' ');
        self.attributes.push_str(name);
        self.attributes.push_str("=\"");
        escape(&mut self.attributes, &value.to_string());
        self.attributes.push('"');
        self
    }

    /// Adds the attribute `class`.
    pub(super) fn class(self, value: impl Display) -> Element {
        self.attr("class", value)
    }

    /// Adds an attribute without a value, if the condition holds.
    pub(super) fn flag(mut self, name: &'static str, is_so: bool) -> Element {
        if is_so {
            self.attributes.push(' ');
            self.attributes.push_str(name);
        }
        self
    }

    pub(super) fn text(mut self, text: impl Display) -> Element {
        escape(&mut self.content, &text.to_string());
        self
    }

    /// Adds a piece.
    pub(super) fn add(mut self, piece: impl Into<Html>) -> Element {
        self.content.push_str(&piece.into().0);
        self
    }

    pub(super) fn all<T: Into<Html>>(self, pieces: impl IntoIterator<Item = T>) -> Element {
        pieces.into_iter().fold(self, Element::add)
    }

    /// Adds a part of the program without escaping it: a script or a style.
    pub(super) fn own(mut self, literal: &'static str) -> Element {
        self.content.push_str(literal);
        self
    }
}

impl From<Element> for Html {
    fn from(element: Element) -> Html {
        let Element { name, attributes, content } = element;
        if VOID.contains(&name) {
            return Html(format!("<{name}{attributes}>"));
        }
        Html(format!("<{name}{attributes}>{content}</{name}>"))
    }
}

impl<T: Into<Html>> From<Option<T>> for Html {
    fn from(piece: Option<T>) -> Html {
        piece.map(Into::into).unwrap_or_default()
    }
}

// === impl Html ===

impl Html {
    /// The whole page.
    pub(super) fn document(self) -> String {
        format!("<!doctype html>\n{}\n", self.0)
    }
}

/// Escapes characters with a meaning in HTML. Characters that would affect a reader without being visible,
/// such as those that change the direction of writing, are spelled out.
fn escape(out: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\\' => out.push('\\'),
            _ => {
                let _ = write!(out, "{}", char.escape_debug());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn html(piece: impl Into<Html>) -> String {
        piece.into().0
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
