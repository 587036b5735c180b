//! Generated pages match the code, and all pages keep the rules for documents. `UPDATE=1 cargo nextest run
//! --test it docs::` writes the generated ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use usernsd_config::{Config, Overrides, Settings};
use usernsd_domain::admission;
use usernsd_domain::delegation::Skip;
use usernsd_report::metrics::Metrics;

/// Compares a page with the generated text, or writes it.
fn page(name: &str, want: &str) {
    file(&format!("docs/{name}"), want);
}

fn file(name: &str, want: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == want,
        "{name} is stale; write it with: UPDATE=1 cargo nextest run --test it docs::\nfirst difference: {:?}",
        want.lines().zip(found.lines()).find(|(want, found)| want != found)
    );
}

#[test]
fn the_configuration_file_matches_the_code() {
    page("configuration.yaml", &Config::documented_yaml());
}

#[test]
fn the_page_of_the_configuration_matches_the_code() {
    page("configuration.md", &Config::documented_markdown());
}

#[test]
fn the_page_of_metrics_matches_the_code() {
    page("metrics.md", &Metrics::documented_markdown().unwrap());
}

#[test]
fn the_page_of_errors_matches_the_code() {
    page("errors.md", &usernsd_messages::documented_markdown());
}

/// The table of skip reasons in a page that is otherwise written by hand.
#[test]
fn the_page_of_the_state_lists_each_skip_reason() {
    const BEGIN: &str = "| outcome | reason | state |\n|---|---|---|\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/state.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, table) = text.split_once(BEGIN).unwrap();
    let after: String =
        table.lines().skip_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    let row = |skip: Skip| {
        let states = [(false, false), (true, false), (false, true)].map(|(is_missed, is_unlimited)| {
            format!("`{}`", skip.cgroup_state(is_missed, is_unlimited).name())
        });
        let mut states: Vec<String> = states.into();
        states.dedup();
        let states = match states.as_slice() {
            [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            states => states.concat(),
        };
        format!("| `{}` | {} | {states} |\n", skip.name(), skip.meaning())
    };
    let rows: String = Skip::ALL.into_iter().map(row).collect();
    page("state.md", &format!("{before}{BEGIN}{rows}{after}"));
}

#[test]
fn the_admission_policies_match_the_code() {
    let default = Settings::load(None, Overrides::default()).unwrap().adjust.namespaces;
    file("daemonset/components/admission/policies.yaml", &admission::policies(&default));
    file("daemonset/components/admission-required/policy.yaml", &admission::required_policy());
}

/// The texts between quotes in a source, up to its unit tests.
fn literals(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(after) = rest.strip_prefix("'\"'") {
            rest = after;
        } else if let Some(text) = rest.strip_prefix('"') {
            let mut chars = text.chars();
            while let Some(char) = chars.next().filter(|char| *char != '"') {
                let is_escape = char == '\\' && chars.next().is_some();
                found.push(if is_escape { ' ' } else { char });
            }
            found.push('\n');
            rest = chars.as_str();
        } else {
            rest = &rest[1..];
        }
    }
    found
}

/// The words of a text.
fn words(text: &str) -> impl Iterator<Item = String> {
    // A placeholder is no word of the text.
    let parts = text.split('{').enumerate();
    let text: String = parts
        .map(|(number, part)| match part.split_once('}').filter(|_| number > 0) {
            Some((_, after)) => format!(" {after}"),
            None => part.to_owned(),
        })
        .collect();
    let found = text.split(|char: char| !char.is_ascii_alphanumeric() && !"-._".contains(char));
    let found = found.map(|word| word.trim_matches(['-', '.', '_']).to_ascii_lowercase());
    let is_word =
        |word: &String| word.len() <= 40 && word.starts_with(|char: char| char.is_ascii_lowercase());
    found.filter(is_word).collect::<Vec<_>>().into_iter()
}

/// The words of the messages in a crate's sources.
fn words_of_crate(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("crates").join(name).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !["tests", "coverage", "redact"].contains(&name) {
                directories.push(path);
            // The kernel's errors in other languages are only read, and their words are names elsewhere.
            } else if name.ends_with(".rs") && !["tests.rs", "redact.rs", "locale.rs"].contains(&name) {
                found.extend(words(&literals(&std::fs::read_to_string(&path).unwrap())));
            }
        }
    }
    found
}

