//! Comments, messages and documents are plain English: habits that make readers stumble, each with a pattern that
//! finds it and the reason to avoid it.
//!
//! The patterns are those of phrases that have a better form in every context. Texts between backquotes or quotation
//! marks are not examined, because they may belong to other programs.

use std::path::{Path, PathBuf};

/// A habit, with sentences that have it and sentences that must not be mistaken for it.
struct Habit {
    name: &'static str,
    /// Why it is avoided, and what to write instead.
    reason: &'static str,
    finds: fn(&Text) -> bool,
    /// One sentence at least for each phrase of the pattern.
    bad: &'static [&'static str],
    good: &'static [&'static str],
}

/// A paragraph, the cell of a table, a comment or a message.
struct Text {
    kind: Kind,
    /// In one line, with `CODE` and `QUOTE` in place of quoted texts.
    flat: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Page,
    Comment,
    /// A comment of rustdoc.
    DocComment,
    /// A string literal that is no test's.
    Message,
}

/// Verbs of people, which programs and files do not do.
const SPEECH: &[&str] = &["says", "tells", "knows", "wants", "hears", "believes", "thinks", "likes"];

/// Subjects to which [`SPEECH`] does not apply.
const THINGS: &[&str] = &[
    "agent",
    "runtime",
    "kubelet",
    "kernel",
    "systemd",
    "exporter",
    "plugin",
    "hook",
    "observer",
    "reader",
    "server",
    "CRI",
    "NRI",
    "CRI-O",
    "containerd",
    "runc",
    "crun",
    "specification",
    "document",
    "file",
    "message",
    "page",
    "list",
    "answer",
    "log",
    "line",
    "check",
    "rule",
    "test",
    "record",
    "event",
    "program",
    "process",
    "container",
    "pod",
    "node",
    "cgroup",
    "socket",
    "bus",
    "journal",
    "configuration",
    "setting",
    "metric",
    "doctor",
    "bootstrap",
    "usernsd",
    "OpenShift",
    "Kubernetes",
    "unit",
    "annotation",
    "protocol",
    "field",
    "value",
    "manifest",
    "client",
    "library",
    "crate",
    "it",
    "CODE",
];

/// Finite verbs that occur in most relative clauses and most sentences.
const FINITE: &[&str] =
    &["is", "are", "was", "were", "has", "have", "may", "can", "cannot", "must", "does", "do"];

