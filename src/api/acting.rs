//! Requests that change something: handed to the app's machine, then followed through its events and snapshots until
//! they are done. A client that leaves cancels nothing.

use std::io;

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    access::Peer,
    connection::Connection,
    reading::read,
    refusal::{closing, refusal},
    report,
    services::{Services, handle_of},
    wire::{Answer, DeployRecord, EventRecord, Exit, Progress, Refusal, Reply, Request},
};
use crate::{
    engine::{Snapshot, apps::AppHandle},
    os::errors::chain,
    rules::{
        app::{Serving, Stage, StageGroup},
        event::{Ask, Done, Want},
        ids::{AppName, CommitId, DeployId},
        step::{self, Denial, DenialKind},
        words::{EventKind, Outcome},
    },
};

pub(super) async fn act(request: Request, client: &mut Connection, services: &Services) -> io::Result<()> {
    // Subscribed before asking, so that no event of the act is missed.
    let events = services.apps.events();
    let reply = match request {
        Request::Hold { app, reason } => say(services, client, (app, Ask::Hold { reason })).await,
        Request::Resume { app } => say(services, client, (app, Ask::Resume)).await,
        Request::Deploy { app, rev, force } => {
            deploy(Follower { services, client, events }, app, deploy_of(rev, force)).await
        }
        Request::DeployDetached { app, rev, force } => {
            detached(services, client, (app, deploy_of(rev, force))).await
        }
        Request::Up { app } => deploy(Follower { services, client, events }, app, Ask::Up).await,
        Request::SetShare { app, share } => {
            shared(Follower { services, client, events }, app, Ask::SetShare(share)).await
        }
        Request::ResumeSteps { app } => {
            shared(Follower { services, client, events }, app, Ask::ResumeSteps).await
        }
        Request::NextStep { app } => shared(Follower { services, client, events }, app, Ask::NextStep).await,
        Request::Promote { app } => promote(Follower { services, client, events }, app).await,
        Request::Flip { app, force } => {
            let ask = if force { Ask::ForceFlip } else { Ask::Flip };
            flip(Follower { services, client, events }, app, ask).await
        }
        Request::Down { app } => down(Follower { services, client, events }, app).await,
        _ => Err(refusal(Exit::Usage, "not a request that acts".to_owned(), None)),
    };
    client.send(&closing(reply)).await
}

fn deploy_of(rev: Option<String>, force: bool) -> Ask {
    let want = rev.map_or(Want::Tip, Want::Rev);
    if force { Ask::ForceDeploy(want) } else { Ask::Deploy(want) }
}

/// One act being followed for a client.
struct Follower<'a> {
    services: &'a Services,
    client: &'a mut Connection,
    events: Receiver<EventRecord>,
}

/// Hands a request to the app's machine, which records it with the peer, denied or not.
async fn ask(peer: &Peer, (handle, ask): (&AppHandle, Ask)) -> Result<step::AskReply, Refusal> {
    let act = peer.event(EventKind::Asked, &words(&ask));
    let answer = handle.ask(act, ask).await;
    match answer.map_err(|gone| refusal(Exit::Unreachable, gone.to_string(), Some("bgd status")))? {
        step::AskReply::Denied(denial) => Err(denied(handle, denial)),
        answer => Ok(answer),
    }
}

/// The text of a request in the record.
fn words(ask: &Ask) -> String {
    match ask {
        Ask::Deploy(Want::Tip) => "deploy".to_owned(),
        Ask::Deploy(Want::Rev(rev)) => format!("deploy of {rev}"),
        Ask::Deploy(Want::Commit(commit)) => format!("deploy of {}", commit.short()),
        Ask::ForceDeploy(want) => format!("{} --force", words(&Ask::Deploy(want.clone()))),
        Ask::Flip => "flip".to_owned(),
        Ask::ForceFlip => "flip --force".to_owned(),
        Ask::Hold { reason } => format!("hold: {reason}"),
        Ask::Resume => "resume".to_owned(),
        Ask::SetShare(share) => format!("canary set {share}"),
        Ask::ResumeSteps => "canary resume".to_owned(),
        Ask::Promote => "promote".to_owned(),
        Ask::NextStep => "promote --step".to_owned(),
        Ask::Down => "down".to_owned(),
        Ask::Up => "up".to_owned(),
    }
}

fn denied(handle: &AppHandle, denial: Denial) -> Refusal {
    let serving = match (denial.kind, handle.snapshot().app.live()) {
        (DenialKind::Held | DenialKind::Barred | DenialKind::NoCanary, Some(live)) => {
            format!("; {} serves on {}", live.release.commit.short(), live.color)
        }
        (DenialKind::Held | DenialKind::Barred | DenialKind::NoCanary, None) => {
            "; nothing is live".to_owned()
        }
        // The messages of these denials say it themselves.
        (DenialKind::NothingLive | DenialKind::NoWayBack, _) => String::new(),
    };
    let name = &handle.settings().name;
    let message = format!("{name}: {}{serving}", denial.message);
    let hint = denial.advice.text(Some(name));
    Refusal { exit: denial.kind.into(), message, hint: Some(hint) }
}

