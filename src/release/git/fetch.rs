//! Fetches the branch's tip, or a revision by name, from this machine or another, and accepts or refuses it.
//! Used inside the worker by `child` and `submodule`. Never merges.

use git2::{ErrorCode, Oid, Repository};

use super::{
    error::{ErrorCause, GitError},
    local::{local_head, local_path},
    local_fetch::LocalRemote,
    mirror::{FetchFailure, Mirror, TIP, WANTED, malformed, means_damage},
    text::redact,
    transfer::{Chosen, Listed, RemotePeer, TransferContext},
    verify::{self, Push, Trust},
    wire::line_of,
};

/// The shortest abbreviation of a commit id, in digits.
const SHORTEST: usize = 4;

/// The tip of the app's branch at the remote, and how many refs had to be listed for it.
pub fn head(context: &TransferContext) -> Result<(Oid, Option<u64>), GitError> {
    let (remote, branch) = (&context.opening.remote, &context.opening.branch);
    if let Some(path) = local_path(remote)
        && let Ok(Some(commit)) = local_head(&path, branch)
    {
        let oid = Oid::from_str(commit.as_str()).map_err(|err| fetch_error(remote, &err))?;
        return Ok((oid, None));
    }
    // The cause is a missing branch or repository, or something else: libgit2 reports which.
    match FetchWay::to(context, remote)? {
        FetchWay::Files(local) => Ok((local.branch(branch)?, None)),
        FetchWay::Connection(peer) => {
            let listed = peer.list()?;
            Ok((branch_tip(&listed, remote, branch)?.oid, Some(listed.len() as u64)))
        }
    }
}

/// How a repository is reached.
enum FetchWay<'a> {
    /// libgit2 reads its files on this machine.
    Files(LocalRemote),
    /// A server, or a program on this machine, serves it.
    Connection(RemotePeer<'a>),
}

impl<'a> FetchWay<'a> {
    fn to(context: &'a TransferContext, url: &'a str) -> Result<Self, GitError> {
        let Some(path) = local_path(url) else { return Ok(Self::Connection(RemotePeer::new(context, url))) };
        match LocalRemote::open(&path, url) {
            Err(GitError::Format { remote, format }) => match format.served(&path) {
                Some(invocation) => Ok(Self::Connection(RemotePeer::served(context, url, invocation))),
                None => Err(GitError::Format { remote, format }),
            },
            opened => opened.map(Self::Files),
        }
    }
}

/// A fetched commit that passed all rules.
pub struct Tip {
    pub oid: Oid,
    /// It does not descend from the tip accepted before.
    pub rewound: bool,
    /// The signer, if a signature is required.
    pub signer: Option<String>,
    /// Later tips of the branch are compared with it.
    pub accepted: bool,
}

/// Requirements on a commit.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The keys that may sign it; `None` means that no signature is required.
    pub trust: Option<&'a Trust>,
    /// The branch's accepted tip in the daemon's record. It has precedence over the mirror's own, which is lost with
    /// the mirror and is not kept while no rule requires it.
    pub recorded: Option<Oid>,
}

impl Terms<'_> {
    /// The tip that a new one must descend from.
    fn since(&self, context: &TransferContext, mirror: &Mirror) -> Option<Oid> {
        self.recorded.or_else(|| mirror.tip(&source(context)))
    }
}

