//! Addresses by which anybody can ask this server for one object: signature version 4 in the query, as AWS describes it
//! (Signature Version 4, "Using query parameters"). For tests of clients that have no credentials.

use super::server::Server;
use s3s::crypto::{Checksum, Sha256};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BLOCK: usize = 64;

impl Server {
    /// Returns an address at which `method` (GET, PUT, DELETE) may be used on an object for some time.
    pub fn presigned(&self, method: &str, key: &str, lifetime: Duration) -> String {
        let endpoint = self.endpoint();
        let host = endpoint.strip_prefix("http://").expect("endpoints begin so");
        let (access_key, secret) = self.credentials();
        let (day, moment) = stamp(SystemTime::now());
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let path = format!("/{}/{}", self.bucket(), encoded(key, true));
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={moment}&X-Amz-Expires={}&X-Amz-SignedHeaders=host",
            encoded(&format!("{access_key}/{scope}"), false),
            lifetime.as_secs()
        );
        let request = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", hex(&sha256(&[request.as_bytes()])));
        let start = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
        let signing = ["us-east-1", "s3", "aws4_request"].iter().fold(start, |key, word| hmac(&key, word.as_bytes()));
        format!("{endpoint}{path}?{query}&X-Amz-Signature={}", hex(&hmac(&signing, text.as_bytes())))
    }
}

fn sha256(pieces: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}

/// RFC 2104, for keys of at most one block.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    sha256(&[&padded(0x5c), &sha256(&[&padded(0x36), text])])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn encoded(text: &str, slashes: bool) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b'/' if slashes => out.push('/'),
            _ => write!(out, "%{byte:02X}").expect("a String takes everything"),
        }
        out
    })
}

/// Returns the day and the second of a time, as in `20260102` and `20260102T030405Z`.
fn stamp(now: SystemTime) -> (String, String) {
    let seconds = now.duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March: the leap day is then their last, and months have a rule.
    let era_day = days + 719_468;
    let (era, of_era) = (era_day / 146_097, era_day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let date = format!("{year:04}{month:02}{day:02}");
    let moment = format!("{date}T{:02}{:02}{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60);
    (date, moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in
            [(0, "19700101T000000Z"), (951_782_400, "20000229T000000Z"), (1_798_761_599, "20261231T235959Z")]
        {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)).1, expected);
        }
    }

    #[test]
    fn the_code_of_a_known_message_is_the_known_one() {
        // RFC 4231, test case 2.
        let code = hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(code, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
