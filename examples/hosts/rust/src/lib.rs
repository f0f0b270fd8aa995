//! A worker of soma, driven from Rust with the standard library alone, in lines or in frames.
//!
//! ```no_run
//! use soma::{map, Dialect, Worker};
//! let mut worker = Worker::start(&["python3", "-P", "-m", "soma_transport_stdio"], Dialect::Frames)?;
//! let reply = worker.request(map! { "cmd" => "PING" })?;
//! println!("{:?}", reply.get("pid"));
//! # Ok::<(), soma::Error>(())
//! ```

pub mod frames;
pub mod lines;
mod value;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
pub use value::{Array, Opaque, Value};

/// How messages are written; replies come likewise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    Lines,
    Frames,
}

#[derive(Debug)]
pub enum Error {
    /// The worker answered that it could not do what it was asked: its error reply.
    Remote(Box<Value>),
    /// The call did not end in time, and was interrupted.
    Deadline,
    /// The worker, or the way to it, is gone: what was asked has no answer.
    Closed(String),
}

impl Error {
    /// The code of an error reply, such as `unknown_node`.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Remote(reply) => reply.get("code").as_text(),
            _ => None,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Error::Remote(reply) => out.write_str(reply.get("error").as_text().unwrap_or("")),
            Error::Deadline => out.write_str("the call took too long, and was interrupted"),
            Error::Closed(why) => write!(out, "the worker is gone: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Closed(error.to_string())
    }
}

const REQUEST: &[u8] = b"\x93SOMR";
const SIGINT: i32 = 2;
const GRACE: Duration = Duration::from_secs(3);

extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
}

/// What ends a command, from any thread.
#[derive(Clone, Debug)]
pub enum Interrupter {
    /// A child process.
    Process(u32),
    /// A worker of a daemon, and which of its clients we are.
    Daemon { path: PathBuf, about: Value },
}

impl Interrupter {
    /// Interrupt the command that runs; where none does, nothing happens.
    pub fn interrupt(&self) -> Result<(), Error> {
        self.ask("interrupt", SIGINT)
    }

    fn kill(&self) -> Result<(), Error> {
        self.ask("kill", 9)
    }

    fn ask(&self, op: &str, signal: i32) -> Result<(), Error> {
        match self {
            Interrupter::Process(pid) => {
                // SAFETY: it takes two numbers; the child was not waited for, so the id is its own.
                unsafe { kill(*pid as i32, signal) };
                Ok(())
            }
            Interrupter::Daemon { path, about } => {
                let (worker, client) = (about.get("worker").clone(), about.get("client").clone());
                ask(path, map! { "op" => op, "worker" => worker, "client" => client }).map(|_| ())
            }
        }
    }
}

/// One engine. A call waits for its reply.
pub struct Worker {
    stream: UnixStream,
    /// Room for what was read, of which `held` bytes are not used yet.
    pending: Vec<u8>,
    held: usize,
    dialect: Dialect,
    child: Option<Child>,
    interrupter: Interrupter,
    last_id: i64,
    /// How long a call may take.
    pub timeout: Option<Duration>,
}