const HABITS: &[Habit] = &[
    Habit {
        name: "a person's clause as the subject",
        reason: "\"Who may create pods is …\" is German word order: write \"Anyone who can create pods …\", or name \
                 the program",
        finds: |text| {
            text.sentences().any(|sentence| {
                !sentence.ends_with('?') && starts_with_word(sentence, &["Who", "Whom", "Whose", "Whoever"])
            })
        },
        bad: &[
            "It ends. Who only looks is told.",
            "Whom the\ncontainer has, may stay.",
            "Whose it is, decides.",
            "Whoever restarts the runtime makes a new socket.",
        ],
        good: &["It asks who may read.", "Whose is it?", "Anyone who can create pods may do so."],
    },
    Habit {
        name: "a thing's clause as the subject",
        reason: "\"What is not mounted is absent\" makes the reader parse a clause before the subject is known: name \
                 the thing (\"A file that is not mounted …\")",
        finds: |text| {
            text.sentences().any(|sentence| {
                let words: Vec<&str> = words(sentence).collect();
                words.first() == Some(&"What")
                    && words.get(1) != Some(&"to")
                    && !sentence.ends_with('?')
                    && words.iter().filter(|word| FINITE.contains(word)).count() > 1
            })
        },
        bad: &["What is not mounted is absent.", "What cannot be seen is not said."],
        good: &[
            "What is PID 1?",
            "What to do: it is simple.",
            "What a pod can ask for, and how.",
            "It shows what is and what was.",
        ],
    },
    Habit {
        name: "a thing that talks",
        reason: "programs and files do not say, tell, know or want: a file contains, a program reports, supports, \
                 has, needs, prints",
        finds: |text| {
            let words: Vec<&str> = words(&text.flat).collect();
            words.windows(3).any(|three| {
                let is = |subject: &str, verb: &str| THINGS.contains(&subject) && SPEECH.contains(&verb);
                is(three[0], three[1])
                    || (["itself", "also", "never", "only", "still", "already"].contains(&three[1])
                        && is(three[0], three[2]))
            })
        },
        bad: &[
            "The kernel says which files.",
            "The agent itself knows it.",
            "Its file wants a line.",
            "CRI-O tells all.",
        ],
        good: &["You know the agent.", "The log contains a line.", "The runtime reports what it supports."],
    },
    Habit {
        name: "where for if",
        reason: "\"where\" is for places: write \"if there is one\", \"`None` if …\"",
        finds: |text| {
            text.has(&[
                "where there is none",
                "where there are none",
                "where there is one",
                "where there are any",
                "where that is so",
                "where it is so",
                "where that is more",
                "CODE where",
                "empty where",
                "nothing where",
            ]) && !text.has(&["CODE where it"])
        },
        bad: &[
            "`None` where there is no socket.",
            "It is empty where the fix suffices.",
            "A list, where there is one.",
        ],
        good: &["It is mounted where the file is.", "`None` if there is no socket."],
    },
    Habit {
        name: "none for not one",
        reason: "\"an answer that is none\" is a riddle: write what it is, or \"is not an answer\"",
        finds: |text| {
            ["is none", "are none", "was none"].iter().any(|phrase| {
                text.found(phrase).any(|at| {
                    let before = &text.flat[..at];
                    !before.to_lowercase().ends_with("there ")
                })
            })
        },
        bad: &["An answer that is older is none.", "Such links are none of its own."],
        good: &["There is none.", "None is left."],
    },
    Habit {
        name: "a fragment that begins with Of",
        reason: "the noun is missing: \"Of the guard\" leaves open what of the guard it is",
        finds: |text| {
            matches!(text.kind, Kind::Comment | Kind::DocComment)
                && text
                    .sentences()
                    .next()
                    .is_some_and(|first| first.starts_with("Of ") && !first.contains(','))
        },
        bad: &["Of the guard; taken by the test."],
        good: &["Of a pod, only the name is kept.", "The questions of the guard."],
    },
    Habit {
        name: "a pronoun without a noun",
        reason: "\"Its name.\" repeats the item below it: write whose name it is, or leave the comment out",
        finds: |text| {
            let words: Vec<&str> = words(&text.flat).collect();
            text.kind == Kind::DocComment && words.len() == 2 && ["Its", "Their", "His"].contains(&words[0])
        },
        bad: &["Its version."],
        good: &["The program's version.", "Its version, as the runtime reports it."],
    },
    Habit {
        name: "a bound as a riddle",
        reason: "\"So many bytes are read\" hides that it is a limit: write \"The most bytes that are read\"",
        finds: |text| {
            text.kind != Kind::Page
                && text.sentences().any(|sentence| {
                    ["So many ", "So long ", "So often "].iter().any(|start| sentence.starts_with(start))
                })
        },
        bad: &["So many bytes are looked at.", "It waits. So long it is kept."],
        good: &["So the agent waits.", "There are so many that it takes long."],
    },
    Habit {
        name: "a heading in a sentence",
        reason: "rustdoc shows \"# Errors\" as a heading only if it is alone in its line",
        finds: |text| text.kind == Kind::DocComment && text.flat != "# Errors" && text.has(&["# Errors"]),
        bad: &["Starts it. # Errors It cannot be started."],
        good: &["# Errors"],
    },
    Habit {
        name: "a look",
        reason: "the term for observing a container is inspection, for the node it is survey or check (glossary)",
        finds: |text| {
            text.has(&["first look", "last look", "next look", "another look", "one look", "an old look"])
        },
        bad: &["The last look ended.", "It is known after the first look."],
        good: &["The last inspection ended.", "It looks at the node."],
    },
    Habit {
        name: "a word that is not current English",
        reason: "use again, everything else, without, unknown, forever",
        finds: |text| {
            text.has(&[
                "anew",
                "all else",
                "for want of",
                "foretold",
                "came to be",
                "how-manieth",
                "howmanieth",
                "for ever",
                "heeds",
                "heed",
                "by halves",
                "carries it back",
            ])
        },
        bad: &[
            "It is created anew.",
            "It does all else.",
            "It fails for want of memory.",
            "It cannot be foretold.",
            "Nothing came to be.",
            "It waits for ever.",
            "It heeds no signal.",
        ],
        good: &["It is created again.", "It waits forever.", "A heeded annotation."],
    },
    Habit {
        name: "a phrase of spoken language",
        reason: "instructions have a verb for what is written or passed: set, pass, name, add",
        finds: |text| {
            text.has(&[
                "without a word",
                "say it:",
                "says so",
                "says why",
                "is told",
                "are told",
                "what to type",
                "of yours",
                "says nothing",
                "is none of",
                "is no TOML",
            ])
        },
        bad: &[
            "It ends without a word.",
            "Of another root, say it: `--crio-version`.",
            "The agent is told so.",
        ],
        good: &["Pass `--crio-version` for another root."],
    },
];

// === impl Text ===

impl Text {
    fn new(kind: Kind, text: &str) -> Text {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // A text with an odd number of quotation marks begins or ends within a quotation: nothing of it is left out.
        let without = |flat: String, mark: char, name: &str| {
            let parts: Vec<&str> = flat.split(mark).collect();
            if parts.len().is_multiple_of(2) {
                return flat;
            }
            let kept = parts.iter().enumerate().map(|(index, part)| if index % 2 == 0 { part } else { name });
            kept.collect::<String>()
        };
        let flat = without(flat, '`', "CODE");
        Text { kind, flat: without(flat, '"', "QUOTE") }
    }

