//! Where a command stands: which df.yaml, which nodes, which places.

use std::path::{Path, PathBuf};
use std::time::Duration;

use df_core::text::escape;
use df_core::{AppName, Timestamp};
use df_fleet::multiplex::Sockets;
use df_fleet::program::Carried;
use df_fleet::transport::Places;
use df_fleet::{Context, Inventory, Node, NodeProgram, Options};

use crate::args::Globals;
use crate::config::{CacheConfig, Config, Remote};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::name;
use crate::output::Output;

/// How long a node may stay silent at first, unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many nodes are worked on at once, unless `--parallel` or df.yaml says otherwise.
const PARALLEL: usize = 16;

/// What every command gets: the flags, a runtime, and where output goes.
pub struct Call {
    /// The global flags.
    pub globals: Globals,
    /// Where output goes.
    pub output: Output,
    /// Ctrl-C.
    pub interrupt: Interrupt,
    /// One runtime for all that waits.
    pub runtime: tokio::runtime::Runtime,
    /// The directory that relative paths are below.
    pub here: PathBuf,
}

/// A call that found its df.yaml.
pub struct Session {
    /// The call.
    pub call: Call,
    /// What df.yaml on disk says.
    pub config: Config,
    /// The directory of df.yaml.
    pub top: PathBuf,
    /// Where nodes and contexts are remembered.
    pub state: PathBuf,
}

impl Call {
    /// Finds df.yaml and reads it.
    ///
    /// # Errors
    /// There is none, or it is wrong.
    pub fn session(self) -> Result<Session, Failure> {
        let (config, top) = self.find()?;
        let state = self.state(&top);
        Ok(Session { call: self, config, top, state })
    }

    /// Finds df.yaml and reads it, without becoming a session.
    ///
    /// # Errors
    /// There is none, or it is wrong.
    pub fn find(&self) -> Result<(Config, PathBuf), Failure> {
        let path = match &self.globals.config {
            Some(file) => self.here.join(file),
            None => name::find_config(&self.here).ok_or_else(|| {
                let message = format!("there is no df.yaml in {} or a directory above it", self.here.display());
                Failure::new(Exit::Usage, "configuration", message).next("df init")
            })?,
        };
        let config = Config::read(&path).map_err(|error| {
            Failure::usage("configuration", &error).next(format!("edit {}, then type it again", path.display()))
        })?;
        let top = path.parent().filter(|top| !top.as_os_str().is_empty()).unwrap_or(&self.here).to_owned();
        Ok((config, top))
    }

    /// Returns where nodes and contexts are remembered, for a df.yaml in a directory.
    pub fn state(&self, top: &Path) -> PathBuf {
        self.globals.state.as_ref().map_or_else(|| top.join(".df"), |state| self.here.join(state))
    }

    /// Runs what waits for others.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Returns how long a node may stay silent.
    pub fn patience(&self) -> Duration {
        self.globals.timeout.unwrap_or(PATIENCE)
    }
}

impl Session {
    /// Returns where output goes.
    pub fn output(&self) -> &Output {
        &self.call.output
    }

    /// Returns the application.
    pub fn app(&self) -> &AppName {
        &self.config.app
    }

    /// Returns the nodes that df knows: those that were added, then those of df.yaml.
    ///
    /// # Errors
    /// The list cannot be read, or df.yaml names what is no address.
    pub fn inventory(&self) -> Result<Inventory, Failure> {
        inventory_of(&self.state, &self.config, &self.top)
    }

    /// Returns the nodes that the command acts on; never none.
    ///
    /// # Errors
    /// There is none, or a word names none.
    pub fn nodes(&self) -> Result<Vec<Node>, Failure> {
        nodes_of(&self.call, &self.config, &self.top)
    }

    /// Keeps what is remembered beside df.yaml out of git, also where `df init` was never called; a failure costs nothing else.
    pub fn hide_state(&self) {
        let ignore = self.state.join(".gitignore");
        if self.call.globals.state.is_none() && self.state.is_dir() && !ignore.exists() {
            let _ = std::fs::write(ignore, "*\n");
        }
    }

