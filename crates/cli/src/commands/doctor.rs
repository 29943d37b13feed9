//! `df doctor`: what this machine and the nodes lack, and the line that mends it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_build::Repository;
use df_cache::store::Store as _;
use df_core::spec::{BuildTool, Handoff, RunSection, Sandbox};
use df_core::text::escape;
use df_fleet::message::{Boot, Survey};
use df_fleet::{Address, Node};

use crate::config::{Config, Remote};
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::{self, Failure, chain};
use crate::next;
use crate::render::units::bytes;
use crate::session::{self, Call, Session};
use crate::{across, bucket};

/// The oldest kernel that df-node runs on.
const KERNEL: (u32, u32) = (5, 10);
/// Less free space than this is worth a word.
const FREE_LEN: u64 = 1 << 30;

/// What may be wrong where a bucket does not answer.
const REACH: &str =
    "see that the bucket is there, and that its region and server (cache.region, cache.endpoint, AWS_ENDPOINT_URL_S3) are right";

/// One thing that was looked at.
struct Finding {
    what: String,
    found: Result<String, String>,
    mend: Option<String>,
}

/// Looks at this machine, then at the nodes. Exit 1 when something is missing.
pub fn run(call: &Call) -> Result<Exit, Failure> {
    let configured = call.find();
    let mut findings = vec![];
    match &configured {
        Ok((config, top)) => {
            findings.push(Finding::there("df.yaml", format!("application {} in {}", config.app, top.display())));
            findings.extend(here(call, Some(config), top));
        }
        Err(failure) => {
            findings.push(Finding::lacking("df.yaml", &failure.message, failure.next.as_deref().unwrap_or("mend df.yaml")));
            findings.extend(here(call, None, &call.here));
        }
    }
    if let Ok((config, top)) = configured {
        findings.extend(caches(call, &config, &top));
        // Who asks about a cache is not told about nodes.
        if !call.globals.address.iter().any(|address| Remote::is_meant(address)) {
            findings.extend(nodes(call, &config, &top));
        }
    }
    let fine = findings.iter().all(|finding| finding.found.is_ok());
    for finding in findings {
        call.output.result(&finding.event());
    }
    Ok(if fine { Exit::Done } else { Exit::Failed })
}

impl Finding {
    fn there(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), found: Ok(found.into()), mend: None }
    }

    fn lacking(what: impl Into<String>, found: impl Into<String>, mend: &str) -> Self {
        Self { what: what.into(), found: Err(found.into()), mend: Some(mend.to_owned()) }
    }

    fn event(self) -> Event {
        let ok = self.found.is_ok();
        Event::Check { what: self.what, ok, found: self.found.unwrap_or_else(|lack| lack), mend: self.mend }
    }
}

fn here(call: &Call, config: Option<&Config>, top: &Path) -> Vec<Finding> {
    let mut findings = vec![match Repository::open(top) {
        Ok(repository) => match repository.resolve("HEAD") {
            Ok(commit) => Finding::there("git repository", format!("HEAD is {} {}", commit.id.short(), commit.summary)),
            Err(error) => Finding::lacking("git repository", chain(&error), "git add . && git commit"),
        },
        Err(error) => Finding::lacking("git repository", chain(&error), &error.mend()),
    }];
    if config.is_none_or(|config| matches!(config.build.tool, BuildTool::Cargo(_))) {
        findings.push(tool("cargo", "--version", "curl https://sh.rustup.rs -sSf | sh"));
    }
    findings.push(tool("cc", "--version", "apt-get install gcc libc6-dev"));
    findings.push(tool("ssh", "-V", "apt-get install openssh-client"));
    let cache = config.map_or_else(|| home().join(".cache/df"), |config| Session::cache_dir_of(config, top));
    findings.push(match session::node_program(&cache) {
        Ok(program) => Finding::there("program for nodes", program.digest().short()),
        Err(error) => Finding::lacking("program for nodes", chain(&error), "cargo build -p df, or set DF_NODE_PROGRAMS"),
    });
    findings.push(writable("cache", &cache));
    if config.is_none_or(|config| config.build.sandbox == Sandbox::Strict) {
        findings.push(match df_build::lacking(&cache) {
            None => Finding::there("sandbox", "strict builds can be shut in"),
            Some(lacking) => Finding::lacking("sandbox", lacking.part, &lacking.mend),
        });
    }
    let state = call.state(top);
    findings.push(writable("state", &state));
    findings.push(match std::net::TcpListener::bind("127.77.0.1:0") {
        Ok(_) => Finding::there("loopback addresses", "127.77.0.N can be listened on"),
        Err(error) => {
            Finding::lacking("loopback addresses", error.to_string(), "local: nodes need them; df add --listen 127.0.0.1")
        }
    });
    findings.push(match next_df() {
        Some(path) => Finding::there("the next df", path.display().to_string()),
        None => Finding::lacking("the next df", "PATH has none: `df -h` will not work", "apt-get install coreutils"),
    });
    findings
}

