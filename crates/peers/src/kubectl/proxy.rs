//! `kubectl proxy` on a socket: the API server through one kubectl, with its connection and its credentials.

use std::fs::DirBuilder;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Kubectl, KubectlError, lines};

/// Runs kubectl, and waits for the end of its own standard input, which is that of the process that started it, however
/// it ended. Then it ends kubectl and removes the socket's directory, `$0`. It holds no end of kubectl's pipes. kubectl
/// inherits that signals of the terminal are ignored, but not the trap of SIGTERM.
const KEEPER: &str = "
trap '' HUP INT QUIT
trap : TERM
\"$@\" </dev/null &
exec >&- 2>&-
read -r _
kill $!
rm -f \"$0/api\"
rmdir \"$0\"
";

/// A running `kubectl proxy`. Dropping it ends kubectl and removes the socket.
#[derive(Debug)]
pub struct Proxy {
    keeper: Child,
    socket: PathBuf,
}

impl Kubectl {
    /// Starts `kubectl proxy` for the paths of the API server that match the regular expression `paths`. Only this user
    /// can reach its socket. `on_line` gets each line of kubectl's standard error.
    ///
    /// # Errors
    /// kubectl could not be started, or ends at once.
    pub fn proxy(&self, paths: &str, on_line: fn(&str)) -> Result<Proxy, KubectlError> {
        let dir = private_directory()?;
        let socket = dir.join("api");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(&dir)
            .arg("kubectl")
            .args(&self.flags)
            .arg("proxy")
            .arg(format!("--unix-socket={}", socket.display()))
            .arg(format!("--accept-paths={paths}"))
            // By default it refuses to run programs in pods.
            .arg("--reject-paths=^$")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (output, errors) = (keeper.stdout.take(), keeper.stderr.take());
        let proxy = Proxy { keeper, socket };
        if let Some(errors) = errors {
            // The thread ends with kubectl.
            thread::Builder::new().name("kubectl".to_owned()).spawn(move || lines(errors, &on_line))?;
        }
        // It prints the address once it listens.
        let mut address = String::new();
        let read = output.map(|output| BufReader::new(output).read_line(&mut address));
        match read.transpose()? {
            Some(1..) => Ok(proxy),
            _ => Err(KubectlError::Ended),
        }
    }
}

impl Proxy {
    /// The socket, on which it speaks HTTP.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Creates a directory that only this user may enter.
fn private_directory() -> std::io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("kubectl-userns-{}-{:x}", std::process::id(), now.as_nanos());
    let dir = std::env::temp_dir().join(name);
    // An existing one is an error: it may be somebody else's.
    DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_socket_and_kubectl_go_with_the_process_that_started_them() {
        let dir = private_directory().unwrap();
        std::fs::write(dir.join("api"), "").unwrap();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(&dir)
            .args(["sh", "-c", "echo $$; exec sleep 1000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let process = Path::new("/proc").join(pid.trim());
        assert!(process.exists());
        // The kernel does the same with the descriptors of a process that is killed.
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
        let start = Instant::now();
        while process.exists() && start.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!process.exists() && !dir.exists());
    }
}