    /// Returns the stack of contexts.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn context(&self) -> Result<Context, Failure> {
        context_of(&self.state)
    }

    /// Returns what a connection needs.
    ///
    /// # Errors
    /// There is no program for nodes.
    pub fn options(&self) -> Result<Options, Failure> {
        options_of(&self.call, &self.config, &self.top)
    }

    /// Returns how many nodes are worked on at once.
    pub fn parallel(&self) -> usize {
        self.call.globals.parallel.map_or(PARALLEL, usize::from)
    }

    /// Returns the directory of the cache.
    pub fn cache_dir(&self) -> PathBuf {
        Self::cache_dir_of(&self.config, &self.top)
    }

    /// Returns the directory of the cache that a df.yaml in a directory names; the default is below XDG_CACHE_HOME where that is set.
    pub fn cache_dir_of(config: &Config, top: &Path) -> PathBuf {
        let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|caches| caches.is_absolute());
        if let Some(caches) = caches
            && config.cache.local == CacheConfig::default().local
        {
            return caches.join("df");
        }
        let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        config.cache.directory(&home, top)
    }

    /// Returns whether only a plan is wanted.
    pub fn is_dry_run(&self) -> bool {
        self.call.globals.dry_run
    }

    /// Returns how a plan ends.
    pub fn planned(&self, changes: bool) -> Exit {
        if changes && self.call.globals.detailed_exitcode { Exit::Changes } else { Exit::Done }
    }
}

/// Returns the nodes that a call acts on; never none.
///
/// # Errors
/// There is none, or a word names none.
pub fn nodes_of(call: &Call, config: &Config, top: &Path) -> Result<Vec<Node>, Failure> {
    let state = call.state(top);
    let (inventory, context) = (inventory_of(&state, config, top)?, context_of(&state)?);
    let nodes = df_fleet::context::nodes(&inventory, &context, &call.globals.address, &call.here);
    let nodes = nodes.map_err(|error| match call.globals.address.as_slice() {
        // Only the top of the stack can have named it: a node that was taken off the list since.
        [] => Failure::new(Exit::Usage, "nodes", format!("the context is out of date: {error}")).next("df with --pop"),
        words => match words.iter().find(|word| Remote::is_meant(word)) {
            Some(cache) => Failure::new(
                Exit::Usage,
                "nodes",
                format!("{} is a cache, and this command acts on nodes", escape(cache.as_bytes())),
            )
            .next("df ls nodes"),
            None => Failure::usage("nodes", &error).next("df ls nodes"),
        },
    })?;
    if nodes.is_empty() {
        return Err(Failure::new(Exit::Usage, "nodes", "there is no node to act on").next("df add ADDRESS"));
    }
    Ok(nodes)
}

/// Returns what a connection needs.
///
/// # Errors
/// There is no program for nodes.
pub fn options_of(call: &Call, config: &Config, top: &Path) -> Result<Options, Failure> {
    let program =
        node_program(&Session::cache_dir_of(config, top)).map_err(|error| Failure::here("nodes", &error).next("df doctor"))?;
    let paths = &config.paths;
    let places = Places { app: paths.app.clone(), data: paths.data.clone(), tmp: paths.tmp.clone() };
    let sockets = Sockets::here();
    if let (Err(why), 1..) = (&sockets, call.globals.verbose) {
        call.output.note(format!("ssh connections are not shared: {why}"));
    }
    Ok(Options { program, places, patience: call.patience(), sockets: sockets.ok(), beside: None })
}

fn inventory_of(state: &Path, config: &Config, top: &Path) -> Result<Inventory, Failure> {
    let mut inventory = Inventory::load(state).map_err(|error| Failure::here("nodes", &error))?;
    for text in &config.nodes {
        let address = df_fleet::Address::parse(text, top).map_err(|error| Failure::usage("configuration", &error))?;
        // One that was added too keeps what it was added with.
        let _ = inventory.add(Node { name: None, address, listen: None, sudo: false });
    }
    Ok(inventory)
}

fn context_of(state: &Path) -> Result<Context, Failure> {
    Context::load(state).map_err(|error| Failure::here("context", &error))
}

/// Finds the program for nodes.
///
/// # Errors
/// There is none.
pub fn node_program(cache_dir: &Path) -> Result<NodeProgram, df_fleet::program::ProgramError> {
    NodeProgram::find(carried(), &cache_dir.join("df-node.json"))
}

/// Returns who types, for locks and histories: `user@host`.
pub fn who() -> String {
    let user = login().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    df_core::text::shorten(&format!("{user}@{host}"), 200)
}

/// Returns the name of this process's user, as the system lists it.
fn login() -> Option<String> {
    let id = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
    line.split(':').next().map(str::to_owned)
}

/// Returns the clock.
pub fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}

#[cfg(df_node_carried)]
fn carried() -> Option<Carried> {
    Some(Carried { digest: env!("DF_NODE_DIGEST"), packed: include_bytes!(concat!(env!("OUT_DIR"), "/df-node.zst")) })
}

#[cfg(not(df_node_carried))]
fn carried() -> Option<Carried> {
    None
}
