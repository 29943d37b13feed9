//! Which numbers a user's name stands for.
//!
//! Read from /etc/passwd and /etc/group by our own code: a static program can't load the modules behind the C library's lookup.
//! Users that exist only in a directory service are written as numbers.

use df_core::text::escape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Why a user can't be told.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No line of /etc/passwd has this name.
    #[error("user {} is not in /etc/passwd", escape(name.as_bytes()))]
    Unknown { name: String },
    /// A number that means "no change" to the kernel, or none at all.
    #[error("{} is not a user number", escape(text.as_bytes()))]
    Number { text: String },
    /// The file can't be read.
    #[error("read {path}")]
    Read {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Returns the numbers for `name`, `uid` or `uid:gid`.
pub fn lookup(user: &str) -> Result<Ids, UserError> {
    resolve(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Returns every number that /etc/passwd and /etc/group name.
pub fn numbers() -> Result<BTreeSet<u32>, UserError> {
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    // The third field of both.
    let third = |line: &str| parse_id(line.split(':').nth(2)?);
    Ok(passwd.lines().chain(group.lines()).filter_map(third).collect())
}

/// Returns whether our user namespace knows all these numbers, of users and of groups: nobody can become one that it does not know.
pub fn is_mapped(numbers: &RangeInclusive<u32>) -> io::Result<bool> {
    for path in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        match std::fs::read_to_string(path) {
            Ok(map) if !maps(&map, numbers) => return Ok(false),
            // A kernel without such namespaces.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// Returns whether the lines `inside outside count` of a map have all these numbers inside.
fn maps(map: &str, numbers: &RangeInclusive<u32>) -> bool {
    let parts = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().ok());
        let (first, _, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some(first..first + count)
    });
    let parts: Vec<_> = parts.collect();
    numbers.clone().all(|number| parts.iter().any(|part| part.contains(&number.into())))
}

/// Looks the user up in the texts of both files; a number without a line has itself as group.
fn resolve(user: &str, passwd: &str, group: &str) -> Result<Ids, UserError> {
    let lines = || passwd.lines().filter_map(parse_passwd);
    if !user.starts_with(|c: char| c.is_ascii_digit()) {
        let found = lines().find(|line| line.0 == user);
        let (name, uid, gid) = found.ok_or_else(|| UserError::Unknown { name: user.to_owned() })?;
        return Ok(Ids { uid, gid, groups: groups_of(name, gid, group) });
    }
    let bad = || UserError::Number { text: user.to_owned() };
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (parse_id(uid).ok_or_else(bad)?, Some(parse_id(gid).ok_or_else(bad)?)),
        None => (parse_id(user).ok_or_else(bad)?, None),
    };
    let line = lines().find(|line| line.1 == uid);
    let gid = gid.or(line.map(|line| line.2)).unwrap_or(uid);
    let groups = line.map_or(vec![gid], |(name, ..)| groups_of(name, gid, group));
    Ok(Ids { uid, gid, groups })
}

const MAX_FILE_LEN: u64 = 16 << 20;

fn read(path: &'static str) -> Result<String, UserError> {
    let mut bytes = Vec::new();
    let read = File::open(Path::new(path)).and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes));
    read.map_err(|source| UserError::Read { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:uid:gid:...`
fn parse_passwd(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((name, parse_id(fields.nth(1)?)?, parse_id(fields.next()?)?))
}

/// `name:password:gid:member,member`
fn groups_of(name: &str, primary: u32, group: &str) -> Vec<u32> {
    let member_of = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let gid = parse_id(fields.nth(2)?)?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    });
    let mut groups: Vec<u32> = member_of.chain([primary]).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The highest number is refused: setresuid takes it for "leave as it is", and the program would stay root.
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&id: &u32| digits && id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\n+::::::\nbroken:x:zz:1::/:\nfull:x:4294967295:1::/:\n\
                          greeter:x:990:980:,,,:/nonexistent:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:someone,greeter\nnear:x:34:greeter2\nlogs:x:4:greeter\nbad:x:y:greeter\n";

    #[track_caller]
    fn check(user: &str, expect: &str) {
        let got = match resolve(user, PASSWD, GROUP) {
            Ok(ids) => format!("{}:{} {:?}", ids.uid, ids.gid, ids.groups),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expect, "{user}");
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        check("root", "0:0 [0]");
        check("greeter", "990:980 [4, 33, 980]");
        check("990", "990:980 [4, 33, 980]");
        check("990:33", "990:33 [4, 33]");
        check("5000", "5000:5000 [5000]");
        check("5000:6000", "5000:6000 [6000]");
    }

    #[test]
    fn nothing_else_is() {
        check("nobody-here", "user nobody-here is not in /etc/passwd");
        check("", "user  is not in /etc/passwd");
        check("+", "user + is not in /etc/passwd");
        check("broken", "user broken is not in /etc/passwd");
        check("full", "user full is not in /etc/passwd");
        check("-1", "user -1 is not in /etc/passwd");
        check("4294967295", "4294967295 is not a user number");
        check("0:4294967295", "0:4294967295 is not a user number");
        check("1:", "1: is not a user number");
        check("1x", "1x is not a user number");
        check("99999999999", "99999999999 is not a user number");
    }

    #[test]
    fn a_namespace_that_does_not_have_the_numbers_gives_none() {
        let all = "         0          0 4294967295\n";
        let (one, usual) = ("0 1000 1\n", "0 1000 1\n1 100000 65536\n");
        let (two, gap) = ("0 0 60600\n60600 70000 1000\n", "0 0 60600\n60601 70000 1000\n");
        for (map, expect) in
            [(all, true), (one, false), (usual, true), (two, true), (gap, false), ("", false), ("x y z\n", false)]
        {
            assert_eq!(maps(map, &(60_578..=61_183)), expect, "{map}");
        }
    }

    #[test]
    fn this_machine_knows_root() {
        assert_eq!(lookup("root").unwrap().uid, 0);
    }
}
