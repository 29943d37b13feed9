//! Several things said in one go: requests and bytes travel without waiting for each answer in turn, and the answers are heard meanwhile.
//!
//! What is ready to travel is one window of bytes, however long the delta is and however slow the node; the rest stays where it lies.

use df_wire::session::head_of_bytes;
use tokio::time::Instant;

use super::*;
use crate::deltas::Delta;
use crate::transfer::CopyError;

/// How many bytes of a delta are ready to travel to a node: as many as a pipe holds.
const WINDOW: usize = 64 * 1024;

/// How much more the requests before and after it may take without the window having to grow.
const ROOM: usize = 4 * 1024;

/// A thing that is said.
pub(crate) enum Say<'a> {
    /// A request, which has a reply.
    Ask(&'a Request),
    /// The bytes that the request before announced: those of a delta, from a place on.
    Bytes { delta: &'a Delta, from: u64 },
    /// That nothing else will be said: the node ends the session with its last reply, and nobody waits for that end a round trip longer.
    Farewell,
}

/// What was said and is not written yet.
struct Outgoing<'a> {
    said: VecDeque<Said<'a>>,
    window: Vec<u8>,
    /// How much of the window is written.
    written: usize,
    /// How many bytes of deltas are in the window.
    travelling: u64,
    /// The node does not listen any more.
    is_unheard: bool,
    /// Nothing follows, in the whole session.
    is_last: bool,
}

enum Said<'a> {
    Frame(Vec<u8>),
    Bytes { delta: &'a Delta, at: u64 },
}

