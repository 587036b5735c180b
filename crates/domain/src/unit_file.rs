//! The settings in the files of a systemd unit, as systemd.syntax(7), systemd.service(5) and systemd.exec(5) define
//! them.

use std::collections::{BTreeMap, BTreeSet};

/// Settings of which an empty assignment forgets all before it.
const RESETTABLE: [&str; 4] = ["ExecStart", "Environment", "EnvironmentFile", "ExecSearchPath"];
/// Upper limit for the values that a text with variables may have.
const MOST_VALUES: usize = 64;
/// Programs that run other programs in containers.
const ENGINES: [&str; 5] = ["podman", "docker", "nerdctl", "ctr", "crictl"];

/// All values that are assigned to each variable, in any unit or environment file.
pub type Variables = BTreeMap<String, BTreeSet<String>>;

/// An assignment in a unit's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSetting {
    pub key: String,
    /// The value, with continued lines joined.
    pub value: String,
    /// The index of the file.
    pub file: usize,
    /// The number of the line, from 1.
    pub line: usize,
}

/// The lines of a text without comments, and the number of each, from 1. A line that ends in a backslash continues
/// in the next one.
#[must_use]
pub fn lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        // A comment within a continued line is skipped.
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        if let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            whole.push(' ');
            open = Some((number, whole));
        } else {
            whole.push_str(line);
            lines.push((number, whole));
        }
    }
    lines.extend(open);
    lines
}

/// The settings of a unit, from the texts of its file and its drop-ins in systemd's order.
#[must_use]
pub fn settings<T: AsRef<str>>(texts: &[T]) -> Vec<UnitSetting> {
    let mut settings: Vec<UnitSetting> = Vec::new();
    for (file, text) in texts.iter().enumerate() {
        for (line, whole) in lines(text.as_ref()) {
            let Some((key, value)) = whole.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            if value.is_empty() && RESETTABLE.contains(&key) {
                settings.retain(|before| before.key != key);
            } else {
                settings.push(UnitSetting { key: key.to_owned(), value: value.to_owned(), file, line });
            }
        }
    }
    settings
}

/// The words of a value without their quotes.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for sign in line.chars() {
        match (quote, sign) {
            (None, '"' | '\'') => quote = Some(sign),
            (Some(open), _) if open == sign => quote = None,
            (None, ' ' | '\t') => words.push(std::mem::take(&mut word)),
            _ => word.push(sign),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Adds the assignments of a unit's `Environment=`.
pub fn add_environment(settings: &[UnitSetting], variables: &mut Variables) {
    let of_unit = settings.iter().filter(|setting| setting.key == "Environment");
    for word in of_unit.flat_map(|setting| words(&setting.value)) {
        if let Some((name, value)) = word.split_once('=') {
            variables.entry(name.to_owned()).or_default().insert(value.to_owned());
        }
    }
}

/// Adds the assignments of an environment file. An unquoted value ends with the line.
pub fn add_environment_file(text: &str, variables: &mut Variables) {
    for (_, line) in lines(text) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        let unquoted = ['"', '\''].into_iter().find_map(|sign| value.strip_prefix(sign)?.strip_suffix(sign));
        variables.entry(name.trim().to_owned()).or_default().insert(unquoted.unwrap_or(value).to_owned());
    }
}

/// The values of a text with variables and specifiers; `None` if a variable is assigned nowhere, or for a specifier,
/// whose value depends on the running system.
#[must_use]
pub fn expand(text: &str, variables: &Variables) -> Option<Vec<String>> {
    let is_name = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
    let mut all = vec![String::new()];
    let append = |all: &mut Vec<String>, part: &str| all.iter_mut().for_each(|one| one.push_str(part));
    let mut rest = text;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, special) = rest.split_at(at);
        append(&mut all, before);
        if let Some(after) = special.strip_prefix("$$").or_else(|| special.strip_prefix("%%")) {
            append(&mut all, special.get(..1)?);
            rest = after;
            continue;
        }
        let special = special.strip_prefix('$')?;
        let (name, after) = match special.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => special.split_at(special.find(|sign| !is_name(sign)).unwrap_or(special.len())),
        };
        let values = variables.get(name).filter(|values| !values.is_empty())?;
        all = all
            .iter()
            .flat_map(|one| values.iter().map(move |value| format!("{one}{value}")))
            .take(MOST_VALUES)
            .collect();
        rest = after;
    }
    append(&mut all, rest);
    Some(all)
}