    /// The sentences and parts of sentences, each with the mark at its end.
    fn sentences(&self) -> impl Iterator<Item = &str> {
        let ends = |(at, mark): (usize, char)| {
            let next = self.flat[at + mark.len_utf8()..].chars().next();
            (['.', ';', ':', '!', '?'].contains(&mark) && next.is_none_or(|next| next == ' ' || next == ')'))
                .then_some(at + 1)
        };
        let mut from = 0;
        let cuts = self.flat.char_indices().filter_map(ends).chain([self.flat.len()]);
        cuts.map(move |to| {
            let sentence = self.flat[from.min(to)..to].trim_matches([' ', '(', ')', '*', '-']);
            from = to;
            sentence
        })
        .filter(|sentence| !sentence.is_empty())
    }

    /// The positions of a phrase of whole words.
    fn found<'a>(&'a self, phrase: &'a str) -> impl Iterator<Item = usize> + 'a {
        let whole = |sign: Option<char>| sign.is_none_or(|sign| !sign.is_alphanumeric());
        self.flat.match_indices(phrase).map(|(at, _)| at).filter(move |&at| {
            whole(self.flat[..at].chars().next_back()) && whole(self.flat[at + phrase.len()..].chars().next())
        })
    }

    fn has(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.found(phrase).next().is_some())
    }

    fn habits(&self) -> impl Iterator<Item = &'static Habit> {
        HABITS.iter().filter(|habit| (habit.finds)(self))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '.', ';', ':', '!', '?', '(', ')', '*']).filter(|word| !word.is_empty())
}

fn starts_with_word(text: &str, starts: &[&str]) -> bool {
    words(text).next().is_some_and(|word| starts.contains(&word))
}

/// The texts of a page of Markdown, with their line numbers: without code, headings and HTML comments.
fn of_page(page: &str) -> Vec<(usize, Text)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut in_code, mut goes_on) = (false, false);
    for (index, line) in page.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            in_code = !in_code;
            goes_on = false;
        } else if in_code || line.is_empty() || line.starts_with('#') || line.starts_with("<!--") {
            goes_on = false;
        } else if line.starts_with('|') {
            goes_on = false;
            let cells = line.trim_matches('|').split(" | ");
            found.extend(cells.map(|cell| (index + 1, cell.trim().to_owned())));
        } else if line.starts_with("- ") || !goes_on {
            found.push((index + 1, line.trim_start_matches("- ").to_owned()));
            goes_on = true;
        } else if let Some((_, text)) = found.last_mut() {
            *text += " ";
            *text += line;
        }
    }
    found.into_iter().map(|(line, text)| (line, Text::new(Kind::Page, &text))).collect()
}

/// The comments of a source file, a paragraph each, and the string literals of at least four words before its tests.
fn of_source(source: &str, has_messages: bool) -> Vec<(usize, Text)> {
    let mut found: Vec<(usize, &str, String)> = Vec::new();
    let (mut mark_before, mut in_code) = ("", false);
    for (index, line) in source.lines().enumerate() {
        let line = line.trim_start();
        let mark = ["///", "//!", "//"].into_iter().find(|mark| line.starts_with(mark)).unwrap_or_default();
        let text = line[mark.len()..].trim();
        in_code = if mark.is_empty() { false } else { in_code ^ text.starts_with("```") };
        if mark.is_empty() || in_code || text.is_empty() || text.starts_with("```") || text.starts_with('|') {
            mark_before = "";
        } else if mark == mark_before && !text.starts_with("- ") && !text.starts_with("# ") {
            if let Some((_, _, paragraph)) = found.last_mut() {
                *paragraph += " ";
                *paragraph += text;
            }
        } else {
            found.push((index + 1, mark, text.trim_start_matches("- ").to_owned()));
            mark_before = if text.starts_with("# ") { "" } else { mark };
        }
    }
    let mut texts: Vec<(usize, Text)> = found
        .into_iter()
        .map(|(line, mark, text)| {
            let kind = if mark == "//" { Kind::Comment } else { Kind::DocComment };
            (line, Text::new(kind, &text))
        })
        .collect();
    if has_messages {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        texts.extend(literals(code).into_iter().filter_map(|(line, literal)| {
            (literal.split_whitespace().count() > 3).then(|| (line, Text::new(Kind::Message, &literal)))
        }));
    }
    texts
}

