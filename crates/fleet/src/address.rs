//! Where a node is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a node is: a machine behind sshd, or a directory of this one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `ssh://[user@]host[:port][/root]`, `user@host` or `host`: over the system's OpenSSH client.
    Ssh(SshAddress),
    /// `local:PATH`: a directory of this machine, absolute.
    Local(PathBuf),
}

/// A machine behind sshd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshAddress {
    /// The login; ssh's own choice unless told.
    pub user: Option<String>,
    /// A name of ssh's configuration, a host name or an address.
    pub host: String,
    /// The port; ssh's own choice unless told.
    pub port: Option<u16>,
    /// Where df keeps what it keeps; absolute.
    pub root: Option<String>,
}

/// A text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{address}\" is no address of a node: {why}")]
pub struct AddressError {
    address: String,
    why: &'static str,
}

impl Address {
    /// Reads an address; a relative `local:` path is below `here`.
    ///
    /// # Errors
    /// Says why the text is no address.
    pub fn parse(text: &str, here: &Path) -> Result<Self, AddressError> {
        let refuse = |why| AddressError { address: df_core::text::shorten(&df_core::text::escape(text.as_bytes()), 200), why };
        if let Some(path) = text.strip_prefix("local:") {
            return local(path, here).map_err(refuse);
        }
        let ssh = match text.strip_prefix("ssh://") {
            Some(rest) => uri(rest),
            None => plain(text),
        };
        ssh.map(Self::Ssh).map_err(refuse)
    }

    /// Returns whether the node is a directory of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

fn local(path: &str, here: &Path) -> Result<Address, &'static str> {
    if path.is_empty() {
        return Err("local: needs a path");
    }
    // It is shown as it is in every line about the node.
    if df_core::text::escape(path.as_bytes()) != path.replace('\\', "\\\\") {
        return Err("the path holds a control character, or one that is not shown");
    }
    let mut absolute = PathBuf::new();
    for component in here.join(path).components() {
        match component {
            std::path::Component::ParentDir => drop(absolute.pop()),
            std::path::Component::CurDir => {}
            other => absolute.push(other),
        }
    }
    Ok(Address::Local(absolute))
}

/// Reads what follows `ssh://`.
fn uri(rest: &str) -> Result<SshAddress, &'static str> {
    let (authority, root) = match rest.find('/') {
        Some(slash) => (&rest[..slash], Some(&rest[slash..])),
        None => (rest, None),
    };
    let (user, host) = user_and_host(authority);
    let (host, port) = match host.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or("a bracket is not closed")?;
            (host, after.strip_prefix(':'))
        }
        None => host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port > 0).ok_or("the port is not 1 to 65535")).transpose()?;
    let root = root.filter(|root| root.len() > 1).map(checked_root).transpose()?;
    checked(SshAddress { user: user.map(str::to_owned), host: host.to_owned(), port, root })
}

/// Reads `user@host` or `host`.
fn plain(text: &str) -> Result<SshAddress, &'static str> {
    if text.contains(':') || text.contains('/') {
        return Err("write ssh://[user@]host[:port][/root], user@host, host, or local:PATH");
    }
    let (user, host) = user_and_host(text);
    checked(SshAddress { user: user.map(str::to_owned), host: host.to_owned(), port: None, root: None })
}

fn user_and_host(authority: &str) -> (Option<&str>, &str) {
    authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host))
}

/// Nothing that ssh or a shell could take for an option or a command gets further than this.
fn checked(address: SshAddress) -> Result<SshAddress, &'static str> {
    let word = |text: &str, extra: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b));
    if address.host.is_empty() || address.host.len() > 253 {
        return Err("the host is empty or too long");
    }
    if address.host.starts_with('-') {
        return Err("a host does not begin with a dash");
    }
    if !word(&address.host, b".-_:%") {
        return Err("the host holds a character that no host has");
    }
    let Some(user) = &address.user else { return Ok(address) };
    if user.is_empty() || user.starts_with('-') || user.len() > 64 || !word(user, b".-_") {
        return Err("the user is no login name");
    }
    Ok(address)
}

fn checked_root(root: &str) -> Result<String, &'static str> {
    let fine = root.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) && !root.split('/').any(|c| c == "..");
    if fine { Ok(root.trim_end_matches('/').to_owned()) } else { Err("the root holds a character that is not allowed here") }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "local:{}", path.display()),
            Self::Ssh(SshAddress { user, host, port: None, root: None }) if !host.contains(':') => {
                user.iter().try_for_each(|user| write!(f, "{user}@"))?;
                f.write_str(host)
            }
            Self::Ssh(SshAddress { user, host, port, root }) => {
                f.write_str("ssh://")?;
                user.iter().try_for_each(|user| write!(f, "{user}@"))?;
                if host.contains(':') {
                    write!(f, "[{host}]")?
                } else {
                    f.write_str(host)?
                }
                port.iter().try_for_each(|port| write!(f, ":{port}"))?;
                root.iter().try_for_each(|root| f.write_str(root))
            }
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads an address as it is stored: `local:` paths are absolute.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, Path::new("/"))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("web1", "web1"),
            ("deploy@web1.example.com", "deploy@web1.example.com"),
            ("ssh://web1", "web1"),
            ("ssh://root@10.0.0.1:2222/srv/df", "ssh://root@10.0.0.1:2222/srv/df"),
            ("ssh://[::1]:22", "ssh://[::1]:22"),
            ("ssh://[::1]", "ssh://[::1]"),
            ("local:nodes/a", "local:/here/nodes/a"),
            ("local:/x/../y", "local:/y"),
        ] {
            let address = Address::parse(text, Path::new("/here")).expect(text);
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse::<Address>().expect("as stored"), address);
        }
    }

    #[test]
    fn what_ssh_or_a_shell_could_misread_is_refused() {
        for text in [
            "",
            "-oProxyCommand=x",
            "user@-oX",
            "-l",
            "host -p 22",
            "a;b",
            "$(x)",
            "`x`",
            "a\nb",
            "a\0b",
            "\x1b[2J",
            "a'b",
            "host:22",
            "ssh://",
            "ssh://h:0",
            "ssh://h:99999",
            "ssh://h/../etc",
            "ssh://h/a b",
            "ssh://-x@h",
            "@h",
            "local:",
            "local:a\nb",
            "ex\u{430}mple.com",
            &"a".repeat(300),
            "ssh://[::1",
        ] {
            assert!(Address::parse(text, Path::new("/")).is_err(), "{text:?}");
        }
    }
}
