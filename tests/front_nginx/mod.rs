//! The nginx front against a real nginx: every test has its own, with its own prefix, on free ports.

mod clients;
mod stage;

use std::{fs, os::unix::fs::symlink, time::Duration};

use bgd::{
    front::nginx::{
        Aftermath, Contradiction, Inclusion, NginxError, Permission, PlaceError, Proof, RouteError,
        RouteSource, SwitchedBy,
    },
    rules::{
        address::Address,
        ids::{
            Color::{Blue, Green},
            Generation,
        },
    },
};
use stage::{App, Stage, end, eventually, limits, load, shell, soon};
use tokio::time::Instant;

/// Skips, with the reason, where nginx is not installed.
macro_rules! stage {
    () => {
        match Stage::new().await {
            Some(stage) => stage,
            None => return,
        }
    };
}

mod gray;
mod linked;
mod taken_back;
mod told;
mod upgrade;

#[tokio::test]
async fn the_first_deploy_needs_no_file_and_writes_it() {
    let mut stage = stage!();
    stage.start_nginx("").await;
    stage.write_site();
    stage.nginx.preflight().await.expect("an upstream that only bgd will define is no fault");
    assert_eq!(stage.nginx.routed().await.unwrap(), None);
    assert_eq!(stage.nginx.inclusion().await, Inclusion::NotThereYet);

    let _blue = App::start(Blue, stage.ports.blue).await;
    let proof = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!((proof.color, proof.generation, proof.how), (Some(Blue), Generation(1), SwitchedBy::Reloaded));
    assert_eq!(stage.get("/").await.unwrap(), "blue");
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.source, routed.contradiction), (Some(Blue), RouteSource::Effect, None));
    assert_eq!(routed.release, Some(stage.release()));
    assert_eq!(stage.nginx.inclusion().await, Inclusion::Included);
    stage.nginx.preflight().await.unwrap();
    stage.assert_tidy();
}

#[tokio::test]
async fn a_placeholder_lets_nginx_start_before_the_first_deploy_and_answers_502() {
    let mut stage = stage!();
    stage.write_site();
    assert!(stage.nginx.ensure_file().await.unwrap());
    assert!(!stage.nginx.ensure_file().await.unwrap());
    stage.start_nginx("").await;
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().color, None);

    let _green = App::start(Green, stage.ports.green).await;
    stage.nginx.route(&stage.route(1, Green), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap(), "green");
    stage.nginx.route(&stage.empty(2), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().generation, Generation(2));
}

#[tokio::test]
async fn f1_no_request_is_lost_when_the_old_app_dies_as_soon_as_it_is_drained() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let mut live = App::start(Blue, stage.ports.blue).await;
    let load = load(stage.public, 6);
    for generation in 2..8 {
        let color = live.color.other();
        let next = App::start(color, stage.ports.of(color)).await;
        let proof = stage.nginx.route(&stage.route(generation, color), limits()).await.unwrap();
        let stored = serde_json::to_string(&proof).unwrap();
        let after_a_restart: Proof = serde_json::from_str(&stored).unwrap();
        let drained = stage.nginx.drained(&after_a_restart.former, soon()).await;
        assert!(drained.is_complete(), "{drained:?}");
        std::mem::replace(&mut live, next).kill().await;
    }
    let counts = end(load).await;
    assert!(counts.lost.is_empty(), "of {}: {:#?}", counts.total(), counts.lost);
    assert!(counts.total() > 50, "{}", counts.total());
}

#[tokio::test]
async fn f1_a_long_request_keeps_its_worker_and_is_counted_at_the_deadline() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let blue = App::start(Blue, stage.ports.blue).await;
    let _green = App::start(Green, stage.ports.green).await;
    let public = stage.public;
    let slow = tokio::spawn(async move { stage::get(public, "/slow?ms=3000").await });
    eventually("the slow request reaches blue", || blue.in_flight() == 1).await;
    let proof = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap(), "green");
    let busy = Instant::now() + Duration::from_millis(100);
    eventually("only one former worker is left", || proof.former.left().len() == 1).await;
    let early = stage.nginx.drained(&proof.former, busy).await;
    assert_eq!((early.left_workers.len(), early.connections), (1, Some(1)), "{early:?}");
    let late = stage.nginx.drained(&proof.former, soon()).await;
    assert!(late.is_complete(), "{late:?}");
    assert_eq!(blue.in_flight(), 0);
    assert_eq!(slow.await.unwrap().unwrap(), "blue");
}

