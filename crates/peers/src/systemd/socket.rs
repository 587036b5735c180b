//! The system bus's socket, with bounds on what is read from it.
//!
//! Every user of the node may send the agent a signal, of up to 32 MiB on dbus-daemon's system bus. `zbus` reads
//! messages of up to 128 MiB, and keeps them until they are taken.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tracing::debug;
use zbus::Message;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// The longest message that is not a reply. A unit's name has at most 255 bytes, and each becomes at most three in an
/// object's path, so systemd's signals need at most 2 KiB.
const MOST: u64 = 8 << 10;

/// The fixed part at a message's start: byte order, type, flags, version, and the lengths of the body and of the header's
/// fields (D-Bus specification, "Message Format").
const HEADER: usize = 16;
/// Read at once: most messages in one piece.
const CHUNK: usize = 4 << 10;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// A connection to the bus.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) stream: UnixStream,
    /// The longest reply, in bytes.
    pub(super) most_reply: u64,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Receiver {
    bytes: Bytes,
    most_reply: u64,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Sender(OwnedWriteHalf);

/// The bytes that arrive, without descriptors: no call is answered with one, and the kernel closes those that come.
#[derive(Debug)]
struct Bytes(OwnedReadHalf);

/// How a message is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is read, or refused by `zbus` if it is malformed.
    Taken,
    /// It is skipped. It has this length, in bytes.
    Skipped(u64),
    /// The connection ends: a call would otherwise wait for this reply in vain. It has this length, in bytes.
    Fatal(u64),
}

// === impl Treatment ===

impl Treatment {
    /// The fate of a message that starts with this header.
    fn of(header: [u8; HEADER], most_reply: u64) -> Treatment {
        let [order, kind, _, _, b0, b1, b2, b3, _, _, _, _, f0, f1, f2, f3] = header;
        let number = match order {
            b'l' => u32::from_le_bytes,
            b'B' => u32::from_be_bytes,
            _ => return Treatment::Taken,
        };
        let (body, fields) = (number([b0, b1, b2, b3]), number([f0, f1, f2, f3]));
        let length = (HEADER as u64 + u64::from(fields)).next_multiple_of(8) + u64::from(body);
        match kind {
            METHOD_RETURN | ERROR if length > most_reply => Treatment::Fatal(length),
            METHOD_RETURN | ERROR => Treatment::Taken,
            _ if length > MOST => Treatment::Skipped(length),
            _ => Treatment::Taken,
        }
    }
}

// === impl Receiver ===

impl Receiver {
    /// Reads at least one byte more.
    async fn fill(&mut self, received: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        let (read, _) = self.bytes.recvmsg(&mut chunk).await?;
        received.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Reads and drops the next `length` bytes.
    async fn skip(&mut self, length: u64, received: &mut Vec<u8>) -> io::Result<()> {
        let mut left = length;
        loop {
            let here = received.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            received.drain(..here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.fill(received).await?;
        }
    }
}

#[async_trait]
impl ReadHalf for Receiver {
    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        descriptors: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        loop {
            let Some(header) = received.first_chunk() else {
                self.fill(received).await?;
                continue;
            };
            match Treatment::of(*header, self.most_reply) {
                Treatment::Taken => return self.bytes.receive_message(seq, received, descriptors).await,
                Treatment::Skipped(length) => {
                    debug!(length, "a message on the system bus is too long and not read");
                    self.skip(length, received).await?;
                }
                Treatment::Fatal(length) => {
                    let most = self.most_reply;
                    return Err(zbus::Error::Failure(format!(
                        "a reply of {length} bytes, of at most {most}"
                    )));
                }
            }
        }
    }

    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.bytes.recvmsg(buffer).await
    }

    /// Descriptors are sent, and the bus negotiates one answer for both directions.
    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

#[async_trait]
impl ReadHalf for Bytes {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.0.read(buffer).await?, Vec::new()))
    }
}

// === impl Sender ===

