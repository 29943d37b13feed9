//! One path in the file system and its listening sockets, one per generation.
//!
//! The kernel has no filter for these, but a name can be moved: each generation's socket is bound to a name of its own beside the path (`.http.sock.df-7` for
//! `http.sock`), and the one that serves is linked to the path too, by a link under another name and one `rename`. So two versions never accept at once: whoever connects
//! finds the one or the other behind the name, and who is in a queue stays there. The prober connects to the own name of the version on trial, whose socket
//! nobody but its user may use until it serves.
//!
//! What lies at the path is replaced when it is a socket that nobody listens on, and never otherwise. The directory must be one in which nobody else can put or
//! move anything of ours.

mod place;

use super::group::{Access, GroupError, GroupRecord, passed};
use super::socket::{BACKLOG, is_waited_for};
use crate::dial;
use df_core::{Endpoint, SocketPath};
use place::{Directory, Found};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, listen, shutdown, socket_with};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use place::check_name;
pub use place::{PlaceError, check, is_beside};

/// Nobody but its owner, which is how each socket begins.
const CLOSED: u16 = 0o600;

/// The listening sockets of one path.
///
/// Dropping it closes our descriptors and nothing else: programs go on with theirs, and the names stay.
#[derive(Debug)]
pub struct Named(Mutex<State>);

#[derive(Debug)]
struct State {
    path: SocketPath,
    access: Access,
    members: Vec<Member>,
    serving: Option<u64>,
    trial: Option<u64>,
}

/// A generation's socket.
#[derive(Debug)]
struct Member {
    generation: u64,
    socket: OwnedFd,
    /// Its own name in the directory; it was bound to that or, if it came from another generation, renamed to it.
    name: String,
    /// The socket's file, whatever its names; none when it was not found again.
    file: Option<OwnedFd>,
    /// Its permissions when it serves; none for one that a former supervisor made, which are right already.
    mode: Option<u16>,
}

impl Named {
    /// Returns a group without members; nothing listens yet.
    pub fn new(path: SocketPath) -> Self {
        let access = Access { owner: None, mode: CLOSED };
        Self(Mutex::new(State { path, access, members: vec![], serving: None, trial: None }))
    }

    /// Returns the group that a former supervisor kept. Sockets that were not found are left out: their programs have ended.
    pub fn adopt(path: &SocketPath, record: &GroupRecord, sockets: Vec<Option<OwnedFd>>) -> Result<Self, GroupError> {
        let wrong = || GroupError::WrongRecord { at: record.address.clone() };
        if record.slots.len() != sockets.len() || !sockets.iter().flatten().all(|socket| place::is_beside(socket, path)) {
            return Err(wrong());
        }
        let directory = Directory::open(path)?;
        let found = record.slots.iter().zip(sockets).filter_map(|(generation, socket)| Some(((*generation)?, socket?)));
        let members: Vec<Member> = found
            .map(|(generation, socket)| {
                let name = place::own_name(path, generation);
                let file = directory.file(&name).ok();
                Member { generation, socket, name, file, mode: None }
            })
            .collect();
        let present = |generation: &u64| members.iter().any(|member| member.generation == *generation);
        let (serving, trial) = (record.serving.filter(present), record.trial.filter(present));
        let access = Access { owner: None, mode: CLOSED };
        Ok(Self(Mutex::new(State { path: path.clone(), access, members, serving, trial })))
    }

    /// Says who may connect to the sockets that are made from now on.
    pub fn allow(&self, access: Access) {
        self.lock().access = access;
    }

    /// Returns what a successor needs.
    pub fn record(&self) -> GroupRecord {
        let state = self.lock();
        GroupRecord {
            address: state.at(),
            slots: state.members.iter().map(|member| Some(member.generation)).collect(),
            serving: state.serving,
            trial: state.trial,
            sockets: state.members.iter().map(|member| inode(&member.socket)).collect(),
        }
    }

