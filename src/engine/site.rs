//! An app that is a static site: it has no instances, so that a start, a drain and a stop find nothing to do, and its
//! health is that the front can read the files. The machine does not know the difference.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    app_task::{Inbox, Message},
    building::build_failure,
    interpreter::Interpreter,
    tend::CALM,
};
use crate::{
    command::failure,
    config::settings::StaticSite,
    front::live_link::LiveLink,
    os::{blocking::blocking, errors::chain},
    release::{self, SiteError, SiteOf},
    rules::{
        app::{App, Release},
        event::{Event, Facts},
        ids::{Color, ReleaseId},
        route::{FilesServed, FormerFiles},
        words::{Failure, Nature, Phase},
    },
};

impl Interpreter {
    /// The directory from which a release is served; `None` for an app with instances.
    pub(super) fn directory_of(&self, release: &ReleaseId) -> Option<PathBuf> {
        let site = self.settings.site.as_ref()?;
        Some(self.places.release(release).join(&site.dir))
    }

    /// What the front reads from the disk by itself.
    pub(super) fn files_served(&self) -> FilesServed {
        let (site, assets) = (self.settings.site.as_ref(), self.settings.assets.as_ref());
        FilesServed {
            fallback: site.and_then(|site| site.fallback.clone()),
            shared: site.map(|site| self.places.shared().join(&site.dir)),
            former: assets
                .map(|assets| FormerFiles { url: assets.url.clone(), directory: self.places.assets() }),
        }
    }

    /// Proves that the front can read a release's files; an app with instances always passes.
    pub(super) async fn prove_readable(&self, release: &Release) -> Result<(), Failure> {
        let Some(site) = self.settings.site.clone() else { return Ok(()) };
        let readers = self.front.readers().await;
        let of = self.site_of(&release.id);
        let checked = blocking(move || of.with(&site).check(&readers)).await;
        checked.map_err(|err| unserved(Phase::Probing, &err))
    }

    /// The failure of a watched or live release whose files are gone; an app with instances always passes.
    pub(super) async fn still_there(&self, release: &ReleaseId) -> Result<(), Failure> {
        let Some(site) = self.settings.site.clone() else { return Ok(()) };
        let of = self.site_of(release);
        let checked = blocking(move || of.with(&site).is_there()).await;
        checked.map_err(|err| unserved(Phase::Watching, &err))
    }

    /// Keeps the files of a release that is about to get traffic, so that its pages find them after the next flip.
    pub(super) async fn keep_assets(&self, release: &Release) -> Result<(), Failure> {
        let Some(assets) = self.settings.assets.clone() else { return Ok(()) };
        let (places, id) = (self.places.clone(), release.id.clone());
        let kept = blocking(move || release::keep_assets(&places, &assets, &id)).await;
        kept.map_err(|err| build_failure(Phase::Starting, err))
    }

    fn site_of(&self, release: &ReleaseId) -> Paths {
        let shared = self.files_served().shared.unwrap_or_default();
        Paths { release: self.places.release(release), shared }
    }

    /// Refuses to put a release in place of another on a port: a static site has none, and only the front can move the
    /// traffic to another directory.
    pub(super) fn refuse_in_place(&self) -> Result<(), Failure> {
        if self.settings.site.is_none() {
            return Ok(());
        }
        let cause = "the front can't be moved, and a static site has no process to replace".to_owned();
        let hint = Some("`bgd doctor` checks the front; what is live serves on".to_owned());
        Err(Failure { hint, ..failure(Phase::Switching, Nature::Transient, cause) })
    }

    /// Counts the releases of a static site as running where their directories are, as instances would be found.
    pub(super) fn find_site(&self, facts: &mut Facts, state: &App) {
        if self.settings.site.is_none() {
            return;
        }
        let linked = LiveLink::at(self.places.live()).read();
        let linked = linked.map(|linked| (linked.color, linked.release));
        let live = state.live().map(|live| (live.color, live.release.id.clone()));
        let work = state.pipeline.work().map(|work| (work.color, work.release.id.clone()));
        // The front's own route comes last: it is the truth about its color.
        for (color, release) in live.into_iter().chain(work).chain(linked) {
            let there = self.directory_of(&release).is_some_and(|directory| directory.is_dir());
            if there && !facts.running.contains_key(&color) {
                facts.running.insert(color, release);
            }
        }
    }
}

/// The directories of a release, for work on another thread.
struct Paths {
    release: PathBuf,
    shared: PathBuf,
}

impl Paths {
    fn with<'a>(&'a self, site: &'a StaticSite) -> SiteOf<'a> {
        SiteOf { site, release: &self.release, shared: &self.shared }
    }
}

fn unserved(phase: Phase, err: &SiteError) -> Failure {
    let nature = if err.is_transient() { Nature::Transient } else { Nature::Deterministic };
    Failure { hint: Some(err.hint().to_owned()), ..failure(phase, nature, chain(err)) }
}

/// Looks from time to time whether the files of a live release are there. A release whose files are gone counts as
/// ended, so that the machine makes it again.
pub(super) async fn monitor(
    interpreter: Arc<Interpreter>,
    inbox: Inbox,
    (color, release): (Color, ReleaseId),
) {
    let pause: Duration = interpreter.settings().health.interval.max(CALM);
    let mut known = None;
    loop {
        let found = interpreter.still_there(&release).await;
        let healthy = found.is_ok();
        let answer = found.map_or_else(|failure| failure.cause, |()| "its files are there".to_owned());
        if known != Some(healthy) {
            known = Some(healthy);
            let gone = (!healthy).then(|| Event::InstanceDied {
                color,
                release: release.clone(),
                how: answer.clone(),
                last_words: Vec::new(),
            });
            let told = Event::HealthChanged { color, release: release.clone(), healthy, answer };
            for event in [told].into_iter().chain(gone) {
                if inbox.send(Message::Event(event)).is_err() {
                    return;
                }
            }
        }
        sleep(pause).await;
    }
}
