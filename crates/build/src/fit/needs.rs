//! What the programs of a tree ask of the machine that runs them, for the release.
//!
//! A release is small and is sent whole each time, so that the list is bounded ([`NEEDS_LEN`]). Nearly every image stays far below. Of one that does not (a
//! machine-made tree with thousands of native modules), programs come before libraries in order of their paths, then one file for each distinct
//! combination of needs, then libraries as long as there is room. It depends on the tree alone: equal commits give equal releases.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use df_core::name::PathText;
use df_core::release::ProgramNeeds;
use rustix::fs::FileType;

use crate::directory;
use crate::fit::elf;

/// Bytes of all needs together, as a release writes them.
const NEEDS_LEN: usize = 64 << 10;
/// Of these, how many programs may take.
const PROGRAMS_LEN: usize = 48 << 10;
/// ELF files looked at.
const N_FILES: usize = 50_000;

/// Returns what the ELF programs and shared libraries of a directory ask of a machine, in order of their paths; links are not followed.
///
/// A file that is no well-formed ELF file has no entry, and neither has one whose name no df.yaml could name (a control character, no UTF-8).
///
/// # Errors
/// The directory cannot be read.
pub fn needs(tree: &Path) -> io::Result<Vec<ProgramNeeds>> {
    let mut found = vec![];
    walk(&directory::open(tree)?, &[], &mut found)?;
    Ok(bounded(found))
}

/// An ELF file of the tree.
struct Found {
    needs: ProgramNeeds,
    is_program: bool,
}

fn walk(dir: &OwnedFd, path: &[u8], found: &mut Vec<Found>) -> io::Result<()> {
    for name in directory::names(dir)? {
        let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let Some(stat) = directory::look(dir, &name)? else { continue };
        match directory::type_of(&stat) {
            FileType::Directory => walk(&directory::open_in(dir, &name)?, &below, found)?,
            FileType::RegularFile if found.len() < N_FILES && stat.st_size > 0 => {
                let Some(path) = std::str::from_utf8(&below).ok().and_then(|path| PathText::new(path).ok()) else { continue };
                found.extend(look(directory::open_file(dir, &name)?, path)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn look(mut file: File, path: PathText) -> io::Result<Option<Found>> {
    let mut magic = vec![];
    file.by_ref().take(4).read_to_end(&mut magic)?;
    if magic != *b"\x7fELF" {
        return Ok(None);
    }
    Ok(elf::read(file).map(|elf| Found {
        is_program: elf.is_program,
        needs: ProgramNeeds { path, machine: elf.machine, interpreter: elf.interpreter, libc: elf.libc },
    }))
}

fn bounded(mut found: Vec<Found>) -> Vec<ProgramNeeds> {
    found.sort_by(|a, b| (!a.is_program, &a.needs.path).cmp(&(!b.is_program, &b.needs.path)));
    let (mut kept, mut len, mut left, mut seen) = (vec![], 0, vec![], HashSet::new());
    let mut keep = |needs: ProgramNeeds, most: usize, seen: &mut HashSet<_>| {
        let bytes = serde_json::to_vec(&needs).expect("plain data").len() + 1;
        if len + bytes > most {
            return Some(needs);
        }
        len += bytes;
        seen.insert((needs.machine.clone(), needs.interpreter.clone(), needs.libc.clone()));
        kept.push(needs);
        None
    };
    for Found { needs, is_program } in found {
        left.extend(if is_program { keep(needs, PROGRAMS_LEN, &mut seen) } else { Some(needs) });
    }
    let mut rest = vec![];
    for needs in left {
        let is_new = !seen.contains(&(needs.machine.clone(), needs.interpreter.clone(), needs.libc.clone()));
        rest.extend(if is_new { keep(needs, NEEDS_LEN, &mut seen) } else { Some(needs) });
    }
    for needs in rest {
        keep(needs, NEEDS_LEN, &mut seen);
    }
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::elf::tests::{Made, libc_program};

    fn needs_of(files: &[(&str, Vec<u8>)]) -> Vec<ProgramNeeds> {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, bytes) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
        std::os::unix::fs::symlink("bin/app", dir.path().join("link")).expect("linked");
        needs(dir.path()).expect("it can be read")
    }

    #[test]
    fn each_elf_file_is_listed_by_its_path_and_nothing_else_is() {
        let found = needs_of(&[
            ("lib/b.so", Made::library().bytes()),
            ("bin/app", libc_program("GLIBC_2.34").bytes()),
            ("bin/app.sh", b"#!/bin/sh\n".to_vec()),
            ("bin/broken", b"\x7fELF\x02\x01\x01".to_vec()),
            ("bin/empty", vec![]),
            ("bin/na\u{1b}me", libc_program("GLIBC_2.34").bytes()),
        ]);
        let listed: Vec<_> = found.iter().map(|needs| (needs.path.as_str(), needs.libc.as_deref())).collect();
        assert_eq!(listed, [("bin/app", Some("2.34")), ("lib/b.so", None)]);
        assert_eq!(found[0].interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    }

    #[test]
    fn a_tree_of_thousands_of_modules_still_gives_a_release() {
        let found = |n: usize, is_program: bool, libc: &str| Found {
            is_program,
            needs: ProgramNeeds {
                path: format!("node_modules/{n}/build/release/x.node").parse().expect("a path"),
                machine: "x86_64".into(),
                interpreter: is_program.then(|| "/lib64/ld-linux-x86-64.so.2".into()),
                libc: Some(libc.into()),
            },
        };
        let files: Vec<Found> = (0..20_000).map(|n| found(n, n % 2 == 1, if n == 19_998 { "2.99" } else { "2.34" })).collect();
        let kept = bounded(files);
        assert!(kept.is_sorted() && serde_json::to_vec(&kept).expect("plain data").len() <= NEEDS_LEN);
        assert!(kept.iter().any(|needs| needs.libc.as_deref() == Some("2.99")), "a need of its own is kept");
        let n_programs = kept.iter().filter(|needs| needs.interpreter.is_some()).count();
        assert!(n_programs > 300, "programs come first: {n_programs}");
    }
}
