//! Several instances of each color behind a real HAProxy, each with a server of its own.

use bgd::rules::ids::Color;

use super::*;

const THREE: usize = 3;

fn three(text: &str) -> Option<Stage> {
    Stage::several(text, THREE)
}

/// Only these instances of this color answer, and sooner or later in turn: a busy machine may fail a check for a while.
fn serve_evenly(stage: &Stage, color: Color, numbers: &[usize]) {
    let all: BTreeSet<_> = numbers.iter().map(|number| (color.to_string(), *number)).collect();
    stage.eventually("each has its part", |stage| {
        let seen = stage.instances(30);
        assert!(seen.keys().all(|one| all.contains(one)), "{seen:?}");
        let each = 30 / u32::try_from(all.len()).expect("few");
        seen.len() == all.len() && seen.values().all(|count| count.abs_diff(each) <= 2)
    });
}

#[tokio::test]
async fn all_instances_of_a_color_are_flipped_together_and_have_even_parts_of_its_share() {
    let Some(mut stage) = three(&shipped(&["preview:"])) else { return };
    stage.haproxy.preflight().await.unwrap();
    for live in [Blue, Green, Blue] {
        route(&stage, &stage.to(live, None)).await;
        serve_evenly(&stage, live, &[1, 2, 3]);
        let standing = stage.again().routed().await.unwrap().0;
        assert_eq!((standing.live, standing.canary), (Some(live), None));
        assert_eq!(stage.haproxy.drained(live.other(), Duration::from_secs(60)).await.unwrap(), 0);
    }
    for share in [5, 50] {
        route(&stage, &stage.to(Blue, Some(share))).await;
        stage.eventually("a preview is shown", |stage| {
            let secret = "X-Bgd-Preview: change-this-secret\r\n";
            (0..12).all(|client| stage.get(client, "/", secret).unwrap().body == "green")
        });
        stage.eventually("each has its part of the share", |stage| {
            // One round of all weights, begun somewhere.
            let seen = stage.instances(603);
            let canary = seen.iter().filter(|((color, _), _)| color == "green");
            let counts: Vec<u32> = canary.map(|(_, count)| *count).collect();
            counts.len() == THREE && counts.iter().all(|count| count.abs_diff(2 * u32::from(share)) <= 2)
        });
        let standing = stage.again().routed().await.unwrap().0;
        assert_eq!((standing.live, standing.canary), (Some(Blue), Some((Green, share))));
    }
    stage.restart();
    assert_eq!(stage.haproxy.put_back(limits()).await.unwrap(), Life::New);
    assert_eq!(stage.haproxy.routed().await.unwrap().0.canary, Some((Green, 50)));
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
    route(&stage, &Route::nowhere(Generation(2))).await;
    assert_eq!(stage.get(1, "/", "").unwrap().status, 503);
}

#[tokio::test]
async fn by_address_a_client_stays_with_the_canary_while_its_share_grows_also_when_it_has_several_instances()
{
    let text = shipped(&["canary.sticky = \"ip\""]);
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("use-server")).collect();
    let Some(stage) = three(&(kept.join("\n") + "\n")) else { return };
    assert_eq!(stage.haproxy.advice(&Sticky::Ip).await.unwrap(), []);
    grows(&stage, &vec![String::new(); 600]).await;
}

#[tokio::test]
async fn one_of_several_that_dies_is_passed_over_and_said_and_the_others_are_flipped_away_with_it() {
    let Some(stage) = three(&shipped(&[])) else { return };
    route(&stage, &stage.to(Blue, None)).await;
    stage.others[&Blue][0].die();
    assert_eq!(stage.colors(200), [("blue".to_owned(), 200)].into());
    until_down(&stage, "blue-2");
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(found.said.starts_with("haproxy's own check of shop/blue-2 fails: L4CON"), "{found:?}");
    assert_eq!(found.moved_to, None);
    assert_eq!(stage.haproxy.routed().await.unwrap().0.live, Some(Blue));
    serve_evenly(&stage, Blue, &[1, 3]);
    route(&stage, &stage.to(Green, None)).await;
    serve_evenly(&stage, Green, &[1, 2, 3]);
    stage.ask("set server shop/green-3 state maint").unwrap();
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(
        found.said.contains("changed by hand") && found.said.contains("green-3 is in maintenance"),
        "{found:?}"
    );
}

