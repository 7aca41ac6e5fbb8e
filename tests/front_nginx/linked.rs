//! Apps on unix sockets behind a real nginx: a flip is the rename of a link, its workers stay as they are.

use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use bgd::{
    config::settings::{Addresses, NginxSettings},
    front::nginx::{Contradiction, Nginx, NginxError, RouteError, SwitchedBy},
    rules::{
        address::Address,
        canary::Share,
        ids::{
            Color::{self, Blue, Green},
            Generation, ReleaseId,
        },
        route::{Route, Side},
    },
};
use tokio::{
    net::UnixDatagram,
    time::{Instant, timeout},
};

use super::stage::{self, App, Stage, end, eventually, limits, load, same_user, soon};

/// An app on its color's socket.
fn app(stage: &Stage, color: Color) -> App {
    App::at(color, socket(stage, color))
}

/// So many instances of a color.
fn apps(stage: &Stage, color: Color, instances: u16) -> Vec<App> {
    let all = (0..instances).map(|index| addresses(stage).nth(color, index));
    all.map(|address| App::at(color, address.socket().unwrap().to_owned())).collect()
}

fn socket(stage: &Stage, color: Color) -> std::path::PathBuf {
    stage.path(&format!("{color}.sock"))
}

fn addresses(stage: &Stage) -> Addresses {
    let of = |color| Address::Socket(socket(stage, color));
    Addresses { blue: of(Blue), green: of(Green), each: 1 }
}

fn release(number: u64) -> ReleaseId {
    format!("20261121T101112Z-{number}-0123456").parse().unwrap()
}

fn side(stage: &Stage, color: Color, number: u64) -> Side {
    Side {
        color,
        addresses: vec![Address::Socket(socket(stage, color))],
        release: release(number),
        directory: None,
    }
}

/// To one color alone, with a release of the same number.
fn route(stage: &Stage, generation: u64, color: Color) -> Route {
    Route::to(Generation(generation), side(stage, color, generation))
}

/// The same, to so many instances.
fn to_several(stage: &Stage, generation: u64, (color, instances): (Color, u16)) -> Route {
    let addresses = (0..instances).map(|index| addresses(stage).nth(color, index)).collect();
    Route::to(Generation(generation), Side { addresses, ..side(stage, color, generation) })
}

fn front(stage: &Stage, settings: &NginxSettings) -> Nginx {
    Nginx::new(settings.clone(), "shop".parse().unwrap(), addresses(stage), None)
}

/// nginx with the site, blue live behind the link under generation 1, and no former workers.
async fn serving_blue(stage: &mut Stage) -> (Nginx, App) {
    let nginx = front(stage, &stage.settings);
    stage.write_site();
    nginx.ensure_file().await.unwrap();
    stage.start_nginx(same_user()).await;
    let blue = app(stage, Blue);
    let proof = nginx.route(&route(stage, 1, Blue), limits()).await.unwrap();
    assert_eq!(proof.how, SwitchedBy::Reloaded);
    eventually("the first workers are gone", || stage.workers().len() == 2).await;
    assert_eq!(stage.get("/").await.unwrap(), "blue");
    (nginx, blue)
}

#[tokio::test]
async fn f8_a_flip_between_sockets_is_one_rename_that_loses_nothing_and_leaves_the_workers() {
    let Some(mut stage) = Stage::new().await else { return };
    let (nginx, mut live) = serving_blue(&mut stage).await;
    let (workers, file) = (stage.workers(), stage.include());
    let load = load(stage.public, 6);
    for generation in 2..12 {
        let color = live.color.other();
        let next = app(&stage, color);
        let wanted = route(&stage, generation, color);
        assert_eq!(nginx.route(&wanted, limits()).await.unwrap().how, SwitchedBy::Linked);
        let again = nginx.route(&wanted, limits()).await.unwrap();
        assert_eq!(again.how, SwitchedBy::AlreadyInForce);
        let drained = nginx.drained(&again.former, soon()).await;
        assert!(drained.is_complete() && drained.connections == Some(0), "{drained:?}");
        std::mem::replace(&mut live, next).kill().await;
        let routed = nginx.routed().await.unwrap().unwrap();
        assert_eq!((routed.color, routed.generation), (Some(color), Generation(generation)));
        assert_eq!((routed.release, routed.contradiction), (Some(release(generation)), None));
    }
    let counts = end(load).await;
    assert!(counts.lost.is_empty(), "of {}: {:#?}", counts.total(), counts.lost);
    assert!(counts.total() > 50, "{}", counts.total());
    assert_eq!((stage.workers(), stage.include()), (workers, file), "nginx was reloaded");
}

