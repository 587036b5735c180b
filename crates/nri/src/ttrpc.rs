//! The unary part of ttrpc: a 10-byte header and a small protobuf envelope (containerd/ttrpc `PROTOCOL.md`).

use prost::Message;

use super::NriError;
use usernsd_domain::chain::chain;
use usernsd_domain::protobuf::Fields;

/// Length of a message's header, in bytes.
pub(super) const HEADER: usize = 10;
/// The longest body that ttrpc allows: 4 MiB.
pub(super) const MAX_BODY: usize = 4 << 20;

/// A request from client to server.
pub(super) const REQUEST: u8 = 1;
/// A response from server to client.
pub(super) const RESPONSE: u8 = 2;

/// gRPC's `FAILED_PRECONDITION`, the code of a refusal: a refusal is not a failure of the plugin.
pub(super) const FAILED_PRECONDITION: i32 = 9;
/// gRPC's `RESOURCE_EXHAUSTED`.
pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
/// gRPC's `INVALID_ARGUMENT`.
pub(super) const INVALID_ARGUMENT: i32 = 3;
/// gRPC's `UNIMPLEMENTED`. A runtime with NRI 0.12 then tries the older form of the call.
pub(super) const UNIMPLEMENTED: i32 = 12;

/// Header: `u32be body length, u32be stream, u8 type, u8 flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Length of the body in bytes, at most [`MAX_BODY`].
    pub(super) body: usize,
    /// Number of the call: odd, chosen by the client.
    pub(super) stream: u32,
    /// [`REQUEST`], [`RESPONSE`], or 3 for data of a stream (unused by NRI). The header's flags concern
    /// streams too and are not kept.
    pub(super) kind: u8,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Header {
        let [a, b, c, d, e, f, g, h, kind, _flags] = *bytes;
        let body = u32::from_be_bytes([a, b, c, d]) as usize;
        Header { body, stream: u32::from_be_bytes([e, f, g, h]), kind }
    }
}

/// Appends a header; the flags are 0, as for every unary message.
pub(super) fn write_header(body: usize, stream: u32, kind: u8, out: &mut Vec<u8>) {
    // Callers keep bodies far below MAX_BODY, so the length fits.
    out.extend_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
}

/// A received request, borrowed: its payload is decoded once, in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    pub(super) service: &'a str,
    pub(super) method: &'a str,
    pub(super) payload: &'a [u8],
}

impl<'a> Call<'a> {
    /// Decodes `Request{1 service, 2 method, 3 payload}`; timeout and metadata are skipped.
    ///
    /// # Errors
    /// The bytes are not protobuf, or a name is not UTF-8.
    pub(super) fn decode(body: &'a [u8]) -> Result<Call<'a>, NriError> {
        let bad = |what: &str| NriError::Malformed(format!("a request's envelope: {what}"));
        let mut call = Call { service: "", method: "", payload: &[] };
        for field in Fields::of(body) {
            let (tag, value) = field.map_err(|error| bad(&chain(&error)))?;
            let text =
                || str::from_utf8(value.bytes()).map_err(|_| bad(&format!("field {tag} is not UTF-8")));
            match tag {
                1 => call.service = text()?,
                2 => call.method = text()?,
                3 => call.payload = value.bytes(),
                _ => {}
            }
        }
        Ok(call)
    }
}

/// The method of a request of which only the first bytes are known. Also the first byte of the payload's
/// field 1, a number, if the payload begins with it: the event of a `StateChange`.
pub(super) fn head(bytes: &[u8]) -> Option<(&str, Option<u8>)> {
    let mut method = "";
    let mut rest = bytes;
    loop {
        let (tag, after) = rest.split_first()?;
        let (length, after) = length(after)?;
        match tag {
            0x0a => {}
            0x12 => method = str::from_utf8(after.get(..length)?).ok()?,
            0x1a => {
                let event = after.strip_prefix(&[0x08]).and_then(|event| event.first().copied());
                return Some((method, event));
            }
            _ => return Some((method, None)),
        }
        rest = after.get(length..)?;
    }
}

/// A protobuf length, and the bytes after it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (digits, rest) = bytes.split_at_checked(end + 1)?;
    let length = digits.iter().rev().fold(0, |length, digit| length << 7 | usize::from(digit & 0x7f));
    Some((length, rest))
}

/// A request to be sent.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
}

/// A response; without a status it means success.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
}

/// `google.rpc.Status` without its details.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = Request { service: "s".into(), method: "m".into(), payload: vec![1, 2] };
        let mut body = request.encode_to_vec();
        // timeout_nano and a metadata entry, as containerd sends them.
        body.extend_from_slice(&[0x20, 0xe8, 0xe5, 0xd5, 0xb9, 0x07, 0x2a, 0x03, 0x0a, 0x01, b'k']);
        let call = Call::decode(&body).unwrap();
        assert_eq!(call, Call { service: "s", method: "m", payload: &[1, 2] });
    }

    #[test]
    fn the_error_of_a_broken_envelope_names_the_problem() {
        for (body, word) in [
            (&[0x0a, 0x05, b'a'][..], "field 1 says 5 bytes, 1 are left"),
            (&[0x12, 0x01, 0xff], "field 2 is not UTF-8"),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "field 1 says"),
            (&[0x0f], "envelope"),
        ] {
            let error = Call::decode(body).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_envelope_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let ours = Call::decode(&body);
            // If prost decodes the bytes too, the result is the same.
            if let (Ok(call), Ok(request)) = (ours, Request::decode(body.as_slice())) {
                prop_assert_eq!(call.service, request.service);
                prop_assert_eq!(call.method, request.method);
                prop_assert_eq!(call.payload, request.payload);
            }
        }
    }
}
