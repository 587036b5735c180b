//! The agent's interfaces for people and programs, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ran};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::sync::watch;
use usernsd::cli::ps;
use usernsd_report::http;
use usernsd_report::http::{Protection, Routes};
use usernsd_report::page::{self, PageInput};
use usernsd_report::state::{
    ReadStateError, ServeError, Sources, State, StateServer, read_metrics, read_state, serve, watch_state,
};

/// Larger than any socket buffer, so that a server must wait for its reader.
const LARGE: usize = 8 << 20;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn state() -> State {
    serde_json::from_slice(&std::fs::read(golden("state.json")).unwrap()).unwrap()
}

/// A directory that every user may enter.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A state server that has only documents.
fn sources(document: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Sources {
    Sources {
        document: Box::new(document),
        metrics: Box::new(|| "usernsd_x 1\n".to_owned()),
        changes: watch::Sender::new(()).subscribe(),
    }
}

fn serve_golden(path: &Path) -> StateServer {
    serve(path, &[], sources(|| state().render())).unwrap()
}

/// A reader without a request, which gets the document.
fn reader(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

/// Waits until a condition holds, however busy the machine is.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the peer has closed the connection. Does not read what it sent before.
fn is_hung_up(stream: &UnixStream) -> bool {
    let mut poll = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    nix::poll::poll(&mut poll, PollTimeout::ZERO).unwrap();
    poll[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// A program that sends the same bytes on every connection.
fn impostor(path: &Path, bytes: Vec<u8>) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(&bytes);
        }
    });
}

fn usernsd(args: &[&str]) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_usernsd")).args(args).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

// === usernsd ps ===

#[test]
fn ps_output_matches_the_golden_files() {
    for (name, output, headers) in [
        ("ps.txt", ps::Output::Table, true),
        ("ps-no-headers.txt", ps::Output::Table, false),
        ("ps-wide.txt", ps::Output::Wide, true),
        ("ps.json", ps::Output::Json, true),
    ] {
        let found = ps::render(&state(), output, headers);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(golden(name), &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(golden(name)).unwrap(), "{name}; UPDATE=1 writes it");
        assert!(!found.chars().any(|char| char.is_control() && char != '\n'), "{name}");
    }
    let mut state = state();
    let text = "8 containers, 5 in user namespaces; 5 problems on this node (usernsd status)";
    assert_eq!(ps::summary(&state), text);
    for (path, nri, words) in [
        ("launched_plugin", "up", "(usernsd status); the launched plugin is called before containers start"),
        ("agent_joined", "up", text),
        ("nobody", "down", "(usernsd status); nobody is called before containers start"),
        ("nobody", "off", text),
    ] {
        state.peers.start_path = serde_json::from_value(path.into()).unwrap();
        state.peers.nri.state = serde_json::from_value(nri.into()).unwrap();
        assert!(ps::summary(&state).ends_with(words), "{path} {nri}: {}", ps::summary(&state));
    }
}

#[test]
fn ps_prints_only_headings_for_an_empty_node() {
    let empty = State { containers: vec![], ..state() };
    assert!(
        ps::summary(&empty).starts_with("0 containers, 0 in user namespaces; "),
        "{}",
        ps::summary(&empty)
    );
    assert_eq!(ps::render(&empty, ps::Output::Table, true).lines().count(), 1);
    assert_eq!(ps::render(&empty, ps::Output::Table, false), "");
    assert_eq!(ps::render(&empty, ps::Output::Json, true), "[]\n");
}

