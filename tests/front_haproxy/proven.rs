//! A flip is proven when visitors get the new release, whatever HAProxy itself says of it.

use std::time::Duration;

use bgd::{
    config::settings::Sticky,
    front::haproxy::{CutoverLimits, HaproxyError},
    rules::{
        ids::{
            Color::{Blue, Green},
            Generation,
        },
        route::Route,
    },
};

use super::{
    limits, route,
    stage::{Stage, shipped},
    until_down,
};

/// The servers with a check that the apps can be told to fail.
fn checked() -> String {
    shipped(&[]).replace(
        "    default-server",
        "    timeout check 30s\n    option httpchk GET /check\n    default-server",
    )
}

fn states(stage: &Stage) -> Vec<(String, String)> {
    let text = stage.ask("show servers state shop").unwrap();
    let lines = text.lines().skip(2).map(|line| line.split(' ').collect::<Vec<_>>());
    lines.filter(|line| line.len() > 6).map(|line| (line[3].to_owned(), line[6].to_owned())).collect()
}

#[tokio::test]
async fn n6_where_nobody_serves_what_never_passes_haproxys_check_is_no_flip_and_all_is_as_before() {
    let Some(stage) = Stage::with(&checked()) else { return };
    route(&stage, &Route::nowhere(Generation(1))).await;
    let before = states(&stage);
    stage.blue.fail_checks();
    let soon = CutoverLimits { verdict: Duration::ZERO, ..limits() };
    let err = stage.haproxy.route(&stage.to(Blue, None), soon).await.unwrap_err();
    assert_eq!(err.to_string(), "haproxy's own check of shop/blue fails: L7STS 500");
    assert!(err.hint().unwrap().contains("httpchk"));
    assert_eq!(states(&stage), before);
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
    let advice = stage.haproxy.advice(&Sticky::None).await.unwrap();
    assert!(advice.iter().any(|it| it.said.contains("last check of shop/blue failed")), "{advice:?}");

    stage.blue.pass_checks();
    route(&stage, &stage.to(Blue, None)).await;
    assert_eq!(stage.colors(10), [("blue".to_owned(), 10)].into());
    // Told the same again, it is not tried again.
    stage.blue.fail_checks();
    until_down(&stage, "blue");
    route(&stage, &stage.to(Blue, None)).await;
    // Where what is live is down, the way over to what is not passes at once and has to pass HAProxy's check then.
    stage.green.fail_checks();
    let soon = CutoverLimits { verdict: Duration::ZERO, ..limits() };
    let err = stage.haproxy.route(&stage.to(Green, None), soon).await.unwrap_err();
    assert!(matches!(err, HaproxyError::CheckFails { .. }), "{err:?}");
    assert_eq!(stage.haproxy.routed().await.unwrap().0.live, Some(Blue));
    stage.green.pass_checks();
    route(&stage, &stage.to(Green, None)).await;
    assert_eq!(stage.colors(10), [("green".to_owned(), 10)].into());
}

#[tokio::test]
async fn n6_a_server_that_haproxy_does_not_check_has_to_be_where_the_app_is() {
    let unchecked = shipped(&[]).replace("check inter", "inter");
    let Some(mut stage) = Stage::with(&unchecked) else { return };
    route(&stage, &stage.to(Blue, None)).await;
    let wrong = format!("127.0.0.1:{}", stage.green.port);
    let text = std::fs::read_to_string(stage.path("haproxy.cfg")).unwrap();
    std::fs::write(stage.path("haproxy.cfg"), text.replace(&wrong, &wrong.replace("0.0.1", "0.0.2")))
        .unwrap();
    stage.restart();
    route(&stage, &stage.to(Blue, None)).await;
    let err = stage.haproxy.route(&stage.to(Green, None), limits()).await.unwrap_err();
    let said = err.to_string();
    assert!(said.starts_with("the app is not reached at 127.0.0.2:"), "{said}");
    assert!(said.ends_with("where haproxy's server shop/green is") && err.hint().is_some(), "{said}");
    assert_eq!(stage.colors(10), [("blue".to_owned(), 10)].into());
}
