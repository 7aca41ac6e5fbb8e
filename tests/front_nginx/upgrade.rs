//! Two nginx masters on the same sockets: nothing is flipped until one of them is gone.

use std::fs;

use bgd::{
    front::nginx::{NginxError, RouteError, SwitchedBy},
    rules::ids::Color::{Blue, Green},
};
use nix::sys::signal::Signal;

use super::stage::{App, end, end_nginx, eventually, load, send, workers_of};
use super::{Stage, limits};

/// Ends a process that the test did not start itself: a master that another one started.
struct Ends(u32);

impl Drop for Ends {
    fn drop(&mut self) {
        end_nginx(self.0);
    }
}

fn is_upgrading<T: std::fmt::Debug>(refused: &Result<T, RouteError>) -> bool {
    matches!(refused, Err(RouteError::Untouched(NginxError::Upgrading { .. })))
}

#[tokio::test]
async fn f3_while_two_masters_serve_nothing_is_reloaded_or_lost_and_the_flip_comes_when_one_is_gone() {
    let mut stage = stage!();
    stage.serve_detached(Blue).await;
    let blue = App::start(Blue, stage.ports.blue).await;
    let _green = App::start(Green, stage.ports.green).await;
    let load = load(stage.public, 4);
    let new = stage.begin_upgrade().await;
    let _ends = Ends(new);
    let before = (stage.include(), stage.workers(), workers_of(new));

    let route = stage.route(2, Green);
    let (flip, preflight) = tokio::join!(stage.nginx.route(&route, limits()), stage.nginx.preflight());
    assert!(is_upgrading(&flip), "{flip:?}");
    assert!(
        matches!(preflight, Err(NginxError::Upgrading { old, .. }) if old == stage.master().cast_signed()),
        "{preflight:?}"
    );
    assert_eq!((stage.include(), stage.workers(), workers_of(new)), before, "touched");
    let again = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!(again.how, SwitchedBy::AlreadyInForce);

    // Without workers the older master is a way back for the operator, who would get the old route.
    send(stage.master(), Signal::SIGWINCH);
    eventually("the older workers are gone", || stage.workers().is_empty()).await;
    let flip = stage.nginx.route(&route, limits()).await;
    assert!(is_upgrading(&flip), "{flip:?}");

    let (flip, ()) = tokio::join!(stage.nginx.route(&route, limits()), async {
        send(stage.master(), Signal::SIGQUIT);
    });
    let drained = stage.nginx.drained(&flip.unwrap().former, super::soon()).await;
    assert!(drained.is_complete(), "{drained:?}");
    blue.kill().await;
    let counts = end(load).await;
    assert!(counts.lost.is_empty(), "of {}: {:#?}", counts.total(), counts.lost);
}

#[tokio::test]
async fn f3_after_an_upgrade_that_was_rolled_back_the_flip_goes_to_the_old_master() {
    let mut stage = stage!();
    stage.serve_detached(Blue).await;
    let _green = App::start(Green, stage.ports.green).await;
    let new = stage.begin_upgrade().await;
    let pid_file = stage.settings.pid_file.clone();
    // Its name while the new master has not written its own.
    let text = fs::read_to_string(&pid_file).unwrap();
    fs::remove_file(&pid_file).unwrap();
    let alone = stage.nginx.upgrade();
    assert!(matches!(alone, Err(NginxError::Upgrading { new: None, .. })), "{alone:?}");
    fs::write(&pid_file, text).unwrap();

    send(new, Signal::SIGQUIT);
    let is_back = || fs::read_to_string(&pid_file).is_ok_and(|pid| pid.trim() == stage.master().to_string());
    eventually("the old master has its pid file again", is_back).await;
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap(), "green");
}

#[tokio::test]
async fn f3_workers_of_a_killed_master_that_accept_beside_the_new_one_are_named() {
    let mut stage = stage!();
    stage.serve_detached(Blue).await;
    let new = stage.begin_upgrade().await;
    let _ends = Ends(new);
    let orphans = stage.workers();
    let _end_too: Vec<Ends> = orphans.iter().copied().map(Ends).collect();
    send(stage.master(), Signal::SIGKILL);
    eventually("the master has ended", || workers_of(stage.master()).is_empty()).await;
    let before = stage.include();
    let flip = stage.nginx.route(&stage.route(2, Green), limits()).await;
    assert!(
        matches!(&flip, Err(RouteError::Untouched(NginxError::Shared { worker, .. })) if orphans.contains(&worker.cast_unsigned())),
        "{flip:?}"
    );
    assert_eq!(stage.include(), before);
    assert!(matches!(stage.nginx.preflight().await, Err(NginxError::Shared { .. })));
}
