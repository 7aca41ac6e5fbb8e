//! Talking to a remote through libgit2: list its refs, bring one of them into a mirror. Used inside the worker
//! by `child` and `submodule`. One connection per request; credentials once each; a host key is never accepted
//! silently; nothing is ever merged.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use git2::{
    AutotagOption, CertificateCheckStatus, Direction, ErrorClass, ErrorCode, FetchOptions, Oid, ProxyOptions,
    Remote, RemoteCallbacks, RemoteConnection, Repository,
};

use super::{
    credentials::{Offers, Secrets},
    error::{Cause, GitError, Stage},
    known_hosts,
    mirror::{self, Failed, HOME},
    remote::{Location, location},
    report::Reporter,
    text::{redact, scrub},
    wire::{Opening, Progress},
};

/// One ref as the remote lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full name.
    pub name: String,
    /// What it points at; a tag's own object for annotated tags.
    pub oid: Oid,
}

/// What every connection of a worker shares.
pub struct Context {
    /// For whom the worker works.
    pub opening: Opening,
    /// Read before the worker became the app's user.
    pub secrets: Secrets,
    /// Where the user's own keys and known hosts are.
    pub home: std::path::PathBuf,
    /// Where progress goes.
    pub reporter: Reporter,
}

/// One remote to talk to.
pub struct Peer<'a> {
    context: &'a Context,
    url: &'a str,
    seen: Rc<RefCell<Seen>>,
}

/// What the callbacks of one connection saw.
struct Seen {
    offers: Offers,
    fingerprint: Option<String>,
    connected: bool,
}

/// What to download, and which commit or tag it is meant to bring; `None` when that has to be looked up after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Refspecs in libgit2's form.
    pub specs: Vec<String>,
    /// The wanted object.
    pub oid: Option<Oid>,
}

impl Chosen {
    /// One ref as it was listed.
    pub fn listed(found: &Listed) -> Self {
        Self { specs: vec![format!("+{}:{}", found.name, mirror::WANTED)], oid: Some(found.oid) }
    }
}

impl<'a> Peer<'a> {
    /// A remote by its URL. Nothing is sent yet.
    pub fn new(context: &'a Context, url: &'a str) -> Self {
        let offers = Offers::new(&context.opening, &context.secrets, url, &context.home);
        let seen = Seen { offers, fingerprint: None, connected: false };
        Self { context, url, seen: Rc::new(RefCell::new(seen)) }
    }

    /// What the remote has.
    pub fn list(&self) -> Result<Vec<Listed>, GitError> {
        let mut remote = Remote::create_detached(self.url).map_err(|err| self.explain(&err))?;
        let connection = self.connect(&mut remote)?;
        self.listed(&connection)
    }

    /// Lists the remote, lets `choose` name what to download, and downloads it into `repo`. No ref is changed.
    pub fn fetch(
        &self,
        repo: &Repository,
        choose: impl FnOnce(Vec<Listed>) -> Result<Chosen, GitError>,
    ) -> Result<Chosen, Failed> {
        let mut remote = repo.remote_anonymous(self.url).map_err(|err| self.explain(&err))?;
        let mut options = FetchOptions::new();
        options.remote_callbacks(self.callbacks()).proxy_options(proxy());
        options.download_tags(AutotagOption::None).update_fetchhead(false);
        let mut connection = self.connect(&mut remote)?;
        let chosen = choose(self.listed(&connection)?)?;
        self.context.reporter.stage(Stage::Preparing);
        let downloaded = connection.remote().download(&chosen.specs, Some(&mut options));
        // The transport keeps pointers to the callbacks in `options`: hang up while they are alive.
        drop(connection);
        downloaded.map_err(|err| Failed { damage: mirror::means_damage(&err), error: self.explain(&err) })?;
        Ok(chosen)
    }