    /// Returns each member's inode and another descriptor of it.
    pub fn descriptors(&self) -> Vec<(u64, OwnedFd)> {
        let copy = |member: &Member| Some((inode(&member.socket), member.socket.try_clone().ok()?));
        self.lock().members.iter().filter_map(copy).collect()
    }

    /// Makes the listener of a generation; the very first one serves at once.
    pub fn add(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        state.join(generation)?;
        if state.members.len() == 1
            && let Err(error) = state.publish(generation)
        {
            state.leave(0)?;
            return Err(error);
        }
        state.duplicate(generation)
    }

    /// Makes the listener of a generation that only the prober knows.
    pub fn add_on_trial(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        state.join(generation)?;
        state.trial = Some(generation);
        state.duplicate(generation)
    }

    /// Returns a generation's listener again.
    pub fn listener(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        self.lock().duplicate(generation)
    }

    /// Gives one generation's listener to another, which has none.
    pub fn pass(&self, from: u64, to: u64) -> Result<OwnedFd, GroupError> {
        let mut state = self.lock();
        let index = state.index(from)?;
        let name = place::own_name(&state.path, to);
        let directory = Directory::open(&state.path)?;
        directory.rename(&state.members[index].name, &name).map_err(state.system("renaming the socket"))?;
        let mode = state.access.mode;
        let member = &mut state.members[index];
        (member.generation, member.name, member.mode) = (to, name, Some(mode));
        (state.serving, state.trial) = (passed(state.serving, from, to), passed(state.trial, from, to));
        state.duplicate(to)
    }

    /// Sends every new client to `serving`: one rename.
    pub fn steer(&self, serving: u64, trial: Option<u64>) -> Result<(), GroupError> {
        let mut state = self.lock();
        trial.map(|generation| state.index(generation)).transpose()?;
        state.publish(serving)?;
        state.trial = trial;
        Ok(())
    }

    /// Closes a generation's listener for everybody who holds it, and returns whether somebody waited there in vain.
    pub fn remove(&self, generation: u64) -> Result<u32, GroupError> {
        let mut state = self.lock();
        let index = state.index(generation)?;
        if state.serving == Some(generation) && state.members.len() > 1 {
            return Err(GroupError::Serving { generation, at: state.at() });
        }
        state.leave(index)
    }

    /// Closes every member for everybody who holds it.
    pub fn close(&self) -> Result<(), GroupError> {
        let mut state = self.lock();
        while !state.members.is_empty() {
            state.leave(0)?;
        }
        Ok(())
    }

    /// Returns 1 if somebody waits in a generation's queue.
    pub fn queue_len(&self, generation: u64) -> Result<u32, GroupError> {
        let state = self.lock();
        let index = state.index(generation)?;
        is_waited_for(&state.members[index].socket).map(u32::from).map_err(state.system("reading the queue"))
    }

    /// Connects as any client does.
    pub fn dial_serving(&self, timeout: Duration) -> io::Result<TcpStream> {
        let path = self.lock().path.clone();
        dial::unix(path.as_str(), timeout)
    }