/// The words of every message of the program, by crate.
fn own_words() -> BTreeMap<String, BTreeSet<String>> {
    let crates = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")).unwrap();
    let names = crates.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The demonstration is a program of its own, and generated code has no messages.
    let names = names.filter(|name| !["demo", "proto"].contains(&name.as_str()));
    names.map(|name| (name.clone(), words_of_crate(&name))).collect()
}

/// The words that a support bundle without names may contain. One that is missing makes a bundle less readable, so the
/// list may be some messages behind the sources.
#[test]
fn the_words_of_redacted_bundles_are_those_of_the_messages() {
    const BEHIND: usize = 100;
    let crates = own_words();
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap().lines();
    let of_the_program: BTreeSet<&str> = dependencies
        .filter_map(|line| line.strip_prefix("usernsd-")?.split_once(" = { path").map(|(name, _)| name))
        .filter(|name| *name != "proto")
        .collect();
    assert_eq!(crates.keys().map(String::as_str).collect::<BTreeSet<_>>(), of_the_program);
    let of_the_kernel = (1..=133).map(|number| std::io::Error::from_raw_os_error(number).to_string());
    let of_the_kernel = of_the_kernel.flat_map(|text| words(&text).collect::<Vec<_>>());
    let own: BTreeSet<String> = crates.values().flatten().cloned().chain(of_the_kernel).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/domain/src/redact/words.txt");
    let listed = || -> BTreeSet<String> {
        std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect()
    };
    // Before UPDATE takes them out of the list: they may be those of sources that were not found.
    let before = listed();
    let surplus: Vec<&String> = before.difference(&own).collect();
    assert!(
        surplus.len() < BEHIND,
        "in no message (if that is true, empty the list and run this once more): {surplus:?}"
    );
    if std::env::var_os("UPDATE").is_some() {
        let want: String = own.iter().map(|word| format!("{word}\n")).collect();
        std::fs::write(&path, &want).unwrap();
    }
    let listed = listed();
    let missing: Vec<&String> = own.difference(&listed).collect();
    assert!(missing.len() < BEHIND, "UPDATE=1 cargo nextest run --test it docs:: adds {missing:?}");
    // A list without all the words of a small crate is no further behind than that.
    for (name, found) in &crates {
        let others = crates.iter().filter(|(other, _)| *other != name).flat_map(|(_, found)| found);
        let others: BTreeSet<&String> = others.collect();
        let alone: Vec<&String> = found.iter().filter(|word| !others.contains(word)).collect();
        let is_listed = alone.iter().filter(|word| listed.contains(**word)).count();
        assert!(
            is_listed * 2 >= alone.len(),
            "{name}: {is_listed} of its words are listed; UPDATE=1 cargo nextest run --test it docs:: adds the others of {alone:?}"
        );
    }
    // Names of other people's pods are not in it.
    for name in ["payments", "acme", "web", "frontend", "dan", "lev"] {
        assert!(!listed.contains(name), "{name}");
    }
}

/// Every test that the section on attackers in docs/security.md names exists.
#[test]
fn tests_that_the_security_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let section = page.split("## What an attacker can do").nth(1).unwrap();
    let is_name = |word: &&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
    };
    let named: Vec<&str> = section.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() > 40, "{named:?}");
    let mut code = String::new();
    let mut directories = vec![root.join("tests"), root.join("src"), root.join("crates")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                code += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let tests: std::collections::BTreeSet<&str> = code
        .split("#[test]")
        .skip(1)
        .filter_map(|after| after.split("fn ").nth(1)?.split('(').next())
        .chain(
            code.split("#[tokio::test")
                .skip(1)
                .filter_map(|after| after.split("fn ").nth(1)?.split('(').next()),
        )
        .collect();
    let missing: Vec<_> = named.into_iter().filter(|name| !tests.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// Sentences about attackers that name no test; the paragraph about the remaining abilities needs no test.
fn sentences_without_a_test(section: &str) -> Vec<String> {
    let is_name = |word: &str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
    };
    let mut found = Vec::new();
    let paragraphs = section.split("\n\n").filter(|text| text.starts_with("**"));
    for paragraph in paragraphs.filter(|text| !text.starts_with("**What remains")) {
        let (_, text) = paragraph.split_once(".** ").unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let sentences = text.trim_end_matches('.').split(". ");
        let named = |sentence: &&str| sentence.split('`').skip(1).step_by(2).any(is_name);
        found.extend(sentences.filter(|sentence| !named(sentence)).map(str::to_owned));
    }
    found
}

#[test]
fn each_sentence_about_attackers_names_a_test() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let section =
        page.split("## What an attacker can do\n").nth(1).unwrap().split("### Threats").next().unwrap();
    assert!(section.matches("\n**").count() >= 5, "{section}");
    assert_eq!(sentences_without_a_test(section), Vec::<String>::new());
    let section =
        "Intro.\n\n**In a b.** It cannot c (`a_test_of_that`). It may\nnot d.\n\n**What remains.** E.\n";
    assert_eq!(sentences_without_a_test(section), ["It may not d"]);
}

