//! Verifies that a commit is signed by a key the operator trusts (`[app.x.verify]`). Called by `fetch` inside the
//! worker, after a commit has arrived and before it is accepted: a refused commit leaves no trace that later
//! fetches are compared with. Uses stock tools (`ssh-keygen -Y verify`, `gpgv`), has no cryptography of its own,
//! and does not trust the repository: it splits the signed bytes off the raw object itself.

mod gpg;
mod sealed;
mod signature;
mod ssh;
mod tool;
mod trust;

use git2::{Oid, Repository};

use self::signature::{KeyKind, Signed};
pub use self::trust::Trust;
use super::{
    error::{ErrorCause, GitError, GitStep},
    mirror::{FetchFailure, means_damage},
    report::Reporter,
    wire::GitProgress,
};
use crate::config::settings::VerifyRange;

/// The commits to verify.
pub struct Push<'a> {
    /// The mirror that holds the commits.
    pub repo: &'a Repository,
    /// The commit to be deployed; always verified.
    pub tip: Oid,
    /// The tip accepted last. Without it there is no range, and only `tip` is verified.
    pub since: Option<Oid>,
}

/// Verifies the tip, and with `range = "all"` every commit that is new since the last accepted one, merged branches
/// included. For all other commits the signer of the tip vouches, as with `git verify-commit`.
///
/// Returns the signer of the tip.
///
/// # Errors
/// [`GitError::Unverified`] for the first untrusted commit, the tip first; other errors if a tool or the mirror fails.
pub fn push(push: &Push<'_>, trust: &Trust, reporter: &Reporter) -> Result<String, FetchFailure> {
    let mut done = 0;
    let mut judge = |oid| {
        reporter.progress(GitProgress { stage: GitStep::Verifying, done, bytes: 0 });
        done += 1;
        commit(push.repo, oid, trust)
    };
    let signer = judge(push.tip)?;
    if trust.range == VerifyRange::Tip {
        return Ok(signer);
    }
    for oid in newcomers(push).map_err(|err| unreadable(push.tip, &err))? {
        judge(oid.map_err(|err| unreadable(push.tip, &err))?)?;
    }
    Ok(signer)
}

/// The commits that are new with the tip, without the tip itself.
fn newcomers<'a>(
    push: &Push<'a>,
) -> Result<impl Iterator<Item = Result<Oid, git2::Error>> + use<'a>, git2::Error> {
    let mut walk = push.repo.revwalk()?;
    // A recreated mirror may lack the last accepted tip; `fetch` has already checked that the new one descends from it.
    if let Some(since) = push.since.filter(|since| push.repo.find_commit(*since).is_ok()) {
        walk.push(push.tip)?;
        walk.hide(since)?;
    }
    let tip = push.tip;
    Ok(walk.filter(move |oid| oid.as_ref().is_ok_and(|oid| *oid != tip) || oid.is_err()))
}

/// Verifies one commit: a listed key must have signed exactly these bytes. Returns the signer.
fn commit(repo: &Repository, oid: Oid, trust: &Trust) -> Result<String, FetchFailure> {
    let odb = repo.odb().map_err(|err| unreadable(oid, &err))?;
    let object = odb.read(oid).map_err(|err| unreadable(oid, &err))?;
    // At the committer's time, as git does: a key that expired since then stays valid for older commits.
    let at = repo.find_commit(oid).map_err(|err| unreadable(oid, &err))?.time().seconds();
    let refused = |cause: String| GitError::Unverified {
        commit: oid.to_string(),
        lists: trust.lists(),
        cause: ErrorCause::new(cause),
    };
    let signed = signature::split(object.data()).map_err(|bad| refused(bad.to_string()))?;
    let Some(signed) = signed else {
        return Err(refused("it is not signed".to_owned()).into());
    };
    match judged(&signed, at, trust) {
        Ok(signer) => Ok(signer),
        Err(SignatureRefusal::Untrusted(cause)) => Err(refused(cause).into()),
        Err(SignatureRefusal::Trouble(err)) => Err(err.into()),
    }
}

fn judged(signed: &Signed, at: i64, trust: &Trust) -> Result<String, SignatureRefusal> {
    match (signed.kind, &trust.signers, &trust.keyring) {
        (KeyKind::Ssh, Some(signers), _) => ssh::verify(signed, at, signers),
        (KeyKind::Gpg, _, Some(keyring)) => gpg::verify(signed, keyring),
        (KeyKind::Ssh, None, _) => {
            Err(SignatureRefusal::untrusted("it is signed with an ssh key, and verify.signers is not set"))
        }
        (KeyKind::Gpg, _, None) => {
            Err(SignatureRefusal::untrusted("it is signed with GPG, and verify.keyring is not set"))
        }
    }
}

/// Why one signature does not count.
#[derive(Debug)]
enum SignatureRefusal {
    /// The commit's fault, as text: its signer, and the reason.
    Untrusted(String),
    /// The check itself failed; nothing is known about the commit.
    Trouble(GitError),
}

impl SignatureRefusal {
    fn untrusted(text: impl Into<String>) -> Self {
        Self::Untrusted(text.into())
    }
}

fn unreadable(oid: Oid, err: &git2::Error) -> FetchFailure {
    let error = GitError::Commit { commit: oid.to_string(), cause: ErrorCause::new(err.message()) };
    FetchFailure { damage: means_damage(err), error }
}
