//! A session with one node: the state machine of `df-wire`, over the streams of a child process.

mod exchange;
mod taking;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use df_wire::message::Fault;
use df_wire::session::FromNode;
use df_wire::{Event, Heard, OperatorSession, Reply, Request, SessionError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::address::Address;
use crate::bounds;
use crate::inventory::Node;
use crate::multiplex::{NotShared, Place, Sockets};
use crate::program::NodeProgram;
use crate::transport::{self, BootstrapError, Places, Through};

pub(crate) use exchange::Say;
pub(crate) use taking::Landing;
pub use taking::TakeError;

/// How much of what a node says beside the protocol is kept.
const SAID_LEN: usize = 4096;
/// How much of what a node says is taken at once.
const HEARD_LEN: usize = 16 * 1024;
/// How long a program that was just written may be busy.
const BUSY: Duration = Duration::from_secs(2);
/// How long a connection that is there already may take to show that it is of use.
const SHARED: Duration = Duration::from_secs(5);
/// How long a request may stay without any word from the node.
pub const SILENCE: Duration = Duration::from_secs(120);
/// How much longer than for connecting one waits for a node that works with bytes.
const WORK: u32 = 4;
/// How many events may come before an answer: a node that only ever tells never answers.
const EVENTS: u32 = 1000;
/// How many silences an answer may take with all its events.
const SILENCES: u32 = 10;

/// A session with a node.
pub struct Connection {
    /// The node.
    pub node: Node,
    /// Whether the node is taken for this session.
    pub(crate) holds_lock: bool,
    options: Options,
    line: Line,
    child: Child,
    input: Option<ChildStdin>,
    /// All was said in order, and the node was told so by the end of its input.
    has_said_farewell: bool,
    output: ChildStdout,
    /// Listens to standard error until the node is done talking; then its last words are in `words`.
    said: Option<JoinHandle<Vec<u8>>>,
    words: String,
    session: OperatorSession,
    heard: VecDeque<Heard<FromNode>>,
    greeted: Instant,
    /// The shortest time from a request to its answer.
    round_trip: Option<Duration>,
    sent: u64,
    received: u64,
    /// What earlier sessions of the same work sent and received.
    before: (u64, u64),
}

/// What a connection needs besides the node.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program to speak to.
    pub program: NodeProgram,
    /// Where df keeps things on nodes that do not say it.
    pub places: Places,
    /// How long connecting, and each silence after it, may take.
    pub patience: Duration,
    /// Where connections are that sessions share; `None`: each has its own.
    pub sockets: Option<Sockets>,
    /// Where bytes are put that nodes on this very machine fetch; only they are told.
    pub beside: Option<PathBuf>,
}

/// Which connection a session goes through.
#[derive(Debug)]
enum Line {
    Configured(Option<NotShared>),
    Shared(Place),
    Alone,
}

