//! As much of PromQL as is needed to find the metrics that an expression reads. Prometheus itself checks the
//! syntax.

/// One reference to a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(String, String, String)>,
    /// The text in square brackets.
    pub(crate) range: Option<String>,
    /// The innermost function or aggregation around it; empty if there is none.
    pub(crate) within: String,
}

/// The metrics that an expression reads, and the labels by which it groups and joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) selectors: Vec<Selector>,
    pub(crate) grouping: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Range(String),
    Sign(String),
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 7] = ["and", "or", "unless", "bool", "offset", "inf", "nan"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&first) = rest.peek() {
        let mut take = |wanted: &dyn Fn(char) -> bool| {
            let mut word = String::new();
            while let Some(&next) = rest.peek().filter(|next| wanted(**next)) {
                word.push(next);
                rest.next();
            }
            word
        };
        if first.is_whitespace() {
            take(&char::is_whitespace);
        } else if first.is_ascii_digit() {
            // A number or a duration.
            take(&|c| c.is_ascii_alphanumeric() || c == '.');
        } else if first.is_ascii_alphabetic() || matches!(first, '_' | '$') {
            found.push(Token::Word(take(&|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$'))));
        } else if first == '"' || first == '[' {
            rest.next();
            let end = if first == '"' { '"' } else { ']' };
            let mut inside = String::new();
            loop {
                match rest.next() {
                    Some('\\') if first == '"' => inside.extend(rest.next()),
                    Some(c) if c == end => break,
                    Some(c) => inside.push(c),
                    None => return Err(format!("no {end} after {inside:?}")),
                }
            }
            found.push(if first == '"' { Token::Text(inside) } else { Token::Range(inside) });
        } else if matches!(first, '=' | '!' | '~' | '<' | '>') {
            found.push(Token::Sign(take(&|c| matches!(c, '=' | '!' | '~' | '<' | '>'))));
        } else {
            rest.next();
            found.push(Token::Sign(first.to_string()));
        }
    }
    Ok(found)
}

/// Parses the references in `text`.
pub(crate) fn reads(text: &str) -> Result<Reads, String> {
    let tokens = tokens(text)?;
    let mut reads = Reads::default();
    let mut open: Vec<String> = Vec::new();
    let mut at = 0;
    let sign = |at: usize| match tokens.get(at) {
        Some(Token::Sign(sign)) => sign.as_str(),
        _ => "",
    };
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Word(word) if GROUPING.contains(&word.as_str()) => {
                if sign(at) != "(" {
                    return Err(format!("no ( after {word}"));
                }
                at += 1;
                while sign(at) != ")" {
                    match tokens.get(at) {
                        Some(Token::Word(label)) => reads.grouping.push(label.clone()),
                        Some(Token::Sign(comma)) if comma == "," => {}
                        other => return Err(format!("{other:?} among the labels of {word}")),
                    }
                    at += 1;
                }
                at += 1;
            }
            Token::Word(word) if WORDS.contains(&word.to_lowercase().as_str()) => {}
            Token::Word(word) if sign(at) == "(" => {
                open.push(word.clone());
                at += 1;
            }
            // An aggregation: its function is found again after the labels.
            Token::Word(_) if matches!(tokens.get(at), Some(Token::Word(by)) if by == "by" || by == "without") =>
                {}
            Token::Word(name) => {
                let mut selector = Selector {
                    name: name.clone(),
                    matchers: Vec::new(),
                    range: None,
                    within: open.last().cloned().unwrap_or_default(),
                };
                if sign(at) == "{" {
                    at += 1;
                    while sign(at) != "}" {
                        match (tokens.get(at), sign(at + 1), tokens.get(at + 2)) {
                            (Some(Token::Word(label)), operator, Some(Token::Text(value))) => {
                                selector.matchers.push((label.clone(), operator.to_owned(), value.clone()));
                                at += 3;
                            }
                            (Some(Token::Sign(comma)), _, _) if comma == "," => at += 1,
                            other => return Err(format!("{other:?} among the matchers of {name}")),
                        }
                    }
                    at += 1;
                }
                if let Some(Token::Range(range)) = tokens.get(at) {
                    selector.range = Some(range.clone());
                    at += 1;
                }
                reads.selectors.push(selector);
            }
            Token::Sign(paren) if paren == "(" => open.push(String::new()),
            Token::Sign(paren) if paren == ")" => {
                open.pop().ok_or("a ) too many")?;
            }
            Token::Sign(brace) if brace == "{" => return Err("a selector without a name".to_owned()),
            Token::Sign(_) | Token::Text(_) | Token::Range(_) => {}
        }
    }
    if open.is_empty() { Ok(reads) } else { Err("a ) is missing".to_owned()) }
}

/// The expression with Grafana's variables replaced by a selection of everything.
pub(crate) fn filled(text: &str) -> String {
    text.replace("$__rate_interval", "1m")
        .replace("$__range", "10m")
        .replace("$job", ".+")
        .replace("$instance", ".+")
        .replace("$cluster", ".*")
}
