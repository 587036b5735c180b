//! The configuration that a running CRI-O has loaded: `GET /config` on its CRI socket (`server/inspect.go`).

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::parse;
use usernsd_domain::crio::config::{ConfFile, Content};

/// The longest answer, in bytes. The usual one has some 10 KiB, more with many handlers.
const MAX_BYTES: u64 = 1 << 20;
/// HTTP/1.0: the answer comes in one piece and ends with the connection.
const REQUEST: &[u8] = b"GET /config HTTP/1.0\r\nHost: crio\r\n\r\n";

/// Asks the CRI-O behind the socket; `None` if it does not answer with TOML within `deadline`.
pub async fn config(socket: &Path, deadline: Duration) -> Option<ConfFile> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(REQUEST).await.ok()?;
        let mut answer = Vec::new();
        stream.take(MAX_BYTES).read_to_end(&mut answer).await.ok()?;
        body(&answer)
    };
    tokio::time::timeout(deadline, ask).await.ok()?
}

fn body(answer: &[u8]) -> Option<ConfFile> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, rest) = answer.split_at_checked(end + 4)?;
    let status = head.split(|byte| *byte == b' ').nth(1)?;
    let content = parse(rest);
    let is_good = status == b"200" && matches!(content, Content::Toml(_));
    is_good.then(|| ConfFile { path: "/config".to_owned(), link: false, content })
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn config_from(answer: &'static [u8]) -> Option<ConfFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crio.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; REQUEST.len()];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, REQUEST);
            stream.write_all(answer).await.unwrap();
        });
        let read = config(&path, Duration::from_secs(10)).await;
        serve.await.unwrap();
        read
    }

    #[tokio::test]
    async fn only_an_answer_in_toml_counts() {
        let good =
            config_from(b"HTTP/1.0 200 OK\r\nContent-Type: application/toml\r\n\r\n[crio]\nroot = \"/x\"\n")
                .await;
        assert!(matches!(good.unwrap().content, Content::Toml(table) if table.contains_key("crio")));
        for bad in
            [&b"HTTP/1.0 404 Not Found\r\n\r\n"[..], b"HTTP/1.0 200 OK\r\n\r\n[x", b"\0\0\x18\x04", b""]
        {
            assert_eq!(config_from(bad).await, None);
        }
        assert_eq!(config(Path::new("/no/such"), Duration::from_secs(1)).await, None);
    }
}
