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
    certificate::{self, CertificateFault},
    credentials::{Offers, Secrets},
    error::{AuthAdvice, ErrorCause, GitError, GitStep},
    format::Format,
    known_hosts,
    mirror::{self, FetchFailure, HOME},
    program::{Invocation, Programs},
    proxied::{Proxied, ProxiedRemote},
    remote::{Location, https_address, location, plain_http, same_server, ssh_address},
    report::Reporter,
    ssh_config::{Routes, SshRoute, SshSettings},
    text::{redact, scrub},
    wire::{GitProgress, Opening},
};
use crate::config::auth_file;

/// The limit of fetching a certificate, in milliseconds.
const LONGEST_LOOK_MS: u32 = 5_000;

/// One ref as the remote lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full name, such as `refs/heads/main`.
    pub name: String,
    /// The object it points at; for an annotated tag the tag object.
    pub oid: Oid,
}

/// What every connection of a worker shares.
pub struct TransferContext {
    /// The app's settings.
    pub opening: Opening,
    /// Credentials, read before the worker became the app's user.
    pub secrets: Secrets,
    /// Home directory with the user's own keys and known hosts.
    pub home: std::path::PathBuf,
    /// Where progress goes.
    pub reporter: Reporter,
    /// Transport over a program, registered with libgit2.
    pub programs: Programs,
    /// Transport over an http proxy, registered with libgit2.
    pub proxied: Proxied,
    /// How hosts are reached over ssh.
    pub routes: Routes,
}

/// One remote to talk to.
pub struct RemotePeer<'a> {
    context: &'a TransferContext,
    url: &'a str,
    route: SshRoute,
    seen: Rc<RefCell<TransferNotes>>,
}

/// What the callbacks of one connection saw.
struct TransferNotes {
    offers: Offers,
    fingerprint: Option<String>,
    /// The certificate that the server showed, and the host that was meant.
    certificate: Option<(Vec<u8>, String)>,
    connected: bool,
}

/// The refs to download, and the commit or tag that is wanted; `None` if it must be looked up afterwards.
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

impl<'a> RemotePeer<'a> {
    /// A remote by its URL. Nothing is sent yet.
    pub fn new(context: &'a TransferContext, url: &'a str) -> Self {
        let opening = &context.opening;
        let route = ssh_address(url).map(|address| {
            let ours = same_server(&opening.remote, url);
            let ssh_key = opening.ssh_key.clone().filter(|_| ours);
            let given = SshSettings { ssh_key, known_hosts: opening.known_hosts.clone() };
            context.routes.to(&address, &given, &context.home)
        });
        Self::by(context, url, route.unwrap_or(SshRoute::Direct { note: None }))
    }

    /// A repository on this machine, served by a program.
    pub fn served(context: &'a TransferContext, url: &'a str, invocation: Invocation) -> Self {
        Self::by(context, url, SshRoute::Program { invocation, keys: Vec::new() })
    }

    fn by(context: &'a TransferContext, url: &'a str, route: SshRoute) -> Self {
        let offers = Offers::new(&context.opening, &context.secrets, url, &context.home);
        let seen = TransferNotes { offers, fingerprint: None, certificate: None, connected: false };
        Self { context, url, route, seen: Rc::new(RefCell::new(seen)) }
    }

    /// The URL for libgit2.
    fn target(&self) -> String {
        match &self.route {
            SshRoute::Direct { .. } => self.proxied().unwrap_or_else(|| self.url.to_owned()),
            SshRoute::Program { invocation, .. } => self.context.programs.arm(invocation),
        }
    }

    /// The refs of the remote.
    pub fn list(&self) -> Result<Vec<Listed>, GitError> {
        let mut remote = Remote::create_detached(self.target()).map_err(|err| self.explain(&err))?;
        let connection = self.connect(&mut remote)?;
        self.listed(&connection)
    }

