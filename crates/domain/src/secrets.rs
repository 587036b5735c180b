//! Removes secrets from texts, recognised by their form, before a support bundle leaves the node. The bundle's parts
//! should contain none; but an error may quote a file, and a log line may quote a runtime.

/// The replacement of a secret.
pub const LEFT_OUT: &str = "(left out)";

/// Suffixes of keys whose value is a secret, in lower case and without `-` and `_`.
const KEYS: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "accesskeyid",
    "privatekey",
    "credential",
    "credentials",
    "authorization",
    "auth",
    "keydata",
    "cookie",
];
/// Prefixes of well-known kinds of tokens.
const PREFIXES: [&str; 19] = [
    "eyJ",
    "AKIA",
    "ASIA",
    "AIza",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "sk-",
    "npm_",
    "hvs.",
    "dckr_pat_",
    "pypi-",
    "ya29.",
];
/// No key and no certificate chain in PEM is longer.
const LONGEST_KEY: usize = 16 << 10;
/// A word of this length with small letters, capitals and digits is taken for a secret.
const LONG: usize = 32;

/// The text with everything that looks like a secret replaced.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let text = without_keys_in_armour(text);
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        out += &of_line(line);
        out += end;
    }
    out
}

/// Removes keys and certificates in PEM format, over any number of lines.
fn without_keys_in_armour(text: &str) -> String {
    let (begin, end) = ("-----BEGIN ", "-----END ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(begin) {
        out += before;
        out += LEFT_OUT;
        rest = match after.split_once(end).filter(|(key, _)| key.len() <= LONGEST_KEY) {
            Some((_, after)) => after.split_once("-----").map_or("", |(_, after)| after),
            // Without an end marker only this line; the lines of a key look like secrets by themselves.
            None => after.find('\n').and_then(|at| after.get(at..)).unwrap_or_default(),
        };
    }
    out + rest
}

fn of_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    // The word after a key or an authorization scheme is a secret, whatever it looks like.
    let mut is_value = false;
    while !rest.is_empty() {
        let length = rest.find(|char: char| !is_of_word(char)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        if word.is_empty() {
            let mut chars = after.chars();
            out.extend(chars.next());
            rest = chars.as_str();
            continue;
        }
        let is_scheme = ["bearer", "basic"].contains(&word.to_ascii_lowercase().as_str());
        if is_value || looks_like_one(word) {
            // In "Authorization: Bearer X" the value follows the scheme.
            out += if is_value && is_scheme { word } else { LEFT_OUT };
            is_value = is_value && is_scheme;
            rest = after;
            continue;
        }
        let separator = after.trim_start_matches(['"', '\'', '\\', ' ']);
        let is_flag = word.starts_with("--") && after.starts_with(' ');
        let is_named = is_key(word) && (is_flag || separator.starts_with([':', '=']));
        is_value = is_named || (is_scheme && after.starts_with(' '));
        if is_value {
            // A quoted value extends to the closing quote, even with blanks.
            let quoted = separator.trim_start_matches([':', '=', ' ', '\\']);
            if let Some((quote, inner)) =
                ['"', '\''].into_iter().find_map(|quote| Some((quote, quoted.strip_prefix(quote)?)))
                && let Some((_, after)) = inner.split_once(quote)
            {
                out += word;
                out += "=";
                out += LEFT_OUT;
                (rest, is_value) = (after, false);
                continue;
            }
        }
        out += word;
        rest = after;
    }
    without_users_of_urls(&out)
}

/// Removes `user:password@` from URLs.
fn without_users_of_urls(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        out += before;
        out += "://";
        let authority = after.split(['/', ' ', '"', '\'', '?']).next().unwrap_or_default();
        rest = match authority.rsplit_once('@') {
            Some((user, _)) => {
                out += LEFT_OUT;
                after.get(user.len()..).unwrap_or_default()
            }
            None => after,
        };
    }
    out + rest
}

fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "_-+/.~%!#$^&*".contains(char)
}

fn is_key(word: &str) -> bool {
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    let word = word.to_ascii_lowercase();
    KEYS.iter().any(|key| word.ends_with(key))
}

fn looks_like_one(word: &str) -> bool {
    let has_prefix = PREFIXES.iter().any(|prefix| {
        word.match_indices(prefix).any(|(at, _)| {
            let starts =
                word.get(..at).is_some_and(|before| before.is_empty() || before.ends_with(['/', '.']));
            starts && word.len() - at >= prefix.len() + 12
        })
    });
    has_prefix || is_bootstrap_token(word) || word.split('/').any(is_mixed) || is_hash(word)
}

/// kubeadm's tokens: six and sixteen small letters and digits (`[a-z0-9]{6}\.[a-z0-9]{16}`).
fn is_bootstrap_token(word: &str) -> bool {
    let is_part = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    word.split_once('.').is_some_and(|(id, secret)| is_part(id, 6) && is_part(secret, 16))
}

/// Base64 and similar: runtimes' identifiers, digests and UIDs have no capitals.
fn is_mixed(word: &str) -> bool {
    let has = |is: fn(&u8) -> bool| word.bytes().any(|byte| is(&byte));
    word.len() >= LONG
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_digit)
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_=".contains(&byte))
}

/// A password hash, as in /etc/shadow (crypt(5)).
fn is_hash(word: &str) -> bool {
    word.starts_with('$') && word.matches('$').count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced() {
        for (text, want) in [
            ("password=hunter2 next", "password=(left out) next"),
            ("DB_PASSWORD: \"hunter2 and more\", x", "DB_PASSWORD=(left out), x"),
            ("{\"auth\": \"aHVudGVyMg==\"}", "{\"auth=(left out)}"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer (left out)"),
            ("sent Bearer abc to it", "sent Bearer (left out) to it"),
            ("https://bob:pw@host/x", "https://(left out)@host/x"),
            ("key AKIAIOSFODNN7EXAMPLE.", "key (left out)"),
            ("$6$salt$hash", "(left out)"),
            ("join abcdef.0123456789abcdef", "join (left out)"),
            ("a\n-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\nb", "a\n(left out)\nb"),
            ("-----BEGIN PRIVATE KEY-----\nx", "(left out)\nx"),
            ("--password hunter2", "--password (left out)"),
        ] {
            assert_eq!(without_secrets(text), want);
        }
    }

    #[test]
    fn ordinary_words_are_kept() {
        for text in [
            "",
            "\n",
            "2026-11-21T08:52:00.123456Z  INFO handed the cgroup over container=0123abcd name=box after_us=12",
            "/kubepods.slice/kubepods-podc7f11ee7_e178_4dea_9d8c_c005ad648988.slice/cri-containerd-1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b.scope",
            "usernsd_check_passed{check=\"subid_grammar\",severity=\"error\"} 1",
            "containers:200000:268435456",
            "default_runtime = \"crun\"",
            "unix:///run/containerd/containerd.sock",
            "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
            "26 25 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate",
            "the author and the authority",
        ] {
            assert_eq!(without_secrets(text), text);
        }
    }
}
