//! The head of an answer: bounded, and read strictly.

use super::FetchError;

/// Bytes of a head.
pub(super) const HEAD_LEN: usize = 16 << 10;

/// What counts of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub status: u16,
    pub len: Option<u64>,
    /// First and last byte, and how many there are of the whole.
    pub range: Option<(u64, u64, u64)>,
    /// The body's length is not said, but found out.
    pub is_encoded: bool,
}

impl Head {
    /// Reads a head, without the empty line at its end.
    ///
    /// # Errors
    /// It is none, or says something twice.
    pub fn read(bytes: &[u8]) -> Result<Self, FetchError> {
        let refuse = FetchError::Answer;
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("a head that is no text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(status).ok_or(refuse("something else than HTTP"))?;
        let mut head = Self { status, len: None, range: None, is_encoded: false };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(refuse("a head that is none"))?;
            if name.is_empty() || name.bytes().any(|b| !b.is_ascii_graphic()) || value.contains(['\r', '\n', '\0']) {
                return Err(refuse("a head that is none"));
            }
            let value = value.trim_matches([' ', '\t']);
            let twice = match name.to_ascii_lowercase().as_str() {
                "content-length" => head.len.replace(number(value).ok_or(refuse("a length that is none"))?).is_some(),
                "content-range" => head.range.replace(range(value).ok_or(refuse("a range that is none"))?).is_some(),
                "transfer-encoding" => {
                    head.is_encoded = true;
                    false
                }
                _ => false,
            };
            if twice {
                return Err(refuse("two lengths"));
            }
        }
        Ok(head)
    }
}

fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, end) = rest.split_at_checked(3)?;
    (end.is_empty() || end.starts_with(' ')).then_some(())?;
    number(code).map(|code| code as u16).filter(|code| (100..600).contains(code))
}

fn range(value: &str) -> Option<(u64, u64, u64)> {
    let (part, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    Some((number(first)?, number(last)?, number(whole)?))
}

/// Reads digits and nothing else: a sign is none.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_strictly() {
        let head = Head::read(b"HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: 5\r\nContent-Range: bytes 3-7/10\r\nETag: \"x\"");
        assert_eq!(head, Ok(Head { status: 206, len: Some(5), range: Some((3, 7, 10)), is_encoded: false }));
        assert!(Head::read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked").is_ok_and(|head| head.is_encoded));
        for bad in [
            &b""[..],
            b"SSH-2.0-OpenSSH",
            b"HTTP/2 200",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 +20 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1 206 OK\r\nno colon",
            b"HTTP/1.1 206 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            b"HTTP/1.1 206 OK\r\nContent-Length: -5",
            b"HTTP/1.1 206 OK\r\nContent-Length: 99999999999999999999",
            b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-1/*",
            b"HTTP/1.1 206 OK\r\n : x",
            b"HTTP/1.1 206 OK\r\n\xff: x",
        ] {
            assert!(Head::read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