/// The file that containerd's unit gives to it, from the unit's settings: `--config`, or `-c` for short. Variables are
/// replaced by what the unit itself assigns.
#[must_use]
pub fn containerd_config(settings: &[UnitSetting]) -> Option<String> {
    // Go's flags have one dash or two.
    path_of_flag(settings, "containerd", &["--config", "-config"], &["-c", "--c"])
}

/// The absolute path that a unit's command gives to `program` by a flag. The `short` flags count only behind the
/// program's name: those of a shell that starts it are its own.
#[must_use]
pub fn path_of_flag(
    settings: &[UnitSetting],
    program: &str,
    flags: &[&str],
    short: &[&str],
) -> Option<String> {
    let mut variables = Variables::new();
    add_environment(settings, &mut variables);
    let value_of = |word: &String| {
        let values = expand(word, &variables);
        values.and_then(|values| values.into_iter().next()).unwrap_or_else(|| word.clone())
    };
    let commands = settings.iter().filter(|setting| setting.key == "ExecStart");
    let mut named = commands.filter_map(|setting| {
        // A variable may stand for several words.
        let words: Vec<String> = words(&setting.value).iter().map(value_of).collect();
        let words = words_of_command(&words.join(" "));
        let place = words.iter().position(|word| name_of(word) == program);
        let mut arguments = words.iter().skip(place.unwrap_or_default() + 1);
        let mut file = None;
        while let Some(word) = arguments.next() {
            let (flag, value) =
                word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
            if flags.contains(&flag) || (place.is_some() && short.contains(&flag)) {
                file = value.or_else(|| arguments.next().map(String::as_str)).or(file);
            }
        }
        file.filter(|file| file.starts_with('/')).map(str::to_owned)
    });
    named.next_back()
}

/// Whether a command, a value of `ExecStart=`, starts a kubelet, or a program that contains one.
#[must_use]
pub fn starts_kubelet(command: &str) -> bool {
    const PROGRAMS: [&str; 6] = ["kubelet", "k3s", "rke2", "k0s", "hyperkube", "kubelite"];
    words_of_command(command).iter().any(|word| PROGRAMS.contains(&name_of(word)))
}

/// Whether a command starts a kubelet in a container of its own.
#[must_use]
pub fn starts_kubelet_in_container(command: &str) -> bool {
    let words = words_of_command(command);
    let Some(engine) = words.iter().position(|word| ENGINES.contains(&name_of(word))) else { return false };
    let arguments = words.get(engine + 1..).unwrap_or_default();
    let starts = arguments.iter().position(|word| matches!(word.as_str(), "run" | "start"));
    let started = starts.and_then(|at| arguments.get(at + 1..)).unwrap_or_default();
    // An image, a container's name, or the program in it.
    let name = |word: &str| word.rsplit(['/', '=']).next()?.split([':', '@']).next().map(str::to_owned);
    started.iter().any(|word| matches!(name(word).as_deref(), Some("kubelet" | "hyperkube")))
}

/// The words of a command; a word in quotes may be a command of a shell.
fn words_of_command(command: &str) -> Vec<String> {
    let words = words(command);
    words.iter().flat_map(|word| word.split_ascii_whitespace()).map(str::to_owned).collect()
}