/// Fetches the tip of the app's branch, or `seen`, its tip of a moment ago, and accepts it. Refuses a forbidden rewind
/// and a missing signature. A refused tip leaves no trace: later tips need not descend from it.
pub fn branch(
    context: &TransferContext,
    mirror: &Mirror,
    seen: Option<Oid>,
    terms: Terms<'_>,
) -> Result<Tip, FetchFailure> {
    let (opening, repo) = (&context.opening, mirror.repo());
    let tip = bring_tip(context, repo)?;
    let refused = |from: Oid, to: Oid, rule: &str| GitError::Rewound {
        branch: opening.branch.clone(),
        from: from.to_string(),
        to: to.to_string(),
        rule: rule.to_owned(),
    };
    let oid = seen.unwrap_or(tip);
    // Since `seen` was read the branch may only have moved forward. Otherwise someone who forces it back and forth
    // could have any old commit deployed as its tip.
    if let Some(rule) = opening.fast_forward_only.as_deref().filter(|_| oid != tip)
        && !is_below(repo, &opening.remote, oid, tip)?
    {
        return Err(refused(oid, tip, rule).into());
    }
    let moved = terms.since(context, mirror).filter(|before| *before != oid);
    let left = moved.map(|before| left_behind(repo, &opening.remote, before, oid)).transpose()?.flatten();
    if let Some((from, rule)) = left.zip(opening.fast_forward_only.as_deref()) {
        return Err(refused(from, oid, rule).into());
    }
    let signer = signed(context, mirror, oid, terms)?;
    mirror.accept(&source(context), oid)?;
    Ok(Tip { oid, rewound: left.is_some(), signer, accepted: true })
}

/// Fetches a revision that the operator chose: it may be older, but must be signed if a signature is required. With
/// `verify`, if it is the branch's tip, it is accepted as such and the next push is compared with it. Otherwise only
/// another forced push could ever be deployed again.
pub fn chosen(
    context: &TransferContext,
    mirror: &Mirror,
    wanted: &str,
    terms: Terms<'_>,
) -> Result<Tip, FetchFailure> {
    let oid = rev(context, mirror, &context.opening.remote, wanted)?;
    let signer = signed(context, mirror, oid, terms)?;
    let mut accepted = false;
    if terms.trust.is_some() && terms.since(context, mirror) != Some(oid) {
        match head(context) {
            Ok((tip, _)) if tip == oid => {
                mirror.accept(&source(context), oid)?;
                accepted = true;
            }
            Ok(_) => {}
            // Not an error of the request: the revision itself is in the mirror.
            Err(err) => eprintln!("bgd git-worker: whether {oid} is the branch's tip is unknown: {err}"),
        }
    }
    Ok(Tip { oid, rewound: false, signer, accepted })
}

fn signed(
    context: &TransferContext,
    mirror: &Mirror,
    tip: Oid,
    terms: Terms<'_>,
) -> Result<Option<String>, FetchFailure> {
    let Some(trust) = terms.trust else { return Ok(None) };
    let push = Push { repo: mirror.repo(), tip, since: terms.since(context, mirror) };
    verify::push(&push, trust, &context.reporter).map(Some)
}

fn source(context: &TransferContext) -> String {
    line_of(&context.opening.branch, &context.opening.remote)
}

/// Fetches the branch's tip into the mirror.
fn bring_tip(context: &TransferContext, repo: &Repository) -> Result<Oid, FetchFailure> {
    let opening = &context.opening;
    let (remote, branch) = (opening.remote.as_str(), opening.branch.as_str());
    match FetchWay::to(context, remote)? {
        FetchWay::Files(local) => {
            let tip = local.branch(branch)?;
            local.bring(repo, tip, &context.reporter)?;
            Ok(tip)
        }
        FetchWay::Connection(peer) => {
            let choose = |listed: Vec<Listed>| Ok(Chosen::listed(branch_tip(&listed, remote, branch)?));
            let chosen = peer.fetch(repo, choose)?;
            commit_of(repo, remote, chosen.oid.ok_or_else(|| missing(remote, branch))?)
        }
    }
}

/// Whether a commit is in the history of `tip`; false if the mirror does not have it.
fn is_below(repo: &Repository, remote: &str, oid: Oid, tip: Oid) -> Result<bool, FetchFailure> {
    if is_missing(repo, oid) {
        return Ok(false);
    }
    repo.graph_descendant_of(tip, oid).map_err(|err| damaged(remote, &err))
}