/// Asks the cache elsewhere: those of `--address`, else that of df.yaml.
fn caches(call: &Call, config: &Config, top: &Path) -> Vec<Finding> {
    let named: Vec<&String> = call.globals.address.iter().filter(|address| Remote::is_meant(address)).collect();
    if named.is_empty() {
        return config.cache.remote.iter().map(|remote| cache(call, config, top, remote)).collect();
    }
    let of = |address: &String| match Remote::parse(address) {
        Ok(remote) => cache(call, config, top, &remote),
        Err(wrong) => Finding::lacking(address.clone(), wrong, "df help cache"),
    };
    named.into_iter().map(of).collect()
}

fn cache(call: &Call, config: &Config, top: &Path, remote: &Remote) -> Finding {
    let name = remote.to_string();
    let stats = match remote {
        Remote::Directory(path) if !call.here.join(path).is_dir() => {
            return Finding::lacking(&name, "there is no such directory", &format!("df cache persist --address {name}"));
        }
        Remote::Directory(path) => return writable(&name, &call.here.join(path)),
        Remote::Bucket(address) => {
            let dir = Session::cache_dir_of(config, top);
            bucket::open_below(&dir, &config.cache, call.globals.timeout, address, false)
                .and_then(|store| store.stats().map_err(|error| bucket::failure::unread(&name, &error)))
        }
    };
    match stats {
        Ok(stats) => Finding::there(name, format!("{} releases, {}", stats.n_releases, bytes(stats.stored_bytes))),
        Err(failure) if failure.exit == Exit::Unreachable => Finding::lacking(name, failure.message, REACH),
        Err(failure) => Finding::lacking(name, failure.message, failure.next.as_deref().unwrap_or_default()),
    }
}

fn nodes(call: &Call, config: &Config, top: &Path) -> Vec<Finding> {
    let reached = match reach(call, config, top) {
        Ok(reached) => reached,
        Err(failure) => {
            return vec![Finding::lacking("nodes", &failure.message, failure.next.as_deref().unwrap_or("df ls nodes"))];
        }
    };
    let mut findings = vec![];
    for (node, reached) in reached {
        match reached {
            Ok(survey) => findings.extend(of_node(&node, &survey, config)),
            Err(error) => {
                let mend = match &node.address {
                    Address::Local(path) => format!("ls -ld {}", path.display()),
                    Address::Ssh(address) => format!("ssh {} true", address.host),
                };
                findings.push(Finding::lacking(node.label(), failure::chain(&error), &mend));
            }
        }
    }
    findings
}

type Surveyed = Vec<(Node, Result<Survey, df_fleet::NodeError>)>;

fn reach(call: &Call, config: &Config, top: &Path) -> Result<Surveyed, Failure> {
    let nodes = session::nodes_of(call, config, top)?;
    let options = session::options_of(call, config, top)?;
    call.block_on(async {
        tokio::select! {
            reached = df_fleet::survey::all(&nodes, &options, None) => {
                let mut surveyed = vec![];
                for (node, reached) in reached {
                    surveyed.push(match reached {
                        Ok(reached) => {
                            reached.connection.close().await;
                            (node, Ok(reached.survey))
                        }
                        Err(error) => (node, Err(error)),
                    });
                }
                Ok(surveyed)
            }
            () = call.interrupt.pressed() => Err(across::interrupted("doctor")),
        }
    })
}