#[tokio::test]
async fn g1_a_long_request_on_the_former_socket_is_waited_for_and_counted() {
    let Some(mut stage) = Stage::new().await else { return };
    let (nginx, blue) = serving_blue(&mut stage).await;
    let _green = app(&stage, Green);
    let public = stage.public;
    let slow = tokio::spawn(async move { stage::get(public, "/slow?ms=1500").await });
    eventually("the slow request reaches blue", || blue.in_flight() == 1).await;
    let proof = nginx.route(&route(&stage, 2, Green), limits()).await.unwrap();
    assert_eq!((proof.how, stage.get("/").await.unwrap().as_str()), (SwitchedBy::Linked, "green"));
    let early = nginx.drained(&proof.former, Instant::now()).await;
    assert_eq!(early.connections, Some(1), "{early:?}");
    assert!(nginx.drained(&proof.former, soon()).await.connections == Some(0));
    // Had it not been waited for, this would cut it.
    blue.kill().await;
    assert_eq!(slow.await.unwrap().unwrap(), "blue");
}

#[tokio::test]
async fn a_canary_on_sockets_is_told_by_reloads_and_the_flips_after_it_by_renames_again() {
    let Some(mut stage) = Stage::new().await else { return };
    let (nginx, _blue) = serving_blue(&mut stage).await;
    let _green = app(&stage, Green);
    let load = load(stage.public, 3);
    let half = Share::percent(50).unwrap();
    let both = Route::to(Generation(2), side(&stage, Blue, 1)).beside(side(&stage, Green, 2), half);
    let mixed = nginx.route(&both, limits()).await.unwrap();
    assert_eq!(mixed.how, SwitchedBy::Reloaded);
    let routed = nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.color, routed.canary), (Some(Blue), Some((Green, 50))));
    let whole = nginx.route(&route(&stage, 3, Green), limits()).await.unwrap();
    assert_eq!(
        (whole.how, nginx.routed().await.unwrap().unwrap().color),
        (SwitchedBy::Reloaded, Some(Green))
    );
    assert!(nginx.drained(&whole.former, soon()).await.is_complete());
    assert_eq!(nginx.route(&route(&stage, 4, Blue), limits()).await.unwrap().how, SwitchedBy::Linked);
    let empty = Route::nowhere(Generation(5));
    assert_eq!(end(load).await.lost.len(), 0);
    nginx.route(&empty, limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
    assert_eq!(nginx.routed().await.unwrap().unwrap().color, None);
}

#[tokio::test]
async fn several_instances_are_moved_by_one_rename_and_only_another_number_of_them_is_a_reload() {
    let Some(mut stage) = Stage::new().await else { return };
    let (single, blue) = serving_blue(&mut stage).await;
    let told = stage.path("told.sock");
    let listening = UnixDatagram::bind(&told).unwrap();
    let three = Addresses { each: 3, ..addresses(&stage) };
    let nginx = Nginx::new(stage.settings.clone(), "shop".parse().unwrap(), three, Some(told));
    drop(single);
    let load = load(stage.public, 4);
    let mut live = vec![blue];
    let mut workers = Vec::new();
    for (generation, to, how) in [
        (2, (Green, 3), SwitchedBy::Reloaded),
        (3, (Blue, 3), SwitchedBy::Linked),
        (4, (Green, 3), SwitchedBy::Linked),
        (5, (Blue, 2), SwitchedBy::Reloaded),
        (6, (Green, 2), SwitchedBy::Linked),
        (7, (Blue, 1), SwitchedBy::Reloaded),
    ] {
        let next = apps(&stage, to.0, to.1);
        let wanted = to_several(&stage, generation, to);
        let proof = nginx.route(&wanted, limits()).await.unwrap();
        assert_eq!(proof.how, how, "{to:?}");
        assert!(nginx.drained(&proof.former, soon()).await.is_complete());
        let again = nginx.route(&wanted, limits()).await.unwrap();
        assert_eq!(again.how, SwitchedBy::AlreadyInForce, "{to:?}");
        for app in std::mem::replace(&mut live, next) {
            app.kill().await;
        }
        let routed = nginx.routed().await.unwrap().unwrap();
        assert_eq!((routed.color, routed.generation), (Some(to.0), Generation(generation)));
        assert_eq!((routed.release, routed.contradiction), (Some(release(generation)), None));
        eventually("nginx tells of the new color", || {
            let mut text = [0; 4096];
            let read = listening.try_recv(&mut text).unwrap_or(0);
            nginx.samples(&text[..read]).last().is_some_and(|sample| sample.color == to.0)
        })
        .await;
        let now = stage.workers();
        assert_eq!(std::mem::replace(&mut workers, now.clone()) == now, how == SwitchedBy::Linked, "{to:?}");
    }
    let counts = end(load).await;
    assert!(counts.lost.is_empty(), "of {}: {:#?}", counts.total(), counts.lost);
}

