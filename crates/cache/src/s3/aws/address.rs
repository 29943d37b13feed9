//! Where a bucket is: what people type, checked once.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::s3::objects::Key;

/// A bucket and the prefix below which a cache lies: `s3://bucket` or `s3://bucket/some/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S3Address {
    bucket: String,
    prefix: Option<Key>,
}

/// Why a text names no bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It begins with something else.
    #[error("the address of a bucket begins with s3://")]
    Scheme,
    /// AWS would not make such a bucket, so a server that has one is none to trust with a path.
    #[error("a bucket's name has 3 to 63 of a-z 0-9 . - and begins and ends with a letter or digit")]
    Bucket,
    /// The prefix could leave the cache or be read differently by two servers.
    #[error("a prefix has words of a-z 0-9 . _ - between single slashes, none of them . or ..")]
    Prefix,
}

impl S3Address {
    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the prefix, without slashes around it.
    pub fn prefix(&self) -> Option<&Key> {
        self.prefix.as_ref()
    }

    /// Returns the name that an object has in the bucket.
    pub(crate) fn full(&self, key: &str) -> String {
        self.prefix.as_ref().map_or_else(|| key.to_owned(), |prefix| format!("{prefix}/{key}"))
    }

    /// Returns what follows the prefix in a name of the bucket.
    pub(crate) fn below<'a>(&self, name: &'a str) -> Option<&'a str> {
        match &self.prefix {
            None => Some(name),
            Some(prefix) => name.strip_prefix(prefix.as_str())?.strip_prefix('/'),
        }
    }
}

impl FromStr for S3Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let rest = text.strip_prefix("s3://").ok_or(BadAddress::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(BadAddress::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let prefix = if prefix.is_empty() { None } else { Some(Key::new(prefix).map_err(|_| BadAddress::Prefix)?) };
        if rest.ends_with("//") || prefix.as_ref().is_some_and(|prefix| prefix.as_str().len() > 256) {
            return Err(BadAddress::Prefix);
        }
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        self.prefix.as_ref().map_or(Ok(()), |prefix| write!(f, "/{prefix}"))
    }
}

/// AWS's rules for the names of general purpose buckets.
fn is_bucket(name: &str) -> bool {
    let is_end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && is_end(bytes.first())
        && is_end(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        // Words that AWS keeps for addresses of another kind, which would be asked in another way.
        && !["xn--", "sthree-"].iter().any(|start| name.starts_with(start))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|end| name.ends_with(end))
}

/// A server that speaks S3 and is not AWS: `https://host[:port]`, and `http://` only to this very machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(String);

/// Why a text names no server that may be sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Neither https nor http.
    #[error("an endpoint begins with https://")]
    Scheme,
    /// Plain http would show everything to the network.
    #[error("plain http is only for this machine itself (127.0.0.1, [::1] or localhost); use https")]
    Plain,
    /// A name and password in an address end up in logs.
    #[error("an endpoint holds no user name or password; credentials come from the environment or the AWS profile")]
    Credentials,
    /// The addresses where clouds answer with their machines' credentials.
    #[error("a link-local address (169.254.0.0/16, fe80::/10) serves no bucket")]
    LinkLocal,
    /// No host, a port that is none, or a path after it.
    #[error("an endpoint is a host and perhaps a port, nothing after it")]
    Host,
}

