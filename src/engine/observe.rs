//! Observes the world when bgd starts: the front's route, and the instances and builds that run.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::interpreter::Interpreter;
use crate::{
    instance::slots,
    os::errors::chain,
    release,
    rules::{
        app::{App, Release},
        event::{Event, Facts, Routed},
        ids::{Color, Generation},
        route::Standing,
    },
    shim::{CommandExit, Handle, Role},
    store::Store,
};

/// How long the mirror may take to describe releases that the record does not know; after that only their ids are
/// known.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);

/// Looks at front, processes and record. What can't be read is left out and logged: recovery then relies on the record.
pub async fn facts(interpreter: &Interpreter, store: &Store, state: &App) -> Facts {
    let mut facts = routed(interpreter, state.generation).await;
    let name = &interpreter.settings().name;
    match interpreter.commands.shims.find(name).await {
        Ok(shims) => {
            for handle in shims {
                let ShimState { alive, ending, verdict } = ShimState::of(&handle).await;
                match handle.role().clone() {
                    Role::Instance(slot) if alive && ending => {
                        let (color, release) = (slot.color, handle.release());
                        tracing::warn!(app = %name, %color, %release, "an instance was told to end and has not yet: it does not count as running");
                        tokio::spawn(see_it_end(handle));
                    }
                    // It runs but can't be reached: the start that follows ends it first.
                    Role::Instance(slot) if alive && interpreter.instances.is_cut_off(slot) => {
                        let color = slot.color;
                        tracing::error!(app = %name, %color, "the instance's socket was removed: it is started anew");
                    }
                    Role::Instance(slot) if alive => {
                        facts.running.insert(slot.color, handle.release().clone());
                        if handle.stands_in() {
                            facts.stands_in = Some(slot.color);
                        }
                        let shim = handle.id().to_owned();
                        interpreter.instances().known.put(slot, handle);
                        // A live instance was healthy when it went live; any other is probed anew.
                        interpreter.instances().known.prove(slot, &shim);
                    }
                    // A build of an earlier boot is repeated, even one that had ended: its files may not have reached
                    // the disk.
                    Role::Build if alive || (handle.of_this_boot() && is_verdict(verdict)) => {
                        facts.builds.push(handle.release().clone());
                    }
                    Role::Build => forget(&handle).await,
                    Role::Worker(_) => {
                        interpreter.workers.note_found();
                        facts.workers = true;
                    }
                    Role::Instance(_) | Role::Hook(_) | Role::Task(_) | Role::Cron(_) => {}
                }
            }
        }
        Err(err) => tracing::error!(app = %name, err = %chain(&err), "the running processes can't be listed"),
    }
    interpreter.find_site(&mut facts, state);
    match store.releases(name) {
        Ok(releases) => facts.known = releases.into_iter().map(|(release, _)| release).collect(),
        Err(err) => tracing::error!(app = %name, err = %chain(&err), "the releases can't be read"),
    }
    facts.known.extend(state.live().map(|live| live.release.clone()));
    let unrecorded =
        on_disk(interpreter).into_iter().filter(|found| facts.known.iter().all(|it| it.id != found.id));
    let unrecorded = unrecorded.collect();
    facts.known.extend(described(interpreter, unrecorded).await);
    facts
}

/// The state of a shim's processes.
struct ShimState {
    /// At least one process lives.
    alive: bool,
    /// They are about to end.
    ending: bool,
    /// How its command ended.
    verdict: Option<CommandExit>,
}

impl ShimState {
    async fn of(handle: &Handle) -> Self {
        match handle.status().await {
            Ok(status) => {
                Self { alive: !status.tree.is_empty(), ending: status.ending, verdict: status.main.exit() }
            }
            Err(err) => {
                tracing::warn!(app = %handle.app(), err = %chain(&err), "an instance can't be asked; taken as running");
                Self { alive: true, ending: false, verdict: None }
            }
        }
    }
}

