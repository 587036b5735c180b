//! A connection's socket: limits what the kernel buffers of an answer, and ends the connection.
//!
//! A socket that is closed with unsent data stays in the kernel, charged to this process's memory cgroup,
//! for as long as its peer acknowledges zero-window probes. So only a small part of an answer is given to
//! the kernel at a time, a connection keeps its place until the peer has acknowledged all of it, and a
//! connection that ends earlier is reset.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_user_timeout};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Size of the send buffer, in bytes. The kernel doubles this and the next for its own structures
/// (socket(7)); a size that is set does not grow.
const SEND_BUFFER: usize = 32 << 10;
/// Size of the receive buffer, in bytes: large enough for a request's head.
const RECEIVE_BUFFER: usize = 16 << 10;
/// A peer that acknowledges nothing for this long is gone or does not read (tcp(7)).
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that are read and discarded after an answer: the rest of a refused request.
const MAX_REST: usize = 64 << 10;
/// Interval of the checks whether the peer has acknowledged everything.
const PAUSE: Duration = Duration::from_millis(20);

/// Limits the kernel's buffers of each connection that `listener` will accept.
pub(super) fn bound(listener: &TcpListener) -> rustix::io::Result<()> {
    set_socket_send_buffer_size(listener, SEND_BUFFER)?;
    set_socket_recv_buffer_size(listener, RECEIVE_BUFFER)?;
    let milliseconds = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    set_tcp_user_timeout(listener, milliseconds)
}

/// A connection. If it is dropped before [`Socket::settle`] has succeeded, it is reset, so that the kernel
/// frees what the peer has not acknowledged.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    has_written: bool,
    is_settled: bool,
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Socket {
        Socket { stream, has_written: false, is_settled: false }
    }

    /// Shuts down this side, and waits until the peer has acknowledged everything and has shut down its
    /// own. Sets no time limit; the caller must.
    ///
    /// # Errors
    /// The connection broke, or the peer keeps sending.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        if self.has_written {
            // Usually hyper has already done so.
            let _ = self.stream.shutdown().await;
            let (mut rest, mut bytes) = (0, [0; 1024]);
            loop {
                match self.stream.read(&mut bytes).await? {
                    0 => break,
                    read => rest += read,
                }
                if rest > MAX_REST {
                    return Err(io::Error::other("the client kept sending"));
                }
            }
            // The peer's address exists until both sides have ended and the last byte is acknowledged
            // (getpeername(2): ENOTCONN in the state CLOSE).
            while self.stream.peer_addr().is_ok() {
                sleep(PAUSE).await;
            }
        }
        self.is_settled = true;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If nothing was written, the kernel holds nothing.
        if self.has_written && !self.is_settled {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
