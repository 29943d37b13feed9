//! Addresses of objects, read strictly: what two programs could read in two ways is refused.

use std::fmt;
use std::net::IpAddr;

/// Bytes of a URL; presigned ones have about a thousand.
const URL_LEN: usize = 8192;

/// The address of an object. It is a secret, and nothing shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) is_tls: bool,
    pub(super) host: Host,
    pub(super) port: u16,
    authority: String,
    target: String,
}

/// Whom a URL names.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    Ip(IpAddr),
}

/// A URL that is none, or leads where no object is. It is not quoted: it is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the URL of the object is refused: {0}")]
pub struct BadUrl(&'static str);

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        if text.len() > URL_LEN || !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(['#', '\\', '"', '<', '>']) {
            return Err(BadUrl("it is too long, or has characters that none has"));
        }
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(BadUrl("it is neither https nor http")),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let (host, port) = split(authority)?;
        let host = Host::read(host)?;
        let url = Self { is_tls, host, port: port.unwrap_or(if is_tls { 443 } else { 80 }), authority: authority.into(), target };
        if !is_tls && !url.is_own() {
            return Err(BadUrl("without TLS an object is read from this machine only"));
        }
        match url.host {
            Host::Ip(ip) if !may_be(ip, url.is_own()) => Err(BadUrl("there is no place for an object")),
            _ => Ok(url),
        }
    }

    /// Returns whether it names this very machine.
    pub(super) fn is_own(&self) -> bool {
        match &self.host {
            Host::Name(name) => name == "localhost",
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
        }
    }

    /// Returns the host's name, for people.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Url(..)")
    }
}

impl Host {
    fn read(text: &str) -> Result<Self, BadUrl> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadUrl("its host is none"))?;
            return inner.parse().map(|ip: std::net::Ipv6Addr| Self::Ip(ip.into())).map_err(|_| BadUrl("its host is none"));
        }
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        let labels: Vec<&str> = text.split('.').collect();
        let is_label = |label: &&str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
        };
        // 0x7f.1 and 2130706433 are addresses to some, and names to nobody.
        let is_number = |label: &&str| label.bytes().all(|b| b.is_ascii_digit()) || label.starts_with("0x");
        if text.len() > 253 || !labels.iter().all(is_label) || labels.last().is_some_and(is_number) {
            return Err(BadUrl("its host is none"));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// Decides whether an object may be read from an address; `is_own`: this machine was meant.
pub(super) fn may_be(ip: IpAddr, is_own: bool) -> bool {
    let is_elsewhere = match ip.to_canonical() {
        // 169.254/16 is where clouds tell machines their secrets.
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_broadcast() || ip.is_multicast() || ip.octets()[0] == 0 || ip.is_loopback())
        }
        // fd00:ec2::254 is the same place by IPv6.
        IpAddr::V6(ip) => {
            let first = ip.segments();
            let is_metadata = first[0] == 0xfd00 && first[1] == 0x0ec2;
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || first[0] & 0xffc0 == 0xfe80 || is_metadata)
        }
    };
    if is_own { ip.to_canonical().is_loopback() } else { is_elsewhere }
}

fn split(authority: &str) -> Result<(&str, Option<u16>), BadUrl> {
    // A name before an @ is how somebody shows one host and means another.
    if authority.is_empty() || authority.contains('@') {
        return Err(BadUrl("its host is none"));
    }
    let at = authority.rfind(':').filter(|&at| !authority[at..].contains(']'));
    let Some(at) = at else { return Ok((authority, None)) };
    let port = authority[at + 1..].parse::<u16>().ok().filter(|&port| port > 0 && !authority[at + 1..].starts_with('+'));
    Ok((&authority[..at], Some(port.ok_or(BadUrl("its port is none"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_an_object_is_read() {
        let url = Url::parse("https://Bucket.s3.eu-west-1.amazonaws.com/d/a/b?X-Amz-Signature=canary").expect("a URL");
        assert_eq!((url.is_tls, url.port, url.host().as_str()), (true, 443, "bucket.s3.eu-west-1.amazonaws.com"));
        assert_eq!(url.target(), "/d/a/b?X-Amz-Signature=canary");
        assert_eq!(format!("{url:?}"), "Url(..)");
        for fine in [
            "http://127.0.0.1:9000/b/k",
            "http://[::1]:80/",
            "http://localhost?x",
            "https://10.0.0.7/k",
            "https://[2001:db8::1]/",
        ] {
            assert!(Url::parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for bad in [
            "file:///etc/passwd",
            "ftp://example.org/",
            "https://",
            "https:///k",
            "http://example.org/k",
            "http://10.0.0.7/k",
            "https://169.254.169.254/latest",
            "http://169.254.169.254/latest",
            "https://[::ffff:169.254.169.254]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://0.0.0.0/",
            "https://[::]/",
            "https://255.255.255.255/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://127.1/",
            "https://user:secret@example.org/",
            "https://a.example@b.example/",
            "https://example.org:0/",
            "https://example.org:99999/",
            "https://example.org:+443/",
            "https://exa mple.org/",
            "https://example.org/\r\nX: y",
            "https://example.org/#x",
            "https://ex..org/",
            "https://[::1/",
        ] {
            let error = Url::parse(bad).expect_err(bad);
            assert!(!error.to_string().contains("example") && !error.to_string().contains("secret"), "{error}");
        }
        assert!(Url::parse(&format!("https://example.org/{}", "k".repeat(9000))).is_err());
    }
}
