//! Whom a connection believes about names of hosts, when a file says it: an authority of a company's own, whose certificate nobody else has.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How much of a file is read: those of whole systems have a quarter of a MiB.
const LEN: u64 = 4 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a file, each of which can vouch for others.
#[derive(Debug, Clone)]
pub struct Authorities {
    #[cfg_attr(not(feature = "s3"), allow(dead_code, reason = "a bucket's client takes it so"))]
    pem: String,
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "a node's client takes it so"))]
    roots: RootCertStore,
}

/// A file names no authority.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadAuthorities {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has no certificate of an authority, as PEM", path.display())]
    Empty { path: PathBuf },
}

impl Authorities {
    /// Reads a file of certificates as PEM. What else is in it, and what no authority can be, counts for nothing.
    ///
    /// # Errors
    /// It cannot be read, or nothing is left.
    pub fn read(path: &Path) -> Result<Self, BadAuthorities> {
        let text = text(path).map_err(|source| BadAuthorities::Read { path: path.to_owned(), source })?;
        Self::parse(&text).ok_or_else(|| BadAuthorities::Empty { path: path.to_owned() })
    }

    /// As [`Authorities::read`], where there need not be a file.
    ///
    /// # Errors
    /// As there.
    pub fn read_if_there(path: &Path) -> Result<Option<Self>, BadAuthorities> {
        match Self::read(path) {
            Err(BadAuthorities::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Returns the certificates as PEM.
    #[cfg(feature = "s3")]
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the certificates.
    #[cfg(feature = "http")]
    pub(crate) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    fn parse(text: &str) -> Option<Self> {
        let (mut pem, mut roots) = (String::new(), RootCertStore::empty());
        for part in text.split(BEGIN).skip(1) {
            let Some((body, _)) = part.split_once(END) else { continue };
            let section = format!("{BEGIN}{body}{END}\n");
            let is_good = CertificateDer::from_pem_slice(section.as_bytes()).is_ok_and(|found| roots.add(found).is_ok());
            if is_good {
                pem += &section;
            }
        }
        (!roots.is_empty()).then_some(Self { pem, roots })
    }
}

fn text(path: &Path) -> io::Result<String> {
    // Whatever has the name: a pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LEN {
        return Err(io::Error::other(format!("it is no file of at most {} MiB", LEN >> 20)));
    }
    let mut bytes = vec![];
    file.take(LEN).read_to_end(&mut bytes)?;
    // Comments beside the certificates may be in any language.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use df_testkit::tls::Authority;

    use super::*;

    #[test]
    fn what_can_vouch_is_taken_out_of_a_file_and_nothing_else() {
        let authority = Authority::new();
        let one = std::fs::read_to_string(authority.pem()).expect("made");
        let broken = one.replacen("MII", "AAA", 1);
        for (text, n) in [
            (one.clone(), Some(1)),
            (format!("# a comment\n{one}junk\n{one}"), Some(2)),
            (format!("{broken}{one}"), Some(1)),
            (format!("{BEGIN}\n%%%\n{END}\n"), None),
            (broken, None),
            (one[..one.len() / 2].to_owned(), None),
            (String::new(), None),
        ] {
            let found = Authorities::parse(&text);
            assert_eq!(found.as_ref().map(|found| found.roots.len()), n, "{text}");
            let again = found.as_ref().and_then(|found| Authorities::parse(&found.pem));
            assert_eq!(again.map(|again| again.roots.len()), n);
        }
    }

    #[test]
    fn what_is_no_file_of_certificates_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        assert!(Authorities::read_if_there(&path).expect("nothing there").is_none());
        assert!(matches!(Authorities::read(&path), Err(BadAuthorities::Read { .. })));
        std::fs::write(&path, "nothing").expect("written");
        let said = Authorities::read_if_there(&path).expect_err("empty").to_string();
        assert!(said.contains("ca.pem has no certificate of an authority"), "{said}");
        std::fs::write(&path, vec![b'#'; LEN as usize + 1]).expect("written");
        assert!(matches!(Authorities::read(&path), Err(BadAuthorities::Read { .. })));
        assert!(matches!(Authorities::read(dir.path()), Err(BadAuthorities::Read { .. })), "a directory");
    }
}