/// Returns `before` if the new tip does not descend from it.
fn left_behind(repo: &Repository, remote: &str, before: Oid, tip: Oid) -> Result<Option<Oid>, FetchFailure> {
    // Without an accepted ref the mirror is new, so a missing commit is not in the remote's history any more. With
    // one, the mirror had the commit, and a failure to read it is damage.
    if is_missing(repo, before) && repo.refname_to_id(TIP).is_err() {
        return Ok(Some(before));
    }
    let follows = repo.graph_descendant_of(tip, before).map_err(|err| damaged(remote, &err))?;
    Ok((!follows).then_some(before))
}

/// Whether the mirror lacks the commit. Looks the object up: a history walk over a missing one gives no cause.
fn is_missing(repo: &Repository, oid: Oid) -> bool {
    repo.find_commit(oid).is_err_and(|err| err.code() == ErrorCode::NotFound)
}

fn damaged(remote: &str, err: &git2::Error) -> FetchFailure {
    FetchFailure { error: fetch_error(remote, err), damage: true }
}

/// Fetches a revision into the mirror. Needs no connection for a full id that is already there.
pub fn rev(context: &TransferContext, mirror: &Mirror, url: &str, rev: &str) -> Result<Oid, FetchFailure> {
    let repo = mirror.repo();
    let oid = match present(repo, rev) {
        Some(oid) => oid,
        None => match FetchWay::to(context, url)? {
            FetchWay::Files(local) => {
                let oid = local.rev(rev)?;
                local.bring(repo, oid, &context.reporter)?;
                oid
            }
            FetchWay::Connection(peer) => over_connection(context, repo, &peer, (url, rev))?,
        },
    };
    mirror.point(WANTED, oid)?;
    Ok(oid)
}

/// A full id of a commit that an earlier fetch completed.
fn present(repo: &Repository, rev: &str) -> Option<Oid> {
    let oid = Oid::from_str(rev).ok().filter(|_| rev.len() == 40)?;
    let fetched_before = [TIP, WANTED].iter().any(|name| repo.refname_to_id(name).is_ok());
    (fetched_before && repo.find_commit(oid).is_ok()).then_some(oid)
}

fn over_connection(
    context: &TransferContext,
    repo: &Repository,
    peer: &RemotePeer<'_>,
    (url, rev): (&str, &str),
) -> Result<Oid, FetchFailure> {
    let first = peer.fetch(repo, |listed| named(&listed, url, rev));
    let chosen = match first {
        // Not all servers allow fetching an id directly; then fetch all refs.
        Err(FetchFailure { error: GitError::Fetch { .. } | GitError::Unreachable { .. }, damage: false })
            if is_id(rev) =>
        {
            match FetchWay::to(context, url)? {
                FetchWay::Connection(again) => again.fetch(repo, |_| Ok(everything()))?,
                FetchWay::Files(_) => return Err(missing(url, rev).into()),
            }
        }
        other => other?,
    };
    match chosen.oid {
        Some(oid) if repo.find_object(oid, None).is_ok() => commit_of(repo, url, oid),
        Some(_) => Err(missing(url, rev).into()),
        None => abbreviated(repo, url, rev),
    }
}

fn named(listed: &[Listed], url: &str, rev: &str) -> Result<Chosen, GitError> {
    let full = is_id(rev) && rev.len() == 40;
    let names = [format!("refs/heads/{rev}"), format!("refs/tags/{rev}"), rev.to_owned()];
    let by_name = names.iter().find_map(|name| listed.iter().find(|found| found.name == *name));
    let at_tip = || listed.iter().find(|found| found.oid.to_string() == rev && !found.name.ends_with("^{}"));
    if let Some(found) = by_name.filter(|_| !full).or_else(at_tip) {
        return Ok(Chosen::listed(found));
    }
    match is_id(rev) {
        true if full => Ok(Chosen { specs: vec![format!("+{rev}:{WANTED}")], oid: Oid::from_str(rev).ok() }),
        true => Ok(everything()),
        false => Err(missing(url, rev)),
    }
}