    /// Connects to the generation on trial, by its own name.
    pub fn dial_trial(&self, timeout: Duration) -> io::Result<TcpStream> {
        let path = self.trial_path().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "no generation is on trial"))?;
        dial::unix(&path, timeout)
    }

    /// Returns the own name of the generation on trial, as a path.
    pub fn trial_path(&self) -> Option<String> {
        let state = self.lock();
        let member = state.members.iter().find(|member| Some(member.generation) == state.trial)?;
        Some(place::beside(&state.path, &member.name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

impl State {
    /// Makes a listener under a name of its own.
    fn join(&mut self, generation: u64) -> Result<(), GroupError> {
        if self.index(generation).is_ok() {
            return Err(GroupError::Present { generation, at: self.at() });
        }
        let directory = Directory::open(&self.path)?;
        self.refuse_others(&directory, place::file_name(&self.path))?;
        if self.members.is_empty() {
            directory.sweep(&self.path);
        }
        let name = place::own_name(&self.path, generation);
        let path = place::beside(&self.path, &name);
        // Left by a run of this number that nobody remembers.
        self.refuse_others(&directory, &name)?;
        directory.remove(&name).map_err(self.system("removing a socket that nobody listens on"))?;
        let socket = open(&path).map_err(self.system("listening"))?;
        let file = directory.file(&name).map_err(self.system("finding the socket"))?;
        if let Some(owner) = &self.access.owner {
            place::give(&file, owner).map_err(self.system("giving the socket to its user"))?;
        }
        let mode = Some(self.access.mode);
        self.members.push(Member { generation, socket, name, file: Some(file), mode });
        Ok(())
    }

    /// Puts a generation's socket at the path: from here on it gets who connects.
    fn publish(&mut self, generation: u64) -> Result<(), GroupError> {
        let index = self.index(generation)?;
        let directory = Directory::open(&self.path)?;
        let member = &self.members[index];
        let file = member.file.as_ref().ok_or_else(|| GroupError::Absent { generation, at: self.at() })?;
        if let Some(mode) = member.mode {
            place::open_to(file, mode).map_err(self.system("setting the permissions of the socket"))?;
        }
        if directory.found(&self.path, file)? != Found::This {
            self.refuse_others(&directory, place::file_name(&self.path))?;
            directory.link_over(file, &self.path).map_err(self.system("putting the socket in its place"))?;
        }
        self.serving = Some(generation);
        Ok(())
    }

    /// Closes a member and removes its names.
    fn leave(&mut self, index: usize) -> Result<u32, GroupError> {
        let waiting = is_waited_for(&self.members[index].socket).map_err(self.system("reading the queue"))?;
        shutdown(&self.members[index].socket, Shutdown::Read).map_err(|e| self.system("closing the listener")(e.into()))?;
        let directory = Directory::open(&self.path)?;
        let member = &self.members[index];
        if let Some(file) = &member.file
            && directory.found(&self.path, file)? == Found::This
        {
            directory.remove(place::file_name(&self.path)).map_err(self.system("removing the socket"))?;
        }
        directory.remove(&member.name).map_err(self.system("removing the socket"))?;
        let member = self.members.remove(index);
        self.serving = self.serving.filter(|generation| *generation != member.generation);
        self.trial = self.trial.filter(|generation| *generation != member.generation);
        Ok(waiting.into())
    }

    /// Refuses a name at which somebody else listens, or where anything but a socket lies.
    fn refuse_others(&self, directory: &Directory, name: &str) -> Result<(), GroupError> {
        let is_ours = |found: &place::FileId| {
            self.members.iter().filter_map(|m| m.file.as_ref()).any(|f| place::id(f).as_ref() == Some(found))
        };
        match directory.lies(name).map_err(self.system("looking at the path"))? {
            None => Ok(()),
            Some(found) if is_ours(&found) => Ok(()),
            Some(_) => Ok(check_name(&self.path, name)?),
        }
    }

    fn index(&self, generation: u64) -> Result<usize, GroupError> {
        let index = self.members.iter().position(|member| member.generation == generation);
        index.ok_or_else(|| GroupError::Absent { generation, at: self.at() })
    }

    fn duplicate(&self, generation: u64) -> Result<OwnedFd, GroupError> {
        let index = self.index(generation)?;
        self.members[index].socket.try_clone().map_err(self.system("duplicating the listener"))
    }

    fn at(&self) -> Endpoint {
        Endpoint::Unix(self.path.clone())
    }

    fn system(&self, what: &'static str) -> impl FnOnce(io::Error) -> GroupError + use<> {
        let at = self.at();
        move |source| GroupError::System { what, at, source }
    }
}

/// Makes a socket that listens at a path and that nobody but us may connect to.
fn open(path: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The name takes the permissions of the socket: it is closed from its first moment.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(CLOSED.into()))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn inode(socket: &OwnedFd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

#[cfg(test)]
mod tests;