/// Asks an ending instance to stop again: the process that asked first is gone, perhaps with the shim, and nobody would
/// KILL it after its grace. A start or stop on its color asks too, which does no harm. The shim is not forgotten: its
/// record has the number of instances of its color.
async fn see_it_end(handle: Handle) {
    if let Err(err) = handle.stop().await {
        let (app, release) = (handle.app(), handle.release());
        tracing::warn!(%app, %release, err = %chain(&err), "an instance that was to end has not");
    }
}

/// Instances that died while bgd was down although others of their color run: `Facts` has colors only.
pub fn gone(interpreter: &Interpreter) -> Vec<Event> {
    let instances = &interpreter.instances().known;
    let running = instances.seen();
    let gone = |color: Color| {
        let release = instances.release_on(color)?;
        let number = instances.given(color, &release)?;
        let missing = slots(color, number).find(|slot| !running.contains_key(slot))?;
        let how = format!("instance {} of {number} was gone when bgd came back", missing.number());
        Some(Event::InstanceDied { color, release, how, last_words: Vec::new() })
    };
    Color::ALL.into_iter().filter_map(gone).collect()
}

/// Adds subject and author from the mirror, as the record would have them. Best effort: traffic does not wait for it.
async fn described(interpreter: &Interpreter, mut releases: Vec<Release>) -> Vec<Release> {
    let until = Instant::now() + DESCRIBE_WITHIN;
    for release in &mut releases {
        match timeout_at(until, interpreter.git.describe(&release.commit)).await {
            Ok(Ok(found)) => (release.subject, release.author) = (found.subject, found.author),
            Ok(Err(err)) => {
                tracing::warn!(release = %release.id, err = %chain(&err), "what it is is not known")
            }
            Err(_) => break,
        }
    }
    releases
}

fn is_verdict(exit: Option<CommandExit>) -> bool {
    exit.is_some_and(|exit| !exit.is_from_outside())
}

async fn forget(handle: &Handle) {
    if let Err(err) = handle.forget().await {
        tracing::warn!(app = %handle.app(), err = %chain(&err), "an interrupted build's shim was not forgotten");
    }
}

/// The facts about the front's route; all others are empty.
async fn routed(interpreter: &Interpreter, recorded: Generation) -> Facts {
    match interpreter.front().ensure().await {
        Ok(()) => {}
        Err(err) => {
            tracing::error!(app = %interpreter.settings().name, err = %err, "the front is not usable");
        }
    }
    match interpreter.front().standing().await {
        Ok(Some(standing)) => {
            interpreter.ahead.store(standing.generation.0.saturating_sub(recorded.0), Ordering::Relaxed);
            let Standing { live, canary, backup, half_told, .. } = standing;
            interpreter.found_led(&live.into_iter().chain(canary.map(|(color, _)| color)).collect());
            let routed = live.map_or(Routed::Nothing, Routed::Color);
            let half_told = half_told.is_some();
            Facts { routed, canary, backup, half_told, ..Facts::default() }
        }
        Ok(None) => Facts { routed: Routed::Nothing, ..Facts::default() },
        Err(err) => {
            tracing::error!(app = %interpreter.settings().name, err = %err, "the front can't be asked");
            Facts { routed: Routed::Unknown, ..Facts::default() }
        }
    }
}

/// Releases by the markers beside their directories, for when the database is lost.
fn on_disk(interpreter: &Interpreter) -> Vec<Release> {
    let found = release::list_releases(interpreter.places()).unwrap_or_else(|err| {
        tracing::error!(app = %interpreter.settings().name, err = %chain(&err), "the release directories can't be read");
        Vec::new()
    });
    let complete = found.into_iter().filter_map(|found| match found.standing {
        release::Usability::Complete(commit) => {
            Some(Release { id: found.release, commit, subject: String::new(), author: String::new() })
        }
        release::Usability::HalfMade | release::Usability::Absent => None,
    });
    complete.collect()
}