/// The string literals of Rust code, with the numbers of the lines in which they begin.
fn literals(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = code;
    let mut line = 1;
    let skip = |rest: &mut &str, line: &mut usize, length: usize| {
        *line += rest[..length].matches('\n').count();
        *rest = &rest[length..];
    };
    while let Some(at) = rest.find(['"', '/', '\'']) {
        skip(&mut rest, &mut line, at);
        if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            skip(&mut rest, &mut line, length);
        } else if rest.starts_with("'\"'") {
            skip(&mut rest, &mut line, 3);
        } else if rest.starts_with('"') {
            let mut escaped = false;
            let end = rest[1..].char_indices().find(|&(_, sign)| {
                let ends = sign == '"' && !escaped;
                escaped = sign == '\\' && !escaped;
                ends
            });
            let length = end.map_or(rest.len(), |(end, _)| end + 2);
            let literal = rest[1..].get(..length.saturating_sub(2)).unwrap_or_default();
            found.push((line, literal.replace("\\\n", " ").replace("\\n", " ").replace("\\\"", "\"")));
            skip(&mut rest, &mut line, length);
        } else {
            skip(&mut rest, &mut line, 1);
        }
    }
    found
}

/// The files below a directory that end so, without built and fetched ones.
fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("fuzz/corpus") {
                files(&path, ending, found);
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// Messages of other programs, which are quoted as they are, and this list of habits.
const QUOTATIONS: &[&str] = &["crates/messages/src/coverage", "tests/it/language.rs"];

#[test]
fn comments_messages_and_documents_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![root.join("build.rs")];
    for directory in ["crates", "src", "tests", "benches", "fuzz"] {
        files(&root.join(directory), "rs", &mut sources);
    }
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/README.md"]
            .map(|page| root.join(page))
            .into();
    for directory in ["docs", "dashboards"] {
        files(&root.join(directory), "md", &mut pages);
    }
    let mut found = Vec::new();
    let mut examined = 0;
    for path in sources.iter().chain(&pages) {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if QUOTATIONS.iter().any(|quotation| name.starts_with(quotation)) {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let is_tests = name.starts_with("tests") || name.contains("tests.rs") || name.starts_with("benches");
        let is_page = path.extension().is_some_and(|ending| ending == "md");
        let texts = if is_page { of_page(&text) } else { of_source(&text, !is_tests) };
        examined += texts.len();
        for (line, text) in texts {
            for habit in text.habits() {
                found.push(format!("{name}:{line}: {}: {}\n  {}", habit.name, text.flat, habit.reason));
            }
        }
    }
    // Far more texts than this exist: fewer mean that they are no longer found.
    assert!(examined > 15_000, "only {examined} texts");
    assert!(found.is_empty(), "{} texts\n{}", found.len(), found.join("\n"));
}

#[test]
fn each_habit_is_found_in_comments_and_pages_and_nothing_else_is() {
    for habit in HABITS {
        let found = |text: &str, kind| (habit.finds)(&Text::new(kind, text));
        for bad in habit.bad {
            assert!(found(bad, Kind::DocComment), "{}: not found in {bad:?}", habit.name);
        }
        for good in habit.good {
            let all: Vec<&str> = Text::new(Kind::DocComment, good).habits().map(|habit| habit.name).collect();
            assert!(all.is_empty(), "{good:?}: {all:?}");
        }
        assert!(!habit.bad.is_empty() && !habit.good.is_empty() && habit.reason.len() > 30, "{}", habit.name);
    }
}

#[test]
fn texts_are_taken_from_sources_and_pages() {
    let source = "//! One\n//! page.\n\n/// A thing.\n///\n/// # Errors\n/// It fails.\n/// - a `b` c\nfn a() {\n    \
                  // A comment \"x y\".\n    let text = \"a message of \\\n        five words\"; // no\n    \
                  let short = \"three words only\"; let mark = '\"';\n}\n#[cfg(test)]\n\"not a message of any kind\"\n";
    let texts = of_source(source, true);
    let texts: Vec<(usize, Kind, &str)> =
        texts.iter().map(|(line, t)| (*line, t.kind, t.flat.as_str())).collect();
    assert_eq!(
        texts,
        [
            (1, Kind::DocComment, "One page."),
            (4, Kind::DocComment, "A thing."),
            (6, Kind::DocComment, "# Errors"),
            (7, Kind::DocComment, "It fails."),
            (8, Kind::DocComment, "a CODE c"),
            (10, Kind::Comment, "A comment QUOTE."),
            (11, Kind::Message, "a message of five words"),
        ]
    );
    let page = "# Heading\n\nOne\nsentence.\n- an item\n  goes on\n| a | b c |\n```\ncode\n```\nlast\n";
    let texts: Vec<(usize, String)> =
        of_page(page).into_iter().map(|(line, text)| (line, text.flat)).collect();
    let want = [(3, "One sentence."), (5, "an item goes on"), (7, "a"), (7, "b c"), (11, "last")];
    assert_eq!(texts, want.map(|(line, text)| (line, text.to_owned())));
}
