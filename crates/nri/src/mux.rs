//! The multiplexer: two byte streams in one socket.
//!
//! A frame is `u32be connection, u32be length, payload` (NRI `pkg/net/multiplex`). Frame boundaries have no
//! meaning: a message may span many frames, so each connection is read as a byte stream.

use super::ttrpc::{self, Header};

/// Connection of the Plugin service, which the runtime calls.
pub(super) const PLUGIN: u32 = 1;
/// Connection of the Runtime service, which the plugin calls.
pub(super) const RUNTIME: u32 = 2;

/// The longest payload of a frame that is sent: Go's side reads through a buffer of this size, and drops the
/// plugin if a frame does not fit ("cannot allocate memory").
const MAX_FRAME_OUT: usize = 4096;

/// How many bytes of the body of a message that is too long are kept: enough for the call's name.
pub(super) const HEAD: usize = 256;

/// The capacity that a connection's buffer keeps after a large message, in bytes.
const KEEP: usize = 64 * 1024;

/// Reassembles messages from frames. Holds at most one unfinished message per connection, and what the last
/// [`Inbox::accept`] brought.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    header: [u8; 8],
    /// How many bytes of `header` have arrived.
    have: usize,
    /// How many bytes of the current frame's payload are still to come.
    remaining: usize,
    plugin: Stream,
    runtime: Stream,
}

/// A received message.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) connection: u32,
    pub(super) header: Header,
    pub(super) body: &'a [u8],
}

/// The received bytes of one connection.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// How many bytes at the start have been read as messages.
    taken: usize,
    /// How many of the bytes to come belong to a message that is too long.
    skip: usize,
}

impl Inbox {
    /// Adds the next bytes of the socket, however they are cut. A frame may have any length, because it is
    /// not buffered as a whole.
    pub(super) fn accept(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.remaining == 0 {
                let want = self.header.get_mut(self.have..).unwrap_or_default();
                let count = want.len().min(bytes.len());
                let (head, rest) = bytes.split_at(count);
                want.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
                self.have += count;
                bytes = rest;
                if self.have == self.header.len() {
                    self.have = 0;
                    self.remaining = frame_length(self.header);
                }
                continue;
            }
            let (payload, rest) = bytes.split_at(self.remaining.min(bytes.len()));
            let [a, b, c, d, ..] = self.header;
            match u32::from_be_bytes([a, b, c, d]) {
                PLUGIN => self.plugin.append(payload),
                RUNTIME => self.runtime.append(payload),
                _ => {} // an unknown connection: dropped, as Go's side does
            }
            self.remaining -= payload.len();
            bytes = rest;
        }
    }

    /// The next whole message. A message that is longer than ttrpc allows is returned as soon as the first
    /// [`HEAD`] bytes of its body have arrived, with these as its body; its other bytes are dropped as they
    /// arrive.
    pub(super) fn message(&mut self) -> Option<Received<'_>> {
        // In two steps because of the borrow checker: find the stream that has a message, then take it.
        let connection = if self.plugin.length().is_some() {
            PLUGIN
        } else if self.runtime.length().is_some() {
            RUNTIME
        } else {
            self.plugin.reclaim();
            self.runtime.reclaim();
            return None;
        };
        let stream = if connection == PLUGIN { &mut self.plugin } else { &mut self.runtime };
        stream.take().map(|(header, body)| Received { connection, header, body })
    }

    /// Whether no message has been received in part.
    pub(super) fn is_between_messages(&self) -> bool {
        self.have == 0 && self.remaining == 0 && self.plugin.is_empty() && self.runtime.is_empty()
    }
}

impl Stream {
    fn append(&mut self, bytes: &[u8]) {
        let (skipped, bytes) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip -= skipped.len();
        if let Some(length) = self.announced() {
            // Reserved in one step: growing would take twice the memory.
            self.bytes.reserve_exact(length.saturating_sub(self.bytes.len()).max(bytes.len()));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops the bytes that have been read, and releases the memory of a large message.
    fn reclaim(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEEP);
        }
    }

    fn is_empty(&self) -> bool {
        self.skip == 0 && self.taken == self.bytes.len()
    }

    /// The length of the message that is arriving, including its header, if that is a long one.
    fn announced(&self) -> Option<usize> {
        let head = self.bytes.get(self.taken..)?.first_chunk()?;
        let length = ttrpc::HEADER + Header::parse(head).body;
        (length > KEEP && length <= ttrpc::HEADER + ttrpc::MAX_BODY).then_some(self.taken + length)
    }

    /// The length of the next message, including its header, once all of it has arrived; for one that is too
    /// long, the length of what has arrived.
    fn length(&self) -> Option<usize> {
        let bytes = self.bytes.get(self.taken..).unwrap_or_default();
        let length = ttrpc::HEADER + Header::parse(bytes.first_chunk()?).body;
        if length > ttrpc::HEADER + ttrpc::MAX_BODY {
            return (bytes.len() >= ttrpc::HEADER + HEAD).then(|| length.min(bytes.len()));
        }
        (bytes.len() >= length).then_some(length)
    }

    fn take(&mut self) -> Option<(Header, &[u8])> {
        let length = self.length()?;
        let message = self.bytes.get(self.taken..self.taken + length).unwrap_or_default();
        self.taken += length;
        let (head, body) = message.split_first_chunk()?;
        let header = Header::parse(head);
        if header.body > ttrpc::MAX_BODY {
            self.skip = header.body - body.len();
            return Some((header, body.get(..HEAD).unwrap_or(body)));
        }
        Some((header, body))
    }
}