/// Every Markdown page below a directory of the repository.
fn pages_below(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The Markdown pages to which a page links, without their sections.
fn links(page: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string(page).unwrap();
    let directory = page.parent().unwrap();
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|link| link.ends_with(".md") && !link.contains("://"))
        .map(|link| {
            directory.join(link).canonicalize().unwrap_or_else(|_| panic!("{}: {link}", page.display()))
        })
        .collect()
}

/// A page is listed in the index itself, or in the index of its directory, to which the main index links.
#[test]
fn the_index_lists_every_page() {
    let index = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/README.md").canonicalize().unwrap();
    let mut listed = links(&index);
    let indexes: Vec<PathBuf> = listed
        .iter()
        .filter(|page| page.ends_with("README.md") || page.ends_with("checks.md"))
        .cloned()
        .collect();
    listed.extend(indexes.iter().flat_map(|page| links(page)));
    let missing: Vec<PathBuf> = pages_below("docs")
        .into_iter()
        .map(|page| page.canonicalize().unwrap())
        .filter(|page| *page != index && !listed.contains(page))
        .collect();
    assert_eq!(missing, Vec::<PathBuf>::new(), "add them to docs/README.md");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let at_root = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|page| root.join(page));
    for page in pages_below("docs").into_iter().chain(pages_below("dashboards")).chain(at_root) {
        links(&page);
    }
}

/// A page that names a file is changed when the file moves.
#[test]
fn each_path_that_a_page_names_exists() {
    const AT_ROOT: [&str; 9] = [
        "benches/",
        "crates/",
        "daemonset/",
        "dashboards/",
        "docs/",
        "examples/",
        "fuzz/",
        "machineconfig/",
        "tests/",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let at_root =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"].map(|page| root.join(page));
    let mut missing = Vec::new();
    for page in pages_below("docs").into_iter().chain(pages_below("dashboards")).chain(at_root) {
        let text = std::fs::read_to_string(&page).unwrap();
        let words = text.split(|sign: char| sign.is_whitespace() || "`()[]<>|,;:\"'".contains(sign));
        for word in words.map(|word| word.trim_end_matches('.')) {
            // "daemonset/usernsd" is an object of Kubernetes; NAME, FILE and the like stand for many names.
            let is_one = !word.contains(['*', '…', '#', '=', '$'])
                && !word.contains("NAME")
                && !word.contains("FILE")
                && word != "daemonset/usernsd";
            if is_one && AT_ROOT.iter().any(|start| word.starts_with(start)) && !root.join(word).exists() {
                missing.push(format!("{}: {word}", page.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

/// The cells of each row, in all tables of a page.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| term |"));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The names of all items of the code: types, functions, modules and constants.
fn items() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut items = BTreeSet::new();
    let mut directories: Vec<PathBuf> =
        ["src", "crates"].map(|name| root.join(name)).into_iter().filter(|path| path.is_dir()).collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(path).unwrap();
                let words: Vec<&str> = text
                    .split(|sign: char| !(sign.is_alphanumeric() || sign == '_'))
                    .filter(|word| !word.is_empty())
                    .collect();
                for pair in words.windows(2) {
                    if ["struct", "enum", "trait", "fn", "mod", "type", "const"].contains(&pair[0]) {
                        items.insert(pair[1].to_owned());
                    }
                }
            }
        }
    }
    items
}

/// The crates of this workspace, and the others of them that each uses, without `usernsd-`.
fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let of = |directory: PathBuf| {
        let name =
            if directory == root { "usernsd".into() } else { directory.file_name().unwrap().to_owned() };
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let (_, after) = manifest.split_once("\n[dependencies]\n").unwrap_or_default();
        let names = after.lines().take_while(|line| !line.starts_with('['));
        let used = names.filter_map(|line| line.strip_prefix("usernsd-")?.split(['.', ' ']).next());
        (name.into_string().unwrap(), used.map(str::to_owned).collect())
    };
    below.chain([root.to_owned()]).map(of).collect()
}

#[test]
fn the_picture_of_the_crates_matches_the_manifests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, section) = page.split_once("## How the source is organised\n").unwrap();
    let crates = crates();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let (_, table) = section.split_once("| crate | content | uses |\n").expect("the table of crates");
    let table = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let listed: BTreeMap<String, BTreeSet<String>> = table
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (quoted(cells[1])[0].clone(), quoted(cells[3]).into_iter().collect())
        })
        .collect();
    assert_eq!(listed, crates);
    // The descriptions at the right name no crate of a lower row.
    let picture = section.split("```").nth(1).unwrap();
    let row = |name: &str| {
        let is_in = |line: &str| line.split_whitespace().any(|word| word == name);
        picture.lines().position(is_in).unwrap_or_else(|| panic!("{name} is not in the picture"))
    };
    for (name, used) in &crates {
        for other in used {
            assert!(row(other) > row(name), "{name} uses {other}, which is not in a lower row");
        }
    }
}

