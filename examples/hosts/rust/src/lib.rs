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
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
const GRACE: Duration = Duration::from_secs(3);
const ROOM: usize = 1 << 16;
const AGAIN: Duration = Duration::from_millis(200);
/// The id of interrupts, for whose replies nobody waits.
const OF_INTERRUPTS: i64 = 0;

/// What ends a command, from any thread: a message on the stream of its worker.
#[derive(Clone, Debug)]
pub struct Interrupter {
    stream: Arc<Mutex<UnixStream>>,
    running: Arc<AtomicI64>,
    dialect: Dialect,
}

impl Interrupter {
    /// Interrupt the command that runs; where none does, nothing happens.
    pub fn interrupt(&self) -> Result<(), Error> {
        let running = self.running.load(Ordering::SeqCst);
        if running == OF_INTERRUPTS {
            return Ok(());
        }
        self.send(&map! { "cmd" => "INTERRUPT", "command" => running, "id" => OF_INTERRUPTS })
    }

    fn send(&self, message: &Value) -> Result<(), Error> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match self.dialect {
            Dialect::Lines => stream.write_all((lines::write_line(message) + "\n").as_bytes())?,
            Dialect::Frames => {
                let (head, buffers) = frames::write_frame(message);
                stream.write_all(&head)?;
                for buffer in buffers {
                    stream.write_all(buffer)?;
                }
            }
        }
        Ok(())
    }
}

/// Whose the engine is, and so how it is ended by force.
enum Engine {
    Child(Child),
    OfDaemon { path: PathBuf, about: Value },
    OfSession,
}

/// A frame whose buffers are still to come.
struct Partial {
    map: Vec<u8>,
    sizes: Vec<usize>,
    buffers: Vec<Vec<u8>>,
}

