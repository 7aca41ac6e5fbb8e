//! Effects that move traffic or end things. Each looks first at what the front routes: nothing routed is ever
//! stopped (promise F3).

use std::sync::atomic::Ordering;

use super::{
    front::{FrontTrouble, Standing},
    interpreter::{Interpreter, failure, trouble},
};
use crate::{
    build,
    errors::chain,
    front::route::{self, Route},
    process::{Handle, Role, ShimError},
    rules::{
        app::Release,
        canary::Share,
        effect::{Backend, Canary},
        ids::{Color, DeployId, Generation, ReleaseId},
        retention::{self, Guarded, Kept, Worth},
        words::{Failure, Nature, Phase},
    },
};

impl Interpreter {
    pub(super) async fn route(
        &self,
        generation: Generation,
        (live, backup): (Option<&Backend>, Option<&Backend>),
        canary: Option<&Canary>,
    ) -> Result<(), Failure> {
        let _turn = self.front_turn.lock().await;
        let ahead = self.ahead.load(Ordering::Relaxed);
        let share = canary.map_or(Share::NONE, |canary| canary.share);
        let backends = live.map(|live| self.backend(live, share.rest())).into_iter();
        let route = Route {
            generation: Generation(generation.0.saturating_add(ahead)),
            backends: backends.chain(canary.map(|it| self.backend(&it.backend, share.get()))).collect(),
            sticky: self.settings.canary.sticky.clone(),
            preview: canary.and(self.preview()),
            backup: backup.map(|backup| self.backend(backup, 0)),
        };
        self.front.route(route).await.map_err(|err: FrontTrouble| err.failure(Phase::Switching))?;
        self.traffic.mark();
        Ok(())
    }

    fn backend(&self, backend: &Backend, percent: u8) -> route::Backend {
        route::Backend {
            color: backend.color,
            port: self.settings.ports.of(backend.color),
            weight: u16::from(percent),
            release: backend.release.clone(),
        }
    }

    /// A preview that can't be had keeps no traffic from moving.
    fn preview(&self) -> Option<route::Preview> {
        let settings = self.settings.preview.as_ref()?;
        match settings.secret() {
            Ok(secret) => Some(route::Preview {
                header: settings.header.clone(),
                cookie: settings.cookie.clone(),
                secret,
            }),
            Err(err) => {
                tracing::error!(app = %self.settings.name, err = %chain(&err), "there is no preview");
                None
            }
        }
    }

    pub(super) async fn drain(&self, color: Color) -> Result<(), Failure> {
        let left = self
            .front
            .drained(color, self.settings.drain)
            .await
            .map_err(|err| err.failure(Phase::Draining))?;
        if left > 0 {
            tracing::warn!(app = %self.settings.name, %color, left, "requests were still open at the drain limit and were cut");
        }
        Ok(())
    }

    pub(super) async fn stop(&self, color: Color, release: &ReleaseId) -> Result<(), Failure> {
        let phase = Phase::Stopping;
        self.refuse_if_routed(color, release).await?;
        self.end_instances(color, |_| true).await.map_err(|err| trouble(phase, &err))?;
        self.port_is_free(color)
    }

    /// In the place of what the front routes to: the one stop that does not look at the front first, because the
    /// front can't be moved and the operator wants what serves there gone (promise F4).
    pub(super) async fn replace(
        &self,
        color: Color,
        out: &ReleaseId,
        release: &Release,
    ) -> Result<(), Failure> {
        let phase = Phase::Switching;
        tracing::warn!(app = %self.settings.name, %color, %out, new = %release.id, "the front can't be moved; replacing what serves on its port");
        self.end_instances(color, |running| running == out).await.map_err(|err| trouble(phase, &err))?;
        self.start(release, color).await?;
        self.probe(release, color).await
    }

    async fn end_instances(&self, color: Color, ends: impl Fn(&ReleaseId) -> bool) -> Result<(), ShimError> {
        for handle in self.shims.find(&self.settings.name).await? {
            if *handle.role() == Role::Instance(color) && ends(handle.release()) {
                self.end_shim(&handle).await?;
            }
        }
        Ok(())
    }

