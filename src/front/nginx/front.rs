//! Implements [`Front`] for nginx, and converts its errors into [`FrontError`].

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{
    Contradiction, Nginx, NginxError, NginxRoute, ReloadLimits, RouteError, doctor, master,
    standing::canary_of, supervise,
};
use crate::{
    config::settings::AppSettings,
    front::{Attempt, Confined, Front, FrontDaemon, FrontError, traffic::RequestSample},
    os::errors::chain,
    rules::{
        canary::Share,
        finding::Finding,
        ids::{Color, Generation},
        route::{Route, Standing},
        words::Nature,
    },
};

/// nginx does not have the file's route in force, so that the daemon must route again.
const HALF_TOLD: &str = "nginx never took up the route in bgd's file, so where it routes is not known";

impl Front for Nginx {
    fn ensure(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(self.ensure_file().await.map(drop)?) })
    }

    fn preflight(&self) -> Attempt<'_, ()> {
        Box::pin(async {
            self.ensure_file().await?;
            Ok(Self::preflight(self).await?)
        })
    }

    fn route(&self, route: Route) -> Attempt<'_, ()> {
        Box::pin(async move {
            let (generation, stands) = number(self, &route).await?;
            match Self::route(self, &Route { generation, ..route }, ReloadLimits::default()).await {
                Ok(proof) => *self.former.lock().await = Some(proof.former),
                // The route is already in the file, and nginx is down: it starts with that route.
                Err(RouteError::Untouched(err)) if stands && err.is_down() => {
                    tracing::warn!(err = %chain(&err), "nginx can't be reached; its file has the wanted route");
                }
                Err(err) => return Err(err.into()),
            }
            Ok(())
        })
    }

    fn standing(&self) -> Attempt<'_, Option<Standing>> {
        Box::pin(async { Ok(self.routed().await?.as_ref().map(Standing::from)) })
    }

    fn drained(&self, color: Color, limit: Duration) -> Attempt<'_, u64> {
        Box::pin(async move {
            let former = match self.former.lock().await.clone() {
                Some(former) => former,
                // After a restart of bgd: the workers that nginx itself marks as shutting down.
                None => self.leaving(color)?,
            };
            let drained = Self::drained(self, &former, Instant::now() + limit).await;
            let left = drained.connections.unwrap_or(drained.left_workers.len());
            Ok(u64::try_from(left).unwrap_or(u64::MAX))
        })
    }

    fn supervise<'a>(&'a self, daemon: &'a dyn FrontDaemon) -> BoxFuture<'a, ()> {
        Box::pin(supervise::supervise(self, daemon))
    }

    fn advice<'a>(&'a self, app: &'a AppSettings) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(doctor::advice(self, app))
    }

    fn samples(&self, datagram: &[u8]) -> Vec<RequestSample> {
        Self::samples(self, datagram)
    }

    fn worker_uids(&self) -> BoxFuture<'_, BTreeSet<u32>> {
        let workers = master::master(&self.settings.pid_file).and_then(master::workers).unwrap_or_default();
        let uids = workers.iter().filter_map(|worker| worker.uid()).collect();
        Box::pin(async { uids })
    }

    fn confined(&self) -> Option<Confined> {
        let pid = std::fs::read_to_string(&self.settings.pid_file).ok()?.trim().to_owned();
        let switches = &["httpd_can_network_connect", "httpd_can_network_relay"];
        Some(Confined { program: "nginx", pid, switches })
    }
}

/// The generation for a route, and whether the same route is already in force: with that route's generation, nginx is
/// not reloaded (F8). A new route needs a generation above the one in force, or a file from before a manual edit would
/// pass for the one that nginx has. Unrecorded routes may have raised nginx's generation, so it is read from nginx.
async fn number(nginx: &Nginx, wanted: &Route) -> Result<(Generation, bool), NginxError> {
    let Some(routed) = nginx.routed().await? else { return Ok((wanted.generation, false)) };
    let same = routed.contradiction.is_none()
        && routed.color == wanted.color()
        && routed.release.as_ref() == wanted.live.as_ref().map(|live| &live.release)
        && routed.canary == canary_of(wanted)
        && routed.backup == wanted.backup.as_ref().map(|backup| backup.color);
    let next = Generation(routed.generation.0.saturating_add(1));
    Ok(if same { (routed.generation, true) } else { (wanted.generation.max(next), false) })
}

impl From<&NginxRoute> for Standing {
    fn from(routed: &NginxRoute) -> Self {
        let half_told = routed.contradiction.as_ref().is_some_and(Contradiction::is_half_told);
        Self {
            live: routed.color,
            canary: routed.canary.map(|(color, percent)| (color, Share::capped(percent))),
            backup: routed.backup.is_some(),
            generation: routed.generation,
            half_told: half_told.then_some(HALF_TOLD),
        }
    }
}

impl From<NginxError> for FrontError {
    fn from(err: NginxError) -> Self {
        let nature = match &err {
            NginxError::ForeignConfig(_) => Nature::FrontStuck,
            err if err.is_divided() => Nature::FrontStuck,
            _ => Nature::Transient,
        };
        Self { said: chain(&err), hint: err.hint(), log: Vec::new(), nature }
    }
}

impl From<RouteError> for FrontError {
    fn from(err: RouteError) -> Self {
        let nature = match &err {
            RouteError::ForeignConfig(_) | RouteError::Untouched(NginxError::ForeignConfig(_)) => {
                Nature::FrontStuck
            }
            RouteError::Untouched(err) if err.is_divided() => Nature::FrontStuck,
            err if err.left_as_it_was() => Nature::FrontUnmoved,
            _ => Nature::Transient,
        };
        Self { said: chain(&err), hint: err.hint(), log: err.log().to_vec(), nature }
    }
}
