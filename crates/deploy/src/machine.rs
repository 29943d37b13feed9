//! Facts about the machine.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// How much of a C library is looked at for its version.
const LIBC_LEN: u64 = 8 << 20;

/// Returns the kernel's release.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Returns the version of the machine's glibc; a static program cannot ask it, so its banner is read.
pub fn libc() -> Option<String> {
    let places =
        ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
    places.iter().find_map(|path| {
        let mut bytes = vec![];
        File::open(path).ok()?.take(LIBC_LEN).read_to_end(&mut bytes).ok()?;
        version(&bytes)
    })
}

/// Returns the free bytes of the file system that holds a directory.
///
/// # Errors
/// The file system does not say.
pub fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Finds "GNU C Library ... stable release version 2.36." in the library's bytes.
fn version(bytes: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"release version ";
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let version: String =
        bytes[at..].iter().take(16).take_while(|b| b.is_ascii_digit() || **b == b'.').map(|&b| char::from(b)).collect();
    let version = version.trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_of_a_c_library_tells_its_version() {
        let banner = b"\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopyright";
        assert_eq!(version(banner).as_deref(), Some("2.36"));
        assert_eq!(version(b"nothing of it"), None);
    }
}
