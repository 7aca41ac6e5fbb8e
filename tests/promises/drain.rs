//! Drain and stop: open streams, apps that ignore TERM, children that hide.

use std::io::{Read as _, Write as _};

use crate::{
    shop::{Kind, Plan, Stage},
    stage::http,
};

#[test]
fn g1_an_open_websocket_is_cut_at_the_drain_limit_and_not_before() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(stage) = Stage::set(Plan { drain: "2s", watch: "200ms", ..Plan::of(kind) }) else {
            continue;
        };
        stage.push_live("one");
        let mut stream = http::connect(stage.public()).expect("connect");
        stream
            .get_mut()
            .write_all(b"GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .expect("ask");
        let answer = http::answer(&mut stream).expect("an answer");
        assert_eq!(answer.status, 101);
        let load = stage.load();
        load.sees("one");
        let two = stage.push("two", "");
        stage.until("draining", |status| {
            status["live"]["commit"] == two && status["idle"]["state"] == "draining"
        });
        stream.get_mut().write_all(b"still here").expect("say");
        let mut echo = [0; 10];
        stream.read_exact(&mut echo).expect("it still answers while it drains");
        stage.until_at_rest();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn g2_g3_an_app_that_ignores_term_and_hides_children_is_gone_after_its_grace() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(kind) }) else { continue };
        stage.push("one", "term = ignored\nhides = yes");
        stage.until("one is live", |status| !status["live"].is_null() && status["deploy"].is_null());
        let load = stage.load();
        load.sees("one");
        stage.push_live("two");
        stage.until_at_rest();
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}