/// A node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NodeError {
    #[error("unreachable: {why}")]
    Unreachable { why: String },
    #[error("no df-node could be put there")]
    Bootstrap(#[source] BootstrapError),
    #[error("it does not speak the protocol")]
    Session(#[source] SessionError),
    #[error("the connection broke{}", if .said.is_empty() { String::new() } else { format!(": {}", .said) })]
    Broken { said: String },
    #[error("no word for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it answered something else than it was asked")]
    Answer,
    #[error("{}", df_core::text::escape(.0.message.as_bytes()))]
    Fault(Box<Fault>),
}

impl Connection {
    /// Starts df-node on a node, puts it there first when it is missing, and greets it.
    ///
    /// # Errors
    /// The node cannot be reached, or what answers is no df-node.
    pub async fn open(node: &Node, options: &Options) -> Result<Self, NodeError> {
        Self::open_asking(node, options, &[]).await
    }

    /// As [`Self::open`], with requests that are sent along with our greeting, so that their answers come with the node's; [`Self::answer_soon`] takes them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_asking(node: &Node, options: &Options, requests: &[Request]) -> Result<Self, NodeError> {
        if transport::is_surely_missing(node, options.program.digest()) {
            bootstrap(node, options, Through::Configured).await?;
        }
        let line = Line::to(node, options).await;
        let is_doubtful = matches!(&line, Line::Shared(place) if place.is_open);
        match Self::open_through(node, options, line, requests).await {
            // It may be the connection that is of no use any more, not the machine.
            Err(NodeError::Unreachable { .. }) if is_doubtful => Self::open_through(node, options, Line::Alone, requests).await,
            opened => opened,
        }
    }

    /// As [`Self::open_asking`], through a connection that was not there before: that a node answers is so now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_afresh(node: &Node, options: &Options, requests: &[Request]) -> Result<Self, NodeError> {
        Self::open_through(node, options, Line::Alone, requests).await
    }

    /// Begins again with the same node, by a new connection; the lock, if it was held, is to be taken anew.
    pub(crate) async fn reopen(&mut self, requests: &[Request]) -> Result<(), NodeError> {
        drop(self.input.take());
        let _ = self.child.start_kill();
        let mut opened = Self::open_afresh(&self.node, &self.options, requests).await?;
        opened.before = self.traffic();
        *self = opened;
        Ok(())
    }

    /// Returns what the connection was opened with, for another one to the same node.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Returns why the session has a connection of its own, where it could share one.
    pub fn why_not_shared(&self) -> Option<&NotShared> {
        if let Line::Configured(why) = &self.line { why.as_ref() } else { None }
    }

    /// Returns when the node had greeted.
    pub fn greeted(&self) -> Instant {
        self.greeted
    }

    /// Returns the shortest time from a request to its answer so far, which is that of the line and a little; `None` before there was one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Returns how long a node that works with bytes may stay silent: longer than one that only answers.
    pub(crate) fn silence(&self) -> Duration {
        WORK * self.options.patience
    }

    /// Returns whether the session goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.input.is_some()
    }

    /// Returns whether the session ended before all was said.
    pub(crate) fn is_cut(&self) -> bool {
        self.input.is_none() && !self.has_said_farewell
    }

    async fn open_through(node: &Node, options: &Options, line: Line, requests: &[Request]) -> Result<Self, NodeError> {
        let patience = match &line {
            Line::Shared(place) if place.is_open => options.patience.min(SHARED),
            _ => options.patience,
        };
        let mut connection = Self::start(node, options, line).await?;
        match connection.greet(patience, requests).await {
            Err(_) if connection.is_program_missing().await => {
                let line = std::mem::replace(&mut connection.line, Line::Alone);
                drop(connection);
                bootstrap(node, options, line.through()).await?;
                let mut connection = Self::start(node, options, line).await?;
                connection.greet(options.patience, requests).await?;
                Ok(connection)
            }
            greeted => greeted.map(|()| connection),
        }
    }

    async fn start(node: &Node, options: &Options, line: Line) -> Result<Self, NodeError> {
        let mut command =
            transport::serve(node, options.program.digest(), &options.places, line.through()).map_err(NodeError::Bootstrap)?;
        if let (Address::Local(_), Some(dir)) = (&node.address, &options.beside) {
            command.env("DF_NODE_BESIDE", dir);
        }
        let mut child = spawn(&mut command)
            .await
            .map_err(|error| NodeError::Unreachable { why: format!("it cannot be started: {error}") })?;
        let input = child.stdin.take().expect("piped by the transport");
        let output = child.stdout.take().expect("piped by the transport");
        let stderr = child.stderr.take().expect("piped by the transport");
        let said = Some(tokio::spawn(listen(stderr)));
        let session = OperatorSession::new();
        Ok(Self {
            node: node.clone(),
            holds_lock: false,
            options: options.clone(),
            line,
            child,
            input: Some(input),
            has_said_farewell: false,
            output,
            said,
            words: String::new(),
            session,
            heard: VecDeque::new(),
            greeted: Instant::now(),
            round_trip: None,
            sent: 0,
            received: 0,
            before: (0, 0),
        })
    }

    async fn greet(&mut self, patience: Duration, requests: &[Request]) -> Result<(), NodeError> {
        let mut bytes = self.session.hello();
        let hello_len = bytes.len() as u64;
        for request in requests {
            bytes.extend(self.session.request(request));
        }
        // A node that is not there closes its end; what it says tells more than our broken pipe.
        if self.write(&bytes).await.is_ok() {
            self.sent -= hello_len;
        }
        match timeout(patience, self.next()).await {
            Err(_) => Err(NodeError::Unreachable { why: format!("no answer within {} s", patience.as_secs()) }),
            Ok(Ok(Heard::Hello(..))) => {
                self.greeted = Instant::now();
                Ok(())
            }
            Ok(Ok(_)) => Err(NodeError::Answer),
            Ok(Err(NodeError::Session(SessionError::Noise { said }))) => Err(self.no_node(&said).await),
            Ok(Err(NodeError::Broken { said })) => Err(NodeError::Unreachable { why: said }),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Sends a request and waits for its reply; a fault is an error.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, NodeError> {
        self.ask_with(request, SILENCE, &mut |_| {}).await
    }

    /// As [`Self::ask`], for what a node answers from its records: no answer within the patience of connecting is none.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub async fn ask_soon(&mut self, request: &Request) -> Result<Reply, NodeError> {
        let patience = self.options.patience;
        timeout(patience, self.ask(request)).await.unwrap_or(Err(NodeError::Silent(patience)))
    }

    /// Waits, as long as [`Self::ask_soon`], for the reply to a request that was sent already.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub async fn answer_soon(&mut self) -> Result<Reply, NodeError> {
        let patience = self.options.patience;
        timeout(patience, self.answer(SILENCE, &mut |_| {})).await.unwrap_or(Err(NodeError::Silent(patience)))
    }

    /// As [`Self::ask`], with events told on the way and a silence of `silence` allowed.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub async fn ask_with(
        &mut self,
        request: &Request,
        silence: Duration,
        told: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Reply, NodeError> {
        let (bytes, asked) = (self.session.request(request), Instant::now());
        timeout(silence, self.write(&bytes)).await.map_err(|_| NodeError::Silent(silence))??;
        let reply = self.answer(silence, told).await;
        self.answered(asked);
        reply
    }

    /// Returns announced bytes; memory is bounded by `most`.
    ///
    /// # Errors
    /// More were announced than `most`, or the connection breaks.
    pub async fn bytes(&mut self, len: u64, most: u64) -> Result<Vec<u8>, NodeError> {
        if len > most {
            return Err(NodeError::Answer);
        }
        let mut bytes = vec![];
        while (bytes.len() as u64) < len {
            match timeout(SILENCE, self.next()).await {
                Err(_) => return Err(NodeError::Silent(SILENCE)),
                Ok(heard) => match heard? {
                    Heard::Bytes(more) => bytes.extend(more),
                    _ => return Err(NodeError::Answer),
                },
            }
        }
        if bytes.len() as u64 > len { Err(NodeError::Answer) } else { Ok(bytes) }
    }

    /// Waits for announced bytes or an event that announces some, as when a log is followed; `None` when the node is done.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn follow(&mut self) -> Result<Option<Vec<u8>>, NodeError> {
        loop {
            match self.next().await? {
                Heard::Bytes(bytes) => return Ok(Some(bytes)),
                Heard::Message(FromNode::Event(_)) => {}
                Heard::Message(FromNode::Reply(Reply::Fault(fault))) => return Err(NodeError::Fault(fault)),
                Heard::Message(FromNode::Reply(_)) | Heard::Hello(..) => return Ok(None),
            }
        }
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn tell(&mut self, request: &Request) -> Result<(), NodeError> {
        let bytes = self.session.request(request);
        self.write(&bytes).await
    }

    /// Returns the bytes sent and received so far beyond the greetings, protocol included.
    pub fn traffic(&self) -> (u64, u64) {
        (self.before.0 + self.sent, self.before.1 + self.received.saturating_sub(self.session.greeting_len()))
    }

    /// Ends the session in order.
    pub async fn close(mut self) {
        drop(self.input.take());
        let _ = timeout(Duration::from_secs(2), self.child.wait()).await;
    }

    async fn answer(&mut self, silence: Duration, told: &mut (dyn FnMut(Event) + Send)) -> Result<Reply, NodeError> {
        let deadline = Instant::now() + SILENCES * silence;
        for _ in 0..EVENTS {
            if Instant::now() > deadline {
                return Err(NodeError::Silent(silence));
            }
            let heard = timeout(silence, self.next()).await.map_err(|_| NodeError::Silent(silence))??;
            match heard {
                Heard::Message(FromNode::Event(mut event)) => {
                    bounds::event(&mut event);
                    told(event);
                }
                Heard::Message(FromNode::Reply(mut reply)) => {
                    bounds::reply(&mut reply);
                    return if let Reply::Fault(fault) = reply { Err(NodeError::Fault(fault)) } else { Ok(reply) };
                }
                Heard::Hello(..) | Heard::Bytes(_) => return Err(NodeError::Answer),
            }
        }
        Err(NodeError::Answer)
    }

    fn answered(&mut self, asked: Instant) {
        let took = asked.elapsed();
        self.round_trip = Some(self.round_trip.map_or(took, |least| least.min(took)));
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), NodeError> {
        let Some(input) = &mut self.input else { return Err(NodeError::Broken { said: String::new() }) };
        let written = async {
            input.write_all(bytes).await?;
            input.flush().await
        };
        match written.await {
            Ok(()) => {
                self.sent += bytes.len() as u64;
                Ok(())
            }
            Err(_) => Err(NodeError::Broken { said: self.last_words().await }),
        }
    }

    async fn next(&mut self) -> Result<Heard<FromNode>, NodeError> {
        let mut buffer = vec![0; HEARD_LEN];
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            let len = self.output.read(&mut buffer).await.unwrap_or(0);
            if len == 0 {
                let said = self.last_words().await;
                return Err(match self.session.end() {
                    Err(error @ SessionError::Noise { .. }) if said.is_empty() => NodeError::Session(error),
                    _ => NodeError::Broken { said },
                });
            }
            self.received += len as u64;
            self.heard.extend(self.session.receive(&buffer[..len]).map_err(NodeError::Session)?);
        }
    }

    /// Returns what the node said on standard error, once it is done talking.
    async fn last_words(&mut self) -> String {
        drop(self.input.take());
        if let Some(said) = &mut self.said
            && let Ok(said) = timeout(Duration::from_secs(2), said).await
        {
            // A task that has ended must not be waited for again.
            self.said = None;
            self.words = df_core::text::escape(said.unwrap_or_default().trim_ascii());
        }
        self.words.clone()
    }

    async fn is_program_missing(&mut self) -> bool {
        match timeout(Duration::from_secs(2), self.child.wait()).await {
            Ok(Ok(status)) => status.code() == Some(transport::MISSING),
            _ => false,
        }
    }

    async fn no_node(&mut self, said: &str) -> NodeError {
        let words = self.last_words().await;
        let why = if words.is_empty() { said.to_owned() } else { words };
        NodeError::Unreachable { why: format!("no df-node answered: {why}") }
    }
}