    fn port_is_free(&self, color: Color) -> Result<(), Failure> {
        let Err(held) = self.prove_free(color) else { return Ok(()) };
        // Said, not fatal: every process of ours is gone, and what holds the port is not ours.
        tracing::warn!(app = %self.settings.name, %color, cause = held.cause, "the port is not free after the stop");
        Ok(())
    }

    /// The look alone takes its turn: a stop may last, and no route must wait for it. The machine never routes to
    /// a color that it stops.
    async fn refuse_if_routed(&self, color: Color, release: &ReleaseId) -> Result<(), Failure> {
        let _turn = self.front_turn.lock().await;
        let standing = self.front.standing().await.map_err(|err| err.failure(Phase::Stopping))?;
        let (why, hint) = match standing {
            Some(Standing { half_told: true, .. }) => (
                "nginx never took up the route in bgd's file, so where it routes is not known".to_owned(),
                "`bgd doctor` checks the front".to_owned(),
            ),
            Some(standing) if standing.names(color) => (
                format!("the front routes to {color}"),
                "someone changed the front by hand? bgd status shows what serves".to_owned(),
            ),
            Some(Standing { .. }) | None => return Ok(()),
        };
        let cause = format!("{release} was to be stopped, but {why}: it stays");
        Err(Failure { hint: Some(hint), ..failure(Phase::Stopping, Nature::Transient, cause) })
    }

    pub(super) async fn discard(&self, color: Color, release: Option<&ReleaseId>) -> Result<(), Failure> {
        let Some(release) = release else { return Ok(()) };
        let phase = Phase::Stopping;
        self.end_work(release).await.map_err(|err| trouble(phase, &err))?;
        let shims = self.shims.find(&self.settings.name).await.map_err(|err| trouble(phase, &err))?;
        let runs = |handle: &Handle| handle.release() == release && *handle.role() == Role::Instance(color);
        if shims.iter().any(runs) {
            self.stop(color, release).await?;
        }
        Ok(())
    }

    /// Deletes what retention does not want; a release in use or undeletable is reported and blocks nothing (J2).
    /// It may run late, with the next release half made already: what is newer than the decision is left alone.
    pub(super) async fn prune(&self, before: DeployId, protect: &[ReleaseId]) -> Result<(), Failure> {
        let (places, store, settings) = (self.places.clone(), self.store.clone(), self.settings.clone());
        let protect = protect.to_vec();
        let pruned = tokio::task::spawn_blocking(move || {
            let app = &settings.name;
            let known = store.releases(app).map_err(|err| trouble(Phase::Stopping, &err))?;
            let on_disk = build::list_releases(&places).map_err(|err| trouble(Phase::Stopping, &err))?;
            let kept: Vec<Kept> = on_disk
                .iter()
                .map(|found| Kept {
                    seq: found.release.deploy().0,
                    worth: known
                        .iter()
                        .find(|(release, _)| release.id == found.release)
                        .map_or(Worth::Abandoned, |(_, verdict)| worth(verdict)),
                    release: found.release.clone(),
                })
                .collect();
            let guarded = Guarded { others: protect, since: Some(before), ..Guarded::default() };
            let mut left = Vec::new();
            for release in retention::to_delete(&kept, settings.keep, &guarded) {
                match build::remove_release(&places, &release) {
                    Ok(()) => {
                        if let Err(err) = store.forget_release(app, &release) {
                            tracing::warn!(%app, %release, err = %chain(&err), "a pruned release is still recorded");
                        }
                        forget_build_log(&places, &release);
                    }
                    Err(err) => left.push(chain(&err)),
                }
            }
            store.tidy().map_err(|err| trouble(Phase::Stopping, &err))?;
            if left.is_empty() {
                return Ok(());
            }
            let cause = format!("old releases could not be deleted: {}", left.join("; "));
            Err(failure(Phase::Stopping, Nature::Transient, cause))
        });
        match pruned.await {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

fn worth(verdict: &str) -> Worth {
    match verdict {
        "good" => Worth::Good,
        "failed" | "rolled_back" => Worth::Failed,
        _ => Worth::Abandoned,
    }
}

fn forget_build_log(places: &build::Places, release: &ReleaseId) {
    for suffix in ["log", "log.1"] {
        let path = places.logs().join(format!("build-{release}.{suffix}"));
        if let Err(err) = std::fs::remove_file(&path)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %err, "a build log could not be removed");
        }
    }
}