    fn connect<'r, 'c>(&self, remote: &'c mut Remote<'r>) -> Result<RemoteConnection<'r, 'c, 'a>, GitError> {
        self.context.reporter.stage(Stage::Asking);
        self.prepare_known_hosts()?;
        let connection = remote
            .connect_auth(Direction::Fetch, Some(self.callbacks()), Some(proxy()))
            .map_err(|err| self.explain(&err))?;
        self.seen.borrow_mut().connected = true;
        Ok(connection)
    }

    fn listed(&self, connection: &RemoteConnection<'_, '_, '_>) -> Result<Vec<Listed>, GitError> {
        let heads = connection.list().map_err(|err| self.explain(&err))?;
        // git2 panics on a ref name that is not UTF-8; such a ref can't be the one that is wanted.
        let name =
            |head: &git2::RemoteHead<'_>| catch_unwind(AssertUnwindSafe(|| head.name().to_owned())).ok();
        Ok(heads.iter().filter_map(|head| Some(Listed { name: name(head)?, oid: head.oid() })).collect())
    }

    fn callbacks(&self) -> RemoteCallbacks<'a> {
        let reporter = &self.context.reporter;
        let mut callbacks = RemoteCallbacks::new();
        let seen = Rc::clone(&self.seen);
        callbacks.credentials(move |_, user, allowed| seen.borrow_mut().offers.next(user, allowed));
        let seen = Rc::clone(&self.seen);
        callbacks.certificate_check(move |cert, _| {
            if let Some(key) = cert.as_hostkey() {
                let kind = key.hostkey_type().map_or("", |kind| kind.name());
                let print = key.hash_sha256().map(known_hosts::fingerprint).unwrap_or_default();
                seen.borrow_mut().fingerprint = Some(format!("{kind} {print}"));
            }
            // libgit2's own verdict stands: the system's authorities for TLS, the gathered file for ssh.
            Ok(CertificateCheckStatus::CertificatePassthrough)
        });
        callbacks.transfer_progress(move |at| {
            let received = at.received_objects() < at.total_objects() || at.total_objects() == 0;
            reporter.progress(Progress {
                stage: if received { Stage::Receiving } else { Stage::Indexing },
                done: if received { at.received_objects() } else { at.indexed_deltas() } as u64,
                bytes: at.received_bytes() as u64,
            });
            true
        });
        let mut heard = 0;
        callbacks.sideband_progress(move |bytes| {
            heard += bytes.len() as u64;
            reporter.progress(Progress { stage: Stage::Preparing, done: heard, bytes: 0 });
            true
        });
        callbacks
    }

    /// libssh2 reads `$HOME/.ssh/known_hosts` and nothing else; the worker's HOME is a directory of its own.
    fn prepare_known_hosts(&self) -> Result<(), GitError> {
        let Location::Ssh { host, port } = location(self.url) else { return Ok(()) };
        let mirror = &self.context.opening.mirror;
        let target = mirror.join(HOME).join(".ssh/known_hosts");
        known_hosts::gather(&self.known_hosts(), &known_hosts::host_token(&host, port), &target)
            .map_err(|err| GitError::Mirror { mirror: mirror.clone(), cause: Cause::new(err) })
    }

    fn known_hosts(&self) -> Vec<std::path::PathBuf> {
        known_hosts::files(self.context.opening.known_hosts.as_deref(), &self.context.home)
    }

    /// libgit2's error as what it means for this remote.
    fn explain(&self, err: &git2::Error) -> GitError {
        let remote = redact(self.url);
        let text = scrub(err.message(), &self.context.secrets.texts());
        let cause = Cause::new(&text);
        let seen = self.seen.borrow();
        match (err.code(), err.class()) {
            (ErrorCode::Certificate, ErrorClass::Ssh) => self.explain_host_key(&seen),
            _ if err.code() == ErrorCode::Timeout || text.contains("socket: timed out") => {
                GitError::Stalled {
                    remote,
                    stage: if seen.connected { Stage::Receiving } else { Stage::Asking },
                    after: std::time::Duration::from_millis(
                        self.context.opening.read_timeout_ms.unsigned_abs().into(),
                    ),
                }
            }
            _ if err.code() == ErrorCode::Auth || is_refusal(&text, seen.connected) => {
                GitError::Auth { remote, tried: seen.offers.tried(), cause }
            }
            _ if mirror::means_no_room(&text) => {
                GitError::Mirror { mirror: self.context.opening.mirror.clone(), cause }
            }
            _ if is_absence(&text) => GitError::NoRepository { remote, cause },
            (_, ErrorClass::Net | ErrorClass::Http | ErrorClass::Ssh | ErrorClass::Ssl | ErrorClass::Os) => {
                GitError::Unreachable { remote, cause }
            }
            _ => GitError::Fetch { remote, cause },
        }
    }

    fn explain_host_key(&self, seen: &Seen) -> GitError {
        let host = match location(self.url) {
            Location::Ssh { host, port } => known_hosts::host_token(&host, port),
            Location::Url { .. } | Location::Local(_) => redact(self.url),
        };
        let fingerprint = seen.fingerprint.clone().unwrap_or_else(|| "a key".to_owned());
        let files = self.known_hosts();
        match known_hosts::listed_in(&files, &host) {
            Some(file) => GitError::HostKeyChanged { host, fingerprint, file: file.display().to_string() },
            None => {
                let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                GitError::HostKeyUnknown { host, fingerprint, files: names.join(" or ") }
            }
        }
    }
}

fn proxy() -> ProxyOptions<'static> {
    let mut options = ProxyOptions::new();
    options.auto();
    options
}

/// Whether a message without a code of its own means that the credentials were not taken.
fn is_refusal(text: &str, connected: bool) -> bool {
    let text = text.to_ascii_lowercase();
    let http = ["status code: 401", "status code: 403"];
    let ssh = ["authenticat", "public key", "private key", "credential", "username"];
    http.iter().any(|part| text.contains(part)) || (!connected && ssh.iter().any(|part| text.contains(part)))
}

/// Whether a message means that there is nothing at the remote's path.
fn is_absence(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "status code: 404",
        "repository not found",
        "does not appear to be a git repository",
        "no such repository",
    ]
    .iter()
    .any(|part| text.contains(part))
}
