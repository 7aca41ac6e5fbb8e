//! Whether the remote answers and has the branch: asked through the same worker as the daemon does, as the same
//! user, with the same credentials.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::Duration,
};

use super::finding::Finding;
use crate::{
    api::{
        client::Client,
        wire::{Answer, Request},
    },
    config::settings::AppSettings,
    os::errors::chain,
    release::git::{GitError, GitLimits, GitSource, GitWorker, Reaction, redact},
};

/// A person waits for this; the daemon itself is more patient.
const LIMIT: Duration = Duration::from_secs(15);

/// Asks for the tip of the branch. The worker gets a temporary directory, so that nothing in the state directory
/// belongs to the wrong user before the daemon has ever run.
pub async fn check(app: &AppSettings) -> Finding {
    let scratch = std::env::temp_dir().join(format!("bgd-doctor-{}-{}", std::process::id(), app.name));
    let made = DirBuilder::new().mode(0o755).create(&scratch);
    let exe = match made.and_then(|()| std::env::current_exe()) {
        Ok(exe) => exe,
        Err(error) => {
            let what = format!("{}: remote not asked: {}: {error}", app.name, scratch.display());
            return Finding::warn(what, "is the directory for temporary files writable?");
        }
    };
    let found = ask(app, exe, scratch.join("mirror.git")).await;
    match fs::remove_dir_all(&scratch) {
        Ok(()) => found,
        Err(error) => {
            Finding::warn(format!("{}: {} is left behind: {error}", app.name, scratch.display()), "remove it")
        }
    }
}

/// Has the daemon look again at once, where it could not read the remote and waits longer and longer.
pub async fn wake(client: &Client, app: &AppSettings) -> Option<Finding> {
    let name = &app.name;
    let Ok(Answer::Status(status)) = client.ask(&Request::Status { app: Some(name.clone()) }).await else {
        // Whether the daemon answers is a finding of its own.
        return None;
    };
    status.apps.iter().find(|report| report.name == *name)?.remote.error.as_ref()?;
    Some(match client.ask(&Request::Poll { app: Some(name.clone()) }).await {
        Ok(_) => Finding::ok(format!("{name}: the daemon could not read the remote, and looks again now")),
        Err(error) => Finding::warn(
            format!("{name}: the daemon could not read the remote, and was not told to look again: {error}"),
            format!("`bgd deploy {name}`"),
        ),
    })
}

async fn ask(app: &AppSettings, exe: PathBuf, mirror: PathBuf) -> Finding {
    let limits = GitLimits { ask: LIMIT, stall: LIMIT, total: LIMIT, rest: LIMIT };
    let (name, branch, remote) = (&app.name, &app.branch, redact(&app.remote));
    match GitWorker::new(exe, GitSource::of(app, mirror), limits).head().await {
        Ok(head) => Finding::ok(format!("{name}: {remote} answers, {branch} is at {}", head.commit.short())),
        Err(error) => judge(app, &error),
    }
}

fn judge(app: &AppSettings, error: &GitError) -> Finding {
    let what = format!("{}: {}", app.name, chain(error));
    // Leave out hints that advise another try: this was one.
    let hint = error.hint().filter(|hint| !hint.contains("tries again by itself"));
    let hint = hint.unwrap_or_else(|| {
        let asks = "`git ls-remote` from this host asks the same";
        format!("{asks}; check `remote`, `auth`, name resolution and firewall")
    });
    match error.kind() {
        // The first push makes the branch.
        Reaction::Empty => Finding::warn(what, hint),
        _ => Finding::fail(what, hint),
    }
}
