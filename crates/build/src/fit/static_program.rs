//! `build.static`: programs that hold their C library themselves and run on any kernel of their architecture.
//!
//! The flag that asks for it must reach the programs alone: procedural macros are libraries that the compiler loads, and cannot be static. Cargo keeps the
//! two apart only when it is told a target, even if that is the machine itself; so the programs lie in `<target dir>/<target>/<profile>/` then.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::directory;
use crate::fit::elf;
use crate::recipe::TARGET;

/// Parts of the GNU C library and of the compiler, as a linker names them: they come with it or not at all.
const LIBC_PARTS: [&str; 12] =
    ["c", "m", "dl", "rt", "util", "pthread", "resolv", "crypt", "gcc", "gcc_eh", "gcc_s", "c_nonshared"];

/// Programs cannot be static.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StaticError {
    #[error(
        "build.static needs the static C library (lib{library}.a), which is not here; install it (Debian: apt install libc6-dev, Fedora: dnf install glibc-static)"
    )]
    NoLibc { library: String },
    #[error("the code does not allow a static program: it needs {library}; leave build.static away")]
    Needs { library: String },
    #[error("{program} was not linked statically: something sets its own flags for the linker; leave build.static away")]
    Dynamic { program: String },
    #[error("{program} is no program")]
    NotElf { program: String },
}

/// Returns what `cargo build` is told besides, in front of everything else.
pub(crate) fn cargo_args(is_static: bool) -> Vec<String> {
    if is_static { vec![format!("--target={TARGET}")] } else { vec![] }
}

/// Returns what the compiler is told besides, for code of the target alone.
pub(crate) fn compiler_flags(is_static: bool) -> Vec<String> {
    if is_static { vec!["-Ctarget-feature=+crt-static".to_owned()] } else { vec![] }
}

/// Refuses an output directory whose programs in `bin/` are not static after all.
///
/// # Errors
/// Names the first library that one of them needs. A file that cannot be read is an error of another kind.
pub(crate) fn check(out: &Path) -> io::Result<Result<(), StaticError>> {
    let bin = directory::open_in(directory::open(out)?, b"bin")?;
    for name in directory::names(&bin)? {
        if let Some(refused) = refusal(directory::open_file(&bin, &name)?, &name) {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(()))
}

fn refusal(file: File, name: &[u8]) -> Option<StaticError> {
    let program = df_core::text::escape(name);
    let Some(elf) = elf::read(file) else { return Some(StaticError::NotElf { program }) };
    match elf.libraries.iter().find(|library| !is_part_of_libc(library)) {
        Some(library) => Some(StaticError::Needs { library: library.clone() }),
        None if elf.interpreter.is_some() || !elf.libraries.is_empty() => Some(StaticError::Dynamic { program }),
        None => None,
    }
}

/// Finds in the last lines of a failed build that it failed because it was to be static.
///
/// The linkers' words are matched: `cannot find -lssl` (GNU ld, gold), `unable to find library -lssl` (lld), `attempted static link of dynamic object`.
pub(crate) fn explain<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<StaticError> {
    lines.find_map(|line| {
        let library = ["cannot find -l", "unable to find library -l"].iter().find_map(|words| after(line, words));
        let object = after(line, "attempted static link of dynamic object ").map(|path| path.rsplit('/').next().unwrap_or(path));
        match (library, object) {
            (Some(library), _) if LIBC_PARTS.contains(&library) => Some(StaticError::NoLibc { library: library.to_owned() }),
            (Some(library), _) => Some(StaticError::Needs { library: format!("lib{library}.a, which is not here") }),
            (None, Some(object)) => Some(StaticError::Needs { library: object.to_owned() }),
            (None, None) => None,
        }
    })
}

/// Returns the word behind some words: what a file or library may be called, without quotes.
fn after<'a>(line: &'a str, words: &str) -> Option<&'a str> {
    let rest = line.split_once(words)?.1.trim_start_matches(['`', '\'', '"']);
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._+-/".contains(c))).unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.')).filter(|word| !word.is_empty())
}

/// Returns whether a shared library's name is one that the C library's own package has: `libc.so.6`, `ld-linux-x86-64.so.2`.
fn is_part_of_libc(library: &str) -> bool {
    let name = library.split(".so").next().unwrap_or(library);
    name.starts_with("ld-linux") || name.strip_prefix("lib").is_some_and(|name| LIBC_PARTS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::elf::tests::{Made, libc_program};

    #[track_caller]
    fn check_program(bytes: &[u8], expected: Result<(), StaticError>) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("bin")).expect("made");
        std::fs::write(dir.path().join("bin/app"), bytes).expect("written");
        assert_eq!(check(dir.path()).expect("it can be read"), expected);
    }

    #[test]
    fn only_programs_without_a_loader_and_libraries_are_static() {
        check_program(&Made { e_type: 2, ..Made::library() }.bytes(), Ok(()));
        check_program(&Made { flags: 0x0800_0000, ..Made::library() }.bytes(), Ok(()));
        check_program(&libc_program("GLIBC_2.34").bytes(), Err(StaticError::Dynamic { program: "app".into() }));
        let ssl = Made { libraries: vec!["libc.so.6", "libssl.so.3"], ..libc_program("GLIBC_2.34") };
        check_program(&ssl.bytes(), Err(StaticError::Needs { library: "libssl.so.3".into() }));
        let loader = Made { libraries: vec!["ld-linux-x86-64.so.2"], ..Made::library() };
        check_program(&loader.bytes(), Err(StaticError::Dynamic { program: "app".into() }));
        check_program(b"#!/bin/sh\n", Err(StaticError::NotElf { program: "app".into() }));
    }

    #[test]
    fn the_words_of_linkers_are_understood() {
        let needs = |library: &str| Some(StaticError::Needs { library: library.into() });
        let libc = |library: &str| Some(StaticError::NoLibc { library: library.into() });
        let table = [
            ("/usr/bin/ld: cannot find -lc: No such file or directory", libc("c")),
            ("/usr/bin/ld: cannot find -lgcc_eh", libc("gcc_eh")),
            ("  = note: rust-lld: error: unable to find library -lm", libc("m")),
            ("/usr/bin/ld: cannot find -lssl: No such file or directory", needs("libssl.a, which is not here")),
            ("rust-lld: error: unable to find library -lssl", needs("libssl.a, which is not here")),
            (
                "/usr/bin/ld: attempted static link of dynamic object `/usr/lib/x86_64-linux-gnu/libssl.so.3'",
                needs("libssl.so.3"),
            ),
            ("rust-lld: error: attempted static link of dynamic object /lib/libz.so", needs("libz.so")),
            ("error[E0308]: mismatched types", None),
            ("/usr/bin/ld: cannot find -l", None),
        ];
        for (line, expected) in table {
            assert_eq!(explain(["   Compiling app", line].into_iter()), expected, "{line}");
        }
    }

    #[test]
    fn a_program_that_may_be_dynamic_is_told_nothing() {
        assert!(cargo_args(false).is_empty() && compiler_flags(false).is_empty());
        assert_eq!(cargo_args(true), ["--target=x86_64-unknown-linux-gnu"]);
    }
}
