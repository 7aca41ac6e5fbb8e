//! One connection to a front's control socket: a line out, a line in. Used by the daemon's side (`client`)
//! and by a successor that leads its predecessor (`stage`).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    BuiltinError,
    control::{self, ControlAnswer, ControlRequest, LONGEST},
};
use crate::os::lines::read_line;

/// One connection to a front's control socket.
pub(super) struct ControlLink {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl ControlLink {
    /// Connects; `None` when no front listens there.
    pub(super) async fn connect(path: &Path) -> Result<Option<Self>, BuiltinError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Self::over(stream, path))),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(source) => Err(BuiltinError::Control { path: path.to_owned(), source }),
        }
    }

    /// Takes a stream that is connected already.
    pub(super) fn over(stream: UnixStream, path: &Path) -> Self {
        Self { stream: BufReader::new(stream), path: path.to_owned() }
    }

    /// Whether the other side has closed, or has sent something unasked, so that the link can't be used any more.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.get_ref().try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Asks, and waits at most `within` for the answer. After an error the link can't be used any more.
    pub(super) async fn ask(
        &mut self,
        request: &ControlRequest,
        within: Duration,
    ) -> Result<ControlAnswer, BuiltinError> {
        let line = timeout(within, self.exchange(&control::line(request)))
            .await
            .map_err(|_| BuiltinError::Silent { path: self.path.clone(), waited: within })?
            .map_err(|source| BuiltinError::Control { path: self.path.clone(), source })?;
        match control::parse(&line)? {
            ControlAnswer::Refused(reason) => Err(BuiltinError::Refused { reason }),
            answer => Ok(answer),
        }
    }

    async fn exchange(&mut self, question: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(question).await?;
        let line = read_line(&mut self.stream, LONGEST as u64).await?;
        if line.ends_with(b"\n") { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