fn frame_length(header: [u8; 8]) -> usize {
    let [.., a, b, c, d] = header;
    u32::from_be_bytes([a, b, c, d]) as usize
}

/// Cuts one ttrpc message into frames and appends them to `out`.
pub(super) fn write_frames(connection: u32, message: &[u8], out: &mut Vec<u8>) {
    for part in message.chunks(MAX_FRAME_OUT) {
        out.extend_from_slice(&connection.to_be_bytes());
        // A chunk has at most 4096 bytes, so its length fits.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or_default().to_be_bytes());
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&connection.to_be_bytes(), &length, payload].concat()
    }

    fn message(stream: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ttrpc::write_header(body.len(), stream, ttrpc::REQUEST, &mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }

    fn drain(inbox: &mut Inbox) -> Vec<(u32, u32, Vec<u8>)> {
        std::iter::from_fn(|| {
            let message = inbox.message()?;
            Some((message.connection, message.header.stream, message.body.to_vec()))
        })
        .collect()
    }

    #[test]
    fn connections_are_separate_streams_and_unknown_ones_are_dropped() {
        let (one, two) = (message(1, b"first"), message(3, b"second"));
        let mut inbox = Inbox::default();
        for part in [frame(1, &one[..3]), frame(2, &two[..12]), frame(7, &[0xff; 99]), frame(0, b"x")] {
            inbox.accept(&part);
        }
        assert!(drain(&mut inbox).is_empty());
        assert!(!inbox.is_between_messages());
        inbox.accept(&[frame(2, &two[12..]), frame(1, b""), frame(1, &one[3..])].concat());
        assert_eq!(drain(&mut inbox), [(1, 1, b"first".to_vec()), (2, 3, b"second".to_vec())]);
        assert!(inbox.is_between_messages());
    }

    #[test]
    fn a_message_that_is_too_long_is_skipped_without_being_buffered() {
        let length = ttrpc::MAX_BODY + 1;
        let mut long = message(3, &vec![7; length]);
        long.extend(message(5, b"next"));
        for cut in [11, 4096, long.len()] {
            let mut inbox = Inbox::default();
            let mut seen = Vec::new();
            for part in long.chunks(cut) {
                inbox.accept(&frame(1, part));
                while let Some(Received { header, body, .. }) = inbox.message() {
                    seen.push((header.stream, header.body, body.to_vec()));
                }
                assert!(cut == long.len() || inbox.plugin.bytes.capacity() < 64 * 1024);
            }
            assert_eq!(seen, [(3, length, vec![7; HEAD]), (5, 4, b"next".to_vec())], "{cut}");
            assert!(inbox.is_between_messages());
        }
        let mut inbox = Inbox::default();
        inbox.accept(&frame(1, &long[..HEAD]));
        assert!(inbox.message().is_none(), "not yet");
        inbox.accept(&frame(1, &long[HEAD..HEAD + 100]));
        assert!(inbox.message().is_some() && inbox.message().is_none());
        assert!(!inbox.is_between_messages(), "the rest of it is yet to come");
    }

    #[test]
    fn the_memory_of_a_large_message_is_released() {
        let mut inbox = Inbox::default();
        let large = frame(1, &message(1, &vec![0; ttrpc::MAX_BODY]));
        for part in large.chunks(KEEP) {
            inbox.accept(part);
        }
        assert!(inbox.plugin.bytes.capacity() > ttrpc::MAX_BODY);
        assert_eq!(drain(&mut inbox).len(), 1);
        assert!(inbox.plugin.bytes.capacity() <= KEEP);
    }

    #[test]
    fn sent_frames_fit_the_buffer_of_the_go_side() {
        for (length, frames) in [(10, 1), (4096, 1), (4097, 2), (10_000, 3)] {
            let message = message(5, &vec![7; length - ttrpc::HEADER]);
            let mut out = Vec::new();
            write_frames(PLUGIN, &message, &mut out);
            let mut rest = out.as_slice();
            let mut seen = 0;
            while let Some((head, tail)) = rest.split_first_chunk::<8>() {
                let length = frame_length(*head);
                assert!((1..=4096).contains(&length));
                rest = &tail[length..];
                seen += 1;
            }
            assert_eq!(seen, frames);
            let mut inbox = Inbox::default();
            inbox.accept(&out);
            assert_eq!(drain(&mut inbox), [(1, 5, message[10..].to_vec())]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512), cut in 1..64usize) {
            let mut inbox = Inbox::default();
            for part in bytes.chunks(cut) {
                inbox.accept(part);
                while inbox.message().is_some() {}
            }
        }

        #[test]
        fn chunk_sizes_do_not_change_the_messages_of_a_stream(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
            frame_size in 1..50usize,
            cut in 1..50usize,
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| message(1, body)).collect();
            let frames: Vec<u8> = bytes.chunks(frame_size).flat_map(|part| frame(1, part)).collect();
            let mut inbox = Inbox::default();
            let mut seen = Vec::new();
            for part in frames.chunks(cut) {
                inbox.accept(part);
                seen.extend(drain(&mut inbox).into_iter().map(|(_, _, body)| body));
            }
            prop_assert_eq!(seen, bodies);
            prop_assert!(inbox.is_between_messages());
        }
    }
}