#[test]
fn ps_prints_its_summary_to_standard_error() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let _server = serve_golden(&path);
    let ran = usernsd(&["ps", "--socket", path.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert_eq!(text(&ran.stdout), std::fs::read_to_string(golden("ps.txt")).unwrap());
    let output = "8 containers, 5 in user namespaces; 5 problems on this node (usernsd status)\n";
    assert_eq!(text(&ran.stderr), output);
    let ran = usernsd(&["ps", "--no-headers", "--socket", path.to_str().unwrap()]);
    assert!(ran.stderr.is_empty() && text(&ran.stdout).lines().count() == 8);
}

#[test]
fn a_failure_prints_one_line_and_exits_with_two() {
    for (args, want) in [
        (vec!["ps", "--socket", "/nowhere/s"], "error: nothing answers on /nowhere/s (No such file"),
        (vec!["agent", "--config", "/nowhere/c"], "error: reading /nowhere/c: No such file"),
        (vec!["agent", "--http", "9564"], "error: --http: \"9564\" is not an address; write an IP address"),
        (vec!["config", "check", "/nowhere/c"], "error: reading /nowhere/c: "),
    ] {
        let ran = usernsd(&args);
        let output = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{args:?}");
        assert!(output.starts_with(want) && output.lines().count() == 1, "{args:?}: {output}");
        assert!(ran.stdout.is_empty());
    }
    assert_eq!(usernsd(&["ps", "--nonsense"]).status.code(), Some(2));
}

#[test]
fn config_check_exits_with_one_if_the_file_is_wrong() {
    let dir = open_dir();
    let path = dir.path().join("c.yaml");
    let check = || usernsd(&["config", "check", path.to_str().unwrap()]);
    std::fs::write(&path, usernsd(&["config", "default"]).stdout).unwrap();
    assert_eq!(check().status.code(), Some(0));
    std::fs::write(&path, "guard:\n  policy: maybe\n").unwrap();
    let ran = check();
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        text(&ran.stdout).ends_with(":2: guard.policy: \"maybe\" is unknown; write one of: refuse, report\n")
    );
}

// === the state socket ===

#[test]
fn the_document_arrives_completely() {
    let dir = open_dir();
    let path = dir.path().join("run/usernsd/s");
    let server = serve_golden(&path);
    assert_eq!(read_state(&path).unwrap(), state());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let parent = std::fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o777, 0o755);
    drop(server);
    assert!(!path.exists(), "a stopped server leaves no socket");
}

/// The agent's complete answer to these bytes.
fn say(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_request_of_one_line_is_answered_or_refused() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let _server = serve_golden(&path);
    assert_eq!(say(&path, b"v1 state\n"), state().render());
    assert_eq!(say(&path, b"v1 metrics\n"), b"usernsd_x 1\n");
    let refusal = "{\"error\":\"this agent answers to: v1 state, v1 watch, v1 metrics\"}\n";
    for nonsense in [&b"GET / HTTP/1.1\r\n"[..], b"v9 state\n", b"{\"version\":9}\n", &[b'x'; 1000], b"\n"] {
        assert_eq!(text(&say(&path, nonsense)), refusal, "{nonsense:?}");
    }
}

#[test]
fn a_reader_that_stays_gets_changes_at_most_once_a_second() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let (changed, changes) = watch::channel(());
    let number = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&number);
    let document = move || {
        let mut state = state();
        state.node.name = count.fetch_add(1, Ordering::SeqCst).to_string();
        state.render()
    };
    let _server = serve(&path, &[], Sources { changes, ..sources(document) }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut documents = watch_state(&path).await.unwrap();
        assert_eq!(documents.next().await.unwrap().node.name, "0");
        // A hundred changes at once cause one document, and later ones another.
        (0..100).for_each(|_| changed.send_replace(()));
        let since = Instant::now();
        assert_eq!(documents.next().await.unwrap().node.name, "1");
        assert!(since.elapsed() > Duration::from_millis(800));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(number.load(Ordering::SeqCst), 2, "nothing changed, nothing is looked at");
        changed.send_replace(());
        assert_eq!(documents.next().await.unwrap().node.name, "2");
        // Four readers may stay; others may still request one document.
        let mut others = Vec::new();
        for _ in 0..3 {
            let mut other = watch_state(&path).await.unwrap();
            other.next().await.unwrap();
            others.push(other);
        }
        assert!(matches!(watch_state(&path).await.unwrap().next().await, Err(ReadStateError::Silent(_))));
        assert_eq!(read_metrics(&path).await.unwrap(), "usernsd_x 1\n");
        // A reader that leaves makes room for another one.
        drop(others.pop());
        let mut late = loop {
            let mut late = watch_state(&path).await.unwrap();
            if late.next().await.is_ok() {
                break late;
            }
            assert!(since.elapsed() < Duration::from_secs(20));
        };
        // All connections end with the agent.
        drop(_server);
        assert!(late.next().await.is_err() && documents.next().await.is_err());
        assert!(matches!(watch_state(&path).await, Err(ReadStateError::NotRunning { .. })));
    });
}