fn everything() -> Chosen {
    let spec = |kind| format!("+refs/{kind}/*:refs/bgd/all/{kind}/*");
    Chosen { specs: vec![spec("heads"), spec("tags")], oid: None }
}

fn abbreviated(repo: &Repository, url: &str, rev: &str) -> Result<Oid, FetchFailure> {
    match repo.revparse_single(rev).and_then(|object| object.peel_to_commit()) {
        Ok(commit) => Ok(commit.id()),
        Err(err) if err.code() == ErrorCode::Ambiguous => {
            Err(GitError::RevAmbiguous { rev: rev.to_owned() }.into())
        }
        Err(_) => Err(missing(url, rev).into()),
    }
}

fn is_id(rev: &str) -> bool {
    (SHORTEST..=40).contains(&rev.len()) && rev.bytes().all(|c| c.is_ascii_hexdigit())
}

fn missing(url: &str, rev: &str) -> GitError {
    GitError::RevMissing { rev: super::text::one_line(rev.as_bytes()), remote: redact(url) }
}

fn branch_tip<'a>(listed: &'a [Listed], remote: &str, branch: &str) -> Result<&'a Listed, GitError> {
    let name = format!("refs/heads/{branch}");
    let found = listed.iter().find(|found| found.name == name);
    found.ok_or_else(|| match listed.iter().any(|found| found.name.starts_with("refs/heads/")) {
        true => GitError::BranchMissing { remote: redact(remote), branch: branch.to_owned() },
        false => GitError::Empty { remote: redact(remote) },
    })
}

fn commit_of(repo: &Repository, url: &str, oid: Oid) -> Result<Oid, FetchFailure> {
    if let Some(error) = malformed(repo, oid) {
        return Err(error.into());
    }
    let peeled = repo.find_object(oid, None).and_then(|object| object.peel_to_commit());
    peeled
        .map(|commit| commit.id())
        .map_err(|err| FetchFailure { damage: means_damage(&err), error: fetch_error(url, &err) })
}

fn fetch_error(url: &str, err: &git2::Error) -> GitError {
    GitError::Fetch { remote: redact(url), cause: ErrorCause::new(err.message()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";

    fn listed(names: &[&str]) -> Vec<Listed> {
        let oid = Oid::from_str(ONE).unwrap();
        names.iter().map(|name| Listed { name: (*name).to_owned(), oid }).collect()
    }

    #[test]
    fn a3_a_missing_branch_and_an_empty_remote_are_told_apart() {
        assert!(branch_tip(&listed(&["HEAD", "refs/heads/main"]), "r", "main").is_ok());
        let missing = branch_tip(&listed(&["refs/heads/dev"]), "r", "main").unwrap_err();
        assert!(matches!(missing, GitError::BranchMissing { .. }));
        let empty = branch_tip(&listed(&["refs/tags/x"]), "https://u:p@h/r", "main").unwrap_err();
        assert_eq!(empty, GitError::Empty { remote: "https://h/r".into() });
    }

    #[test]
    fn a_revision_is_a_branch_a_tag_or_an_id_in_this_order() {
        let refs = listed(&["refs/heads/beef", "refs/tags/v1"]);
        assert_eq!(named(&refs, "r", "beef").unwrap().specs, ["+refs/heads/beef:refs/bgd/wanted"]);
        assert_eq!(named(&refs, "r", "v1").unwrap().specs, ["+refs/tags/v1:refs/bgd/wanted"]);
        assert_eq!(named(&refs, "r", ONE).unwrap().specs, ["+refs/heads/beef:refs/bgd/wanted"]);
        let other = ONE.replace('1', "2");
        assert_eq!(named(&refs, "r", &other).unwrap().specs, [format!("+{other}:refs/bgd/wanted")]);
        assert_eq!(named(&refs, "r", "2222").unwrap().oid, None);
        assert!(matches!(named(&refs, "r", "nope"), Err(GitError::RevMissing { .. })));
    }
}