#[tokio::test]
async fn what_nginx_tells_of_a_request_behind_the_link_is_told_of_the_color_that_answered_it() {
    let Some(mut stage) = Stage::new().await else { return };
    let told = stage.path("told.sock");
    let listening = UnixDatagram::bind(&told).unwrap();
    let settings = stage.settings.clone();
    let nginx = Nginx::new(settings, "shop".parse().unwrap(), addresses(&stage), Some(told));
    stage.write_site();
    nginx.ensure_file().await.unwrap();
    stage.start_nginx(same_user()).await;
    let (blue, _green) = (app(&stage, Blue), app(&stage, Green));
    nginx.route(&route(&stage, 1, Blue), limits()).await.unwrap();
    stage.get("/").await.unwrap();
    assert_eq!(next(&nginx, &listening).await, Some(Blue));
    let public = stage.public;
    let slow = tokio::spawn(async move { stage::get(public, "/slow?ms=1500").await });
    eventually("the slow request reaches blue", || blue.in_flight() == 1).await;
    assert_eq!(nginx.route(&route(&stage, 2, Green), limits()).await.unwrap().how, SwitchedBy::Linked);
    assert_eq!(slow.await.unwrap().unwrap(), "blue");
    assert_eq!(next(&nginx, &listening).await, Some(Blue), "it began before the link was moved");
    stage.get("/").await.unwrap();
    assert_eq!(next(&nginx, &listening).await, Some(Green));
}

async fn next(nginx: &Nginx, told: &UnixDatagram) -> Option<Color> {
    let mut text = [0; 4096];
    let read = timeout(limits().proof, told.recv(&mut text)).await.expect("nginx tells").unwrap();
    nginx.samples(&text[..read]).last().map(|sample| sample.color)
}

#[tokio::test]
async fn f3_a_link_that_a_hand_moved_or_removed_is_told_and_set_again() {
    let Some(mut stage) = Stage::new().await else { return };
    let (nginx, _blue) = serving_blue(&mut stage).await;
    let _green = app(&stage, Green);
    let link = stage.settings.link();
    std::fs::remove_file(&link).unwrap();
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
    let routed = nginx.routed().await.unwrap().unwrap();
    assert!(matches!(routed.contradiction, Some(Contradiction::LinkLost { .. })), "{routed:?}");
    symlink(socket(&stage, Green), &link).unwrap();
    let routed = nginx.routed().await.unwrap().unwrap();
    let addresses = vec![Address::Socket(socket(&stage, Green))];
    assert_eq!(
        (routed.color, routed.contradiction),
        (Some(Green), Some(Contradiction::Edited { addresses }))
    );
    assert_eq!(nginx.route(&route(&stage, 1, Blue), limits()).await.unwrap().how, SwitchedBy::Linked);
    assert_eq!(nginx.routed().await.unwrap().unwrap().contradiction, None);
    assert_eq!(stage.get("/").await.unwrap(), "blue");
    // nginx down: the link says what it would serve.
    stage.stop_nginx().await;
    assert_eq!(nginx.routed().await.unwrap().unwrap().color, Some(Blue));
    let down = nginx.route(&route(&stage, 2, Green), limits()).await.unwrap_err();
    assert!(matches!(down, RouteError::Untouched(ref err) if err.is_down()), "{down}");
}

#[tokio::test]
async fn workers_that_may_not_pass_a_directory_are_told_of_before_a_build() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root's nginx runs its workers as somebody else");
        return;
    }
    let Some(mut stage) = Stage::new().await else { return };
    let nginx = front(&stage, &stage.settings);
    stage.write_site();
    nginx.ensure_file().await.unwrap();
    stage.start_nginx("").await;
    let own = stage.path("x").parent().unwrap().to_owned();
    let mode = |mode| std::fs::set_permissions(&own, Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    let shut = nginx.preflight().await.unwrap_err();
    let NginxError::ShutOut { directory, uid } = &shut else { panic!("{shut}") };
    assert!(*uid != 0 && *directory == own, "{shut}");
    mode(0o711);
    nginx.preflight().await.unwrap();
}

#[tokio::test]
async fn n3_a_link_that_was_set_for_a_file_that_nginx_refuses_leads_where_it_led_before() {
    let mut stage = stage!();
    let nginx = front(&stage, &stage.settings);
    let names = |stage: &Stage| {
        let mut all: Vec<_> =
            std::fs::read_dir(stage.path("conf.d")).unwrap().map(|it| it.unwrap().file_name()).collect();
        all.sort();
        all
    };
    stage.write("conf.d/site.conf", "upstream shop { server 127.0.0.1:9; }");
    stage.start_nginx(same_user()).await;
    let before = names(&stage);
    let err = nginx.route(&route(&stage, 1, Blue), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::TakenBack(NginxError::OwnConfig(_))), "{err:?}");
    assert_eq!(names(&stage), before);
    stage.stop_nginx().await;

    // Behind a link, to another number of instances: another link, which is gone again.
    let (nginx, _blue) = serving_blue(&mut stage).await;
    let before = names(&stage);
    stage.write("conf.d/zzz.conf", "bogus;");
    nginx.route(&to_several(&stage, 2, (Green, 3)), limits()).await.unwrap_err();
    std::fs::remove_file(stage.path("conf.d/zzz.conf")).unwrap();
    assert_eq!(names(&stage), before);
    assert_eq!(stage.get("/").await.unwrap(), "blue");
}