#[test]
fn a_dead_agents_socket_is_taken_over_and_a_living_ones_is_not() {
    let dir = open_dir();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "nobody cleaned up");
    assert!(matches!(read_state(&path), Err(ReadStateError::NotRunning { .. })));
    let first = serve_golden(&path);
    let second = serve(&path, &[], sources(Vec::new));
    assert!(matches!(second, Err(ServeError::InUse(_))), "{second:?}");
    assert_eq!(read_state(&path).unwrap(), state());
    // A successor that has taken over the path keeps it when its predecessor ends.
    std::fs::remove_file(&path).unwrap();
    let _successor = serve_golden(&path);
    drop(first);
    assert_eq!(read_state(&path).unwrap(), state());
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let dir = open_dir();
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(serve(&path, &[], sources(Vec::new)), Err(ServeError::NotASocket(_))));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(serve(&link, &[], sources(Vec::new)), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert!(!std::fs::symlink_metadata(&link).unwrap().file_type().is_socket());
}

#[test]
fn slow_readers_are_dropped_and_delay_nobody() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let rendered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&rendered);
    let _server = serve(
        &path,
        &[],
        sources(move || {
            count.fetch_add(1, Ordering::SeqCst);
            vec![b' '; LARGE]
        }),
    )
    .unwrap();
    // One reader without a request, 14 that read nothing, and one free place.
    let mut silent = UnixStream::connect(&path).unwrap();
    let mut slow: Vec<UnixStream> = (0..14).map(|_| reader(&path)).collect();
    wait_until("each slow reader's document", || rendered.load(Ordering::SeqCst) >= 14);
    let mut document = Vec::new();
    reader(&path).read_to_end(&mut document).unwrap();
    assert_eq!(document.len(), LARGE);
    assert!(!slow.iter().all(is_hung_up), "a slow reader held up a fast one");

    wait_until("the slow readers to be dropped", || slow.iter().all(is_hung_up));
    let mut rest = Vec::new();
    let _ = slow.pop().unwrap().read_to_end(&mut rest);
    assert!(rest.len() < LARGE, "a slow reader was not dropped");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "one that does not ask was not dropped");
    let mut document = Vec::new();
    reader(&path).read_to_end(&mut document).unwrap();
    assert_eq!(document.len(), LARGE, "the places of the slow are free again");
}

#[test]
fn a_flood_of_connections_gets_sixteen_places() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let _server = serve(&path, &[], sources(|| vec![b' '; LARGE])).unwrap();
    let flood: Vec<UnixStream> = (0..200).map(|_| reader(&path)).collect();
    // The newest connection gets its document, so all earlier ones have been handled.
    let mut newest = flood.last().unwrap();
    newest.read_exact(&mut [0]).unwrap();
    let ended = |stream: &&UnixStream| {
        let mut bytes = vec![0; LARGE];
        let mut stream: &UnixStream = stream;
        stream.set_nonblocking(true).unwrap();
        loop {
            match stream.read(&mut bytes) {
                // The server waits for this reader, so the connection is alive.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
    };
    let open = flood.iter().filter(|stream| !ended(stream)).count();
    assert!((1..=16).contains(&open), "{open} connections are open");
}

#[test]
fn ps_gets_a_place_while_silent_connections_hold_all_of_them() {
    let dir = open_dir();
    let path = dir.path().join("s");
    let _server = serve_golden(&path);
    let silent: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(read_state(&path).unwrap(), state());
    // The place was that of the oldest connection, not of one whose time was up.
    let mut newest = silent.last().unwrap();
    newest.set_nonblocking(true).unwrap();
    let read = newest.read(&mut [0]).unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock, "the newest silent connection is over already");
}

