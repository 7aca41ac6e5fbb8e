//! Effects that move traffic or end things. Each looks first at what the front routes: nothing routed is ever
//! stopped (promise F3).

use std::{
    collections::BTreeSet,
    sync::{PoisonError, atomic::Ordering},
};

use super::interpreter::Interpreter;
use crate::{
    command::{failure, trouble},
    front::FrontError,
    instance::slots,
    os::errors::chain,
    rules::{
        effect::{Backend, CanaryShare},
        ids::{Color, Generation, ReleaseId},
        route::{Preview, Route, Side, Standing},
        words::{EventKind, Failure, Nature, Phase},
    },
    shim::Handle,
};

/// The colors that the front was last sent to.
#[derive(Debug, Default)]
pub(super) struct Led {
    to: BTreeSet<Color>,
    /// Colors that the front left and that were not drained since.
    undrained: BTreeSet<Color>,
}

impl Led {
    /// If the change is unproven, the former and the new colors both count.
    fn to(&mut self, now: &BTreeSet<Color>, certain: bool) {
        self.undrained.retain(|color| !now.contains(color));
        if certain {
            self.undrained.extend(self.to.difference(now));
            self.to.clone_from(now);
        } else {
            self.to.extend(now);
        }
    }
}

impl Interpreter {
    pub(super) async fn route(
        &self,
        generation: Generation,
        (live, backup): (Option<&Backend>, Option<&Backend>),
        canary: Option<&CanaryShare>,
    ) -> Result<(), Failure> {
        let _turn = self.front_turn.lock().await;
        let ahead = self.ahead.load(Ordering::Relaxed);
        let mut route = Route {
            live: live.map(|live| self.side(live)),
            backup: backup.map(|backup| self.side(backup)),
            sticky: self.settings.canary.sticky.clone(),
            preview: canary.and(self.preview()),
            files: self.files_served(),
            ..Route::nowhere(Generation(generation.0.saturating_add(ahead)))
        };
        if let Some(canary) = canary {
            route = route.beside(self.side(&canary.backend), canary.share);
        }
        let to: BTreeSet<Color> = route.sides().map(|(side, _)| side.color).collect();
        let told = match self.front.route(route.clone()).await {
            Err(err) => match self.front.newer_than(route.generation).await {
                Some(newer) => self.route_past(newer, (route, generation)).await,
                None => Err(err),
            },
            told => told,
        };
        self.led(|led| led.to(&to, told.is_ok()));
        told.map_err(|err| err.failure(Phase::Switching))?;
        if self.settings.counts_traffic() {
            // Count requests up to here to the former route.
            self.count_traffic().await;
        }
        self.traffic.mark();
        Ok(())
    }

    /// Either somebody else sent the front a route, or the record is older than the front. In both cases the machine's
    /// live release is routed, under a number that the front accepts.
    async fn route_past(
        &self,
        newer: Generation,
        (route, recorded): (Route, Generation),
    ) -> Result<(), FrontError> {
        let next = Generation(newer.0.saturating_add(1));
        let text = format!(
            "the front knows route {newer}, and bgd was at {}: somebody else told it, or the record is an older one; \
             it is told what bgd knows to be live",
            route.generation
        );
        tracing::warn!(app = %self.settings.name, %newer, ours = %route.generation, "the front knows a newer route; it is told ours under the next number");
        self.ahead.store(next.0.saturating_sub(recorded.0), Ordering::Relaxed);
        let told = self.front.route(Route { generation: next, ..route }).await;
        self.record.note(EventKind::Contradiction, None, &text).await;
        told
    }

    /// The addresses of all instances of a backend, or the directory of a static site.
    fn side(&self, Backend { color, release, .. }: &Backend) -> Side {
        let instances = slots(*color, self.instances.number_of(*color, release));
        let addresses: Vec<_> =
            instances.map(|slot| self.settings.address_at(slot.color, slot.index)).collect();
        let directory = self.directory_of(release).filter(|_| addresses.is_empty());
        Side { color: *color, release: release.clone(), addresses, directory }
    }

    /// The preview; without its secret there is none, and the traffic moves all the same.
    fn preview(&self) -> Option<Preview> {
        let settings = self.settings.preview.as_ref()?;
        match settings.secret() {
            Ok(secret) => {
                Some(Preview { header: settings.header.clone(), cookie: settings.cookie.clone(), secret })
            }
            Err(err) => {
                tracing::error!(app = %self.settings.name, err = %chain(&err), "there is no preview");
                None
            }
        }
    }

    pub(super) async fn drain(&self, color: Color) -> Result<(), Failure> {
        if self.settings.site.is_some() && !self.instances.known.any_on(color) {
            // A download keeps its file open: it ends whole, however long it takes.
            return Ok(());
        }
        let left = self
            .front
            .drained(color, self.settings.drain)
            .await
            .map_err(|err| err.failure(Phase::Draining))?;
        if left > 0 {
            tracing::warn!(app = %self.settings.name, %color, left, "requests were still open at the drain limit and were cut");
        }
        self.led(|led| led.undrained.remove(&color));
        Ok(())
    }

    pub(super) async fn stop(&self, color: Color, release: &ReleaseId) -> Result<(), Failure> {
        self.refuse_if_routed(color, release).await?;
        self.drain_what_nobody_drained(color).await?;
        let ended = self.instances.end(color, |_| true).await?;
        ended.into_iter().for_each(|slot| self.instances.say_if_held(slot));
        Ok(())
    }

    /// Drains a color of several instances that the front left undrained: if one of them ends, the machine stops the
    /// color without a drain while the others still answer.
    async fn drain_what_nobody_drained(&self, color: Color) -> Result<(), Failure> {
        let several = self.instances.known.last_given(color) > 1 && self.instances.known.any_on(color);
        if several && self.led(|led| led.undrained.contains(&color)) {
            self.drain(color).await?;
        }
        Ok(())
    }

    /// Whether the front may route to the color, for all or a share of the traffic.
    pub(super) fn leads_to(&self, color: Color) -> bool {
        self.led(|led| led.to.contains(&color))
    }

    /// Notes the colors that the front was found to route to.
    pub(super) fn found_led(&self, to: &BTreeSet<Color>) {
        self.led(|led| led.to(to, true));
    }

    fn led<T>(&self, look: impl FnOnce(&mut Led) -> T) -> T {
        look(&mut self.led.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds the front's turn only for the look: a stop may be long, and no route may wait for it. The machine never
    /// routes to a color that it stops.
    async fn refuse_if_routed(&self, color: Color, release: &ReleaseId) -> Result<(), Failure> {
        let _turn = self.front_turn.lock().await;
        let standing = self.front.standing().await.map_err(|err| err.failure(Phase::Stopping))?;
        let (why, hint) = match standing {
            Some(Standing { half_told: Some(why), .. }) => {
                (why.to_owned(), "`bgd doctor` checks the front".to_owned())
            }
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
        let shims = self.commands.find_shims(phase).await?;
        let runs = |handle: &Handle| handle.release() == release && handle.role().is_on(color);
        if shims.iter().any(runs) {
            self.stop(color, release).await?;
        }
        Ok(())
    }
}
