//! Implements [`Front`] for bgd's own front, and turns its errors into [`FrontError`] for the engine.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;

use super::{Builtin, BuiltinError, FrontPlace, supervise};
use crate::{
    config::settings::AppSettings,
    front::{Attempt, Front, FrontDaemon, FrontError, Ground, live_link::LiveLink},
    os::errors::chain,
    rules::{
        address::Address,
        finding::Finding,
        ids::{AppName, Color, Generation},
        route::{Route, Standing},
        traffic::Figures,
        words::Nature,
    },
};

impl Builtin {
    /// The front of an app, with its files in bgd's directories. Starts nothing.
    pub(in crate::front) fn of(app: &AppName, listen: SocketAddr, ground: &Ground) -> Self {
        let place = FrontPlace {
            app: app.clone(),
            listen,
            // With a short name: a unix socket's path must fit 107 bytes.
            control: ground.runtime_dir.join("f").join(format!("{app}.sock")),
            log: ground.logs.join("front.log"),
        };
        Self::new(ground.exe.clone(), place).shown_at(LiveLink::at(ground.live.clone()))
    }
}

impl Builtin {
    /// Points the link to the directory that the front serves now. The front does not follow it, so a link that can't be
    /// set keeps no flip back.
    fn show(&self, route: &Route) {
        let Some(link) = &self.live else { return };
        let shown = match &route.live {
            Some(live) if live.directory.is_some() => link.point(live, route.generation),
            Some(_) | None if link.middle().is_some() => link.back_to(None),
            Some(_) | None => return,
        };
        match shown {
            Ok(()) => link.sweep(),
            Err(err) => tracing::warn!(err = %chain(&err), "the link to the live release could not be set"),
        }
    }
}

impl Front for Builtin {
    fn ensure(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(self.ensure_running().await.map(drop)?) })
    }

    fn preflight(&self) -> Attempt<'_, ()> {
        self.ensure()
    }

    fn route(&self, route: Route) -> Attempt<'_, ()> {
        Box::pin(async move {
            match Self::route(self, &route).await {
                Err(BuiltinError::NotRunning { .. }) => {
                    self.ensure_running().await?;
                    Self::route(self, &route).await?;
                }
                done => done?,
            }
            self.show(&route);
            Ok(())
        })
    }

    fn standing(&self) -> Attempt<'_, Option<Standing>> {
        Box::pin(async { Ok(self.routed().await?.as_ref().map(Standing::from)) })
    }

    fn newer_than(&self, ours: Generation) -> BoxFuture<'_, Option<Generation>> {
        Box::pin(async move {
            let route = self.routed().await.ok().flatten()?;
            (route.generation > ours).then_some(route.generation)
        })
    }

    fn drained(&self, color: Color, limit: Duration) -> Attempt<'_, u64> {
        Box::pin(async move {
            let left = Self::drained(self, color, limit).await?;
            if left > 0 {
                self.cut(color).await?;
            }
            Ok(left)
        })
    }

    fn pass_over(&self, addresses: Vec<Address>, within: Duration) -> Attempt<'_, ()> {
        Box::pin(async move { Ok(Self::pass_over(self, addresses, within).await?) })
    }

    fn end(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(self.stop().await?) })
    }

    fn supervise<'a>(&'a self, daemon: &'a dyn FrontDaemon) -> BoxFuture<'a, ()> {
        Box::pin(supervise::supervise(self, daemon))
    }

    /// Empty: the front needs only its port, which is checked together with the app's ports.
    fn advice<'a>(&'a self, _app: &'a AppSettings) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }

    fn figures(&self) -> Option<Attempt<'_, [(Color, Figures); 2]>> {
        Some(Box::pin(async {
            let figures = Self::figures(self).await?;
            Ok(Color::ALL.map(|color| (color, figures.of(color).clone())))
        }))
    }
}

impl From<BuiltinError> for FrontError {
    fn from(err: BuiltinError) -> Self {
        Self { said: chain(&err), hint: err.hint(), log: Vec::new(), nature: Nature::Transient }
    }
}
