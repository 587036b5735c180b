//! TOML values: parsed by other crates, rendered for CRI-O and containerd.
//!
//! The rules use these values; only other crates depend on a TOML parser.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A table by its keys. The order of keys has no meaning in TOML.
pub type Table = BTreeMap<String, Value>;

/// A value of a TOML document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Value>),
    /// A table, inline or not.
    Table(Table),
    /// A float or a date, as written: neither runtime has a relevant key of these types.
    Other(String),
}

impl Value {
    /// Go's name of the type, as in the messages of its TOML decoder.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "string",
            Value::Integer(_) => "int64",
            Value::Bool(_) => "bool",
            Value::List(_) => "slice",
            Value::Table(_) => "map[string]any",
            Value::Other(_) => "float or date",
        }
    }

    /// The strings of an array of strings; `None` for anything else.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<String>> {
        let Value::List(items) = self else { return None };
        items
            .iter()
            .map(|item| if let Value::Text(text) = item { Some(text.clone()) } else { None })
            .collect()
    }

    /// An array of strings.
    pub fn list<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Value {
        Value::List(items.into_iter().map(|item| Value::Text(item.into())).collect())
    }
}

/// The value of a key as Go's decoder finds it: the exact name first, then in any case (BurntSushi/toml, "case
/// insensitive"; both runtimes use it or an equivalent).
#[must_use]
pub fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    table.get(key).or_else(|| table.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, v)| v))
}

/// The table at a path of keys, each found as in [`get`].
#[must_use]
pub fn table_at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(table, |table, key| match get(table, key) {
        Some(Value::Table(inner)) => Some(inner),
        _ => None,
    })
}

/// A quoted basic string (TOML 1.0, "String").
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a String cannot fail.
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A key, bare if TOML allows that.
#[must_use]
pub fn key(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.bytes().all(bare) { text.to_owned() } else { quote(text) }
}

/// A value; arrays with more than one item take one line per item.
#[must_use]
pub fn render(value: &Value) -> String {
    match value {
        Value::Text(text) => quote(text),
        Value::Integer(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Other(text) => text.clone(),
        Value::List(items) if items.len() > 1 => {
            let lines: String = items.iter().map(|item| format!("  {},\n", inline(item))).collect();
            format!("[\n{lines}]")
        }
        other => inline(other),
    }
}

/// A value within another, on one line, as inline tables require.
fn inline(value: &Value) -> String {
    match value {
        Value::List(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let pairs: Vec<String> =
                table.iter().map(|(name, value)| format!("{} = {}", key(name), inline(value))).collect();
            if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
        }
        other => render(other),
    }
}

/// `KEY = VALUE` and a line feed.
#[must_use]
pub fn line(name: &str, value: &Value) -> String {
    format!("{} = {}\n", key(name), render(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_toml_is_parsed_back_by_any_parser() {
        for (value, want) in [
            (Value::Text("a\"\\\n\u{7f}é".into()), r#""a\"\\\n\u007Fé""#),
            (Value::Bool(true), "true"),
            (Value::Integer(-1), "-1"),
            (Value::list(["a"]), r#"["a"]"#),
            (Value::list(["a", "b"]), "[\n  \"a\",\n  \"b\",\n]"),
            (Value::list(Vec::<String>::new()), "[]"),
            (Value::Table([("a.b".to_owned(), Value::list(["x", "y"]))].into()), r#"{ "a.b" = ["x", "y"] }"#),
            (Value::Table(Table::new()), "{}"),
        ] {
            assert_eq!(render(&value), want);
        }
    }

    #[test]
    fn keys_that_are_not_bare_are_quoted() {
        for (name, want) in [("a-b_1", "a-b_1"), ("", "\"\""), ("a.b", "\"a.b\""), ("é", "\"é\"")] {
            assert_eq!(key(name), want);
        }
    }

    #[test]
    fn a_key_is_found_in_any_case_and_the_exact_one_wins() {
        let table: Table =
            [("KEY".to_owned(), Value::Integer(1)), ("key".to_owned(), Value::Integer(2))].into();
        assert_eq!(get(&table, "key"), Some(&Value::Integer(2)));
        assert_eq!(get(&table, "Key"), Some(&Value::Integer(1)));
        assert_eq!(get(&table, "kez"), None);
    }
}
