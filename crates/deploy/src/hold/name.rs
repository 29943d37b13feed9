//! What a descriptor that is held is called: whose it is, and what is behind it.
//!
//! `greeter/socket/4711` and `greeter/process/12-99`: printable, without a colon, so that systemd takes it too (`FDNAME=`). What is behind a descriptor tells its name, and no two
//! live ones share it: the inode of a socket, the number and start time of a process.

use std::fmt;
use std::str::FromStr;

use df_core::AppName;

/// A held descriptor's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Whose it is.
    pub app: AppName,
    /// What it is.
    pub what: What,
}

/// What is behind a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A socket where clients come.
    Socket {
        /// Which: nobody else's while it is open.
        inode: u64,
    },
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
    },
}

/// A text is not the name of a held descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a held descriptor")]
pub struct NotAName;

/// No name is longer: an application's has at most 63 bytes, a number 20.
pub const NAME_LEN: usize = 128;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Socket { inode } => write!(f, "{}/socket/{inode}", self.app),
            What::Process { pid, start_time } => write!(f, "{}/process/{pid}-{start_time}", self.app),
        }
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        parse(text).filter(|name| name.to_string() == text).ok_or(NotAName)
    }
}

fn parse(text: &str) -> Option<Name> {
    let mut parts = text.split('/');
    let (app, kind, which) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let what = match kind {
        "socket" => What::Socket { inode: which.parse().ok()? },
        "process" => {
            let (pid, start_time) = which.split_once('-')?;
            What::Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? }
        }
        _ => return None,
    };
    Some(Name { app, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_from_its_text_and_nothing_else_is_one() {
        let app: AppName = "a.b-c_1".parse().expect("a name");
        for (what, text) in [
            (What::Socket { inode: u64::MAX }, "a.b-c_1/socket/18446744073709551615"),
            (What::Process { pid: 12, start_time: 99 }, "a.b-c_1/process/12-99"),
        ] {
            let name = Name { app: app.clone(), what };
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name));
        }
        for text in [
            "",
            "a",
            "a/socket",
            "a/socket/",
            "a/socket/-1",
            "a/socket/01",
            "a/socket/1/2",
            "a/socket/1 ",
            "A/socket/1",
            "a/process/1",
            "a/process/1-",
            "a/file/1",
            "../socket/1",
            "a/process/+1-2",
        ] {
            assert_eq!(text.parse::<Name>(), Err(NotAName), "{text}");
        }
        let longest =
            Name { app: "a".repeat(63).parse().expect("a name"), what: What::Process { pid: u32::MAX, start_time: u64::MAX } };
        assert!(longest.to_string().len() <= NAME_LEN);
    }
}