#[async_trait]
impl WriteHalf for Sender {
    async fn sendmsg(&mut self, buffer: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let stream: &UnixStream = self.0.as_ref();
        let send = || {
            let rights = SendAncillaryMessage::ScmRights(descriptors);
            let mut space = vec![MaybeUninit::uninit(); rights.size()];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(rights) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(stream, &[IoSlice::new(buffer)], &mut control, SendFlags::NOSIGNAL)?)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

// === impl Bus ===

impl Socket for Bus {
    type ReadHalf = Receiver;
    type WriteHalf = Sender;

    fn split(self) -> Split<Receiver, Sender> {
        let (read, write) = self.stream.into_split();
        Split::new(Receiver { bytes: Bytes(read), most_reply: self.most_reply }, Sender(write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of a message of `length` bytes in total, of which its fields have `fields`.
    fn header(order: u8, kind: u8, fields: u32, length: u64) -> [u8; HEADER] {
        let body = u32::try_from(length - (16 + u64::from(fields)).next_multiple_of(8)).unwrap();
        let bytes = |number: u32| if order == b'l' { number.to_le_bytes() } else { number.to_be_bytes() };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&[order, kind, 0, 1]);
        header[4..8].copy_from_slice(&bytes(body));
        header[12..].copy_from_slice(&bytes(fields));
        header
    }

    #[test]
    fn only_replies_may_be_long() {
        const REPLY: u64 = 1 << 20;
        for order in [b'l', b'B'] {
            for fields in [0, 1, 100, 8_000] {
                for kind in [1, 4, 9] {
                    assert_eq!(Treatment::of(header(order, kind, fields, MOST), REPLY), Treatment::Taken);
                    let long = Treatment::of(header(order, kind, fields, MOST + 1), REPLY);
                    assert_eq!(long, Treatment::Skipped(MOST + 1), "{kind} {fields}");
                }
                for kind in [METHOD_RETURN, ERROR] {
                    assert_eq!(Treatment::of(header(order, kind, fields, REPLY), REPLY), Treatment::Taken);
                    let long = Treatment::of(header(order, kind, fields, REPLY + 1), REPLY);
                    assert_eq!(long, Treatment::Fatal(REPLY + 1));
                }
            }
        }
        // The lengths of all bits: nothing wraps, and zbus is not asked for so much room.
        let all = [b'l', 4, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(
            Treatment::of(all, REPLY),
            Treatment::Skipped((16 + u64::from(u32::MAX)).next_multiple_of(8) + u64::from(u32::MAX))
        );
        assert_eq!(Treatment::of([0; HEADER], REPLY), Treatment::Taken, "zbus reports the error");
    }

    #[tokio::test]
    async fn what_is_too_long_is_skipped_to_the_byte_and_the_next_message_is_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut receiver, _sender) = Bus { stream: ours, most_reply: MOST }.split().take();
        let signal = |body: &str| {
            let builder = Message::signal("/a", "b.c", "D");
            builder.build(&body).unwrap()
        };
        let (long, short) = (signal(&"x".repeat(3 << 20)), signal("short"));
        let sent = async {
            let mut theirs = theirs;
            for message in [&long, &short, &short, &long, &long, &short] {
                theirs.write_all(message.data()).await.unwrap();
            }
        };
        let read = async {
            // Bytes and descriptors that the handshake has read already.
            let (mut received, mut descriptors) = (Vec::new(), Vec::new());
            for seq in 1..=3 {
                let message = receiver.receive_message(seq, &mut received, &mut descriptors).await.unwrap();
                assert_eq!(message.body().deserialize::<&str>().unwrap(), "short");
                assert!(received.capacity() <= 4 * CHUNK, "{}", received.capacity());
            }
            let end = receiver.receive_message(4, &mut received, &mut descriptors).await;
            assert!(matches!(end, Err(zbus::Error::InputOutput(_))), "{end:?}");
        };
        futures_util::future::join(sent, read).await;
    }
}
