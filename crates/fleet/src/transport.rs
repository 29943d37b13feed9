//! How df-node is started on a node, and put there when it is missing.
//!
//! A `local:` node is a child process; any other is reached by the system's OpenSSH client, so that its configuration, agent, jump hosts and known hosts
//! apply. No agent and no X11 is forwarded. What the remote shell gets is built here from checked words only: an address and a directory can hold nothing
//! that a shell would act upon. Sessions with one machine share a connection where they can; see `multiplex`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use df_core::Digest;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::address::{Address, SshAddress};
use crate::inventory::Node;
use crate::multiplex::KEPT;
use crate::program::NodeProgram;

/// The exit status of our line on a node where df-node is missing.
pub(crate) const MISSING: i32 = 126;
/// What the same line says then, on standard error.
pub(crate) const MISSING_WORD: &str = "df-node is missing here";

/// Where df keeps things on a node whose address does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images and generations.
    pub app: String,
    /// What applications keep.
    pub data: String,
    /// What applications may lose.
    pub tmp: String,
}

impl Default for Places {
    fn default() -> Self {
        Self { app: "/var/lib/df".into(), data: "/var/lib/df-data".into(), tmp: "/var/lib/df-tmp".into() }
    }
}

/// df-node could not be put on a node.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BootstrapError {
    #[error("the program for nodes cannot be had")]
    Program(#[source] crate::program::ProgramError),
    #[error("ssh cannot be started")]
    Start(#[source] io::Error),
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("df-node could not be put there: {said}")]
    Refused { said: String },
    #[error("a directory for nodes may hold letters, digits, / . _ and - only: {0}")]
    Place(String),
}

/// Which connection a session with a machine goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through<'a> {
    /// As ssh is configured.
    Configured,
    /// The shared one whose socket this is; made when it is not there.
    Shared(&'a Path),
    /// One of its own: what it shows is so now, and no older connection can hold it up.
    Alone,
}