async fn say(
    services: &Services,
    client: &Connection,
    (app, what): (Option<AppName>, Ask),
) -> Result<Answer, Refusal> {
    let handle = handle_of(services, app.as_ref())?;
    let answer = ask(&client.peer, (&handle, what)).await?;
    handle.look_now();
    Ok(Answer::Said(match answer {
        step::AskReply::Said(text) => text,
        other => format!("{other:?}"),
    }))
}

/// Refuses a deploy of a commit from before the barrier, so that no deploy begins for it. The machine refuses it too,
/// once its fetch has told what the commit contains: the barrier may be set meanwhile.
async fn look_for_barrier(
    services: &Services,
    peer: &Peer,
    (handle, ask): (&AppHandle, &Ask),
) -> Result<(), Refusal> {
    let app = handle.snapshot().app;
    let (Ask::Deploy(want @ Want::Rev(_)), Some(_)) = (ask, &app.barrier) else { return Ok(()) };
    // A revision that can't be fetched fails as a deploy, which says why.
    let found = handle.interpreter().fetch(want, &app.landmarks()).await;
    let Ok(Done::Fetched { commit, news, .. }) = found else { return Ok(()) };
    let Some(denial) = step::deploy_refusal(&app, &commit, news.behind) else { return Ok(()) };
    let mut act = peer.event(EventKind::Asked, &format!("{}; denied: {}", words(ask), denial.message));
    act.app = Some(handle.settings().name.clone());
    services.apps.note_act(act);
    Err(denied(handle, denial))
}

async fn detached(
    services: &Services,
    client: &Connection,
    (app, what): (Option<AppName>, Ask),
) -> Result<Answer, Refusal> {
    let handle = handle_of(services, app.as_ref())?;
    look_for_barrier(services, &client.peer, (&handle, &what)).await?;
    match ask(&client.peer, (&handle, what)).await? {
        step::AskReply::Deploying(id) => {
            handle.look_now();
            Ok(Answer::Deploy(record(services, id).await?))
        }
        step::AskReply::Said(text) => Ok(Answer::Said(text)),
        other => Err(unexpected(&other)),
    }
}

async fn deploy(mut following: Follower<'_>, app: Option<AppName>, what: Ask) -> Result<Answer, Refusal> {
    let handle = handle_of(following.services, app.as_ref())?;
    look_for_barrier(following.services, &following.client.peer, (&handle, &what)).await?;
    match ask(&following.client.peer, (&handle, what)).await? {
        step::AskReply::Deploying(id) => {
            let ended = following.until_ended(&handle, id).await;
            // A fetch that succeeded shows that the remote answers, so a poll need not wait out its back-off.
            handle.look_now();
            ended.map(Answer::Deploy)
        }
        step::AskReply::Said(text) => Ok(Answer::Said(text)),
        other => Err(unexpected(&other)),
    }
}

/// Answers as soon as the traffic is where the operator wants it; the old color's drain and stop go on.
async fn flip(mut following: Follower<'_>, app: Option<AppName>, what: Ask) -> Result<Answer, Refusal> {
    let handle = handle_of(following.services, app.as_ref())?;
    let before = handle.snapshot();
    match ask(&following.client.peer, (&handle, what)).await? {
        step::AskReply::Cancelling(id) => {
            let moved =
                before.app.pipeline.release().is_some_and(|release| {
                    before.app.live().is_some_and(|live| live.release.id == release.id)
                });
            following.until(&handle, |snapshot| !moving(snapshot, id)).await;
            let abandoned = before.app.pipeline.commit().cloned();
            Ok(Answer::Flip(report::flip(&handle.snapshot(), abandoned, !moved)))
        }
        step::AskReply::RollingBack(id) => following.rolled_back(&handle, id).await,
        other => Err(unexpected(&other)),
    }
}

fn moving(snapshot: &Snapshot, id: DeployId) -> bool {
    let under_way = snapshot.app.pipeline.deploy().is_some_and(|deploy| deploy.id == id);
    under_way && snapshot.app.pipeline.group() == Some(StageGroup::Pivot)
}