#[tokio::test]
async fn f2_a_reload_that_nginx_does_not_take_is_noticed_and_taken_back() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let _blue = App::start(Blue, stage.ports.blue).await;
    let before = (stage.include(), stage.workers());
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    stage.write("conf.d/held.conf", &format!("server {{ listen {address}; }}"));

    let err = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    let RouteError::NotInEffect { log, aftermath, seen, .. } = err else { panic!("{err:?}") };
    assert_eq!(aftermath, Aftermath::NeverLeft, "{seen}");
    assert!(log.iter().any(|line| line.contains(&format!("bind() to {address} failed"))), "{log:?}");
    assert_eq!((stage.include(), stage.workers()), before, "the old workers were disturbed");
    assert_eq!(stage.get("/").await.unwrap(), "blue");
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().contradiction, None);
    stage.assert_tidy();
}

#[tokio::test]
async fn f2_a_first_route_that_nginx_does_not_take_leaves_an_include_with_which_it_can_start() {
    let mut stage = stage!();
    stage.start_nginx("").await;
    stage.write_site();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("server {{ listen {}; }}", held.local_addr().unwrap());
    stage.write("conf.d/held.conf", &listen);
    let err = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::NotInEffect { aftermath: Aftermath::NeverLeft, .. }), "{err:?}");
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.source), (None, RouteSource::File));
    assert!(matches!(routed.contradiction, Some(Contradiction::NotLoaded(_))), "{routed:?}");
    drop(held);
    stage.nginx.route(&stage.route(2, Blue), limits()).await.unwrap();
}

#[tokio::test]
async fn f2_a_reload_that_never_happens_is_not_believed() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = stage.include();
    let mut settings = stage.settings.clone();
    settings.reload = vec!["true".into()];
    let mut short = limits();
    short.proof = Duration::from_millis(300);
    let err = stage.with(settings).route(&stage.route(2, Green), short).await.unwrap_err();
    let RouteError::NotInEffect { aftermath: Aftermath::Unproven, seen, .. } = err else { panic!("{err:?}") };
    assert!(seen.contains("still accept"), "{seen}");
    assert_eq!(stage.include(), before);
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().color, Some(Blue));
}

#[tokio::test]
async fn f4_a_broken_foreign_file_is_found_before_the_build_and_named() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = (stage.include(), stage.workers());
    stage.write("conf.d/aaa.conf", "server {\n  bogus on;\n}\n");
    let foreign = stage.path("conf.d/aaa.conf");
    let Err(NginxError::ForeignConfig(fault)) = stage.nginx.preflight().await else { panic!() };
    assert_eq!((fault.file, fault.line), (Some(foreign.clone()), Some(2)));
    assert!(fault.quote.contains("unknown directive \"bogus\""), "{}", fault.quote);
    let err = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    let RouteError::ForeignConfig(fault) = err else { panic!("{err:?}") };
    assert_eq!(fault.file, Some(foreign));
    assert_eq!((stage.include(), stage.workers()), before, "f8: touched for a failure that -t found");
    stage.assert_tidy();
}

#[tokio::test]
async fn an_own_file_that_nginx_refuses_is_taken_back_and_blamed() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = (stage.include(), stage.workers());
    let mut settings = stage.settings.clone();
    settings.upstream = "a{b".into();
    let err = stage.with(settings).route(&stage.route(2, Green), limits()).await.unwrap_err();
    assert!(matches!(&err, RouteError::TakenBack(NginxError::OwnConfig(_))), "{err:?}");
    assert_eq!((stage.include(), stage.workers()), before);
}

#[tokio::test]
async fn f7_nginx_down_or_its_pid_file_lost_is_said_before_anything_is_touched() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = stage.include();
    let pid = fs::read_to_string(&stage.settings.pid_file).unwrap();
    fs::write(&stage.settings.pid_file, "").unwrap();
    assert!(matches!(stage.nginx.preflight().await, Err(NginxError::PidFileEmpty { .. })));
    fs::remove_file(&stage.settings.pid_file).unwrap();
    assert!(matches!(stage.nginx.preflight().await, Err(NginxError::PidFile { .. })));
    let err = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::Untouched(NginxError::PidFile { .. })), "{err:?}");
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().source, RouteSource::Effect);
    fs::write(&stage.settings.pid_file, pid).unwrap();
    stage.nginx.preflight().await.unwrap();
    assert_eq!(stage.include(), before);
}

#[tokio::test]
async fn k5_with_nginx_stopped_the_file_says_what_it_would_serve() {
    let mut stage = stage!();
    stage.serve(Green).await;
    stage.stop_nginx().await;
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.source, routed.contradiction), (Some(Green), RouteSource::File, None));
    assert!(stage.nginx.preflight().await.is_err());
}

#[tokio::test]
async fn f8_the_same_route_again_reloads_nothing() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let workers = stage.workers();
    let proof = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!(proof.how, SwitchedBy::AlreadyInForce);
    assert_eq!(stage.workers(), workers);
}

