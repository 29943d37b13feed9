//! moto's S3 server, from another house: what holds here and there is S3, and no habit of one library.

use super::server::environment;
use crate::net::{free_addr, http_get};
use crate::process::{Child, Run, wait_until};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const BUCKET: &str = "df-test";

/// How long Python may take to start; it loads a lot.
const START: Duration = Duration::from_secs(60);

/// A running `moto_server` with one bucket; it ends when this goes out of scope.
pub struct Moto {
    addr: SocketAddr,
    _child: Child,
}

impl Moto {
    /// Starts it. `ci/fetch-python` installs it.
    ///
    /// It is searched in `$DF_MOTO_SERVER`, in `ci-venv/bin` below the target directory, and on PATH.
    #[track_caller]
    pub fn start() -> Moto {
        let program = program().unwrap_or_else(|| {
            panic!(
                "moto_server is not here: run ci/fetch-python, which installs it below the target directory, or name it in DF_MOTO_SERVER"
            )
        });
        let addr = free_addr();
        let (host, port) = (addr.ip().to_string(), addr.port().to_string());
        let child = Run::new(&program).args(["-H", &host, "-p", &port]).spawn();
        let moto = Moto { addr, _child: child };
        let answers = wait_until(START, || http_get(addr, "/moto-api/data.json", Duration::from_secs(5)).ok());
        assert!(answers.is_some(), "moto does not answer");
        moto.make_bucket();
        moto
    }

    /// Returns where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the name of its bucket.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// Returns the variables that point a program at it. It accepts every signature.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.endpoint(), "df-test-access-key", "df-test-secret-key")
    }

    /// It checks no signatures, so a bucket is one unsigned request away.
    #[track_caller]
    fn make_bucket(&self) {
        use std::io::{Read, Write};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.addr)?;
            stream.set_read_timeout(Some(START))?;
            write!(
                stream,
                "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nAuthorization: AWS4-HMAC-SHA256 Credential=df/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                self.addr
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let answer = ask().unwrap_or_else(|error| panic!("make moto's bucket: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "make moto's bucket: {answer}");
    }
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("DF_MOTO_SERVER") {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let roots = target.into_iter().chain([beside]);
    let in_venv = roots.map(|root| root.join("ci-venv/bin/moto_server")).find(|path| path.is_file());
    in_venv.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("moto_server")).find(|path| path.is_file())
    })
}
