//! An authority of a test's own, and what it vouches for: this machine. Made by the program openssl.

use crate::process::Run;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A key of the kind that every client takes, without a password.
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority that nobody knows but who is shown its certificate, and a certificate by it for `localhost` and `127.0.0.1`. All of it goes with this.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// Makes one, with keys of its own.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("make a directory for an authority: {error}"));
        request(dir.path(), "-subj /CN=df-test-authority -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem");
        request(
            dir.path(),
            "-CA ca.pem -CAkey ca.key -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem",
        );
        Self { dir }
    }

    /// Returns the file of its own certificate, as PEM.
    pub fn pem(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Returns the file of the certificate that it gave this machine, as PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Returns the file of that certificate's private key, as PEM.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }
}

#[track_caller]
fn request(dir: &Path, words: &str) {
    let all = format!("req -x509 -days 30 {KEY} {words}");
    Run::new("openssl").dir(dir).args(all.split_whitespace()).ok();
}
