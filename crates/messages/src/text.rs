//! Text as it is compared: without what terminals, logs and web pages add to a message.

/// Kinds of quotation marks. Markdown, terminals and translations replace one by another.
const QUOTES: [char; 13] = ['\'', '"', '`', '´', '‘', '’', '‚', '“', '”', '„', '«', '»', '\u{fffd}'];
/// Longest number of parameters of a terminal's control sequence that is passed over.
const MAX_SEQUENCE: usize = 32;

/// Lower case, without backslashes and colours; one kind of quotation mark, and one space between words.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((next, after)) = next(rest) {
        if let Some(after) = colour(rest) {
            rest = after;
            continue;
        }
        let (shown, after) = escaped(rest).unwrap_or((next, after));
        rest = after;
        if QUOTES.contains(&shown) {
            plain.push('\'');
        } else if shown.is_whitespace() || shown.is_control() {
            if !plain.ends_with(' ') {
                plain.push(' ');
            }
        } else if shown != '\\' {
            plain.push(shown.to_ascii_lowercase());
        }
    }
    plain
}

/// The plain text with the names of errors in its language's form, such as `UnauthorizedAccessException`, as words; `None`
/// if it has none.
pub(super) fn spelled_out(text: &str) -> Option<String> {
    let mut spelled = String::with_capacity(text.len() + 16);
    let mut has_name = false;
    let mut before = ' ';
    for next in text.chars() {
        if next.is_ascii_uppercase() && before.is_ascii_lowercase() {
            spelled.push(' ');
            has_name = true;
        }
        spelled.push(next);
        before = next;
    }
    has_name.then(|| plain(&spelled))
}

/// The text of a journal's entry in JSON, in which `journalctl -o json` shows a message with control characters as
/// a list of bytes.
pub(super) fn journal_bytes(line: &str) -> Option<String> {
    let (_, list) = line.split_once("\"MESSAGE\":[").or_else(|| line.split_once("\"MESSAGE\" : ["))?;
    let (list, _) = list.split_once(']')?;
    let bytes: Vec<u8> = list.split(',').map(|byte| byte.trim().parse().ok()).collect::<Option<_>>()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a text can begin after `before`: not in the middle of a sentence, except after the level of a log.
pub(super) fn is_boundary(before: &str) -> bool {
    const LEVELS: [&str; 10] =
        ["f", "p", "debug", "info", "warn", "warning", "err", "error", "fatal", "critical"];
    let before = before.trim_end();
    let last = before.rsplit(|next: char| !next.is_alphanumeric()).next().unwrap_or_default();
    last.is_empty() || LEVELS.contains(&last)
}

fn next(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    chars.next().map(|first| (first, chars.as_str()))
}

/// The rest of `text` after a control sequence for terminals, written as bytes or as logs write it; `None` if `text`
/// does not begin with one.
fn colour(text: &str) -> Option<&str> {
    const ESCAPES: [&str; 7] = ["\u{1b}", "#033", "\\x1b", "\\u001b", "\\033", "\\e", "^["];
    if !text.starts_with(['\u{1b}', '#', '\\', '^']) {
        return None;
    }
    let after = ESCAPES.iter().find_map(|escape| text.strip_prefix(escape))?;
    let mut sequence = after.strip_prefix('[')?;
    for _ in 0..MAX_SEQUENCE {
        let (byte, after) = next(sequence)?;
        sequence = after;
        match byte {
            '0'..='9' | ';' | ':' | '?' => {}
            '@'..='~' => return Some(sequence),
            _ => return None,
        }
    }
    None
}

/// The character that a JSON escape or an HTML entity at the beginning of `text` stands for, and what is behind it.
fn escaped(text: &str) -> Option<(char, &str)> {
    const ENTITIES: [(&str, char); 10] = [
        ("&quot;", '"'),
        ("&#34;", '"'),
        ("&apos;", '\''),
        ("&#39;", '\''),
        ("&#x27;", '\''),
        ("&lt;", '<'),
        ("&gt;", '>'),
        ("&amp;", '&'),
        ("&#38;", '&'),
        ("&nbsp;", ' '),
    ];
    if text.starts_with('&') {
        return ENTITIES.iter().find_map(|(entity, shown)| Some((*shown, text.strip_prefix(entity)?)));
    }
    let escape = text.strip_prefix('\\')?;
    if let Some(after) = escape.strip_prefix(['n', 't', 'r']) {
        return Some((' ', after));
    }
    let (digits, length) = match next(escape)? {
        ('u', digits) => (digits, 4),
        ('x', digits) => (digits, 2),
        _ => return None,
    };
    let (code, after) = digits.split_at_checked(length)?;
    let code = u32::from_str_radix(code, 16).ok()?;
    char::from_u32(code).map(|shown| (shown, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_quotes_and_escapes_are_left_out() {
        for (text, want) in [
            ("[\u{1b}[0;1;31mFAILED\u{1b}[0m] Failed to start x", "[failed] failed to start x"),
            ("#033[31mError#033[0m: x", "error: x"),
            ("\\u001b[31merror\\u001b[0m: x", "error: x"),
            ("^[[1mbold^[[m", "bold"),
            ("peer=\\\"crio-default//\\u0026unconfined\\\"", "peer='crio-default//&unconfined'"),
            ("&quot;a&quot; &lt;b&gt; //&unconfined", "'a' <b> //&unconfined"),
            ("first\\n\\tsecond", "first second"),
            ("avc:  denied  { write } \u{a0}for", "avc: denied { write } for"),
            ("cannot create ‘/x’, “y” or `z`", "cannot create '/x', 'y' or 'z'"),
            ("»/x« \u{fffd}y\u{fffd}", "'/x' 'y'"),
            ("\\\\\\\"quoted twice\\\\\\\"", "'quoted twice'"),
            ("#0334 [x] \\", "#0334 [x] "),
        ] {
            assert_eq!(plain(text), want, "{text}");
        }
    }

    #[test]
    fn names_of_errors_are_words() {
        assert_eq!(
            spelled_out("System.UnauthorizedAccessException: x").as_deref(),
            Some("system.unauthorized access exception: x")
        );
        assert_eq!(
            spelled_out("java.nio.file.NoSuchFileException").as_deref(),
            Some("java.nio.file.no such file exception")
        );
        assert_eq!(spelled_out("System error: EACCES"), None);
    }

    #[test]
    fn a_message_of_bytes_is_text() {
        let line = r#"{"PRIORITY":"3","MESSAGE":[27,91,51,49,109,70,97,105,108,101,100],"_PID":"1"}"#;
        assert_eq!(journal_bytes(line).as_deref(), Some("\u{1b}[31mFailed"));
        assert_eq!(journal_bytes(r#"{"MESSAGE":"Failed"}"#), None);
        assert_eq!(journal_bytes(r#"{"MESSAGE":[999]}"#), None);
    }

    #[test]
    fn a_text_begins_at_a_boundary() {
        for before in ["", "E1121 x.go:1] ", "level=error msg='", "2026 stderr f ", "fatal: ", "error "] {
            assert!(is_boundary(before), "{before}");
        }
        for before in ["failed to ", "a text of "] {
            assert!(!is_boundary(before), "{before}");
        }
    }
}