impl Line {
    /// Takes a place in a shared connection, where there is one to be had.
    async fn to(node: &Node, options: &Options) -> Self {
        let (Address::Ssh(address), Some(sockets)) = (&node.address, &options.sockets) else { return Self::Configured(None) };
        let Some(configuration) = transport::configuration(address).await else { return Self::Configured(None) };
        sockets.place(&configuration).map_or_else(|why| Self::Configured(Some(why)), Self::Shared)
    }

    fn through(&self) -> Through<'_> {
        match self {
            Self::Configured(_) => Through::Configured,
            Self::Shared(place) => Through::Shared(&place.socket),
            Self::Alone => Through::Alone,
        }
    }
}

async fn bootstrap(node: &Node, options: &Options, through: Through<'_>) -> Result<(), NodeError> {
    transport::bootstrap(node, &options.program, &options.places, through).await.map_err(NodeError::Bootstrap)
}

/// Starts a program, also one that was written a moment ago.
///
/// A child that another thread forks while the file is open for writing holds it open until its own exec, and until then the kernel calls it busy.
async fn spawn(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + BUSY;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                sleep(Duration::from_millis(5)).await
            }
            other => return other,
        }
    }
}

/// Keeps the last words of a stream, however much it says.
async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = vec![];
    let mut buffer = vec![0; SAID_LEN];
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..len]);
        let surplus = said.len().saturating_sub(SAID_LEN);
        said.drain(..surplus);
    }
    said
}
