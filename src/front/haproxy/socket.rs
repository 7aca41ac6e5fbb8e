//! Sends a line of commands to HAProxy's socket and reads the answer, on a new connection each time: without a prompt,
//! HAProxy closes it after the answer. No connection stays open, because it would keep a HAProxy that is being replaced
//! from ending.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{HaproxyError, figures::SOON};

/// HAProxy answers in microseconds; while it starts or reloads with large tables it may take a moment.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of an answer: more than the states of thousands of servers need.
const LONGEST: u64 = 16 << 20;

/// The path of HAProxy's socket.
#[derive(Debug, Clone)]
pub(super) struct AdminSocket {
    path: PathBuf,
}

impl AdminSocket {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Runs a command that only reads, and returns its answer.
    pub(super) async fn ask(&self, command: &str) -> Result<String, HaproxyError> {
        let answer = self.exchange(command).await?;
        if is_denial(&answer) {
            return Err(self.refused(command, &answer));
        }
        Ok(answer)
    }

    /// Runs commands that answer nothing when they succeed, as one line and in this order.
    pub(super) async fn tell(&self, commands: &[String]) -> Result<(), HaproxyError> {
        let line = commands.join("; ");
        let answer = self.exchange(&line).await?;
        if answer.trim().is_empty() {
            return Ok(());
        }
        Err(self.refused(&line, &answer))
    }

    /// Runs commands like [`Self::tell`], then the command `look` for the servers' states in the same line, so that
    /// nothing else can happen between them. Returns the states.
    pub(super) async fn tell_and_look(
        &self,
        commands: &[String],
        look: &str,
    ) -> Result<String, HaproxyError> {
        let line = format!("{}; {look}", commands.join("; "));
        let answer = self.exchange(&line).await?;
        // The table begins with its version and its header.
        let (said, table) = answer.split_at(answer.find("1\n# ").unwrap_or(answer.len()));
        if said.trim().is_empty() && !table.is_empty() {
            return Ok(table.to_owned());
        }
        Err(self.refused(&line, said))
    }

    fn refused(&self, command: &str, answer: &str) -> HaproxyError {
        let lines: Vec<&str> = answer.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        HaproxyError::Refused {
            path: self.path.clone(),
            command: command.to_owned(),
            said: lines.join("; ").chars().take(300).collect(),
        }
    }

    async fn exchange(&self, command: &str) -> Result<String, HaproxyError> {
        let talk = async {
            let mut stream = self.connect().await?;
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(LONGEST).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        match timeout(ANSWER_WITHIN, talk).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(self.failed(source)),
            Err(_) => Err(HaproxyError::Silent { path: self.path.clone(), limit: ANSWER_WITHIN }),
        }
    }

    /// Connects, and tries again while HAProxy's backlog of ten connections is full, when the kernel refuses at once:
    /// many apps use the same socket, and on a busy machine HAProxy may not run for a while.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.path).await {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => sleep(SOON).await,
                connected => return connected,
            }
        }
    }

    fn failed(&self, source: io::Error) -> HaproxyError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => HaproxyError::Denied { path, source },
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                HaproxyError::NotRunning { path, source }
            }
            _ => HaproxyError::Talk { path, source },
        }
    }
}

/// Whether the answer says that the socket's level is too low, or that HAProxy does not know the command.
fn is_denial(answer: &str) -> bool {
    answer.starts_with("Permission denied") || answer.starts_with("Unknown command")
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::{
            fd::{AsRawFd as _, OwnedFd},
            unix::net::UnixListener,
        },
    };

    use super::*;

    fn a_socket() -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap()
    }

    #[tokio::test]
    async fn a_haproxy_that_many_are_talking_to_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.sock");
        let (busy, address) = (a_socket(), UnixAddr::new(&path).unwrap());
        bind(busy.as_raw_fd(), &address).unwrap();
        listen(&busy, Backlog::new(1).unwrap()).unwrap();
        let before: Vec<OwnedFd> = (0..2).map(|_| a_socket()).collect();
        before.iter().for_each(|one| connect(one.as_raw_fd(), &address).unwrap());
        assert!(connect(a_socket().as_raw_fd(), &address).is_err(), "nobody else is let in");

        let socket = AdminSocket::new(path);
        let mut asked = std::pin::pin!(socket.ask("show info"));
        let waits = timeout(SOON, &mut asked).await;
        assert!(waits.is_err(), "{waits:?}");
        drop(before);
        let listener = UnixListener::from(busy);
        listener.set_nonblocking(false).unwrap();
        let answers = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok_and(|read| read > 0) {
                    return (&stream).write_all(line.as_bytes());
                }
            }
            Ok(())
        });
        assert_eq!(asked.await.unwrap(), "show info\n");
        answers.join().unwrap().unwrap();
    }
}
