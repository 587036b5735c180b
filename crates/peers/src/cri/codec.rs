//! A gRPC codec that parses answers in place, without copying them into generated types.

use std::marker::PhantomData;

use prost::bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Sends an already encoded message, and applies a function to each answer.
pub(super) struct InPlace<T> {
    read: fn(&Bytes) -> T,
}

/// Writes the already encoded message.
pub(super) struct Encoded;

/// Applies the function to one answer.
pub(super) struct Reader<T> {
    read: fn(&Bytes) -> T,
    read_as: PhantomData<T>,
}

// === impl InPlace ===

impl<T> InPlace<T> {
    pub(super) fn new(read: fn(&Bytes) -> T) -> InPlace<T> {
        InPlace { read }
    }
}

impl<T: Send + 'static> Codec for InPlace<T> {
    type Encode = Vec<u8>;
    type Decode = T;
    type Encoder = Encoded;
    type Decoder = Reader<T>;

    fn encoder(&mut self) -> Encoded {
        Encoded
    }

    fn decoder(&mut self) -> Reader<T> {
        Reader { read: self.read, read_as: PhantomData }
    }
}

impl Encoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl<T> Decoder for Reader<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        // A reference into the connection's buffer, not a copy.
        let message = from.copy_to_bytes(from.remaining());
        Ok(Some((self.read)(&message)))
    }
}