/// An item of the code that is renamed must be renamed in the ways through the source, too.
#[test]
fn each_step_of_a_way_through_the_source_is_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("| from | to | through |\n").expect("the table of ways");
    let (items, mut steps) = (items(), 0);
    for row in table.lines().skip(1).take_while(|line| line.starts_with("| ")) {
        let way = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for step in way.split('`').skip(1).step_by(2).filter(|step| !step.starts_with('/')) {
            let unknown = step.split("::").find(|name| !items.contains(*name));
            assert_eq!(unknown, None, "{step} in: {row}");
            steps += 1;
        }
    }
    assert!(steps > 25, "{steps}");
}

/// An item of the code that is renamed must be renamed in the glossary, too.
#[test]
fn each_term_of_the_glossary_is_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/glossary.md")).unwrap();
    let items = items();
    let (mut terms, mut missing) = (BTreeSet::new(), Vec::new());
    for row in rows(&page) {
        let [term, meaning, code] = row[..] else { panic!("three cells: {row:?}") };
        assert!(terms.insert(term.to_owned()), "{term} twice");
        assert!(meaning.len() > 20 && !meaning.ends_with('.'), "{term}: {meaning}");
        for path in code.split('`').skip(1).step_by(2) {
            let unknown = path.split("::").find(|name| !items.contains(*name));
            missing.extend(unknown.map(|name| format!("{term}: {name}")));
        }
        assert!(code.contains('`'), "{term}: nothing in the code");
    }
    assert!(terms.len() >= 20, "{terms:?}");
    assert_eq!(missing, Vec::<String>::new(), "no such item in the code");
}

/// A row that was wrapped, or that has an additional cell, is not displayed as a row.
#[test]
fn every_table_is_displayed_as_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for page in pages_below("docs").into_iter().chain([root.join("README.md")]) {
        let text = std::fs::read_to_string(&page).unwrap();
        let (mut in_code, mut columns) = (false, None);
        for (number, line) in text.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            let is_row = line.starts_with('|') && !in_code;
            let cells = line.replace("\\|", "").matches('|').count();
            let ends_as_row = line.ends_with('|') && !in_code && !line.trim_start().starts_with("```");
            if is_row != ends_as_row || (is_row && columns.is_some_and(|columns| columns != cells)) {
                broken.push(format!("{}:{}: {line}", page.display(), number + 1));
            }
            columns = is_row.then_some(columns.unwrap_or(cells));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