impl Endpoint {
    /// Returns whether the server is another machine, or may be.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Returns the server's address as a URL without a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (plain, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(BadEndpoint::Scheme),
        };
        if rest.contains('@') {
            return Err(BadEndpoint::Credentials);
        }
        let host = host(rest.strip_suffix('/').unwrap_or(rest)).ok_or(BadEndpoint::Host)?;
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if ip.is_some_and(is_link_local) {
            return Err(BadEndpoint::LinkLocal);
        }
        if plain && !(host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())) {
            return Err(BadEndpoint::Plain);
        }
        Ok(Self(text.strip_suffix('/').unwrap_or(text).to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the host of `host[:port]`, an IPv6 address in its brackets. A number that is no dotted address (`2852039166`, `0x7f.1`) is no host: resolvers disagree
/// about what it means.
fn host(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (
                &authority[..end + 2],
                authority[end + 2..].strip_prefix(':').or(Some("443").filter(|_| authority.len() == end + 2))?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, "443")),
    };
    let is_name = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or_default();
        let label =
            |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        name.len() <= 253 && name.split('.').all(label) && !last.starts_with(|c: char| c.is_ascii_digit())
    };
    let good = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok() || is_name(host);
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten()?;
    (good && port > 0).then_some(host)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_bucket_and_perhaps_a_prefix() {
        for (text, bucket, prefix) in [
            ("s3://abc", "abc", None),
            ("s3://abc/", "abc", None),
            ("s3://a.b-c9/p", "a.b-c9", Some("p")),
            ("s3://abc/some/pre_fix.1/", "abc", Some("some/pre_fix.1")),
        ] {
            let address: S3Address = text.parse().expect(text);
            assert_eq!((address.bucket(), address.prefix().map(Key::as_str)), (bucket, prefix), "{text}");
            assert_eq!(address.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn addresses_that_could_mean_something_else_are_refused() {
        use BadAddress::{Bucket, Prefix, Scheme};
        let long = format!("s3://{}", "a".repeat(64));
        for (text, why) in [
            ("", Scheme),
            ("abc", Scheme),
            ("https://abc", Scheme),
            ("S3://abc", Scheme),
            ("s3://", Bucket),
            ("s3:///p", Bucket),
            ("s3://../x", Bucket),
            ("s3://ab", Bucket),
            ("s3://Abc", Bucket),
            ("s3://abc-", Bucket),
            ("s3://-abc", Bucket),
            ("s3://a..b", Bucket),
            ("s3://10.0.0.1", Bucket),
            ("s3://user:secret@abc", Bucket),
            ("s3://abc?x", Bucket),
            ("s3://a%2e%2eb", Bucket),
            ("s3://abc\n", Bucket),
            ("s3://abc--use1-az4--x-s3", Bucket),
            ("s3://xn--abc", Bucket),
            (&long, Bucket),
            ("s3://abc/../x", Prefix),
            ("s3://abc/a/%2e%2e", Prefix),
            ("s3://abc/a//b", Prefix),
            ("s3://abc//", Prefix),
            ("s3://abc/a//", Prefix),
            ("s3://abc/A", Prefix),
            ("s3://abc/a b", Prefix),
            ("s3://abc/a?versionId=1", Prefix),
        ] {
            assert_eq!(text.parse::<S3Address>(), Err(why), "{text}");
        }
    }

    #[test]
    fn names_in_the_bucket_stay_below_the_prefix() {
        let address: S3Address = "s3://abc/x/y".parse().expect("an address");
        assert_eq!(address.full("head"), "x/y/head");
        assert_eq!(address.below("x/y/head"), Some("head"));
        assert_eq!((address.below("x/yhead"), address.below("head")), (None, None));
    }

    #[test]
    fn endpoints_are_https_or_this_machine() {
        for good in [
            "https://minio.example.org",
            "https://minio:9000",
            "https://10.1.2.3:9000",
            "http://127.0.0.1:9000",
            "http://127.9.9.9",
            "http://[::1]:9000",
            "http://localhost:9000",
            "https://[2001:db8::1]",
        ] {
            assert_eq!(good.parse::<Endpoint>().expect(good).as_str(), good);
        }
        assert_eq!("https://a.example/".parse::<Endpoint>().expect("a slash").as_str(), "https://a.example");
    }

    #[test]
    fn other_endpoints_are_refused() {
        use BadEndpoint::{Credentials, Host, LinkLocal, Plain, Scheme};
        for (text, why) in [
            ("", Scheme),
            ("file:///etc/passwd", Scheme),
            ("minio:9000", Scheme),
            ("http://minio.example.org", Plain),
            ("http://10.0.0.1", Plain),
            ("http://localhost.example.org", Plain),
            ("http://127.0.0.1.example.org", Plain),
            ("http://169.254.169.254", LinkLocal),
            ("https://169.254.169.254", LinkLocal),
            ("https://[fe80::1]", LinkLocal),
            ("https://[::ffff:169.254.169.254]", LinkLocal),
            ("http://2852039166", Host),
            ("http://0x7f.1", Host),
            ("http://127.1", Host),
            ("https://user:secret@minio", Credentials),
            ("http://127.0.0.1@evil.example", Credentials),
            ("https://", Host),
            ("https://a b", Host),
            ("https://a/b", Host),
            ("https://a?b", Host),
            ("https://a#b", Host),
            ("https://a\\b", Host),
            ("https://a:", Host),
            ("https://a:0", Host),
            ("https://a:+1", Host),
            ("https://a:99999", Host),
            ("https://[::1]x", Host),
            ("https://a..b", Host),
            ("https://a\r\nx", Host),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text}");
        }
    }
}
