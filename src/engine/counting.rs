//! Gets the figures of real traffic out of the front while they are wanted: asked of a front that counts by itself,
//! heard on a datagram socket of those that tell of each request. Run by `tend`, one for each app. What it misses is
//! not counted, and nothing waits for it.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{self, IoSliceMut},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use tokio::{
    io::Interest,
    net::UnixDatagram,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    app_task::{Inbox, Message},
    front::AppFront,
    interpreter::{Interpreter, Place},
    traffic::Counted,
};
use crate::{config::settings::AppSettings, front::traffic::Sample, os::errors::chain, rules::ids::Color};

/// Between two looks at a front that counts by itself, and at what status shows.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a minute.
const MINUTE: u32 = 60;
/// Longer than any line that a front tells; the rest of a longer one is not read.
const LONGEST: usize = 4096;

/// Where a front tells of its requests; `None` when nobody wants to know.
pub(super) fn socket(place: &Place, settings: &AppSettings) -> Option<PathBuf> {
    settings.counts_traffic().then(|| place.runtime_dir.join("t").join(format!("{}.sock", settings.name)))
}

/// Counts for as long as it is let.
pub(super) async fn count(interpreter: Arc<Interpreter>, inbox: Inbox) {
    if !interpreter.settings().counts_traffic() {
        return;
    }
    let mut ear = open_ear(&interpreter);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut look, mut shown) = (0, Counted::default());
    loop {
        // Cancel-safe enough: at most the datagram of a sender not yet known is not counted; a tick is not lost.
        tokio::select! {
            samples = hear(&mut ear, &interpreter) => for sample in samples {
                let release = interpreter.instances().release_on(sample.color);
                interpreter.traffic.add(&sample, release.as_ref());
            },
            _ = looks.tick() => {
                look += 1;
                interpreter.count_traffic().await;
                if look % MINUTE == 0 {
                    interpreter.traffic.minute();
                }
                let now = interpreter.traffic.counted();
                if now != shown {
                    shown = now;
                    if inbox.send(Message::Counted(now)).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Interpreter {
    /// Asks a front that counts by itself for its sums; the others tell of each request.
    pub(super) async fn count_traffic(&self) {
        let AppFront::Builtin(front) = self.front() else { return };
        let _turn = self.sums_turn.lock().await;
        match front.figures().await {
            Ok(figures) => {
                for color in Color::ALL {
                    let release = self.instances().release_on(color);
                    self.traffic.take_over(color, figures.of(color).clone(), release.as_ref());
                }
            }
            // A front that is away is looked after by others.
            Err(err) => {
                tracing::debug!(app = %self.settings.name, err = %chain(&err), "the front told no figures")
            }
        }
    }
}

/// Without it a watch has too little traffic to tell, and says so.
fn open_ear(interpreter: &Interpreter) -> Option<Ear> {
    let path = match interpreter.front() {
        AppFront::Builtin(_) => return None,
        AppFront::Nginx { .. } | AppFront::Haproxy(_) => interpreter.traffic_socket.as_ref()?,
    };
    Ear::open(path)
        .inspect_err(|err| {
            let app = &interpreter.settings().name;
            tracing::error!(%app, path = %path.display(), %err, "real traffic can't be heard of");
        })
        .ok()
}

/// The next request that the front tells of: a sample of each color that it was tried on.
async fn hear(ear: &mut Option<Ear>, interpreter: &Interpreter) -> Vec<Sample> {
    loop {
        let Some(open) = ear else { return std::future::pending().await };
        match open.datagram().await {
            Ok((datagram, uid)) => {
                if !open.trusts(uid) && open.may_ask() {
                    open.trusted = interpreter.front().worker_uids().await;
                }
                if open.trusts(uid) {
                    return interpreter.front().samples(&datagram);
                }
            }
            Err(err) => {
                let app = &interpreter.settings().name;
                tracing::error!(%app, %err, "real traffic can't be heard of any more");
                *ear = None;
            }
        }
    }
}

/// The socket, and whose words count.
struct Ear {
    socket: UnixDatagram,
    trusted: BTreeSet<u32>,
    asked: Option<Instant>,
}

impl Ear {
    /// A front's workers run as a user of their own, so anybody may send; whose words count is told by the kernel.
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        match fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self { socket, trusted: BTreeSet::new(), asked: None })
    }

    /// The next datagram and who sent it.
    async fn datagram(&self) -> io::Result<(Vec<u8>, Option<u32>)> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await
    }

    /// bgd's own user, root, and whoever the front's workers run as.
    fn trusts(&self, uid: Option<u32>) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        uid.is_some_and(|uid| uid == 0 || uid == own || self.trusted.contains(&uid))
    }

    /// Whether it is time to ask for the workers again: a stranger's flood is no reason to do so all the time.
    fn may_ask(&mut self) -> bool {
        let may = self.asked.is_none_or(|asked| asked.elapsed() >= LOOK);
        if may {
            self.asked = Some(Instant::now());
        }
        may
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut bytes = vec![0; LONGEST];
    let mut credentials = nix::cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut credentials), flags)?;
    let uid = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender.uid()),
        _ => None,
    });
    let length = received.bytes;
    bytes.truncate(length);
    Ok((bytes, uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_sent_arrives_with_its_sender_and_a_stale_socket_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t/shop.sock");
        drop(Ear::open(&path).unwrap());
        let mut ear = Ear::open(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"one", &path).await.unwrap();
        sender.send_to(&[b'x'; LONGEST * 2], &path).await.unwrap();
        let (datagram, uid) = ear.datagram().await.unwrap();
        assert_eq!((datagram.as_slice(), uid), (&b"one"[..], Some(nix::unistd::geteuid().as_raw())));
        assert_eq!(ear.datagram().await.unwrap().0.len(), LONGEST);
        assert!(ear.trusts(uid));
        assert!(!ear.trusts(None) && !ear.trusts(Some(12_345)));
        assert!(ear.may_ask() && !ear.may_ask());
        ear.trusted = BTreeSet::from([12_345]);
        assert!(ear.trusts(Some(12_345)));
    }
}
