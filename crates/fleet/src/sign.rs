//! Vouching for a statement with an ssh key: `ssh-keygen -Y sign` does it, so that agents, passphrases and security keys work as people have them.
//!
//! No private key is read here. What the programs print is bounded and checked: what comes back is an attestation of just that statement, or an error.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use df_core::attestation::{Attestation, Flaw, NAMESPACE, Policy, PublicKey, Statement};
use df_core::text;

/// Bytes that a program may print: an agent may hold many keys.
const OUTPUT_LEN: u64 = 1 << 20;
/// Bytes of its complaint that are passed on.
const SAID_LEN: u64 = 1000;
/// Where people have their keys when no agent does, the best first.
const IDENTITIES: [&str; 4] = ["id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_rsa"];

/// Where keys are found.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The socket of the agent, as `SSH_AUTH_SOCK` names it.
    pub agent: Option<OsString>,
    /// The directory in which `.ssh` lies.
    pub home: Option<PathBuf>,
}

/// A key that can sign, as ssh-keygen is told of it.
#[derive(Debug)]
pub struct SigningKey {
    file: PathBuf,
    agent: Option<OsString>,
    /// The public half of a key that only the agent has, while it is used.
    _written: Option<tempfile::NamedTempFile>,
}

/// A statement was not signed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SignError {
    #[error("{program} cannot be started")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the key {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} did not sign{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Refused { program: &'static str, said: String },
    #[error("{program} printed more than anybody asked for")]
    Endless { program: &'static str },
    #[error("what ssh-keygen made {0}")]
    Made(#[source] Flaw),
    #[error("none of the {n_keys} keys of trust.keys is in the ssh agent or in ~/.ssh")]
    NoKey { n_keys: usize },
}

impl Keys {
    /// Returns where ssh itself looks.
    pub fn of_environment() -> Self {
        Self { agent: std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()), home: std::env::home_dir() }
    }

    /// Takes the key in a file: the private one, or the public half of one that the agent has.
    ///
    /// # Errors
    /// There is no such file.
    pub fn file(&self, path: &Path) -> Result<SigningKey, SignError> {
        let failed = |source| SignError::File { path: path.to_owned(), source };
        let file = path.canonicalize().map_err(failed)?;
        if !file.is_file() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        Ok(SigningKey { file, agent: self.agent.clone(), _written: None })
    }

    /// Finds the first key that a policy names: in the agent, in its order, else among the files that ssh itself tries.
    ///
    /// # Errors
    /// There is none.
    pub fn trusted(&self, policy: &Policy) -> Result<SigningKey, SignError> {
        if let Some(key) = self.in_agent()?.into_iter().find(|key| policy.keys().contains(key)) {
            return self.by_agent(&key);
        }
        let ssh = self.home.iter().map(|home| home.join(".ssh"));
        let files = ssh.flat_map(|ssh| IDENTITIES.map(|name| ssh.join(name)));
        let is_trusted = |file: &PathBuf| {
            let public = std::fs::File::open(file.with_extension("pub")).and_then(|file| bounded(file, OUTPUT_LEN));
            public.is_ok_and(|bytes| keys_in(&bytes).iter().any(|key| policy.keys().contains(key)))
        };
        match files.into_iter().find(is_trusted) {
            Some(file) => self.file(&file),
            None => Err(SignError::NoKey { n_keys: policy.keys().len() }),
        }
    }

    /// Returns the keys of the agent that may vouch, in its order; none when there is no agent.
    fn in_agent(&self) -> Result<Vec<PublicKey>, SignError> {
        if self.agent.is_none() {
            return Ok(vec![]);
        }
        let mut command = Command::new("ssh-add");
        command.arg("-L");
        // An agent without keys, or one that is gone, is no agent.
        match run(command, "ssh-add", self.agent.as_ref(), b"") {
            Ok(printed) => Ok(keys_in(&printed)),
            Err(SignError::Refused { .. }) => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    fn by_agent(&self, key: &PublicKey) -> Result<SigningKey, SignError> {
        let failed = |source| SignError::File { path: std::env::temp_dir(), source };
        let mut written = tempfile::Builder::new().prefix("df-key-").suffix(".pub").tempfile().map_err(failed)?;
        writeln!(written, "{key}").map_err(failed)?;
        Ok(SigningKey { file: written.path().to_owned(), agent: self.agent.clone(), _written: Some(written) })
    }
}

impl SigningKey {
    /// Vouches for a statement. A person may be asked for a passphrase, or to touch a security key.
    ///
    /// # Errors
    /// It was not signed, or what came back proves something else.
    pub fn sign(&self, statement: &Statement) -> Result<Attestation, SignError> {
        let mut command = Command::new("ssh-keygen");
        // The file is an absolute path, so it is never taken for an option.
        command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(&self.file);
        let printed = run(command, "ssh-keygen", self.agent.as_ref(), &statement.pae())?;
        let armor = std::str::from_utf8(&printed).map_err(|_| SignError::Made(Flaw::Text))?;
        let attestation = Attestation::from_armor(armor).map_err(SignError::Made)?;
        attestation.verify(statement).map_err(SignError::Made)?;
        Ok(attestation)
    }
}

/// Runs a program of ssh to its end and returns what it printed.
fn run(mut command: Command, program: &'static str, agent: Option<&OsString>, input: &[u8]) -> Result<Vec<u8>, SignError> {
    match agent {
        Some(agent) => command.env("SSH_AUTH_SOCK", agent),
        None => command.env_remove("SSH_AUTH_SOCK"),
    };
    // At a terminal a person reads what is wanted: "confirm user presence for key".
    let is_watched = io::stderr().is_terminal();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(if is_watched { Stdio::inherit() } else { Stdio::piped() });
    let mut child = command.spawn().map_err(|source| SignError::Start { program, source })?;
    let complaint = child.stderr.take().map(|stderr| thread::spawn(move || drained(stderr)));
    // One that ends early does not read all; what it says tells more than the broken pipe.
    let _ = child.stdin.take().expect("piped above").write_all(input);
    let printed = bounded(child.stdout.take().expect("piped above"), OUTPUT_LEN);
    let Ok(printed) = printed else { return Err(ended(child, SignError::Endless { program })) };
    let status = child.wait().map_err(|source| SignError::Start { program, source })?;
    let said = complaint.and_then(|complaint| complaint.join().ok()).unwrap_or_default();
    if status.success() {
        return Ok(printed);
    }
    Err(SignError::Refused { program, said: text::escape(said.trim_ascii()) })
}

fn ended(mut child: Child, error: SignError) -> SignError {
    let _ = child.kill();
    let _ = child.wait();
    error
}

/// Reads the beginning of a complaint, and past the rest of it.
fn drained(mut from: impl io::Read) -> Vec<u8> {
    let mut said = vec![];
    let _ = from.by_ref().take(SAID_LEN).read_to_end(&mut said);
    let _ = io::copy(&mut from, &mut io::sink());
    said
}

fn bounded(from: impl io::Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
}

/// Returns the keys among lines of public keys; those of other kinds are passed over.
fn keys_in(lines: &[u8]) -> Vec<PublicKey> {
    String::from_utf8_lossy(lines).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use df_core::attestation::{Subject, accepts};
    use df_core::{Bundle, Digest, ImageId, RecipeKey, ReleaseId};

    use super::*;

    fn statement() -> Statement {
        Statement::release(&Subject {
            release: ReleaseId(Digest::of(b"release")),
            app: "greeter".parse().expect("a name"),
            commit: "0".repeat(40).parse().expect("a commit"),
            recipe_key: RecipeKey(Digest::of(b"recipe")),
            image: ImageId(Digest::of(b"image")),
        })
    }

    fn key(path: &Path) -> PublicKey {
        let mut command = Command::new("ssh-keygen");
        let made = command.args(["-q", "-t", "ed25519", "-N", "", "-C", "somebody", "-f"]).arg(path).status();
        assert!(made.expect("ssh-keygen").success());
        let text = std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
        text.trim().parse().expect("a key")
    }

    /// An agent of our own, until it is dropped.
    struct Agent(Child, PathBuf);

    impl Agent {
        fn start(dir: &Path) -> Self {
            let socket = dir.join("agent");
            let mut command = Command::new("ssh-agent");
            command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null());
            let agent = Self(command.spawn().expect("ssh-agent"), socket);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while std::os::unix::net::UnixStream::connect(&agent.1).is_err() {
                assert!(std::time::Instant::now() < deadline, "the agent listens");
                thread::yield_now();
            }
            agent
        }

        fn add(&self, key: &Path) {
            let mut command = Command::new("ssh-add");
            assert!(command.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.1).status().expect("ssh-add").success());
        }
    }

    impl Drop for Agent {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn policy(keys: &[&PublicKey]) -> Policy {
        Policy::new(1, keys.iter().map(|&key| key.clone()).collect()).expect("a policy")
    }

    #[track_caller]
    fn check(keys: &SigningKey, by: &PublicKey) {
        let bundle = Bundle::new(&statement(), vec![keys.sign(&statement()).expect("signed")]);
        assert_eq!(accepts(&policy(&[by]), &statement(), Some(&bundle)), Ok(()));
    }

    #[test]
    fn a_key_signs_from_its_file_from_the_agent_and_from_where_ssh_looks() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at(".ssh")).expect("made");
        let (first, second, home) = (key(&at("first")), key(&at("second")), key(&at(".ssh/id_ed25519")));
        let agent = Agent::start(dir.path());
        ["first", "second"].iter().for_each(|name| agent.add(&at(name)));
        let with = |agent: Option<&Path>| Keys { agent: agent.map(Into::into), home: Some(dir.path().to_owned()) };
        let (without, with) = (with(None), with(Some(&agent.1)));

        check(&without.file(&at("second")).expect("a key"), &second);
        // Only the agent has the private half from here on.
        std::fs::remove_file(at("second")).expect("removed");
        check(&with.file(&at("second.pub")).expect("a key"), &second);
        check(&with.trusted(&policy(&[&second])).expect("a key"), &second);
        check(&with.trusted(&policy(&[&second, &first, &home])).expect("a key"), &first);
        check(&with.trusted(&policy(&[&home])).expect("a key"), &home);
        check(&without.trusted(&policy(&[&first, &home])).expect("a key"), &home);
        assert!(matches!(without.trusted(&policy(&[&first])), Err(SignError::NoKey { n_keys: 1 })));
        let gone = Keys { agent: Some(at("gone").into()), home: None };
        assert!(matches!(gone.trusted(&policy(&[&first])), Err(SignError::NoKey { .. })));
    }

    #[test]
    fn what_cannot_sign_is_said_in_one_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = Keys { agent: None, home: None };
        assert!(matches!(keys.file(&dir.path().join("gone")), Err(SignError::File { .. })));
        assert!(matches!(keys.file(dir.path()), Err(SignError::File { .. })));
        let odd = dir.path().join("-Y");
        std::fs::write(&odd, "no key").expect("written");
        let refused = keys.file(&odd).expect("a file").sign(&statement()).expect_err("no key").to_string();
        assert!(!refused.contains('\n'), "{refused}");
    }

    #[test]
    fn endless_output_is_cut_off() {
        let mut command = Command::new("sh");
        command.args(["-c", "yes"]);
        assert!(matches!(run(command, "yes", None, b""), Err(SignError::Endless { .. })));
        let mut command = Command::new("sh");
        command.args(["-c", "yes '\x1b[2J' | head -c 9000000 >&2; exit 1"]);
        let refused = run(command, "yes", None, b"").expect_err("it failed").to_string();
        assert!(refused.len() < 10_000 && !refused.contains('\x1b'));
    }
}