/// Returns the command that speaks the protocol with a node over its standard streams.
///
/// # Errors
/// A place holds what a shell could act upon.
pub fn serve(node: &Node, program: Digest, places: &Places, through: Through<'_>) -> Result<Command, BootstrapError> {
    let mut command = match &node.address {
        Address::Local(path) => local_serve(path, program),
        Address::Ssh(address) => {
            let prologue = prologue(node, places)?;
            let line = format!(
                "{prologue} P=\"$R/bin/df-node-{program}\"; [ -x \"$P\" ] || {{ echo \"{MISSING_WORD}\" >&2; exit {MISSING}; }}; \
                 exec \"$P\" serve --root \"$R\" --data \"$D\" --tmp \"$T\"{}",
                // Who names a directory has df touch nothing outside of it.
                if address.root.is_none() { " --machine" } else { "" }
            );
            ssh(address, through, &shell(node, &line))
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// Puts df-node on a node, under the name of its digest; the node checks the digest before the name is given.
///
/// # Errors
/// The node cannot be reached, has no room, or cannot run the program; it is as it was then.
pub async fn bootstrap(node: &Node, program: &NodeProgram, places: &Places, through: Through<'_>) -> Result<(), BootstrapError> {
    let bytes = program.bytes().map_err(BootstrapError::Program)?;
    match &node.address {
        Address::Local(path) => {
            let target = local_program(path, program.digest());
            let directory = target.parent().expect("it lies in bin");
            let written = std::fs::create_dir_all(directory).and_then(|()| df_cache::durable::write(&target, &bytes, 0o755));
            written.map_err(|source| BootstrapError::Io { path: target, source })
        }
        Address::Ssh(address) => {
            let line = placing(node, program.digest(), places)?;
            send(ssh(address, through, &shell(node, &line)), &bytes).await
        }
    }
}

/// Returns what ssh would do to reach a machine, as `ssh -G` says it; `None` when it does not say it.
pub(crate) async fn configuration(address: &SshAddress) -> Option<Vec<u8>> {
    let mut command = client();
    command.arg("-G");
    let output = to(command, address).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    output.status.success().then_some(output.stdout)
}

/// Returns the line that puts the program on a node.
fn placing(node: &Node, digest: Digest, places: &Places) -> Result<String, BootstrapError> {
    Ok(format!(
        "{} set -e; umask 022; mkdir -p \"$R/bin\"; N=\"$R/bin/.new-$$\"; trap 'rm -f \"$N\"' EXIT; cat > \"$N\"; chmod 755 \"$N\"; \
         [ \"$(\"$N\" digest)\" = {digest} ] || {{ echo \"the copy is damaged, or this machine cannot run it\" >&2; exit 1; }}; \
         sync \"$N\" 2>/dev/null || sync; mv -f \"$N\" \"$R/bin/df-node-{digest}\"",
        prologue(node, places)?
    ))
}

async fn send(mut command: Command, bytes: &[u8]) -> Result<(), BootstrapError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(BootstrapError::Start)?;
    let mut input = child.stdin.take().expect("piped above");
    // A node that refuses closes its end: what it says is worth more than our broken pipe.
    let sent = input.write_all(bytes).await;
    drop(input);
    let output = child.wait_with_output().await.map_err(BootstrapError::Start)?;
    if output.status.success() && sent.is_ok() {
        return Ok(());
    }
    let end = output.stderr.len().saturating_sub(1024);
    Err(BootstrapError::Refused { said: df_core::text::escape(output.stderr[end..].trim_ascii()) })
}

/// Returns whether df-node is missing on a node, where that can be seen without asking.
pub(crate) fn is_surely_missing(node: &Node, program: Digest) -> bool {
    match &node.address {
        Address::Local(path) => !local_program(path, program).exists(),
        Address::Ssh(_) => false,
    }
}

fn local_program(root: &Path, program: Digest) -> PathBuf {
    root.join("bin").join(format!("df-node-{program}"))
}

fn local_serve(root: &Path, program: Digest) -> Command {
    let mut command = Command::new(local_program(root, program));
    command.arg("serve").arg("--root").arg(root).arg("--data").arg(root.join("data")).arg("--tmp").arg(root.join("tmp"));
    // Ctrl-C is for df, which ends its sessions in order.
    command.process_group(0);
    command
}

/// Returns the shell words that set R, D and T.
fn prologue(node: &Node, places: &Places) -> Result<String, BootstrapError> {
    if let Address::Ssh(SshAddress { root: Some(root), .. }) = &node.address {
        let root = checked(root)?;
        return Ok(format!("R={root}; D={root}/data; T={root}/tmp;"));
    }
    let (app, data, tmp) = (checked(&places.app)?, checked(&places.data)?, checked(&places.tmp)?);
    Ok(format!(
        "if [ \"$(id -u)\" = 0 ]; then R={app}; D={data}; T={tmp}; \
         else R=\"$HOME/.local/share/df\"; D=\"$HOME/.local/share/df-data\"; T=\"$HOME/.local/share/df-tmp\"; fi;"
    ))
}

fn checked(place: &str) -> Result<&str, BootstrapError> {
    let fine = place.starts_with('/') && place.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if fine { Ok(place) } else { Err(BootstrapError::Place(df_core::text::escape(place.as_bytes()))) }
}

/// Wraps a line for the login shell, whichever it is: single quotes mean the same to all of them.
fn shell(node: &Node, line: &str) -> String {
    let quoted = line.replace('\'', "'\\''");
    let sudo = if node.sudo { "sudo -n " } else { "" };
    format!("exec {sudo}sh -c '{quoted}'")
}

fn ssh(address: &SshAddress, through: Through<'_>, line: &str) -> Command {
    let mut command = client();
    let options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"];
    command.args(["-a", "-x", "-T"]).args(options.iter().flat_map(|option| ["-o", option]));
    match through {
        Through::Configured => {}
        Through::Shared(socket) => {
            command.args(["-o", "ControlMaster=auto", "-o"]).arg(format!("ControlPersist={}", KEPT.as_secs()));
            command.arg("-o").arg(format!("ControlPath={}", socket.display()));
        }
        Through::Alone => {
            command.args(["-o", "ControlMaster=no", "-o", "ControlPath=none"]);
        }
    }
    let mut command = to(command, address);
    command.arg(line).process_group(0);
    command
}

/// Returns the system's client; a test names its own configuration.
fn client() -> Command {
    let mut command = Command::new("ssh");
    if let Some(config) = std::env::var_os("DF_SSH_CONFIG") {
        command.arg("-F").arg(config);
    }
    command
}

fn to(mut command: Command, address: &SshAddress) -> Command {
    if let Some(port) = address.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &address.user {
        command.arg("-l").arg(user);
    }
    command.arg("--").arg(&address.host);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, sudo: bool) -> Node {
        Node { name: None, address: address.parse().expect("an address"), listen: None, sudo }
    }

    #[test]
    fn a_directory_that_a_shell_would_act_upon_is_refused() {
        let places = Places { app: "/srv/$(reboot)".into(), ..Places::default() };
        assert!(serve(&node("web1", false), Digest::of(b""), &places, Through::Configured).is_err());
        assert!(serve(&node("web1", false), Digest::of(b""), &Places::default(), Through::Configured).is_ok());
    }

    #[test]
    fn what_ssh_is_told_of_shared_connections_comes_before_the_host() {
        let words = |through| {
            let command =
                serve(&node("ssh://op@web1:2222", false), Digest::of(b""), &Places::default(), through).expect("a command");
            let words: Vec<String> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            assert_eq!(words[words.len() - 3..words.len() - 1], ["--", "web1"]);
            words[..words.len() - 3].join(" ")
        };
        assert!(!words(Through::Configured).contains("Control"));
        let shared = words(Through::Shared(Path::new("/run/user/1000/df/0123.0")));
        assert!(
            shared.contains("-o ControlMaster=auto -o ControlPersist=60 -o ControlPath=/run/user/1000/df/0123.0"),
            "{shared}"
        );
        assert!(words(Through::Alone).contains("-o ControlPath=none"));
    }

    #[test]
    fn the_remote_line_sets_the_places_by_login() {
        let prologue = prologue(&node("web1", false), &Places::default()).expect("good places");
        let run =
            |line: &str| std::process::Command::new("sh").arg("-c").arg(line).env("HOME", "/home/x").output().expect("sh runs");
        let output = run(&format!("id() {{ echo 1000; }}; {prologue} echo $R $D $T"));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "/home/x/.local/share/df /home/x/.local/share/df-data /home/x/.local/share/df-tmp"
        );
        let output = run(&format!("id() {{ echo 0; }}; {prologue} echo $R $D $T"));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "/var/lib/df /var/lib/df-data /var/lib/df-tmp");
    }

    #[test]
    fn quotes_survive_the_login_shell() {
        let line = shell(&node("web1", false), "echo 'a  b' \"c\"");
        let output = std::process::Command::new("sh").arg("-c").arg(line).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "a  b c");
    }
}