/// Answers once the front has proven the share.
async fn shared(mut following: Follower<'_>, app: Option<AppName>, what: Ask) -> Result<Answer, Refusal> {
    let handle = handle_of(following.services, app.as_ref())?;
    approve(&following, &handle)?;
    let text = match ask(&following.client.peer, (&handle, what)).await? {
        step::AskReply::Said(text) => text,
        // 100 % is a promotion, not a share.
        step::AskReply::Promoting(id) => return following.promoted(&handle, id).await,
        other => return Err(unexpected(&other)),
    };
    let is_told = |snapshot: &Snapshot| matches!(snapshot.app.pipeline.stage(), Some(Stage::Sharing(_)));
    following.until(&handle, |snapshot| !is_told(snapshot)).await;
    let snapshot = handle.snapshot();
    if let Some(refused) = not_taken(&snapshot) {
        return Err(refused);
    }
    if matches!(snapshot.app.pipeline.stage(), Some(Stage::Canary(_))) {
        return Ok(Answer::Said(text));
    }
    let message = "the front did not take the share; the traffic goes back to what is live".to_owned();
    Err(refusal(Exit::Failed, message, Some("bgd status")))
}

/// A refusal, when the front did not take the share asked for and keeps the one in force.
fn not_taken(snapshot: &Snapshot) -> Option<Refusal> {
    let canary = snapshot.app.canary.as_ref().filter(|canary| canary.refused > 0)?;
    let why = snapshot.app.front_refusal.as_deref().unwrap_or("no reason is known");
    let (asked, share) = (canary.share, canary.in_force().share);
    let message = format!("the front does not take {asked}, and {share} stays in force: {why}");
    let hint = "mend that; bgd asks again by itself, and `bgd status` shows when it is done";
    Some(refusal(Exit::Failed, message, Some(hint)))
}

/// More traffic for a release is the approvers' to give, where the app names some.
fn approve(following: &Follower<'_>, handle: &AppHandle) -> Result<(), Refusal> {
    let (services, peer, settings) = (following.services, &following.client.peer, handle.settings());
    let approved = services.access.approve(peer, (&settings.name, &settings.canary.approvers));
    if approved.is_err() {
        services.note_refusal(peer, "promote");
    }
    approved
}

async fn promote(mut following: Follower<'_>, app: Option<AppName>) -> Result<Answer, Refusal> {
    let handle = handle_of(following.services, app.as_ref())?;
    approve(&following, &handle)?;
    match ask(&following.client.peer, (&handle, Ask::Promote)).await? {
        step::AskReply::Promoting(id) => following.promoted(&handle, id).await,
        other => Err(unexpected(&other)),
    }
}

async fn down(mut following: Follower<'_>, app: Option<AppName>) -> Result<Answer, Refusal> {
    let services = following.services;
    if let Some(name) = app.as_ref().filter(|name| services.apps.get(name).is_none()) {
        return down_unconfigured(following, name).await;
    }
    let handle = handle_of(services, app.as_ref())?;
    taken_down(&mut following, &handle).await
}

/// Takes down an app that no file names, and ends its front too, since nothing would use that front again.
async fn down_unconfigured(mut following: Follower<'_>, name: &AppName) -> Result<Answer, Refusal> {
    let services = following.services;
    let runs = services.apps.unconfigured().await.iter().any(|one| one.name == *name);
    let known = read(services, {
        let name = name.clone();
        move |store| store.configured(&name)
    });
    if !runs && known.await?.is_none() {
        // This refusal lists the configured apps.
        return handle_of(services, Some(name)).map(|_| Answer::Said(String::new()));
    }
    let failed =
        |why: String| refusal(Exit::Failed, format!("{name} can't be taken down: {why}"), Some("bgd doctor"));
    let Some(handle) = services.apps.take_up(name).map_err(|err| failed(chain(&err)))? else {
        return Err(failed("it is not known how it was configured; put its file back first".to_owned()));
    };
    // Wait for the first observation of its instances and its front.
    following.until(&handle, |snapshot| snapshot.observed).await;
    let done = taken_down(&mut following, &handle).await;
    services.apps.let_go(&handle).await.map_err(|err| failed(chain(&err)))?;
    done.map(|_| Answer::Said(format!("{name}, which is in no file any more, is ended, with its front")))
}

async fn taken_down(following: &mut Follower<'_>, handle: &AppHandle) -> Result<Answer, Refusal> {
    match ask(&following.client.peer, (handle, Ask::Down)).await? {
        step::AskReply::TakingDown => {
            following.until(handle, |snapshot| !snapshot.app.down_wanted).await;
            if matches!(handle.snapshot().app.serving, Serving::Live(_)) {
                let message = "the app could not be taken out of service; it serves on".to_owned();
                return Err(refusal(Exit::Failed, message, Some("bgd events")));
            }
            Ok(Answer::Said("the app is out of service; `bgd up` brings it back".to_owned()))
        }
        step::AskReply::Said(text) => Ok(Answer::Said(text)),
        other => Err(unexpected(&other)),
    }
}