#[test]
fn only_root_and_allowed_users_get_an_answer() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: nobody else to be");
        return;
    }
    let dir = open_dir();
    let binary = dir.path().join("usernsd");
    std::fs::copy(env!("CARGO_BIN_EXE_usernsd"), &binary).unwrap();
    let ps = |path: &Path, uid: u32| {
        Command::new(&binary)
            .args(["ps", "--socket", path.to_str().unwrap()])
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap()
    };
    let closed = dir.path().join("closed");
    let _server = serve_golden(&closed);
    assert_eq!(ps(&closed, 0).status.code(), Some(0));
    let denied = ps(&closed, 65_532);
    assert_eq!(denied.status.code(), Some(2));
    assert!(text(&denied.stderr).contains("is not yours to read; become root"), "{}", text(&denied.stderr));

    let open = dir.path().join("open");
    let _server = serve(&open, &[65_532], sources(|| state().render())).unwrap();
    assert_eq!(std::fs::metadata(&open).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(ps(&open, 65_532).status.code(), Some(0));
    assert_eq!(ps(&open, 0).status.code(), Some(0));
    let silent = ps(&open, 65_533);
    assert_eq!((silent.status.code(), silent.stdout.len()), (Some(2), 0));
    assert!(text(&silent.stderr).contains("stateSocket.allowUids"), "{}", text(&silent.stderr));
}

#[test]
fn an_answer_that_is_no_state_document_is_an_error() {
    let dir = open_dir();
    for (name, bytes, want) in [
        ("garbage", b"HTTP/1.1 400 Bad Request".to_vec(), "is it the socket of another program?"),
        ("half", state().render().split_at(200).0.to_vec(), "did not send a state document"),
        ("empty", vec![], "closed the connection without an answer"),
        ("list", b"[]".to_vec(), "did not send a state document"),
        ("newer", b"{\"version\":2,\"containers\":{}}".to_vec(), "sends version 2 of the state document"),
        ("deep", vec![b'['; 1 << 20], "did not send a state document"),
        ("endless", vec![b' '; (64 << 20) + 1], "sent more than 64 MiB"),
    ] {
        let path = dir.path().join(name);
        impostor(&path, bytes);
        let output = read_state(&path).unwrap_err().to_string();
        assert!(output.contains(want), "{name}: {output}");
    }
}

// === HTTP ===

fn routes() -> Routes {
    Routes {
        page: Box::new(|| page::render(&PageInput::now(&state()))),
        metrics: Box::new(|| Box::pin(async { Some("usernsd_x 1\n".to_owned()) })),
        partial_metrics: None,
        state: Box::new(|| Ok(state().render())),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(|| Err("not ready".to_owned())),
    }
}

fn unprotected() -> Protection {
    Protection { tls: None, gate: None, report: Box::new(|_| ()) }
}

fn http() -> http::HttpServer {
    http::serve(http::listen("127.0.0.1:0".parse().unwrap()).unwrap(), routes(), unprotected()).unwrap()
}