impl Connection {
    /// Says all that is given, in order, and returns the replies in the same order; `sent` hears how many bytes of deltas went out.
    ///
    /// A fault that comes while there is still something to say ends the session, because what was announced will not come; it is the last reply then.
    ///
    /// # Errors
    /// The connection broke, the node was silent for as long as one that works with bytes may be, or a delta cannot be read.
    pub(crate) async fn exchange(
        &mut self,
        said: &[Say<'_>],
        sent: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Vec<Reply>, CopyError> {
        let n_replies = said.iter().filter(|said| matches!(said, Say::Ask(_))).count();
        let mut out = Outgoing::new(said, &mut self.session);
        let (mut replies, mut n_events, mut buffer) = (vec![], 0, vec![0; HEARD_LEN]);
        let (silence, asked) = (self.silence(), std::time::Instant::now());
        let mut deadline = Instant::now() + silence;
        loop {
            while let Some(heard) = self.heard.pop_front() {
                match heard {
                    Heard::Message(FromNode::Reply(mut reply)) => {
                        bounds::reply(&mut reply);
                        let is_fault = matches!(reply, Reply::Fault(_));
                        if replies.is_empty() {
                            self.answered(asked);
                        }
                        replies.push(reply);
                        (n_events, deadline) = (0, Instant::now() + silence);
                        if is_fault && (out.is_unheard || !out.is_done()) {
                            drop(self.input.take());
                            return Ok(replies);
                        }
                    }
                    Heard::Message(FromNode::Event(_)) if n_events < EVENTS => {
                        (n_events, deadline) = (n_events + 1, Instant::now() + silence);
                    }
                    _ => return Err(NodeError::Answer.into()),
                }
            }
            if replies.len() == n_replies {
                return Ok(replies);
            }
            if let Err(error) = out.fill().await {
                // What was announced will not come.
                drop(self.input.take());
                return Err(CopyError::Here(error));
            }
            if out.is_last && !out.is_unheard && out.is_done() && self.input.take().is_some() {
                self.has_said_farewell = true;
            }
            if self.is_cut() {
                return Err(self.broken().await);
            }
            tokio::select! {
                written = write(self.input.as_mut(), out.left()), if !out.is_done() => match written {
                    Ok(len @ 1..) => {
                        self.sent += len as u64;
                        if let Some(n_bytes) = out.advance(len) {
                            sent(n_bytes);
                            (n_events, deadline) = (0, Instant::now() + silence);
                        }
                    }
                    // What it said before it went tells more than our broken pipe.
                    _ => out.give_up(),
                },
                len = self.output.read(&mut buffer) => match len.unwrap_or(0) {
                    // A node answers all that it was asked, also after a fault: where some answers are missing, not all had come to it, whatever we said of the end.
                    0 if matches!(replies.last(), Some(Reply::Fault(_))) => {
                        drop(self.input.take());
                        self.has_said_farewell = false;
                        return Ok(replies);
                    }
                    0 => return Err(self.broken().await),
                    len => {
                        self.received += len as u64;
                        self.heard.extend(self.session.receive(&buffer[..len]).map_err(NodeError::Session)?);
                    }
                },
                () = tokio::time::sleep_until(deadline) => return Err(NodeError::Silent(silence).into()),
            }
        }
    }

    async fn broken(&mut self) -> CopyError {
        NodeError::Broken { said: self.last_words().await }.into()
    }
}

async fn write(input: Option<&mut ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    input.ok_or(io::ErrorKind::BrokenPipe)?.write(bytes).await
}

impl<'a> Outgoing<'a> {
    fn new(said: &[Say<'a>], session: &mut OperatorSession) -> Self {
        let is_last = said.iter().any(|said| matches!(said, Say::Farewell));
        let said = said.iter().filter_map(|said| match said {
            Say::Ask(request) => Some(Said::Frame(session.request(request))),
            Say::Bytes { delta, from } => Some(Said::Bytes { delta, at: *from }),
            Say::Farewell => None,
        });
        let (said, window) = (said.collect(), Vec::with_capacity(WINDOW + ROOM));
        Self { said, window, written: 0, travelling: 0, is_unheard: false, is_last }
    }

    /// Puts into an empty window what is said next.
    async fn fill(&mut self) -> io::Result<()> {
        if self.written < self.window.len() {
            return Ok(());
        }
        (self.written, self.travelling) = (0, 0);
        self.window.clear();
        while self.window.len() < WINDOW {
            match self.said.front_mut() {
                None => break,
                Some(Said::Frame(frame)) => self.window.append(frame),
                Some(Said::Bytes { delta, at }) if *at < delta.len() => {
                    let len = (delta.len() - *at).min((WINDOW - self.window.len()) as u64);
                    self.window.extend_from_slice(&head_of_bytes(len as u32));
                    delta.read(*at, len as usize, &mut self.window).await?;
                    *at += len;
                    self.travelling += len;
                    continue;
                }
                Some(Said::Bytes { .. }) => {}
            }
            self.said.pop_front();
        }
        Ok(())
    }

    fn left(&self) -> &[u8] {
        &self.window[self.written..]
    }

    /// Takes note of bytes that were written; returns how many bytes of deltas went out when the window is empty again.
    fn advance(&mut self, len: usize) -> Option<u64> {
        self.written += len;
        (self.written == self.window.len()).then_some(self.travelling)
    }

    fn is_done(&self) -> bool {
        self.written == self.window.len()
            && self.said.iter().all(|said| matches!(said, Said::Bytes { delta, at } if *at == delta.len()))
    }

    fn give_up(&mut self) {
        self.said.clear();
        self.window.clear();
        (self.written, self.is_unheard) = (0, true);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use df_wire::message::{Fault, FaultKind};
    use df_wire::{NodeSession, session};

    use super::*;

    /// Opens a session with a node that listens until nothing else comes, and only then says this.
    async fn connect(dir: &Path, replies: &[Reply]) -> Connection {
        let (root, program) = (dir.join("node"), dir.join("program"));
        std::fs::create_dir(&root).expect("made");
        std::fs::write(&program, "#!/bin/sh\ncat \"$3/hello\"; cat > /dev/null; cat \"$3/said\"\n").expect("written");
        std::fs::write(root.join("hello"), NodeSession::default().hello()).expect("written");
        let said: Vec<u8> = replies.iter().flat_map(session::encode_reply).collect();
        std::fs::write(root.join("said"), said).expect("written");
        let options = Options {
            program: NodeProgram::file(&program, &dir.join("memo")).expect("a program"),
            places: Places::default(),
            patience: Duration::from_secs(20),
            sockets: None,
            beside: None,
        };
        let node = Node { name: None, address: Address::Local(root), listen: None, sudo: false };
        Connection::open(&node, &options).await.expect("it greets")
    }

    /// Says farewell to a node that answers so; returns how many answers came, and whether the session counts as cut.
    async fn exchanged(replies: &[Reply]) -> (usize, bool) {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut connection, delta) = (connect(dir.path(), replies).await, Delta::of(vec![7; 100], "whole"));
        let ask = || Say::Ask(&Request::Survey);
        let said = [ask(), ask(), Say::Bytes { delta: &delta, from: 0 }, ask(), Say::Farewell];
        let heard = connection.exchange(&said, &mut |_| ()).await.expect("answers");
        assert_eq!(heard, replies);
        (heard.len(), connection.is_cut())
    }

    #[tokio::test]
    async fn a_line_cut_in_one_direction_is_cut_although_we_had_said_farewell() {
        let fault = Fault { kind: FaultKind::Failed, message: "cut".into(), log: String::new(), probes: vec![], serving: None };
        let fault = || Reply::Fault(Box::new(fault.clone()));
        assert_eq!(exchanged(&[Reply::Done, fault()]).await, (2, true), "of what was said behind it nothing had come");
        assert_eq!(exchanged(&[Reply::Done, fault(), Reply::Done]).await, (3, false), "the node heard all, and refused one");
    }
}
