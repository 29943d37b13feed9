//! The objects of the bucket as files: for tests that read and change them behind the server's back.

use super::server::Server;
use s3s::crypto::{Checksum as _, Md5};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

impl Server {
    /// Returns an object's bytes; `None` when there is no such object.
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.place(key)).ok()
    }

    /// Writes an object; its state is a new one, its checksums are gone.
    #[track_caller]
    pub fn write(&self, key: &str, bytes: &[u8]) {
        let place = self.place(key);
        let parent = place.parent().expect("below the bucket");
        fs::create_dir_all(parent).unwrap_or_else(|error| panic!("make {}: {error}", parent.display()));
        // A reader sees the old object or the new one; several may write at once.
        static N_WRITTEN: AtomicU64 = AtomicU64::new(0);
        let beside = self.root().join(format!(".tmp.written.behind.{}", N_WRITTEN.fetch_add(1, Ordering::Relaxed)));
        fs::write(&beside, bytes)
            .and_then(|()| fs::rename(&beside, &place))
            .unwrap_or_else(|error| panic!("write {key}: {error}"));
        let _ = fs::remove_file(remarks(self.root(), self.bucket(), key));
    }

    /// Flips the lowest bit of one byte of an object; state and checksums stay as they were, as when a disk rots.
    #[track_caller]
    pub fn flip(&self, key: &str, at: u64) {
        let change = || {
            let file = fs::OpenOptions::new().read(true).write(true).open(self.place(key))?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 1], at)
        };
        change().unwrap_or_else(|error| panic!("flip byte {at} of {key}: {error}"));
    }

    /// Cuts an object to this length; state and checksums stay as they were.
    #[track_caller]
    pub fn truncate(&self, key: &str, len: u64) {
        let file = fs::OpenOptions::new().write(true).open(self.place(key));
        file.and_then(|file| file.set_len(len)).unwrap_or_else(|error| panic!("truncate {key}: {error}"));
    }

    /// Removes an object.
    #[track_caller]
    pub fn remove(&self, key: &str) {
        fs::remove_file(self.place(key)).unwrap_or_else(|error| panic!("remove {key}: {error}"));
    }

    /// Returns all objects with their lengths, in order of their keys.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        collect(&self.root().join(self.bucket()), "", &mut found);
        found.sort();
        found
    }

    /// Returns the keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects().into_iter().map(|(key, _)| key).collect()
    }

    /// Returns all objects' bytes: what [`Server::restore`] brings back.
    pub fn snapshot(&self) -> Vec<(String, Vec<u8>)> {
        let read = |key: String| self.read(&key).map(|bytes| (key, bytes));
        self.keys().into_iter().filter_map(read).collect()
    }

    /// Makes the bucket hold exactly these objects, as somebody does who rolls it back.
    #[track_caller]
    pub fn restore(&self, objects: &[(String, Vec<u8>)]) {
        for key in self.keys() {
            self.remove(&key);
        }
        for (key, bytes) in objects {
            self.write(key, bytes);
        }
    }

    fn place(&self, key: &str) -> PathBuf {
        self.root().join(self.bucket()).join(key)
    }
}

fn collect(dir: &Path, prefix: &str, found: &mut Vec<(String, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.metadata() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), &format!("{name}/"), found),
            Ok(kind) => found.push((name, kind.len())),
            Err(_) => {} // removed meanwhile
        }
    }
}

/// Where s3s-fs keeps an object's state and checksums.
fn remarks(root: &Path, bucket: &str, key: &str) -> PathBuf {
    root.join(format!(".bucket-{}.object-{}.internal.json", base64(bucket.as_bytes()), base64(key.as_bytes())))
}

/// Where s3s-fs keeps what clients said about an object.
fn attributes(root: &Path, bucket: &str, key: &str) -> PathBuf {
    root.join(format!(".bucket-{}.object-{}.metadata.json", base64(bucket.as_bytes()), base64(key.as_bytes())))
}

/// Gives an object, with all that is kept about it, another name.
pub(super) fn rename(root: &Path, from: (&str, &str), to: (&str, &str)) -> io::Result<()> {
    let place = root.join(to.0).join(to.1);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    for side in [remarks, attributes] {
        fs::rename(side(root, from.0, from.1), side(root, to.0, to.1))?;
    }
    fs::rename(root.join(from.0).join(from.1), place)
}

/// Removes an object with all that is kept about it.
pub(super) fn forget(root: &Path, bucket: &str, key: &str) {
    for file in [remarks(root, bucket, key), attributes(root, bucket, key), root.join(bucket).join(key)] {
        let _ = fs::remove_file(file);
    }
}

/// Returns an object's state, as s3s-fs does: what was remembered when it was written, or the MD5 of its bytes. `None`: no such object.
pub(super) fn etag(root: &Path, bucket: &str, key: &str) -> Option<String> {
    let place = root.join(bucket).join(key);
    if !place.exists() {
        return None;
    }
    let known = fs::read(remarks(root, bucket, key)).ok();
    let known = known.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    if let Some(etag) = known.as_ref().and_then(|known| known["e_tag"].as_str()) {
        return Some(etag.to_owned());
    }
    let mut md5 = Md5::new();
    md5.update(&fs::read(place).ok()?);
    Some(md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Forgets the checksums of an object.
pub(super) fn keep_only_etag(root: &Path, bucket: &str, key: &str) {
    let place = remarks(root, bucket, key);
    let Some(known) = fs::read(&place).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok()) else {
        return;
    };
    let kept = serde_json::json!({ "e_tag": known["e_tag"] });
    let _ = fs::write(&place, kept.to_string());
}

/// The alphabet for URLs, no padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit = |place: usize| char::from(ALPHABET[(number >> (18 - 6 * place) & 63) as usize]);
        text.extend((0..=three.len()).map(digit));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_remarks_are_those_of_the_library() {
        assert_eq!(
            ["", "a", "ab", "abc", "p/0a?"].map(|text| super::base64(text.as_bytes())),
            ["", "YQ", "YWI", "YWJj", "cC8wYT8"]
        );
    }
}