fn of_node(node: &Node, survey: &Survey, config: &Config) -> Vec<Finding> {
    let name = |what: &str| format!("{}: {what}", node.label());
    let mut findings = vec![match df_fleet::plan::fits(survey) {
        Ok(()) => Finding::there(name("machine"), &survey.arch),
        Err(unfit) => Finding::lacking(name("machine"), unfit.to_string(), "set DF_NODE_PROGRAMS"),
    }];
    findings.push(match kernel(&survey.kernel) {
        Some(version) if version >= KERNEL => Finding::there(name("kernel"), &survey.kernel),
        _ => Finding::lacking(name("kernel"), &survey.kernel, "Linux 5.10 or newer"),
    });
    findings.push(Finding::there(
        name("C library"),
        survey.libc.as_ref().map_or_else(
            || "no GNU C library found: static programs run there".to_owned(),
            |libc| format!("programs may need GLIBC_{libc} at most"),
        ),
    ));
    findings.push(match survey.free {
        free if free >= FREE_LEN => Finding::there(name("free space"), bytes(free)),
        free => Finding::lacking(name("free space"), bytes(free), &format!("df gc --address {}", node.label())),
    });
    if let Some(lock) = &survey.lock {
        findings.push(Finding::there(name("lock"), format!("{} is at work since {}: {}", lock.who, lock.since, lock.command)));
    }
    let wants_proxy = |run: &RunSection| run.ports.values().any(|port| port.handoff == Handoff::Proxy);
    if config.run.as_ref().is_some_and(wants_proxy) {
        findings.push(proxy(name("haproxy"), survey.proxy.as_deref()));
    }
    findings.push(boot(&name("boot"), survey.boot.as_ref(), node, config));
    findings
}

/// Says whether a node has what `handoff: proxy` needs.
fn proxy(name: String, found: Option<&str>) -> Finding {
    match found {
        Some("") => Finding::lacking(name, "there is none, and df.yaml says handoff: proxy", "apt install haproxy"),
        Some(path) => Finding::there(name, format!("{}, which has to be 2.6 or newer", escape(path.as_bytes()))),
        None => Finding::there(name, "its df-node is too old to say"),
    }
}

/// Says what starts the node's supervisor when its machine starts.
fn boot(name: &str, boot: Option<&Boot>, node: &Node, config: &Config) -> Finding {
    let said = |unit: &str| escape(unit.as_bytes());
    match boot {
        Some(Boot::Unit { unit, user, enabled: true }) => {
            let whose = if *user { "the login's own systemd, which goes on without a session," } else { "systemd" };
            Finding::there(name, format!("{whose} starts it by {}", said(unit)))
        }
        Some(Boot::Unit { unit, user, enabled: false }) => {
            let mend = format!("systemctl {}enable {}", if *user { "--user " } else { "" }, said(unit));
            Finding::lacking(name, format!("{} is disabled", said(unit)), &mend)
        }
        Some(Boot::Later { unit }) => {
            Finding::there(name, format!("systemd will start it by {}, from the first activation on", said(unit)))
        }
        Some(Boot::NotLingering { user }) => {
            let user = said(user);
            let found = format!("no unit of systemd: the services of {user} end when {user} logs out");
            Finding::lacking(name, found, &format!("loginctl enable-linger {user}"))
        }
        Some(Boot::Nothing) | None => Finding { mend: None, ..Finding::there(name, boot_line(node, config)) },
    }
}

/// Returns the crontab line after which a node serves again when its machine starts.
fn boot_line(node: &Node, config: &Config) -> String {
    let (root, data, tmp) = match &node.address {
        Address::Local(path) => {
            (path.display().to_string(), path.join("data").display().to_string(), path.join("tmp").display().to_string())
        }
        Address::Ssh(address) => match &address.root {
            Some(root) => (root.clone(), format!("{root}/data"), format!("{root}/tmp")),
            None => (config.paths.app.clone(), config.paths.data.clone(), config.paths.tmp.clone()),
        },
    };
    format!(
        "to serve after a boot, in its crontab: @reboot $(ls -t {root}/bin/df-node-* | head -1) supervise --root {root} --data {data} --tmp {tmp}"
    )
}

fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn tool(program: &str, flag: &str, mend: &str) -> Finding {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            let first = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
            Finding::there(program, df_core::text::shorten(&first, 100))
        }
        Ok(output) => Finding::lacking(program, format!("`{program} {flag}` ended with {}", output.status), mend),
        Err(error) => Finding::lacking(program, error.to_string(), mend),
    }
}

fn writable(what: &str, dir: &Path) -> Finding {
    let nearest = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::there(what, dir.display().to_string()),
        Err(error) => {
            Finding::lacking(what, format!("{}: {error}", nearest.display()), &format!("chown $USER {}", nearest.display()))
        }
    }
}

fn next_df() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    next::next_df(&std::env::var_os("PATH")?, (own.dev(), own.ino()))
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}