/// One engine. A call waits for its reply.
pub struct Worker {
    stream: UnixStream,
    /// Room for what was read, of which `held` bytes are not used yet.
    pending: Vec<u8>,
    held: usize,
    partial: Option<Partial>,
    engine: Engine,
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
        Worker::over(ours, dialect, Engine::Child(child))
    }

    /// Use a worker of the daemon at a path: one of its own, or that of a session.
    pub fn connect(path: &Path, session: Option<&str>, dialect: Dialect) -> Result<Worker, Error> {
        let name = session.map_or(Value::Nil, Into::into);
        let request = map! { "op" => "connect", "session" => name, "pickle" => "never" };
        let (stream, about) = ask(path, request)?;
        let engine = match session {
            None => Engine::OfDaemon { path: path.into(), about },
            Some(_) => Engine::OfSession,
        };
        Worker::over(stream, dialect, engine)
    }

    /// A worker over a stream, which has been asked to take interrupts as messages.
    fn over(stream: UnixStream, dialect: Dialect, engine: Engine) -> Result<Worker, Error> {
        let writing = Arc::new(Mutex::new(stream.try_clone()?));
        let running = Arc::new(AtomicI64::new(OF_INTERRUPTS));
        let interrupter = Interrupter { stream: writing, running, dialect };
        let mut worker = Worker {
            stream,
            pending: vec![0; ROOM],
            held: 0,
            partial: None,
            engine,
            interrupter,
            last_id: OF_INTERRUPTS,
            timeout: None,
        };
        let client = map! { "name" => "soma-rust", "soma" => "", "python" => "", "cloudpickle" => "" };
        let hello = map! { "cmd" => "HELLO", "protocol" => 1i64, "interrupts" => "wire", "client" => client };
        worker.request(hello)?;
        Ok(worker)
    }

    /// What interrupts the command of this worker, for another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    fn kill(&mut self) -> Result<(), Error> {
        match &mut self.engine {
            Engine::Child(child) => Ok(child.kill()?),
            Engine::OfDaemon { path, about } => {
                let (worker, client) = (about.get("worker").clone(), about.get("client").clone());
                ask(path, map! { "op" => "kill", "worker" => worker, "client" => client }).map(|_| ())
            }
            Engine::OfSession => Ok(self.stream.shutdown(std::net::Shutdown::Both)?),
        }
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
        self.interrupter.running.store(self.last_id, Ordering::SeqCst);
        let sent = self.interrupter.send(&Value::Map(fields));
        let reply = sent.and_then(|()| self.reply(on_event.as_deref_mut()));
        self.interrupter.running.store(OF_INTERRUPTS, Ordering::SeqCst);
        reply
    }

    /// The reply to the command that was sent; what takes too long is interrupted until it ends.
    fn reply(&mut self, mut on_event: Option<&mut (dyn FnMut(&Value) + '_)>) -> Result<Value, Error> {
        let mut deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut late_since = None;
        loop {
            let message = match self.receive(deadline) {
                Err(Error::Deadline) => {
                    let since = *late_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > GRACE {
                        self.kill()?;
                        return Err(Error::Closed("it did not end when it was interrupted".into()));
                    }
                    self.interrupter.interrupt()?;
                    deadline = Some(Instant::now() + AGAIN);
                    continue;
                }
                other => other?,
            };
            if message.get("id") == &Value::Int(OF_INTERRUPTS) {
                continue;
            }
            if message.get("event") != &Value::Nil {
                if let Some(on_event) = &mut on_event {
                    on_event(&message);
                }
                continue;
            }
            return match message.get("ok") {
                _ if late_since.is_some() => Err(Error::Deadline),
                Value::Bool(true) => Ok(message),
                _ => Err(Error::Remote(Box::new(message))),
            };
        }
    }

    /// The next message. What came of it before a deadline is kept.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Value, Error> {
        if self.partial.is_none() {
            self.fill(1, deadline)?;
            if self.pending[0] != 0x93 {
                return self.receive_line(deadline);
            }
            self.fill(frames::PREAMBLE, deadline)?;
            let preamble = self.pending[..frames::PREAMBLE].try_into().unwrap();
            let (map, table) = frames::read_preamble(&preamble).map_err(Error::Closed)?;
            let (start, end) = (frames::PREAMBLE + map, frames::PREAMBLE + map + table);
            self.fill(end, deadline)?;
            let sizes = frames::read_table(&self.pending[start..end]);
            let map = self.pending[frames::PREAMBLE..start].to_vec();
            self.drop_front(end);
            self.partial = Some(Partial { map, sizes, buffers: Vec::new() });
        }
        self.fill_buffers(deadline)?;
        let Partial { map, buffers, .. } = self.partial.take().expect("a frame was begun");
        frames::read_map(&map, buffers).map_err(Error::Closed)
    }

    fn receive_line(&mut self, deadline: Option<Instant>) -> Result<Value, Error> {
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

    /// Read the buffers of a frame, each into memory of its own.
    fn fill_buffers(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let Some(Partial { sizes, buffers, .. }) = &mut self.partial else { return Ok(()) };
        for (index, &size) in sizes.iter().enumerate() {
            if buffers.len() == index {
                buffers.push(Vec::with_capacity(size));
            }
            let buffer = &mut buffers[index];
            let here = self.held.min(size - buffer.len());
            buffer.extend_from_slice(&self.pending[..here]);
            self.pending.copy_within(here..self.held, 0);
            self.held -= here;
            while buffer.len() < size {
                let missing = (size - buffer.len()) as u64;
                self.stream.set_read_timeout(time_left(deadline)?)?;
                match (&self.stream).take(missing).read_to_end(buffer) {
                    Ok(0) => return Err(Error::Closed("it closed the stream".into())),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn drop_front(&mut self, count: usize) {
        self.pending.copy_within(count..self.held, 0);
        self.held -= count;
    }

    /// Read until so many bytes are held.
    fn fill(&mut self, size: usize, deadline: Option<Instant>) -> Result<(), Error> {
        if self.pending.len() < size {
            self.pending.resize(size + ROOM, 0);
        }
        while self.held < size {
            self.stream.set_read_timeout(time_left(deadline)?)?;
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
        match &mut self.engine {
            Engine::Child(child) => child.wait().map(|_| ()).map_err(Error::from),
            _ => Ok(()),
        }
    }
}

/// A worker that is dropped ends; nobody waits for what it runs.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Engine::Child(child) = &mut self.engine {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The time until a deadline, of which there is some.
fn time_left(deadline: Option<Instant>) -> Result<Option<Duration>, Error> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left == Some(Duration::ZERO) {
        return Err(Error::Deadline);
    }
    Ok(left)
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
