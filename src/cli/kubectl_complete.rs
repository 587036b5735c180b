//! Completion of `kubectl userns`: kubectl runs a program with the name `kubectl_complete-userns`, if PATH has one, with
//! the words so far, the last of which is to be completed. The answer is one candidate a line, and a last line with a
//! colon and a directive (`kubectl help plugin`, cobra's ShellCompDirective).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory};

use crate::args::kubectl::KubectlArgs;
use usernsd_peers::kubectl::Kubectl;

/// cobra's directive for "these and nothing else".
const NO_FILES: u8 = 4;
/// cobra's directive for "complete files".
const FILES: u8 = 0;

/// What the last word may become.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Candidates {
    /// One of these.
    Words(Vec<String>),
    Files,
    /// What kubectl prints with these arguments, one a word.
    Of(Vec<String>),
    /// Nothing is known about it.
    Unknown,
}

/// Prints the candidates.
///
/// # Errors
/// stdout is closed.
pub fn run(words: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let mut root = KubectlArgs::command();
    root.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let (found, directive) = match candidates(&root, before, last) {
        Candidates::Words(words) => (words, NO_FILES),
        Candidates::Files => (Vec::new(), FILES),
        Candidates::Unknown => (Vec::new(), NO_FILES),
        Candidates::Of(args) => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            // A completion prints no errors: they would be in the middle of the command line.
            let output = Kubectl::new(Vec::new()).call(&args, &|_| ()).map(|answer| answer.stdout);
            let output = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
            (output.split_whitespace().map(str::to_owned).collect(), NO_FILES)
        }
    };
    let mut answer: String = found
        .iter()
        .filter(|word| word.starts_with(last) && !word.contains(char::is_control))
        .map(|word| format!("{word}\n"))
        .collect();
    answer.push_str(&format!(":{directive}\n"));
    super::print(&answer)?;
    Ok(ExitCode::SUCCESS)
}

/// What `last` may become after the words before it.
fn candidates(root: &Command, before: &[String], last: &str) -> Candidates {
    let mut command = root;
    let mut positionals = 0;
    let mut value_of: Option<&Arg> = None;
    // Flags that select the cluster and the namespace which kubectl asks, with their values.
    let mut cluster: Vec<String> = Vec::new();
    for word in before {
        if let Some(arg) = value_of.take() {
            remember(arg, word, &mut cluster);
        } else if let Some((flag, value)) = word.strip_prefix("--").and_then(|flag| flag.split_once('=')) {
            if let Some(arg) = flag_of(command, &format!("--{flag}")) {
                remember(arg, value, &mut cluster);
            }
        } else if word.starts_with('-') {
            value_of = flag_of(command, word).filter(|arg| arg.get_action().takes_values());
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        } else {
            positionals += 1;
        }
    }
    if let Some(arg) = value_of {
        return of_value(arg, cluster);
    }
    if last.starts_with('-') {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
        return Candidates::Words(
            flags.filter_map(|arg| arg.get_long()).map(|name| format!("--{name}")).collect(),
        );
    }
    let visible = |below: &&Command| !below.is_hide_set() && below.get_name() != "help";
    if command.get_subcommands().next().is_some() {
        return Candidates::Words(
            command.get_subcommands().filter(visible).map(|below| below.get_name().to_owned()).collect(),
        );
    }
    command.get_positionals().nth(positionals).map_or(Candidates::Unknown, |arg| of_value(arg, cluster))
}

/// The argument of a flag as it is written: `-o`, `--output`.
fn flag_of<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| {
        let long = arg.get_long().is_some_and(|name| word.strip_prefix("--") == Some(name));
        long || arg.get_short().is_some_and(|name| word.strip_prefix('-') == Some(&name.to_string()))
    })
}

fn remember(arg: &Arg, value: &str, cluster: &mut Vec<String>) {
    if ["namespace", "context", "kubeconfig"].contains(&arg.get_id().as_str()) {
        cluster.push(format!("--{}={value}", arg.get_id()));
    }
}

/// What a value may be.
fn of_value(arg: &Arg, cluster: Vec<String>) -> Candidates {
    let possible: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !possible.is_empty() {
        return Candidates::Words(possible);
    }
    let get = |kind: &str| {
        let names = ["get", kind, "--output=jsonpath={.items[*].metadata.name}"];
        Candidates::Of(names.map(str::to_owned).into_iter().chain(cluster.clone()).collect())
    };
    match arg.get_id().as_str() {
        "node" => get("nodes"),
        "pod" => get("pods"),
        "namespace" | "agent_namespace" => get("namespaces"),
        "context" => Candidates::Of(["config", "get-contexts", "--output=name"].map(str::to_owned).into()),
        _ if arg.get_value_hint() == ValueHint::AnyPath => Candidates::Files,
        _ => Candidates::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Candidates {
        let mut root = KubectlArgs::command();
        root.build();
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let last = words.pop().unwrap();
        candidates(&root, &words, &last)
    }

    fn words(list: &[&str]) -> Candidates {
        Candidates::Words(list.iter().map(|&word| word.to_owned()).collect())
    }

    fn get(list: &[&str]) -> Candidates {
        Candidates::Of(list.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn each_word_of_a_command_line_has_its_candidates() {
        let names = "--output=jsonpath={.items[*].metadata.name}";
        let commands =
            words(&["status", "ps", "explain", "doctor", "map", "whois", "demo", "support-bundle"]);
        assert_eq!(of(""), commands);
        assert_eq!(of("--context c "), commands);
        assert_eq!(of("doctor "), get(&["get", "nodes", names]));
        assert_eq!(of("doctor n1 "), Candidates::Unknown);
        assert_eq!(of("explain -n team w"), get(&["get", "pods", names, "--namespace=team"]));
        assert_eq!(of("--context=c explain w"), get(&["get", "pods", names, "--context=c"]));
        assert_eq!(of("explain -n "), get(&["get", "namespaces", names]));
        assert_eq!(of("explain web -o "), words(&["table", "json"]));
        assert_eq!(of("--context "), get(&["config", "get-contexts", "--output=name"]));
        assert_eq!(of("--kubeconfig "), Candidates::Files);
        assert_eq!(of("support-bundle n1 -o "), Candidates::Files);
        let Candidates::Words(flags) = of("ps --") else { panic!() };
        assert!(flags.contains(&"--all-namespaces".to_owned()) && flags.contains(&"--context".to_owned()));
    }
}
