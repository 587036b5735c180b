//! `usernsd map`, byte for byte. `UPDATE=1 cargo nextest run --test it map::` writes the expected output.

use crate::page::fixture;
use std::path::Path;
use std::process::Command;

use unicode_width::UnicodeWidthStr as _;
use usernsd::cli::map::{document, render};
use usernsd::cli::status;
use usernsd::cli::terminal::Terminal;
use usernsd_report::state::{Sources, serve};

const PLAIN: Terminal = Terminal { width: Some(100), color: false, unicode: true };

#[track_caller]
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap_or_default(), "{name}; UPDATE=1 writes it");
}

#[test]
fn map_output_matches_the_golden_files() {
    golden("map.txt", &render(&fixture::problems(), PLAIN));
    let page = include_str!("../../docs/status-page.md");
    assert!(page.contains(&render(&fixture::problems(), PLAIN)), "docs/status-page.md shows another map");
    let ascii = Terminal { unicode: false, width: Some(60), ..PLAIN };
    golden("map-ascii.txt", &render(&fixture::problems(), ascii));
    golden("map-large.txt", &render(&fixture::large(), PLAIN));
    golden("map-empty.txt", &render(&fixture::empty(), PLAIN));
    golden("status.txt", &status::render(&fixture::problems(), PLAIN));
    let page = include_str!("../../docs/commands.md");
    assert!(
        page.contains(&status::render(&fixture::problems(), PLAIN)),
        "docs/commands.md shows another status"
    );
    golden("map.json", &(serde_json::to_string_pretty(&document(&fixture::well())).unwrap() + "\n"));
}

#[test]
fn the_map_fits_the_width_and_the_encoding_of_the_terminal() {
    for width in [1, 40, 60, 80, 120, 200] {
        for unicode in [true, false] {
            let text = render(&fixture::large(), Terminal { width: Some(width), unicode, color: false });
            assert!(unicode || text.is_ascii(), "{text}");
            // A name is never cut, and neither is a range below some width.
            let widest = text.lines().skip(1).map(|line| line.width()).max().unwrap();
            assert!(widest <= width.max(62), "{width}: {widest}\n{text}");
        }
    }
}

#[test]
fn names_cannot_affect_the_terminal() {
    for unicode in [true, false] {
        let text = render(&fixture::hostile(), Terminal { unicode, ..PLAIN });
        let does = |char: char| char.is_control() || "\u{200f}\u{202e}\u{2066}".contains(char);
        assert!(!text.lines().any(|line| line.contains(does)), "{text}");
        assert!(text.contains("\\u{202e}gnp.dab"), "{text}");
    }
    let coloured = render(&fixture::problems(), Terminal { color: true, ..PLAIN });
    assert!(coloured.contains("\x1b[31;1m✗\x1b[0m"));
    // Colours add no information to the characters.
    let plain = ["1", "2", "32", "33", "31;1", "0"]
        .iter()
        .fold(coloured, |text, code| text.replace(&format!("\x1b[{code}m"), ""));
    assert_eq!(plain, render(&fixture::problems(), PLAIN));
}

#[test]
fn the_command_adapts_to_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let sources = Sources {
        document: Box::new(|| fixture::problems().render()),
        metrics: Box::new(String::new),
        changes: tokio::sync::watch::Sender::new(()).subscribe(),
    };
    let _server = serve(&socket, &[], sources).unwrap();
    let run = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usernsd"));
        command.env_clear().envs(variables.iter().copied()).args(["map", "--socket"]).arg(&socket).args(more);
        let ran = command.output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let at =
        |width, unicode| render(&fixture::problems(), Terminal { width: Some(width), color: false, unicode });
    assert_eq!(run(&[], &[]), at(80, false));
    assert_eq!(run(&[("LANG", "en_US.UTF-8"), ("COLUMNS", "100")], &[]), at(100, true));
    assert_eq!(run(&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")], &[]), at(80, false));
    assert_eq!(run(&[("LC_CTYPE", "de_DE.utf8"), ("COLUMNS", "wide")], &[]), at(80, true));
    let json: serde_json::Value = serde_json::from_str(&run(&[], &["-o", "json"])).unwrap();
    assert_eq!(json["pools"][0]["used"].as_array().unwrap().len(), 29);
    assert_eq!(json["spaces"][0]["overlaps"][0]["start"], 1_900_544);

    // On a terminal, which script(1) creates.
    let on_terminal = |variables: &[(&str, &str)]| {
        let line =
            format!("stty cols 100; {} map --socket {}", env!("CARGO_BIN_EXE_usernsd"), socket.display());
        let mut command = Command::new("script");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .envs(variables.iter().copied());
        let ran =
            command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null()).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().replace("\r\n", "\n")
    };
    let coloured = Terminal { width: Some(100), color: true, unicode: true };
    assert_eq!(on_terminal(&[("TERM", "xterm")]), render(&fixture::problems(), coloured));
    assert_eq!(on_terminal(&[("TERM", "dumb")]), at(100, true));
    assert_eq!(on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]), at(100, true));
}
