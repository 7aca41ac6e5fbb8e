//! Implements [`Front`] for HAProxy, and converts its errors into [`FrontError`].

use std::{collections::BTreeSet, fs, time::Duration};

use futures_util::future::BoxFuture;

use super::{CutoverLimits, Haproxy, HaproxyError, doctor, report, supervise};
use crate::{
    config::settings::AppSettings,
    front::{Attempt, Confined, Front, FrontDaemon, FrontError, traffic::RequestSample},
    os::errors::chain,
    rules::{
        canary::Share,
        finding::Finding,
        ids::Color,
        route::{Route, Standing},
        words::Nature,
    },
};

impl Front for Haproxy {
    fn ensure(&self) -> Attempt<'_, ()> {
        Front::preflight(self)
    }

    fn preflight(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(Self::preflight(self).await?) })
    }

    fn route(&self, route: Route) -> Attempt<'_, ()> {
        Box::pin(async move { Ok(Self::route(self, &route, CutoverLimits::default()).await?) })
    }

    fn standing(&self) -> Attempt<'_, Option<Standing>> {
        Box::pin(async {
            let (routed, generation) = self.routed().await?;
            let canary = routed.canary.map(|(color, percent)| (color, Share::capped(percent)));
            Ok(Some(Standing { live: routed.live, canary, backup: false, generation, half_told: None }))
        })
    }

    fn drained(&self, color: Color, limit: Duration) -> Attempt<'_, u64> {
        Box::pin(async move { Ok(Self::drained(self, color, limit).await?) })
    }

    fn supervise<'a>(&'a self, daemon: &'a dyn FrontDaemon) -> BoxFuture<'a, ()> {
        Box::pin(supervise::supervise(self, daemon))
    }

    fn advice<'a>(&'a self, app: &'a AppSettings) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(doctor::advice(self, app))
    }

    fn samples(&self, datagram: &[u8]) -> Vec<RequestSample> {
        report::parse(&self.settings, datagram).into_iter().collect()
    }

    fn worker_uids(&self) -> BoxFuture<'_, BTreeSet<u32>> {
        Box::pin(async { self.uid().await.into_iter().collect() })
    }

    fn confined(&self) -> Option<Confined> {
        let pid = pid_of("haproxy")?;
        Some(Confined { program: "haproxy", pid, switches: &["haproxy_connect_any"] })
    }
}

/// The pid of a process with that name, found in /proc.
fn pid_of(program: &str) -> Option<String> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_it = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == program)
    };
    names.filter(|name| name.bytes().all(|c| c.is_ascii_digit())).find(is_it)
}

impl From<HaproxyError> for FrontError {
    fn from(err: HaproxyError) -> Self {
        let nature = match &err {
            err if err.is_closed() => Nature::FrontStuck,
            err if err.left_as_it_was() => Nature::FrontUnmoved,
            _ => Nature::Transient,
        };
        Self { said: chain(&err), hint: err.hint(), log: Vec::new(), nature }
    }
}