#[tokio::test]
async fn f11_a_symlinked_file_stays_a_symlink() {
    let mut stage = stage!();
    fs::create_dir(stage.path("real")).unwrap();
    symlink("../real/shop.conf", stage.path("conf.d/bgd-shop.conf")).unwrap();
    stage.serve(Blue).await;
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert!(fs::symlink_metadata(&stage.settings.file).unwrap().is_symlink());
    assert_eq!(fs::read_dir(stage.path("real")).unwrap().count(), 1);
    assert_eq!(stage.nginx.inclusion().await, Inclusion::Included);
    stage.nginx.preflight().await.unwrap();
}

#[tokio::test]
async fn f11_a_bind_mounted_file_is_refused_with_the_reason() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let Some(_mount) = stage.bind_over_include() else {
        eprintln!("skipped: may not mount here");
        return;
    };
    let Err(NginxError::Place(err)) = stage.nginx.preflight().await else { panic!() };
    assert!(matches!(err, PlaceError::BindMounted { .. }), "{err}");
    let err = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::Untouched(_)), "{err:?}");
}

#[tokio::test]
async fn i6_a_flip_works_on_a_full_disk() {
    let mut stage = stage!();
    let Some(_mount) = stage.small_disk_under_includes() else {
        eprintln!("skipped: may not mount here");
        return;
    };
    stage.serve(Blue).await;
    stage.fill_disk();
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.contradiction), (Some(Green), None));
}

#[tokio::test]
async fn f3_a_hand_edit_is_a_contradiction_until_the_next_flip() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let [blue, green] = [stage.ports.blue, stage.ports.green].map(|port| format!("server 127.0.0.1:{port}"));
    stage.write("conf.d/bgd-shop.conf", &stage.include().replace(&blue, &green));
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!(
        routed.contradiction,
        Some(Contradiction::Edited { addresses: vec![Address::Port(stage.ports.green)] })
    );
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().contradiction, None);
}

#[tokio::test]
async fn a_file_of_an_older_bgd_is_no_contradiction_and_the_next_flip_rewrites_it() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let sum = |text: &str| text.split("# bgd-sum ").nth(1).unwrap()[..16].to_owned();
    let now = stage.include();
    let blank =
        now.replace(&sum(&now), "0000000000000000").replace("bgd alone (app", "bgd alone, long ago (app");
    let hash = blank.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let older = blank.replace("0000000000000000", &format!("{hash:016x}"));
    stage.write("conf.d/bgd-shop.conf", &older);
    stage.stop_nginx().await;
    stage.start_nginx("").await;
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.contradiction), (Some(Blue), None));
    stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!(stage.include(), now);
}

#[tokio::test]
async fn a_file_that_bgd_did_not_write_is_never_overwritten() {
    let mut stage = stage!();
    let foreign = "upstream shop { server 127.0.0.1:1; }\n";
    stage.write("conf.d/bgd-shop.conf", foreign);
    stage.write_site();
    stage.start_nginx("").await;
    assert!(matches!(stage.nginx.preflight().await, Err(NginxError::Include { .. })));
    let err = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::Untouched(NginxError::Include { .. })), "{err:?}");
    assert_eq!(stage.include(), foreign);
}

#[tokio::test]
async fn a_lost_file_is_noticed_and_written_again() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    fs::remove_file(&stage.settings.file).unwrap();
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.contradiction), (Some(Blue), Some(Contradiction::FileLost)));
    stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().contradiction, None);
}

#[tokio::test]
async fn f6_a_flip_dropped_before_the_reload_leaves_the_old_file() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = stage.include();
    let mut settings = stage.settings.clone();
    settings.test = shell("sleep 60");
    let hanging = stage.with(settings);
    let route = stage.route(2, Green);
    let flip = tokio::spawn(async move { hanging.route(&route, limits()).await });
    eventually("the new file is written", || stage.include() != before).await;
    flip.abort();
    assert!(flip.await.unwrap_err().is_cancelled());
    eventually("the old text is back", || stage.include() == before).await;
    stage.nginx.route(&stage.route(3, Green), limits()).await.unwrap();
    stage.assert_tidy();
}

#[tokio::test]
async fn f6_a_flip_dropped_during_the_reload_is_repaired_by_the_next() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = stage.include();
    let marker = stage.path("asked");
    let mut settings = stage.settings.clone();
    settings.reload = shell(&format!("touch {}; sleep 60", marker.display()));
    let hanging = stage.with(settings);
    let route = stage.route(2, Green);
    let flip = tokio::spawn(async move { hanging.route(&route, limits()).await });
    eventually("the reload is asked for", || marker.exists()).await;
    flip.abort();
    assert!(flip.await.unwrap_err().is_cancelled());
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.generation), (Some(Blue), Generation(1)));
    let differs = Contradiction::FileDiffers { color: Some(Green), generation: Generation(2) };
    assert_eq!(routed.contradiction, Some(differs));

    // A next flip that fails goes back to what nginx has in force, not to the interrupted text.
    stage.write("conf.d/aaa.conf", "bogus;");
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    assert_eq!(stage.include(), before);
    fs::remove_file(stage.path("conf.d/aaa.conf")).unwrap();
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().contradiction, None);
    stage.assert_tidy();
}