fn talk(server: &http::HttpServer, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn fetch(server: &http::HttpServer, path: &str) -> String {
    talk(server, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
}

#[test]
fn http_serves_five_pages() {
    let server = http();
    for (path, status, kind, body) in [
        ("/", "200 OK", "text/html; charset=utf-8", "<a href=\"metrics\">"),
        ("/metrics", "200 OK", "text/plain; version=0.0.4; charset=utf-8", "\r\n\r\nusernsd_x 1\n"),
        ("/api/v1/state", "200 OK", "application/json", "\r\n\r\n{\"version\":1,"),
        ("/api/v2/state", "404 Not Found", "text/plain; charset=utf-8", "no such page\n"),
        ("/healthz", "200 OK", "text/plain; charset=utf-8", "\r\n\r\nok\n"),
        ("/readyz", "503 Service Unavailable", "text/plain; charset=utf-8", "\r\n\r\nnot ready\n"),
        ("/etc/passwd", "404 Not Found", "text/plain; charset=utf-8", "no such page\n"),
        ("/metrics/../x", "404 Not Found", "text/plain; charset=utf-8", "no such page\n"),
    ] {
        let answer = fetch(&server, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
        assert!(answer.contains(&format!("\r\ncontent-type: {kind}\r\n")), "{path}: {answer}");
        assert!(answer.contains(body), "{path}: {answer}");
        for header in [
            "content-security-policy: default-src 'none';",
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: no-referrer\r\n",
            "cache-control: no-store\r\n",
            "connection: close\r\n",
        ] {
            assert!(answer.contains(header), "{path}: {header}: {answer}");
        }
    }
}

#[test]
fn http_accepts_only_requests_without_a_body() {
    let server = http();
    let head = talk(&server, "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("GET /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n", "413"),
        ("GET /metrics HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n", "413"),
        ("POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n", "413"),
        ("POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", "405"),
        ("DELETE / HTTP/1.1\r\nhost: localhost\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = talk(&server, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let answer = talk(&server, &long);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Requests that a server might take for a page whose path is another text, and several in one.
#[test]
fn no_spelling_of_a_path_gets_around_authorization() {
    let gate: http::Gate = Box::new(|_| Box::pin(async { http::Admission::Forbidden }));
    let protection = Protection { gate: Some(gate), ..unprotected() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = http::serve(http::listen(address).unwrap(), routes(), protection).unwrap();
    let head = "HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n";
    for target in [
        "/metrics",
        "/",
        "/api/v1/state",
        "//metrics",
        "/metrics/",
        "/metrics%2f",
        "/%6detrics",
        "/metrics;x",
        "/metrics?a=/healthz",
        "/metrics#/healthz",
        "/./metrics",
        "/healthz/../metrics",
        "/healthz/%2e%2e/metrics",
        "/METRICS",
        "/metrics%00",
        "/api/v1//state",
        "/api/v1/state?watch",
        "?x",
        "/?x",
        "http://localhost/metrics",
        "http://localhost",
        "http://localhost/api/v1/state",
        "*",
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "GEt"] {
            let answer = talk(&server, &format!("{method} {target} {head}\r\n"));
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "403", "404", "405"].contains(&status), "{method} {target}: {answer}");
            assert!(!answer.contains("usernsd_x") && !answer.contains("\"version\":1"), "{method} {target}");
        }
    }
    let first = format!("GET /healthz {head}");
    for (more, wanted) in [
        (format!("\r\nGET /metrics {head}\r\n"), "200"),
        (format!("connection: keep-alive\r\n\r\nGET /metrics {head}\r\n"), "200"),
        (
            "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQ\r\n\r\n"
                .into(),
            "200",
        ),
        ("content-length: 0\r\ncontent-length: 40\r\n\r\n".into(), "400"),
        ("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".into(), "400"),
    ] {
        let answer = talk(&server, &format!("{first}{more}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{more:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{more:?}: {answer}");
        assert!(!answer.contains("usernsd_x"), "{more:?}: {answer}");
    }
    let http2 = talk(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!(!http2.contains("usernsd_x"), "{http2}");
}

#[test]
fn http_on_loopback_refuses_the_names_of_other_hosts() {
    let server = http();
    let get = |host: &str| talk(&server, &format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    for host in
        ["localhost", "LocalHost:9564", "127.0.0.1", "127.0.0.1:9564", "[::1]", "[::1]:1", "127.9.9.9"]
    {
        assert!(get(host).starts_with("HTTP/1.1 200 "), "{host}");
    }
    for host in
        ["evil.example", "evil.example:9564", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.x", "::2"]
    {
        let answer = get(host);
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("usernsd_x"), "{host}: {answer}");
    }
    assert!(talk(&server, "GET /metrics HTTP/1.0\r\n\r\n").contains(" 200 OK"), "no browser");
    // If everyone may connect, the same holds for a connection to the loopback address, as that of a port
    // forward or of a browser on the node; to any other address, any name for this machine is accepted.
    let open =
        http::serve(http::listen("0.0.0.0:0".parse().unwrap()).unwrap(), routes(), unprotected()).unwrap();
    let port = open.address().port();
    let get = |from: &str, host: &str| {
        let mut stream = TcpStream::connect((from, port)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for host in ["evil.example", "worker-3:9564"] {
        let answer = get("127.0.0.1", host);
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("usernsd_x"), "{host}: {answer}");
    }
    assert!(get("127.0.0.1", "localhost:9564").contains("usernsd_x"));
    // Needs no other machine: a UDP socket that is connected has the address that others would see.
    let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if own.connect("192.0.2.1:9").is_err() {
        eprintln!("SKIPPED the rest: this machine has no address but the loopback's");
        return;
    }
    let own = own.local_addr().unwrap().ip().to_string();
    assert!(get(&own, "worker-3").contains("usernsd_x"), "{own}");
}

/// Whether the server has not closed this connection.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn http_answers_a_probe_while_a_flood_of_idle_connections_holds_every_place() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let server = http();
    let mut flood = Vec::new();
    for _ in 0..1000 {
        flood.push(TcpStream::connect(server.address()).unwrap());
        let mut half = TcpStream::connect(server.address()).unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\nhost: lo").unwrap();
        flood.push(half);
    }
    for _ in 0..20 {
        assert!(fetch(&server, "/healthz").ends_with("ok\n"));
    }
    // All places were taken: the probes got those of the oldest connections, not of a silent one whose time
    // was up.
    assert!(is_open(flood.last().unwrap()), "the newest idle connection is over already");
    let open = flood.iter().filter(|stream| is_open(stream)).count();
    assert!((1..=64).contains(&open), "{open} of the flood are open");
}

#[test]
fn http_ends_a_connection_that_sends_no_request() {
    let server = http();
    let mut silent = TcpStream::connect(server.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    // A client that sends single bytes now and then is treated in the same way.
    let mut slow = TcpStream::connect(server.address()).unwrap();
    let ended = (0..60).any(|_| {
        std::thread::sleep(Duration::from_millis(500));
        slow.write_all(b"G").is_err()
    });
    assert!(ended, "a request that never ends is waited for");
}

/// A request on a connection whose client reads nothing, with a small receive buffer.
fn unread(address: std::net::SocketAddr, path: &str) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::RcvBuf, &4096).unwrap();
    let std::net::SocketAddr::V4(address) = address else { panic!("{address}") };
    connect(fd.as_raw_fd(), &SockaddrIn::from(address)).unwrap();
    nix::unistd::write(&fd, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
    fd
}

/// The sizes of the send queues of connections from that address, in bytes, without empty ones.
fn unsent(address: std::net::SocketAddr) -> Vec<u32> {
    let all = procfs::net::tcp().unwrap();
    let of_server = all.iter().filter(|entry| entry.local_address == address && entry.tx_queue > 0);
    of_server.map(|entry| entry.tx_queue).collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn http_with(routes: Routes) -> http::HttpServer {
    http::serve(http::listen("127.0.0.1:0".parse().unwrap()).unwrap(), routes, unprotected()).unwrap()
}

#[test]
fn http_leaves_no_unread_answer_in_the_kernel() {
    for (size, path) in [(64 << 10, "/small"), (LARGE, "/large")] {
        let text = "x".repeat(size);
        let metrics = move || -> futures_util::future::BoxFuture<'static, Option<String>> {
            Box::pin(std::future::ready(Some(text.clone())))
        };
        let server = http_with(Routes { metrics: Box::new(metrics), ..routes() });
        let address = server.address();
        let mut readers: Vec<_> = (0..64).map(|_| unread(address, "/metrics")).collect();
        until("no answer was begun", || unsent(address).len() == 64);
        // Later clients take their places, and nothing of the first answers is left in the kernel.
        readers.extend((0..192).map(|_| unread(address, "/metrics")));
        until("the kernel holds answers of connections that have no place", || {
            let held = unsent(address);
            assert!(held.iter().all(|bytes| *bytes <= 128 << 10), "{path}: {held:?}");
            held.len() <= 64 && fetch(&server, "/healthz").ends_with("ok\n")
        });
        // A client cannot keep a place by not reading.
        until("an answer that is not read stays", || unsent(address).is_empty());
        drop(readers);
    }
}

#[test]
fn a_scraper_gets_what_there_is_before_it_gives_up() {
    let never =
        || -> futures_util::future::BoxFuture<'static, Option<String>> { Box::pin(std::future::pending()) };
    let late: Box<dyn Fn() -> String + Send + Sync> = Box::new(|| "usernsd_late 1\n".to_owned());
    let server = http_with(Routes { metrics: Box::new(never), partial_metrics: Some(late), ..routes() });
    let scrape = |limit: &str| {
        let header = format!("X-Prometheus-Scrape-Timeout-Seconds: {limit}");
        talk(&server, &format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n"))
    };
    let answer = scrape("0.5");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nusernsd_late 1\n"), "{answer}");
    // A scraper that names no limit, or nonsense, waits; what is in time is served as it is.
    for limit in ["", "x", "-1", "NaN", "1e300"] {
        let server = http_with(Routes { partial_metrics: Some(Box::new(String::new)), ..routes() });
        let header = format!("X-Prometheus-Scrape-Timeout-Seconds: {limit}");
        let answer = talk(&server, &format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n"));
        assert!(answer.ends_with("\r\n\r\nusernsd_x 1\n"), "{limit}: {answer}");
    }
}

#[test]
fn http_answers_probes_while_a_document_is_rendered() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let document = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = held.lock().unwrap().recv();
        Ok(b"{}".to_vec())
    };
    let server = http_with(Routes { state: Box::new(document), ..routes() });
    // Dropped before the server, which waits for its thread.
    let release = release;
    let address = server.address();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /api/v1/state HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    until("the document is not asked for", || made.load(Ordering::Relaxed) > 0);
    let probe = std::thread::scope(|scope| {
        let probe = scope.spawn(|| fetch(&server, "/healthz"));
        // If the probe waited for the document, it would get nothing before this.
        until("the probe hangs", || probe.is_finished() || made.load(Ordering::Relaxed) > 1);
        probe.join().unwrap()
    });
    assert!(probe.ends_with("ok\n"), "{probe}");
    drop(release);
    for mut stream in readers {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    }
    assert_eq!(made.load(Ordering::Relaxed), 1, "eight readers at once are told the same");
}

#[test]
fn http_takes_connections_while_another_is_served() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let entered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&entered);
    let healthy = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = held.lock().unwrap().recv();
        Ok(())
    };
    let server = http_with(Routes { healthy: Box::new(healthy), ..routes() });
    let release = release;
    let address = server.address();
    let _served = unread(address, "/healthz");
    until("the server was not asked", || entered.load(Ordering::Relaxed) > 0);
    let flood: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    until("connections wait for the one that is being served", || {
        flood.iter().filter(|stream| is_open(stream)).count() <= 64
    });
    drop(release);
}

#[test]
fn http_stops_at_once_and_names_a_taken_address() {
    let server = http();
    let address = server.address();
    let output = http::listen(address).unwrap_err().to_string();
    assert!(output.starts_with(&format!("listening on {address}: ")), "{output}");
    let _idle = TcpStream::connect(address).unwrap();
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(4));
    assert!(TcpStream::connect(address).is_err(), "a stopped server listens no more");
}