impl Worker {
    /// Start a worker as a child process, over a socket as its stdin and stdout.
    pub fn start(command: &[&str], dialect: Dialect) -> Result<Worker, Error> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let interrupter = Interrupter::Process(child.id());
        Ok(Worker::over(ours, dialect, Some(child), interrupter))
    }

    /// Use a worker of the daemon at a path: one of its own, or that of a session.
    pub fn connect(path: &Path, session: Option<&str>, dialect: Dialect) -> Result<Worker, Error> {
        let session = session.map_or(Value::Nil, Into::into);
        let request = map! { "op" => "connect", "session" => session, "pickle" => "never" };
        let (stream, about) = ask(path, request)?;
        let interrupter = Interrupter::Daemon { path: path.into(), about };
        Ok(Worker::over(stream, dialect, None, interrupter))
    }

    fn over(stream: UnixStream, dialect: Dialect, child: Option<Child>, interrupter: Interrupter) -> Worker {
        Worker {
            stream,
            pending: Vec::new(),
            held: 0,
            dialect,
            child,
            interrupter,
            last_id: 0,
            timeout: None,
        }
    }

    /// What interrupts the command of this worker, for another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Send a command and wait for its reply.
    pub fn request(&mut self, command: Value) -> Result<Value, Error> {
        self.exchange(command, None)
    }

    /// The same, with what comes before the reply: progress, log records, warnings.
    pub fn request_with_events(
        &mut self,
        command: Value,
        on_event: &mut dyn FnMut(&Value),
    ) -> Result<Value, Error> {
        self.exchange(command, Some(on_event))
    }

    fn exchange(
        &mut self,
        command: Value,
        mut on_event: Option<&mut dyn FnMut(&Value)>,
    ) -> Result<Value, Error> {
        let Value::Map(mut fields) = command else {
            return Err(Error::Closed("a command is a map".into()));
        };
        self.last_id += 1;
        fields.push(("id".into(), self.last_id.into()));
        if on_event.is_some() {
            fields.push(("events".into(), true.into()));
        }
        self.send(&Value::Map(fields))?;
        let mut deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut late = false;
        loop {
            let message = match self.receive(deadline) {
                Err(Error::Deadline) if !late => {
                    late = true;
                    deadline = Some(Instant::now() + GRACE);
                    self.interrupter.interrupt()?;
                    continue;
                }
                Err(Error::Deadline) => {
                    self.interrupter.kill()?;
                    return Err(Error::Closed("it did not end when it was interrupted".into()));
                }
                other => other?,
            };
            if message.get("event") != &Value::Nil {
                if let Some(on_event) = &mut on_event {
                    on_event(&message);
                }
                continue;
            }
            return match message.get("ok") {
                _ if late => Err(Error::Deadline),
                Value::Bool(true) => Ok(message),
                _ => Err(Error::Remote(Box::new(message))),
            };
        }
    }

    fn send(&mut self, message: &Value) -> Result<(), Error> {
        match self.dialect {
            Dialect::Lines => self.stream.write_all((lines::write_line(message) + "\n").as_bytes())?,
            Dialect::Frames => {
                let (head, buffers) = frames::write_frame(message);
                self.stream.write_all(&head)?;
                for buffer in buffers {
                    self.stream.write_all(buffer)?;
                }
            }
        }
        Ok(())
    }

    /// The next message. What came of it before a deadline is kept.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Value, Error> {
        self.fill(1, deadline)?;
        if self.pending[0] == 0x93 {
            self.fill(frames::PREAMBLE, deadline)?;
            let preamble = self.pending[..frames::PREAMBLE].try_into().unwrap();
            let whole = frames::PREAMBLE + frames::body_size(&preamble).map_err(Error::Closed)?;
            self.fill(whole, deadline)?;
            let message = frames::read_frame(&preamble, &self.pending[frames::PREAMBLE..whole]);
            self.drop_front(whole);
            return message.map_err(Error::Closed);
        }
        let mut searched = 0;
        loop {
            if let Some(end) = self.pending[searched..self.held].iter().position(|&byte| byte == b'\n') {
                let end = searched + end;
                let message = lines::read_line(&String::from_utf8_lossy(&self.pending[..end]));
                self.drop_front(end + 1);
                return message.map_err(Error::Closed);
            }
            searched = self.held;
            self.fill(searched + 1, deadline)?;
        }
    }

    fn drop_front(&mut self, count: usize) {
        self.pending.copy_within(count..self.held, 0);
        self.held -= count;
    }

    /// Read until so many bytes are held.
    fn fill(&mut self, size: usize, deadline: Option<Instant>) -> Result<(), Error> {
        let room = size.max(self.held + (1 << 16));
        if self.pending.len() < room {
            self.pending.resize(room, 0);
        }
        while self.held < size {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Deadline);
            }
            self.stream.set_read_timeout(left)?;
            match self.stream.read(&mut self.pending[self.held..]) {
                Ok(0) => return Err(Error::Closed("it closed the stream".into())),
                Ok(count) => self.held += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// End the stream, and wait for a worker of our own to exit.
    pub fn close(mut self) -> Result<(), Error> {
        self.stream.shutdown(std::net::Shutdown::Both)?;
        match self.child.take() {
            Some(mut child) => child.wait().map(|_| ()).map_err(Error::from),
            None => Ok(()),
        }
    }
}

/// A worker that is dropped ends; nobody waits for what it runs.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ask the daemon at a path: a line to it, a line back, and the connection.
fn ask(path: &Path, request: Value) -> Result<(UnixStream, Value), Error> {
    let mut stream = UnixStream::connect(path)?;
    let line = lines::write_line(&request) + "\n";
    stream.write_all(&[REQUEST, line.as_bytes()].concat())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte[0] != b'\n' {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let answer = lines::read_line(&String::from_utf8_lossy(&answer)).map_err(Error::Closed)?;
    let ended = answer.get("ended") == &Value::Bool(true);
    if answer.get("ok") == &Value::Bool(true) || ended {
        return Ok((stream, answer));
    }
    Err(Error::Closed(format!("the daemon refused: {:?}", answer.get("error"))))
}