#[tokio::test]
async fn f1_a_flip_dropped_right_after_the_reload_never_hides_a_worker_that_still_accepts() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = stage.workers();
    let marker = stage.path("asked");
    let mut settings = stage.settings.clone();
    settings.reload = shell(&format!("{}; touch {}; sleep 60", settings.reload.join(" "), marker.display()));
    let hanging = stage.with(settings);
    let route = stage.route(2, Green);
    let flip = tokio::spawn(async move { hanging.route(&route, limits()).await });
    eventually("nginx is told", || marker.exists()).await;
    eventually("new workers accept", || stage.workers().len() > 2).await;
    flip.abort();
    assert!(flip.await.unwrap_err().is_cancelled());
    let proof = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert!(stage.nginx.drained(&proof.former, soon()).await.is_complete());
    assert!(stage.workers().iter().all(|worker| !before.contains(worker)), "an old worker is left");
    stage.assert_tidy();
}

#[tokio::test]
async fn a_reload_command_that_hangs_is_judged_by_its_effect() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let mut settings = stage.settings.clone();
    settings.reload = shell(&format!("{}; sleep 60", settings.reload.join(" ")));
    let mut short = limits();
    short.command = Duration::from_secs(2);
    stage.with(settings).route(&stage.route(2, Green), short).await.unwrap();
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().color, Some(Green));
}

#[tokio::test]
async fn a_reload_command_that_fails_is_taken_back() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let before = (stage.include(), stage.workers());
    let mut settings = stage.settings.clone();
    settings.reload = shell("echo 'not permitted here' >&2; exit 4");
    let err = stage.with(settings).route(&stage.route(2, Green), limits()).await.unwrap_err();
    let RouteError::TakenBack(NginxError::Reload { said, .. }) = err else { panic!("{err:?}") };
    assert_eq!(said, "not permitted here");
    assert_eq!((stage.include(), stage.workers()), before);
}

#[tokio::test]
async fn k7_two_apps_flip_at_once_on_one_nginx() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let other = stage.second_app("cart");
    for generation in 2..5 {
        let color = if generation % 2 == 0 { Green } else { Blue };
        let (mine, theirs) = (stage.route(generation, color), other.route(generation, color.other()));
        let (a, b, c) = tokio::join!(
            stage.nginx.route(&mine, limits()),
            other.nginx.route(&theirs, limits()),
            stage.nginx.route(&mine, limits()),
        );
        assert_eq!(a.unwrap().color, Some(color));
        assert_eq!(b.unwrap().color, Some(color.other()));
        assert_eq!(c.unwrap().how, SwitchedBy::AlreadyInForce);
    }
    assert_eq!(stage.nginx.routed().await.unwrap().unwrap().color, Some(Green));
    assert_eq!(other.nginx.routed().await.unwrap().unwrap().color, Some(Blue));
}

#[tokio::test]
async fn two_apps_given_one_file_are_kept_apart() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    let other = stage.renamed("cart");
    assert!(matches!(other.preflight().await, Err(NginxError::OtherApp { .. })));
    assert!(matches!(other.routed().await, Err(NginxError::OtherApp { .. })));
}

#[tokio::test]
async fn a_restarted_nginx_counts_when_it_has_the_route_in_force() {
    let mut stage = stage!();
    stage.serve(Blue).await;
    stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    stage.stop_nginx().await;
    stage.start_nginx("").await;
    let proof = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap();
    assert_eq!(proof.how, SwitchedBy::AlreadyInForce);
}

#[tokio::test]
async fn doctor_sees_a_short_shutdown_timeout_a_missing_include_and_the_permission() {
    let mut stage = stage!();
    stage.start_nginx("worker_shutdown_timeout 1500ms;").await;
    assert_eq!(stage.nginx.shutdown_timeout().await, Some(Duration::from_millis(1500)));
    assert_eq!(stage.nginx.may_reload().unwrap(), Permission::Granted);
    let mut settings = stage.settings.clone();
    settings.file = stage.path("elsewhere.conf");
    let lost = stage.with(settings);
    assert!(lost.ensure_file().await.unwrap());
    assert_eq!(lost.inclusion().await, Inclusion::NotIncluded);
    let mut short = limits();
    short.proof = Duration::from_millis(500);
    let err = lost.route(&stage.route(1, Blue), short).await.unwrap_err();
    let RouteError::NotInEffect { seen, .. } = err else { panic!("{err:?}") };
    assert!(seen.contains("is the file included"), "{seen}");
    stage.write_site();
    assert!(matches!(lost.preflight().await, Err(NginxError::NotIncluded { .. })));
}
