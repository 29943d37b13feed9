//! The server: where it listens, what it knows of the past, and how it ends.

use super::exchange::Exchange;
use super::fault::{Act, Fault};
use super::guarded::Guarded;
use super::record::{Counts, Request};
use crate::process::wait_until;
use crate::tls::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

const BUCKET: &str = "df-test";
const ACCESS_KEY: &str = "df-test-access-key";
const SECRET_KEY: &str = "df-test-secret-key";

/// An S3 server in this process, with one bucket; it ends when this goes out of scope.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    authority: Option<Authority>,
    _dir: Option<TempDir>,
}

impl Server {
    /// Starts a server with an empty bucket, on a free port of 127.0.0.1.
    #[track_caller]
    pub fn start() -> Server {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("make a directory for the bucket: {error}"));
        let mut server = Server::serve(dir.path(), 0, None);
        server._dir = Some(dir);
        server
    }

    /// The same by HTTPS, with a certificate of an authority that nobody knows but who is shown [`Server::authority`].
    #[track_caller]
    pub fn start_with_tls() -> Server {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("make a directory for the bucket: {error}"));
        let mut server = Server::serve(dir.path(), 0, Some(Authority::new()));
        server._dir = Some(dir);
        server
    }

    /// Starts a server on a directory that stays, on this port of 127.0.0.1; 0 is any.
    #[track_caller]
    pub fn at(root: &Path, port: u16) -> Server {
        Server::serve(root, port, None)
    }

    #[track_caller]
    fn serve(root: &Path, port: u16, authority: Option<Authority>) -> Server {
        let bucket = root.join(BUCKET);
        fs::create_dir_all(&bucket).unwrap_or_else(|error| panic!("make {}: {error}", bucket.display()));
        let root = root.canonicalize().unwrap_or_else(|error| panic!("find {}: {error}", root.display()));
        let mut builder = S3ServiceBuilder::new(Guarded::new(&root));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("s3-server").enable_all().build();
        let runtime = threads.unwrap_or_else(|error| panic!("start threads: {error}"));
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)));
        let listener = listener.unwrap_or_else(|error| panic!("listen on 127.0.0.1:{port}: {error}"));
        let addr = listener.local_addr().expect("the address just bound");
        let shared = Arc::new(Shared { root, past: Mutex::default() });
        let tls = authority.as_ref().map(acceptor);
        runtime.spawn(listen(listener, Arc::clone(&shared), service, tls));
        Server { addr, shared, runtime: Some(runtime), authority, _dir: None }
    }

    /// Returns where it listens, as in `http://127.0.0.1:41234`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.authority.is_some() { "https" } else { "http" }, self.addr)
    }

    /// Returns the file of the certificate of who vouches for its name; by plain HTTP nobody does.
    #[track_caller]
    pub fn authority(&self) -> PathBuf {
        self.authority.as_ref().expect("it was started with TLS").pem()
    }

    /// Returns the name of its bucket.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// Returns the key that requests must be signed with: its id and its secret.
    pub fn credentials(&self) -> (&'static str, &'static str) {
        (ACCESS_KEY, SECRET_KEY)
    }

    /// Returns the variables that point a program at this server, and at nothing of the person who runs the test.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.endpoint(), ACCESS_KEY, SECRET_KEY)
    }

    /// Makes it misbehave. Of several faults that fit a request the first one strikes.
    pub fn fault(&self, fault: Fault) {
        let objects = (fault.act == Act::StaleList).then(|| self.objects());
        let mut past = self.shared.past();
        past.stale = objects.unwrap_or(std::mem::take(&mut past.stale));
        past.faults.push(fault);
    }

    /// Makes it behave again.
    pub fn clear_faults(&self) {
        self.shared.past().faults.clear();
    }

    /// Returns how often faults struck.
    pub fn struck(&self) -> u64 {
        self.shared.past().struck
    }

    /// Returns how many requests were ever held: what was to be done before that is done.
    pub fn held(&self) -> u64 {
        self.shared.past().held
    }

    /// Returns how often the faults struck that are set for keys of exactly this pattern.
    pub fn struck_at(&self, pattern: &str) -> u64 {
        self.shared.past().faults.iter().filter(|fault| fault.pattern() == pattern).map(|fault| fault.struck).sum()
    }

    /// Returns all requests since the start or the last [`Server::forget`], in order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.past().requests.clone()
    }

    /// Returns how many requests there were since then.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.shared.past().requests)
    }

    /// Begins to count anew.
    pub fn forget(&self) {
        let mut past = self.shared.past();
        past.forgotten += past.requests.len();
        past.requests.clear();
    }

    /// Waits until the requests fulfil a condition, such as "the third PUT came"; returns whether they did before the deadline.
    pub fn wait_for(&self, deadline: Duration, condition: impl Fn(&[Request]) -> bool) -> bool {
        wait_until(deadline, || condition(&self.shared.past().requests).then_some(())).is_some()
    }

    /// Returns the directory that holds the bucket's.
    pub(super) fn root(&self) -> &Path {
        &self.shared.root
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Requests may be held on purpose: nothing is waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The variables that the AWS chain reads, and nothing of the person's own configuration.
pub(super) fn environment(endpoint: &str, access_key: &str, secret_key: &str) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL_S3", endpoint),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// What all connections share.
pub(super) struct Shared {
    root: PathBuf,
    past: Mutex<Past>,
}

#[derive(Default)]
struct Past {
    requests: Vec<Request>,
    /// Requests before the first of `requests`.
    forgotten: usize,
    faults: Vec<Fault>,
    struck: u64,
    held: u64,
    stale: Vec<(String, u64)>,
}

impl Shared {
    /// Records a request; returns its number and how to misbehave.
    pub(super) fn record(&self, request: Request) -> (usize, Option<Act>) {
        let mut past = self.past();
        let struck = past.faults.iter_mut().find_map(|fault| fault.strikes(&request).then(|| fault.act.clone()));
        past.struck += u64::from(struck.is_some());
        past.requests.push(request);
        (past.forgotten + past.requests.len() - 1, struck)
    }

    /// Records how a request was answered.
    pub(super) fn answered(&self, number: usize, status: u16, bytes_down: u64) {
        let mut past = self.past();
        let place = number.checked_sub(past.forgotten);
        if let Some(request) = place.and_then(|place| past.requests.get_mut(place)) {
            request.status = Some(status);
            request.bytes_down = bytes_down;
        }
    }

    /// Never answers.
    pub(super) async fn hold<T>(&self) -> T {
        self.past().held += 1;
        std::future::pending().await
    }

    pub(super) fn stale(&self) -> Vec<(String, u64)> {
        self.past().stale.clone()
    }

    pub(super) fn bucket_dir(&self) -> PathBuf {
        self.root.join(BUCKET)
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // A test that panics elsewhere should fail for its own reason.
        self.past.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, service: S3Service, tls: Option<TlsAcceptor>) {
    loop {
        // Errors of accept are those of a client that went away, or of too many files, which ends by itself.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, Arc::clone(&shared), service.clone(), tls.clone()));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, service: S3Service, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let exchange = Exchange { shared, service, socket: Arc::new(socket) };
    let answers = service_fn(move |request| exchange.clone().answer(request));
    // How a connection ends is the client's affair, or was meant.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), answers).await),
        // Whoever does not believe the certificate leaves.
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            drop(http.serve_connection(TokioIo::new(stream), answers).await);
        }
    }
}

#[track_caller]
fn acceptor(authority: &Authority) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(authority.certificate()).expect("what openssl made");
    let key = PrivateKeyDer::from_pem_file(authority.key()).expect("what openssl made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("ring knows TLS 1.2 and 1.3").with_no_client_auth().with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("the key is that of the certificate")))
}