#[tokio::test]
async fn f2_one_of_several_that_fails_haproxys_own_check_keeps_all_of_its_color_back() {
    let with_check = shipped(&[]).replace(
        "    default-server",
        "    timeout check 30s\n    option httpchk GET /check\n    default-server",
    );
    let Some(stage) = three(&with_check) else { return };
    route(&stage, &stage.to(Blue, None)).await;
    stage.others[&Green][0].fail_checks();
    let soon = CutoverLimits { verdict: Duration::ZERO, ..limits() };
    let err = stage.haproxy.route(&stage.to(Green, None), soon).await.unwrap_err();
    assert_eq!(err.to_string(), "haproxy's own check of shop/green-2 fails: L7STS 500");
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
    serve_evenly(&stage, Blue, &[1, 2, 3]);
    stage.others[&Green][0].pass_checks();
    route(&stage, &stage.to(Green, None)).await;
    serve_evenly(&stage, Green, &[1, 2, 3]);
}

#[tokio::test]
async fn what_is_in_flight_on_any_instance_is_waited_for_and_at_the_limit_cut_and_counted() {
    let Some(stage) = three(&shipped(&[])) else { return };
    route(&stage, &stage.to(Blue, None)).await;
    let second = &stage.others[&Blue][0];
    second.close();
    let mut sent = Vec::new();
    stage.eventually("the second one works on something", |stage| {
        sent.push(stage.send(1, "/held", "").unwrap());
        *second.held.lock().unwrap() > 0
    });
    route(&stage, &stage.to(Green, None)).await;
    let waiting = stage.haproxy.drained(Blue, Duration::from_secs(3600));
    let early = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert!(early.is_err(), "{early:?}");
    let cut = stage.haproxy.drained(Blue, Duration::ZERO).await.unwrap();
    let answers: Vec<_> = sent.iter_mut().map(|stream| read(stream).map(|answer| answer.body)).collect();
    let whole = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|body| body == "blue")).count();
    let lost = (sent.len() - whole) as u64;
    assert!((1..=cut).contains(&lost), "{cut}: {answers:?}");
    assert_eq!(stage.haproxy.drained(Blue, Duration::from_secs(60)).await.unwrap(), 0);
}

#[tokio::test]
async fn more_or_fewer_servers_than_instances_are_said_or_told_to_rest() {
    let Some(stage) = three(&shipped(&[])) else { return };
    let (text, hint) = {
        let err = stage.again_with(4).preflight().await.unwrap_err();
        (err.to_string(), err.hint().unwrap_or_default())
    };
    let there = "blue, blue-2, blue-3, green, green-2, green-3";
    assert_eq!(text, format!("haproxy has no server shop/blue-4; in that backend are: {there}"));
    assert!(hint.contains("blue-2"), "{hint}");
    // What runs is still three when two are to be.
    route(&stage, &stage.to(Blue, None)).await;
    let two = stage.again_with(2);
    two.preflight().await.unwrap();
    two.route(&stage.to(Blue, None), limits()).await.unwrap();
    serve_evenly(&stage, Blue, &[1, 2, 3]);
    let mut to = stage.to(Green, None);
    to.live.as_mut().unwrap().addresses.truncate(2);
    two.route(&to, limits()).await.unwrap();
    serve_evenly(&stage, Green, &[1, 2]);
    assert_eq!(two.trouble().await.unwrap(), None);
    // Servers that are there before their instances rest.
    let (one, mut to) = (stage.again_with(1), stage.to(Blue, None));
    to.live.as_mut().unwrap().addresses.truncate(1);
    one.route(&to, limits()).await.unwrap();
    serve_evenly(&stage, Blue, &[1]);
}
