//! Whether an output holds the paths it was built at, which would tie it to this machine.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use df_core::text::escape;
use rustix::fs::FileType;

use crate::directory;

/// Files named; the first few are enough to find the cause.
const N_NAMED: usize = 20;
const CHUNK: usize = 1 << 20;

/// Returns the files and links, at most twenty, that hold one of the paths.
pub(crate) fn held_paths(out: &Path, needles: &[&Path]) -> io::Result<Vec<String>> {
    use std::os::unix::ffi::OsStrExt as _;
    let needles: Vec<&[u8]> = needles.iter().map(|path| path.as_os_str().as_bytes()).filter(|needle| needle.len() > 1).collect();
    let mut held = vec![];
    walk(&directory::open(out)?, &[], &needles, &mut held)?;
    Ok(held)
}

fn walk(dir: &OwnedFd, path: &[u8], needles: &[&[u8]], held: &mut Vec<String>) -> io::Result<()> {
    for name in directory::names(dir)? {
        if held.len() >= N_NAMED {
            return Ok(());
        }
        let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let Some(stat) = directory::look(dir, &name)? else { continue };
        let holds = match directory::type_of(&stat) {
            FileType::Directory => {
                walk(&directory::open_in(dir, &name)?, &below, needles, held)?;
                false
            }
            FileType::Symlink => holds_any(&mut &directory::read_link(dir, &name)?[..], needles)?,
            _ => holds_any(&mut directory::open_file(dir, &name)?, needles)?,
        };
        if holds {
            held.push(escape(&below));
        }
    }
    Ok(())
}

/// Reads in chunks that overlap by the longest needle, so that none is missed at a seam.
fn holds_any(reader: &mut impl Read, needles: &[&[u8]]) -> io::Result<bool> {
    let overlap = needles.iter().map(|needle| needle.len() - 1).max().unwrap_or(0);
    let mut buffer: Vec<u8> = vec![];
    loop {
        let kept = buffer.len().min(overlap);
        buffer.drain(..buffer.len() - kept);
        if reader.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)? == 0 {
            return Ok(false);
        }
        if needles.iter().any(|needle| contains(&buffer, needle)) {
            return Ok(true);
        }
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let (first, mut at) = (needle[0], 0);
    while let Some(found) = bytes[at..].iter().position(|&b| b == first) {
        at += found;
        if bytes[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_wherever_it_lies() {
        let needle = b"/home/x/build";
        for at in [0, 5, CHUNK - 6, CHUNK, CHUNK + 1, 2 * CHUNK - 1] {
            let mut bytes = vec![b'/'; 2 * CHUNK + 64];
            bytes[at..at + needle.len()].copy_from_slice(needle);
            assert!(holds_any(&mut &bytes[..], &[b"other", needle]).expect("memory reads"), "at {at}");
        }
        assert!(!holds_any(&mut &b"/home/x/buil"[..], &[needle]).expect("memory reads"));
        assert!(!holds_any(&mut &b""[..], &[needle]).expect("memory reads"));
    }
}
