//! A session with one node: the state machine of `df-wire`, over the streams of a child process.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use df_wire::message::Fault;
use df_wire::session::FromNode;
use df_wire::{Event, Heard, OperatorSession, Reply, Request, SessionError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::bounds;
use crate::inventory::Node;
use crate::program::NodeProgram;
use crate::transport::{self, BootstrapError, Places};

/// How much of what a node says beside the protocol is kept.
const SAID_LEN: usize = 4096;
/// How long a program that was just written may be busy.
const BUSY: Duration = Duration::from_secs(2);
/// How long a request may stay without any word from the node.
pub const SILENCE: Duration = Duration::from_secs(120);
/// How many events may come before an answer: a node that only ever tells never answers.
const EVENTS: u32 = 1000;
/// How many silences an answer may take with all its events.
const SILENCES: u32 = 10;

/// A session with a node.
pub struct Connection {
    /// The node.
    pub node: Node,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    patience: Duration,
    /// Listens to standard error until the node is done talking; then its last words are in `words`.
    said: Option<JoinHandle<Vec<u8>>>,
    words: String,
    session: OperatorSession,
    heard: VecDeque<Heard<FromNode>>,
    sent: u64,
    received: u64,
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
        if transport::is_surely_missing(node, options.program.digest()) {
            bootstrap(node, options).await?;
        }
        let mut connection = Self::start(node, options).await?;
        match connection.greet(options.patience).await {
            Err(_) if connection.is_program_missing().await => {
                bootstrap(node, options).await?;
                let mut connection = Self::start(node, options).await?;
                connection.greet(options.patience).await?;
                Ok(connection)
            }
            greeted => greeted.map(|()| connection),
        }
    }

    async fn start(node: &Node, options: &Options) -> Result<Self, NodeError> {
        let mut command = transport::serve(node, options.program.digest(), &options.places).map_err(NodeError::Bootstrap)?;
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
            child,
            input: Some(input),
            output,
            patience: options.patience,
            said,
            words: String::new(),
            session,
            heard: VecDeque::new(),
            sent: 0,
            received: 0,
        })
    }

    async fn greet(&mut self, patience: Duration) -> Result<(), NodeError> {
        let hello = self.session.hello();
        // A node that is not there closes its end; what it says tells more than our broken pipe.
        let _ = self.write(&hello).await;
        match timeout(patience, self.next()).await {
            Err(_) => Err(NodeError::Unreachable { why: format!("no answer within {} s", patience.as_secs()) }),
            Ok(Ok(Heard::Hello(..))) => Ok(()),
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
        let patience = self.patience;
        timeout(patience, self.ask(request)).await.unwrap_or(Err(NodeError::Silent(patience)))
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
        let bytes = self.session.request(request);
        timeout(silence, self.write(&bytes)).await.map_err(|_| NodeError::Silent(silence))??;
        self.answer(silence, told).await
    }

    /// Sends a request and the bytes it announces, then waits for its reply; `sent` hears how many bytes went out.
    ///
    /// # Errors
    /// The node refuses or fails, or the connection breaks.
    pub async fn send(
        &mut self,
        request: &Request,
        bytes: &[u8],
        sent: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Reply, NodeError> {
        let head = self.session.request(request);
        self.write(&head).await?;
        for chunk in bytes.chunks(256 * 1024) {
            let frames = df_wire::session::encode_bytes(chunk);
            match timeout(SILENCE, self.write(&frames)).await {
                Err(_) => return Err(NodeError::Silent(SILENCE)),
                Ok(written) => written?,
            }
            sent(chunk.len() as u64);
        }
        self.answer(SILENCE, &mut |_| {}).await
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

    /// Returns the bytes sent and received so far, protocol included.
    pub fn traffic(&self) -> (u64, u64) {
        (self.sent, self.received)
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
        let mut buffer = vec![0; 128 * 1024];
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

async fn bootstrap(node: &Node, options: &Options) -> Result<(), NodeError> {
    transport::bootstrap(node, &options.program, &options.places).await.map_err(NodeError::Bootstrap)
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
