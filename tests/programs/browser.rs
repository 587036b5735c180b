//! A real browser: Debian's Chromium, controlled over its own pipe (the DevTools protocol: JSON messages that
//! end in a zero byte, on descriptors 3 and 4). It loads only what a test serves.

// Each test that includes this module uses only a part of it.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

/// Time limit of one answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const FLAGS: [&str; 16] = [
    "--headless=new",
    // It refuses to run as root with its sandbox. It loads no pages except those of the tests.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--disable-breakpad",
    "--remote-debugging-pipe",
];

/// A running browser with one page. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    to: File,
    from: File,
    read: Vec<u8>,
    last: u64,
    session: String,
    events: VecDeque<Value>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Including its children: it leads a process group.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts a browser. If there is none and a test node is not required, prints that the test is skipped
    /// and returns `None`.
    pub(crate) fn start_or_skip() -> Option<Browser> {
        Browser::start_in(&[])
    }

    /// Like [`start_or_skip`](Self::start_or_skip), with a command that runs another one in front: `nsenter`.
    pub(crate) fn start_in(prefix: &[&str]) -> Option<Browser> {
        let program = Path::new("/usr/bin/chromium");
        if !program.exists() {
            let why = "there is no /usr/bin/chromium (Debian package chromium)";
            assert!(std::env::var_os("USERNSD_TEST_NODE").is_none_or(|set| set != "require"), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = profile.path().join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        // The shell connects the pipes to the descriptors that the browser expects, and becomes the browser.
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", "exec 3<\"$0\" 4>\"$1\"; shift; exec \"$@\""]).arg(&to).arg(&from);
        command
            .args(prefix)
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        // In the shell's order, because each side waits for the other one.
        let to = OpenOptions::new().write(true).open(&to).unwrap();
        let from = File::open(&from).unwrap();
        let mut browser = Browser {
            child,
            to,
            from,
            read: Vec::new(),
            last: 0,
            session: String::new(),
            events: VecDeque::new(),
            _profile: profile,
        };
        let made = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached =
            browser.call("Target.attachToTarget", json!({"targetId": made["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network", "Security"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// The next message; `None` after the deadline.
    fn message(&mut self, deadline: Instant) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == 0) {
                let rest = self.read.split_off(end + 1);
                let message = std::mem::replace(&mut self.read, rest);
                return Some(serde_json::from_slice(&message[..end]).unwrap());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).unwrap() == 0 {
                return None;
            }
            let mut buffer = vec![0; 1 << 16];
            let read = self.from.read(&mut buffer).unwrap();
            assert!(read > 0, "the browser ended");
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    /// Calls a method, and waits for its result.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut request = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(&serde_json::to_vec(&request).unwrap()).unwrap();
        self.to.write_all(&[0]).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.message(deadline).unwrap_or_else(|| panic!("no answer to {method}"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    /// The browser's events since the last call, with their methods.
    pub(crate) fn events(&mut self) -> Vec<Value> {
        // Pending events arrive before the answer to a request made now.
        self.eval("0");
        self.events.drain(..).collect()
    }

    /// Evaluates an expression in the page, and awaits it if it is a promise.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let output = self.call("Runtime.evaluate", params);
        assert!(output["exceptionDetails"].is_null(), "{expression}: {}", output["exceptionDetails"]);
        output["result"]["value"].clone()
    }

    /// Waits until the expression is true.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression) != true {
            assert!(Instant::now() < deadline, "never true: {expression}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sets the size of the window, and the scheme: `light` or `dark`.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Opens an address, and returns when everything is loaded.
    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        let output = self.call("Page.navigate", json!({"url": url}));
        assert!(output["errorText"].is_null(), "{url}: {output}");
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'");
        self.eval("document.fonts.ready.then(() => 0)");
    }

    /// Asserts that there was no error, and no request except for the page at that address.
    #[track_caller]
    pub(crate) fn assert_quiet(&mut self, page: &str, what: &str) {
        for event in self.events() {
            let params = &event["params"];
            match event["method"].as_str().unwrap() {
                "Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" => {
                    panic!("{what}: {params:#}")
                }
                "Network.requestWillBeSent" => {
                    let asked = params["request"]["url"].as_str().unwrap();
                    let own = asked == page || asked.starts_with("data:image/svg+xml,");
                    assert!(own, "{what}: it asked for {asked}");
                }
                _ => {}
            }
        }
    }

    /// A screenshot as PNG in base64, of the whole page or of the part in the window.
    pub(crate) fn screenshot(&mut self, whole: bool) -> String {
        let params = json!({"format": "png", "captureBeyondViewport": whole});
        self.call("Page.captureScreenshot", params)["data"].as_str().unwrap().to_owned()
    }
}