/// The last component of a program's path, without systemd's prefixes (`-/usr/bin/x`).
fn name_of(word: &str) -> &str {
    let word = word.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    word.rsplit('/').next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<(String, String, usize, usize)> {
        let all = settings(texts).into_iter();
        all.map(|one| (one.key, one.value, one.file, one.line)).collect()
    }

    #[test]
    fn an_empty_assignment_forgets_those_before_it() {
        let texts = [
            "[Service]\nExecStart=/usr/bin/kubelet \\\n# no\n  --max-pods=1\nType=notify\n",
            "ExecStart=\nExecStart=/usr/bin/kubelet\nEnvironment=A=1\n",
        ];
        assert_eq!(
            of(&texts),
            [
                ("Type".into(), "notify".into(), 0, 5),
                ("ExecStart".into(), "/usr/bin/kubelet".into(), 1, 2),
                ("Environment".into(), "A=1".into(), 1, 3),
            ]
        );
        assert_eq!(of(&texts[..1])[0].1, "/usr/bin/kubelet    --max-pods=1");
    }

    #[test]
    fn variables_are_replaced_by_every_value_that_is_assigned() {
        let mut variables = Variables::new();
        add_environment(&settings(&["Environment=\"MAX=250\" DIR=/etc"]), &mut variables);
        add_environment_file("# X=1\nMAX=\"110\"\nARGS=--a --b\n", &mut variables);
        for (text, want) in [
            ("${MAX}", Some(vec!["110", "250"])),
            ("$DIR/config-$MAX", Some(vec!["/etc/config-110", "/etc/config-250"])),
            ("$ARGS", Some(vec!["--a --b"])),
            ("/a$$b%%c", Some(vec!["/a$b%c"])),
            ("/plain", Some(vec!["/plain"])),
            ("%h/config", None),
            ("${NONE}", None),
            ("${MAX", None),
            ("a$", None),
        ] {
            let want = want.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(expand(text, &variables), want, "{text}");
        }
    }

    #[test]
    fn the_file_of_containerd_is_that_of_its_flag() {
        for (unit, want) in [
            ("ExecStart=/usr/bin/containerd", None),
            ("ExecStart=/usr/bin/containerd --config /a", Some("/a")),
            ("ExecStart=-/usr/bin/containerd --config=/a --log-level=info", Some("/a")),
            ("ExecStart=/usr/bin/containerd -c /a", Some("/a")),
            ("ExecStart=/usr/bin/containerd -c=/a", Some("/a")),
            ("ExecStart=/usr/bin/containerd -config '/a'", Some("/a")),
            ("ExecStart=/usr/bin/containerd \\\n  --config \\\n  /a", Some("/a")),
            ("Environment=FILE=/a\nExecStart=/usr/bin/containerd --config ${FILE}", Some("/a")),
            ("Environment=\"OPTIONS=--root /x -c /a\"\nExecStart=/usr/bin/containerd $OPTIONS", Some("/a")),
            ("ExecStart=/bin/sh -c 'exec /usr/bin/containerd -c /a'", Some("/a")),
            ("ExecStart=/bin/sh -c /usr/local/bin/start", None),
            ("ExecStart=/opt/wrapper --config=/a", Some("/a")),
            ("ExecStart=/usr/bin/containerd --config /a\nExecStart=\nExecStart=/usr/bin/containerd", None),
            ("ExecStart=/usr/bin/containerd --config relative", None),
        ] {
            assert_eq!(containerd_config(&settings(&[unit])).as_deref(), want, "{unit}");
        }
    }

    #[test]
    fn commands_that_start_a_kubelet_are_known() {
        for (command, starts, in_container) in [
            ("/usr/bin/kubelet --config=/x", true, false),
            ("-/usr/local/bin/k3s agent", true, false),
            ("/bin/sh -c 'exec /opt/bin/kubelet $ARGS'", true, false),
            ("/usr/bin/podman run --rm --name kubelet quay.io/x/kubelet:v1.36 /kubelet", true, true),
            ("/usr/bin/docker start -a kubelet", true, true),
            ("/usr/bin/ctr -n k8s.io run --rm docker.io/x/kubelet:v1 kubelet", true, true),
            ("/bin/bash /usr/local/sbin/dynamic-system-reserved-calc.sh true", false, false),
            ("/usr/bin/docker pull x/kubelet", true, false),
            ("/usr/bin/podman run x/kubelet-csr-approver:1", false, false),
        ] {
            assert_eq!(starts_kubelet(command), starts, "{command}");
            assert_eq!(starts_kubelet_in_container(command), in_container, "{command}");
        }
    }
}