    /// Lists the remote, lets `choose` name what to download, and downloads it into `repo`. No ref is changed.
    pub fn fetch(
        &self,
        repo: &Repository,
        choose: impl FnOnce(Vec<Listed>) -> Result<Chosen, GitError>,
    ) -> Result<Chosen, FetchFailure> {
        let mut remote = repo.remote_anonymous(&self.target()).map_err(|err| self.explain(&err))?;
        let mut options = FetchOptions::new();
        options.remote_callbacks(self.callbacks()).proxy_options(self.proxy());
        options.download_tags(AutotagOption::None).update_fetchhead(false);
        let mut connection = self.connect(&mut remote)?;
        let chosen = choose(self.listed(&connection)?)?;
        self.context.reporter.stage(GitStep::Preparing);
        let downloaded = connection.remote().download(&chosen.specs, Some(&mut options));
        // The transport keeps pointers to the callbacks in `options`: hang up while they are alive.
        drop(connection);
        downloaded
            .map_err(|err| FetchFailure { damage: mirror::means_damage(&err), error: self.explain(&err) })?;
        Ok(chosen)
    }

    fn connect<'r, 'c>(&self, remote: &'c mut Remote<'r>) -> Result<RemoteConnection<'r, 'c, 'a>, GitError> {
        self.context.reporter.stage(GitStep::Asking);
        self.prepare_known_hosts()?;
        let connection = remote
            .connect_auth(Direction::Fetch, Some(self.callbacks()), Some(self.proxy()))
            .map_err(|err| self.explain(&err))?;
        self.seen.borrow_mut().connected = true;
        Ok(connection)
    }

    fn listed(&self, connection: &RemoteConnection<'_, '_, '_>) -> Result<Vec<Listed>, GitError> {
        let heads = connection.list().map_err(|err| self.explain(&err))?;
        // git2 panics on a ref name that is not UTF-8. Such a ref is skipped, because bgd never fetches one by name.
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
        callbacks.certificate_check(move |cert, host| {
            if let Some(shown) = cert.as_x509() {
                seen.borrow_mut().certificate = Some((shown.data().to_owned(), host.to_owned()));
            }
            if let Some(key) = cert.as_hostkey() {
                let kind = key.hostkey_type().map_or("", |kind| kind.name());
                let print = key.hash_sha256().map(known_hosts::fingerprint).unwrap_or_default();
                seen.borrow_mut().fingerprint = Some(format!("{kind} {print}"));
            }
            // Leave the verdict to libgit2, which uses the system's authorities for TLS and the gathered file for ssh.
            Ok(CertificateCheckStatus::CertificatePassthrough)
        });
        callbacks.transfer_progress(move |at| {
            let received = at.received_objects() < at.total_objects() || at.total_objects() == 0;
            reporter.progress(GitProgress {
                stage: if received { GitStep::Receiving } else { GitStep::Indexing },
                done: if received { at.received_objects() } else { at.indexed_deltas() } as u64,
                bytes: at.received_bytes() as u64,
            });
            true
        });
        let mut heard = 0;
        callbacks.sideband_progress(move |bytes| {
            heard += bytes.len() as u64;
            reporter.progress(GitProgress { stage: GitStep::Preparing, done: heard, bytes: 0 });
            true
        });
        callbacks
    }

    /// Writes the known hosts for libssh2, which reads only `$HOME/.ssh/known_hosts`; the worker has a private HOME.
    fn prepare_known_hosts(&self) -> Result<(), GitError> {
        let Location::Ssh { host, port } = location(self.url) else { return Ok(()) };
        if matches!(self.route, SshRoute::Program { .. }) {
            return Ok(());
        }
        let mirror = &self.context.opening.mirror;
        let target = mirror.join(HOME).join(".ssh/known_hosts");
        known_hosts::gather(&self.known_hosts(), &known_hosts::host_token(&host, port), &target)
            .map_err(|err| GitError::Mirror { mirror: mirror.clone(), cause: ErrorCause::new(err) })
    }

    fn known_hosts(&self) -> Vec<std::path::PathBuf> {
        known_hosts::files(self.context.opening.known_hosts.as_deref(), &self.context.home)
    }

    /// The URL for libgit2 if http goes through a proxy.
    fn proxied(&self) -> Option<String> {
        let proxy = self.context.opening.proxy.clone()?;
        let (user_info, url) = plain_http(self.url)?;
        let login = self.seen.borrow_mut().offers.login().or(user_info);
        let limit = u64::from(self.context.opening.read_timeout_ms.unsigned_abs());
        let limit = std::time::Duration::from_millis(limit);
        Some(self.context.proxied.arm(ProxiedRemote { proxy, url, login, limit }))
    }

    /// Only the proxy in the settings: git's configuration and the environment are ignored.
    fn proxy(&self) -> ProxyOptions<'a> {
        let mut options = ProxyOptions::new();
        if let Some(proxy) = &self.context.opening.proxy {
            options.url(proxy);
        }
        options
    }

    /// Translates libgit2's error into its meaning for this remote.
    fn explain(&self, err: &git2::Error) -> GitError {
        let scrubbed = scrub(err.message(), &self.context.secrets.texts());
        match &self.route {
            SshRoute::Direct { note } => self.explain_direct(err, &scrubbed, note.as_deref()),
            SshRoute::Program { keys, .. } => self.explain_program(err, &scrubbed, keys),
        }
    }

    fn explain_direct(&self, err: &git2::Error, text: &str, note: Option<&str>) -> GitError {
        let remote = redact(self.url);
        let seen = self.seen.borrow();
        let noted = note.map(|note| format!("{text} ({note})"));
        let cause = ErrorCause::new(noted.as_deref().unwrap_or(text));
        if let Some(fault) = self.certificate_fault(err, &seen, text) {
            return GitError::Certificate {
                remote,
                ca_file: self.context.opening.ca_file.clone(),
                fault: Box::new(fault),
            };
        }
        match (err.code(), err.class()) {
            (ErrorCode::Certificate, ErrorClass::Ssh) => self.explain_host_key(&seen),
            _ if is_timeout(err, text) => self.stalled(seen.connected),
            _ if self.context.opening.proxy.is_some() && text.to_ascii_lowercase().contains("proxy") => {
                GitError::Proxy { remote, cause }
            }
            _ if is_no_git(text) => GitError::NotGit { remote, cause },
            _ if err.code() == ErrorCode::Auth || is_refusal(text, seen.connected) => {
                GitError::Auth { remote, tried: seen.offers.tried(), advice: seen.offers.advice(), cause }
            }
            _ if mirror::means_no_room(text) => {
                GitError::Mirror { mirror: self.context.opening.mirror.clone(), cause }
            }
            _ if is_absence(text) => GitError::NoRepository { remote, cause },
            _ if text.contains("remote object format") => GitError::Format { remote, format: Format::Sha256 },
            _ if text.contains("cannot redirect") => GitError::Moved { remote, cause },
            (_, ErrorClass::Net | ErrorClass::Http | ErrorClass::Ssh | ErrorClass::Ssl | ErrorClass::Os) => {
                self.unreachable(cause)
            }
            _ => GitError::Fetch { remote, cause },
        }
    }

    /// Prefers the program's standard error to libgit2's error, which only says that the output was closed.
    fn explain_program(&self, err: &git2::Error, text: &str, keys: &[std::path::PathBuf]) -> GitError {
        let remote = redact(self.url);
        let said = self.context.programs.said();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let cause = ErrorCause::new(last.unwrap_or(text));
        let seen = self.seen.borrow();
        match err.class() {
            _ if said.contains("Host key verification failed") => self.explain_ssh_host_key(&said),
            _ if said.contains("Permission denied (") => {
                GitError::Auth { remote, tried: tried_keys(keys), advice: AuthAdvice::OtherConfig, cause }
            }
            _ if is_absence(&said) => GitError::NoRepository { remote, cause },
            _ if mirror::means_no_room(text) => {
                GitError::Mirror { mirror: self.context.opening.mirror.clone(), cause: ErrorCause::new(text) }
            }
            _ if seen.connected => GitError::Fetch { remote, cause },
            _ => GitError::Unreachable { remote, cause },
        }
    }

    fn stalled(&self, connected: bool) -> GitError {
        let after = self.context.opening.read_timeout_ms.unsigned_abs().into();
        GitError::Stalled {
            remote: redact(self.url),
            stage: if connected { GitStep::Receiving } else { GitStep::Asking },
            after: std::time::Duration::from_millis(after),
        }
    }

    fn unreachable(&self, cause: ErrorCause) -> GitError {
        let (remote, opening) = (redact(self.url), &self.context.opening);
        match (location(self.url), &opening.proxy, &opening.idle_proxy) {
            (Location::Url { scheme, .. }, Some(_), _) if scheme.starts_with("http") => {
                GitError::Proxy { remote, cause }
            }
            (Location::Url { scheme, .. }, None, Some(variable)) if scheme.starts_with("http") => {
                GitError::NoProxy { remote, variable: variable.clone(), cause }
            }
            _ => GitError::Unreachable { remote, cause },
        }
    }

    /// The fault of the server's certificate, if that caused the error. libgit2's message is not reliable: closing the
    /// connection can fail as well, and its error replaces the first.
    fn certificate_fault(
        &self,
        err: &git2::Error,
        seen: &TransferNotes,
        text: &str,
    ) -> Option<CertificateFault> {
        if err.class() != ErrorClass::Ssl || seen.connected {
            return None;
        }
        let direct = self.context.opening.proxy.is_none();
        let looked_at = || {
            let (host, port) = https_address(self.url).filter(|_| direct)?;
            let limit = self.context.opening.read_timeout_ms.unsigned_abs().min(LONGEST_LOOK_MS);
            let der = certificate::shown_by(&host, port, std::time::Duration::from_millis(limit.into()))?;
            Some((der, host))
        };
        let shown = seen.certificate.clone().or_else(looked_at);
        let plain = shown.as_ref().and_then(|(der, host)| CertificateFault::plain(der, host));
        let distrusted = || CertificateFault::distrusted(shown.as_ref().map(|(der, _)| der.as_slice()));
        plain.or_else(|| is_distrust(text).then(distrusted))
    }

    fn explain_host_key(&self, seen: &TransferNotes) -> GitError {
        let host = match location(self.url) {
            Location::Ssh { host, port } => known_hosts::host_token(&host, port),
            Location::Url { .. } | Location::Local(_) => redact(self.url),
        };
        let fingerprint = seen.fingerprint.clone().unwrap_or_else(|| "a key".to_owned());
        self.host_key(host, fingerprint)
    }

    /// `ssh` prints the fingerprint of a key that has changed, and the kind of one that is unknown.
    fn explain_ssh_host_key(&self, said: &str) -> GitError {
        let host = match location(self.url) {
            Location::Ssh { host, port } => known_hosts::host_token(&host, port),
            Location::Url { .. } | Location::Local(_) => redact(self.url),
        };
        let word = said.split_whitespace().find(|word| word.starts_with("SHA256:"));
        let fingerprint = word.map_or("its key", |word| word.trim_end_matches('.')).to_owned();
        if said.contains("IDENTIFICATION HAS CHANGED") {
            let file = said.lines().find_map(|line| line.strip_prefix("Offending ")?.split_once(" in "));
            let file = file.map_or("known_hosts", |(_, file)| file).to_owned();
            return GitError::HostKeyChanged { host, fingerprint, file };
        }
        self.host_key(host, fingerprint)
    }

    fn host_key(&self, host: String, fingerprint: String) -> GitError {
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

/// The key files that `ssh` tried, each with its fault.
fn tried_keys(keys: &[std::path::PathBuf]) -> String {
    let tried = keys.iter().map(|path| {
        let bytes = auth_file::read(path);
        let fault = bytes.map_or_else(
            |err| Some(err.to_string()),
            |bytes| auth_file::private_key(&bytes).err().map(|fault| fault.to_string()),
        );
        fault.map_or_else(|| path.display().to_string(), |fault| format!("{} {fault}", path.display()))
    });
    let tried: Vec<String> = tried.collect();
    if tried.is_empty() { "no key file".to_owned() } else { tried.join(", ") }
}

/// Whether a message of libgit2 means an untrusted certificate, for any reason.
fn is_distrust(text: &str) -> bool {
    ["SSL certificate is invalid", "hostname does not match certificate"]
        .iter()
        .any(|part| text.contains(part))
}

fn is_timeout(err: &git2::Error, text: &str) -> bool {
    err.code() == ErrorCode::Timeout || text.contains("socket: timed out")
}

/// Whether a message means that the server is not a git server.
fn is_no_git(text: &str) -> bool {
    ["invalid content-type", "no content-type header", "too many redirects"]
        .iter()
        .any(|part| text.contains(part))
}

/// Whether a message without an error code means that the credentials were refused.
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