impl Follower<'_> {
    /// Waits until the deploy has an outcome, and forwards its events to the client.
    async fn until_ended(&mut self, handle: &AppHandle, id: DeployId) -> Result<DeployRecord, Refusal> {
        loop {
            let known = record(self.services, id).await?;
            if known.outcome.is_some() {
                return Ok(known);
            }
            self.until_event(handle, id).await;
        }
    }

    /// Waits until a deploy of the app has ended, or events were missed; forwards the events of deploy `id`.
    async fn until_event(&mut self, handle: &AppHandle, id: DeployId) {
        loop {
            match self.events.recv().await {
                Ok(event) if event.app.as_ref() == Some(&handle.settings().name) => {
                    let ends = matches!(event.kind, EventKind::DeployEnded | EventKind::DeploySuperseded);
                    if event.deploy == Some(id) {
                        self.forward(event).await;
                    }
                    if ends {
                        return;
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            }
        }
    }

    /// Sends an event to the client. The act goes on if the client has left.
    async fn forward(&mut self, event: EventRecord) {
        if let Err(err) = self.client.send(&Reply::Progress(Progress::Event(event))).await {
            tracing::debug!(%err, "the client that asked went away");
        }
    }

    async fn until(&mut self, handle: &AppHandle, reached: impl Fn(&Snapshot) -> bool) {
        let mut watch = handle.watch();
        loop {
            if reached(&watch.borrow_and_update()) {
                return;
            }
            // Both arms are cancel-safe: a watch keeps its last value, a broadcast what is not received.
            tokio::select! {
                changed = watch.changed() => if changed.is_err() { return },
                event = self.events.recv() => if let Ok(event) = event
                    && event.app.as_ref() == Some(&handle.settings().name)
                {
                    self.forward(event).await;
                },
            }
        }
    }

    async fn promoted(&mut self, handle: &AppHandle, id: DeployId) -> Result<Answer, Refusal> {
        self.until(handle, |snapshot| !moving(snapshot, id)).await;
        let snapshot = handle.snapshot();
        if let Some(refused) = not_taken(&snapshot) {
            return Err(refused);
        }
        let failed =
            snapshot.last.as_ref().filter(|last| last.id == id && last.outcome != Some(Outcome::Live));
        match (failed, snapshot.app.live()) {
            (None, Some(live)) => Ok(Answer::Said(format!(
                "{} has all of the traffic, on {}",
                live.release.commit.short(),
                live.color
            ))),
            _ => {
                let message = "the traffic did not move; what was live serves on".to_owned();
                Err(refusal(Exit::Failed, message, Some("bgd status")))
            }
        }
    }

    async fn rolled_back(&mut self, handle: &AppHandle, id: DeployId) -> Result<Answer, Refusal> {
        self.until(handle, |snapshot| {
            let deploy = snapshot.app.pipeline.deploy();
            let under_way = deploy.is_some_and(|deploy| deploy.id == id);
            !under_way || matches!(snapshot.app.pipeline.stage(), Some(Stage::Retiring { .. }))
        })
        .await;
        let snapshot = handle.snapshot();
        let known = ended(self.services, &snapshot, id).await?;
        match known.as_ref().and_then(|known| known.outcome) {
            None | Some(Outcome::Live) => {
                let abandoned = abandoned(&snapshot);
                Ok(Answer::Flip(report::flip(&snapshot, abandoned, false)))
            }
            Some(_) => Err(Refusal {
                exit: Exit::Failed,
                message: format!(
                    "{}: the way back failed, what was live serves on: {}",
                    handle.settings().name,
                    known.as_ref().and_then(|known| known.error.clone()).unwrap_or_default()
                ),
                hint: Some(known.and_then(|known| known.hint).unwrap_or_else(|| format!("bgd show {id}"))),
            }),
        }
    }
}

fn abandoned(snapshot: &Snapshot) -> Option<CommitId> {
    snapshot.app.previous.as_ref().map(|release| release.commit.clone())
}

/// The deploy from the snapshot if it ended last, which holds even while the record can't be written; else from the
/// record.
async fn ended(
    services: &Services,
    snapshot: &Snapshot,
    id: DeployId,
) -> Result<Option<DeployRecord>, Refusal> {
    match snapshot.last.clone().filter(|last| last.id == id) {
        Some(last) => Ok(Some(last)),
        None => read(services, move |store| store.deploy(id)).await,
    }
}

async fn record(services: &Services, id: DeployId) -> Result<DeployRecord, Refusal> {
    read(services, move |store| store.deploy(id))
        .await?
        .ok_or_else(|| refusal(Exit::Failed, format!("deploy {id} is not in the record"), Some("bgd status")))
}

fn unexpected(answer: &step::AskReply) -> Refusal {
    refusal(Exit::Failed, format!("the machine answered something else: {answer:?}"), Some("bgd status"))
}
