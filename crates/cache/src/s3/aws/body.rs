//! Bodies on their way: what is sent tells how far it is, what is read is bounded.

use std::convert::Infallible;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use http_body::{Frame, SizeHint};

use super::failure::{Failure, Kind};
use crate::s3::objects::Body;

/// How much is handed to the connection at a time; progress is known to this.
const PIECE_LEN: usize = 128 << 10;

/// The longest answer that is not an object: a page of 1,000 names of 1,024 bytes, each byte escaped, is less.
const ANSWER_LEN: u64 = 8 << 20;

/// Reads a part of a body into memory; a retry reads it again.
pub(super) fn read(body: &Body, from: u64, part: u64) -> Result<Bytes, Failure> {
    let unreadable = |why: String| Failure::new(Kind::Hopeless, format!("what is to be sent cannot be read: {why}"));
    let part_len = usize::try_from(part).map_err(|_| unreadable("too long".to_owned()))?;
    match body {
        Body::Bytes(bytes) => {
            let from = usize::try_from(from).map_err(|_| unreadable("too long".to_owned()))?;
            Ok(Bytes::from_owner(Arc::clone(bytes)).slice(from..from + part_len))
        }
        Body::File { file, offset, .. } => {
            let mut bytes = vec![0; part_len];
            file.read_exact_at(&mut bytes, offset + from).map_err(|error| unreadable(error.to_string()))?;
            Ok(Bytes::from(bytes))
        }
    }
}

/// The checksum that a server checks before it keeps a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// What every server of this protocol knows.
    Crc32,
    /// What AWS keeps for every object anyway.
    Crc64Nvme,
}

impl Checksum {
    /// Returns the checksum as the protocol writes it: big-endian, in base64.
    pub(super) fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Crc32 => base64(&(crc_fast::checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32).to_be_bytes()),
            Self::Crc64Nvme => base64(&crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes()),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        let letter = move |i: usize| char::from(LETTERS[(bits >> (18 - 6 * i)) as usize & 63]);
        let n_letters = group.len() + 1;
        (0..4).map(move |i| if i < n_letters { letter(i) } else { '=' })
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// How many bytes of a body were handed to the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body that counts what is taken of it.
struct Counted {
    left: Bytes,
    sent: Sent,
}

/// Makes a body for one try.
pub(super) fn counted(bytes: Bytes, sent: Sent) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(Counted { left: bytes, sent }))
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.left.len().min(PIECE_LEN);
        let piece = self.left.split_to(len);
        self.sent.0.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

/// Bounds answers that the SDK reads whole: a server could send names or an error without end.
#[derive(Debug)]
pub(super) struct BoundAnswers {
    /// Objects are bounded by whoever reads them; errors in their place are not.
    pub only_errors: bool,
}

impl Intercept for BoundAnswers {
    fn name(&self) -> &'static str {
        "BoundAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let response = context.response_mut();
        if !(self.only_errors && response.status().is_success()) {
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(Bounded { body, left: ANSWER_LEN });
        }
        Ok(())
    }
}

/// A body that ends in an error when it is too long.
struct Bounded {
    body: SdkBody,
    left: u64,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let len = frame.data_ref().map_or(0, |piece| piece.len() as u64);
            match self.left.checked_sub(len) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err("the answer is too long".into()))),
            }
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_what_the_protocol_s_documents_say() {
        // The check values of both sums are over these nine digits.
        assert_eq!(Checksum::Crc32.of(b"123456789"), base64(&0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(Checksum::Crc64Nvme.of(b"123456789"), base64(&0xae8b_1486_0a79_9888_u64.to_be_bytes()));
        assert_eq!(Checksum::Crc32.of(b""), "AAAAAA==");
    }

    #[test]
    fn base64_is_as_in_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
