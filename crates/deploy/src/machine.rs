//! Facts about the machine.

use df_core::Endpoint;
use df_wire::message::OwnQueue;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How much of a C library is looked at for its versions, which lie in its first quarter.
const LIBC_LEN: u64 = 8 << 20;
/// How long those strings may be.
const STRINGS_LEN: usize = 1 << 20;
/// Kinds of segments (System V ABI): what is brought to memory, and what tells the loader of the rest.
const PT_LOAD: u32 = 1;
/// See [`PT_LOAD`].
const PT_DYNAMIC: u32 = 2;
/// Where the strings are in memory.
const DT_STRTAB: u64 = 5;
/// How long they are.
const DT_STRSZ: u64 = 10;
/// Where programs that load programs lie.
const LOADERS: [&str; 4] = ["/lib", "/lib64", "/lib32", "/libx32"];
/// Whether the kernel moves connections from a listener that closes to another of its group (Linux 5.14).
const MIGRATES: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
/// How many of them are named.
const N_LOADERS: usize = 100;

/// Returns the kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Returns the newest version of the machine's glibc whose symbols a program may name.
///
/// A static program cannot ask the C library, and running another to ask it would be running foreign code: so the names of its versions are read. The
/// library is that which lies beside the program that loads programs of this architecture, else where distributions put it.
pub fn libc() -> Option<String> {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let beside = loaders.iter().filter_map(|loader| Some(fs::canonicalize(loader).ok()?.with_file_name("libc.so.6")));
    let usual = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
    beside.chain(usual.map(PathBuf::from)).find_map(|path| {
        let file = File::open(path).ok()?;
        let names = strings(&file).and_then(|names| newest_version(&names));
        names.or_else(|| {
            let mut bytes = vec![];
            file.take(LIBC_LEN).read_to_end(&mut bytes).ok()?;
            newest_version(&bytes)
        })
    })
}

/// Reads the strings that a library's dynamic symbols and versions are named by, which are a small part of it; `None` where it is not as expected.
fn strings(file: &File) -> Option<Vec<u8>> {
    let read = |offset: u64, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).ok().filter(|len| *len <= STRINGS_LEN)?];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let number = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let short = |bytes: &[u8], at: usize| Some(u64::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let word = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?));
    let head = read(0, 64)?;
    // 64 bits, little-endian.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (entry_len, n_entries) = (short(&head, 54)?, short(&head, 56)?);
    let table = read(number(&head, 32)?, entry_len * n_entries)?;
    // Kind, offset in the file, address, length in the file.
    let entry = |entry: &[u8]| Some((word(entry)?, number(entry, 8)?, number(entry, 16)?, number(entry, 32)?));
    let segments: Vec<_> = table.chunks_exact(usize::try_from(entry_len).ok()?.max(1)).filter_map(entry).collect();
    let (_, offset, _, len) = segments.iter().copied().find(|(kind, ..)| *kind == PT_DYNAMIC)?;
    let dynamic = read(offset, len)?;
    let value = |tag| dynamic.chunks_exact(16).find_map(|pair| number(pair, 8).filter(|_| number(pair, 0) == Some(tag)));
    let (address, len) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
    let is_in = |(kind, _, start, len): &(u32, u64, u64, u64)| {
        *kind == PT_LOAD && address.checked_sub(*start).is_some_and(|at| at < *len)
    };
    let (_, offset, start, _) = segments.iter().copied().find(is_in)?;
    read(offset.checked_add(address - start)?, len)
}

/// Returns the programs that load other programs (`/lib64/ld-linux-x86-64.so.2`), by the paths that programs name them by.
pub fn interpreters() -> Vec<String> {
    let mut found: Vec<String> = LOADERS.iter().flat_map(|dir| loaders_in(Path::new(dir))).collect();
    found.sort();
    found.truncate(N_LOADERS);
    found
}

/// Returns what becomes of who waits at a socket that a program has bound by itself when it closes, and another of the same port stays.
pub fn own_queue(at: &Endpoint) -> OwnQueue {
    let moves = fs::read(MIGRATES).is_ok_and(|setting| setting.trim_ascii() == b"1");
    // Datagrams are not connections: nobody moves them.
    if moves && matches!(at, Endpoint::Tcp(_)) { OwnQueue::Moved } else { OwnQueue::Lost }
}

/// Returns the free bytes of the file system that holds a directory.
///
/// # Errors
/// The file system does not say.
pub fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn loaders_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let loaders = names.filter(|name| name.starts_with("ld") && name.contains(".so"));
    // Not by the entry's type: most are links, and one that leads nowhere loads nothing.
    loaders
        .map(|name| dir.join(name))
        .filter(|path| path.is_file())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}

/// Finds the newest of the names "GLIBC_2.36" in the library's bytes: it defines the versions of its symbols under them, and asks for no newer ones.
fn newest_version(bytes: &[u8]) -> Option<String> {
    let names = bytes.split(|&byte| byte == 0).filter_map(|text| text.strip_prefix(b"GLIBC_"));
    let newest = names.filter_map(|name| match name {
        // The mark of a loader that reads short relative relocations; what builds a release says it the same way.
        b"ABI_DT_RELR" => Some(vec![2, 36]),
        name => numbers(name),
    });
    Some(newest.max()?.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

fn numbers(version: &[u8]) -> Option<Vec<u32>> {
    let parts = std::str::from_utf8(version).ok().filter(|version| version.len() <= 16)?.split('.');
    let number = |part: &str| part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
    parts.map(number).collect::<Option<Vec<u32>>>().filter(|numbers| numbers.len() >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_its_versions_tell_how_new_a_c_library_is() {
        let newest = |bytes: &[u8]| newest_version(bytes);
        assert_eq!(newest(b"\0GLIBC_2.9\0GLIBC_2.36\0GLIBC_2.2.5\0GLIBC_PRIVATE\0").as_deref(), Some("2.36"));
        assert_eq!(newest(b"\0GLIBC_2.17\0GLIBC_ABI_DT_RELR\0").as_deref(), Some("2.36"));
        assert_eq!(newest(b"\0GLIBC_2.x\0GLIBC_\0GLIBC_9\0GLIBC_2.99999999999\0xGLIBC_2.40\0"), None);
        assert_eq!(newest(b"nothing of it"), None);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn this_machine_says_the_version_that_its_library_says_of_itself() {
        let found = libc().expect("this test is linked to one");
        let by_strings = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
            .iter()
            .find_map(|loader| strings(&File::open(fs::canonicalize(loader).ok()?.with_file_name("libc.so.6")).ok()?));
        assert_eq!(newest_version(&by_strings.expect("a library as they are")), Some(found.clone()));
        // SAFETY: the library returns a static text.
        let said = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().expect("ASCII");
        let numbers = |version: &str| numbers(version.as_bytes()).expect("a version");
        // A release of the library that adds no symbol has no version of its own.
        assert!(numbers(&found) <= numbers(said) && numbers(&found) >= vec![2, 17], "{found} and {said}");
        assert!(interpreters().iter().any(|path| path.contains("/ld-linux")), "{:?}", interpreters());
    }
}
