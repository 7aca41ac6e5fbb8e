//! The journaled state of an app in the previous release's form: each stage of a deploy was a pipeline of its own,
//! with the deploy and its release in it. Read once, by the first daemon after an upgrade; the next step writes
//! today's form.

use serde_json::{Map, Value};

use crate::rules::{
    app::{App, Pipeline},
    ids::Color,
};

/// Reads a state in today's form, or else in the former one.
///
/// # Errors
/// When neither form fits: the error of reading it in today's form.
pub(super) fn state(text: &str) -> serde_json::Result<App> {
    serde_json::from_str(text).or_else(|error| former_state(text).ok_or(error))
}

fn former_state(text: &str) -> Option<App> {
    let mut state: Map<String, Value> = serde_json::from_str(text).ok()?;
    let Value::Object(pipeline) = state.remove("pipeline")? else { return None };
    let mut app: App = serde_json::from_value(Value::Object(state)).ok()?;
    app.pipeline = former_pipeline(pipeline, app.idle_color())?;
    Some(app)
}

/// Two former stages named no color; they get the idle one, which they ran on or do not need.
fn former_pipeline(pipeline: Map<String, Value>, idle: Color) -> Option<Pipeline> {
    let (name, Value::Object(mut own)) = pipeline.into_iter().next()? else { return None };
    let mut work = match own.remove("work") {
        Some(Value::Object(work)) => work,
        Some(_) => return None,
        None => std::mem::take(&mut own),
    };
    if let Some(end) = work.remove("end") {
        own.insert("end".to_owned(), end);
    }
    let stage = match (own.is_empty(), work.remove("effect")) {
        (true, None) => Value::String(name),
        (true, Some(effect)) => one(&name, effect),
        (false, effect) => {
            own.extend(effect.map(|effect| ("effect".to_owned(), effect)));
            one(&name, Value::Object(own))
        }
    };
    work.insert("stage".to_owned(), stage);
    work.entry("color").or_insert(serde_json::to_value(idle).ok()?);
    serde_json::from_value(one("Deploying", Value::Object(work))).ok()
}

fn one(key: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::app::{Serving, Stage};

    /// What the release before wrote for a deploy under way, and what it is today.
    #[test]
    fn each_stage_of_the_former_record_is_read() {
        let deploy = json!({"id": 2, "kind": {"Manual": {"want": "Tip", "live": null, "tip": null}}, "by": "ann",
            "started": 1_002_000, "phase_since": 1_040_000});
        let release = json!({"id": "20261121T101112Z-2-0000009",
            "commit": "0000009000000000000000000000000000000000", "subject": "subject", "author": "author"});
        let work = json!({"deploy": deploy, "release": release, "color": "green", "effect": 7});
        let end = json!({"outcome": "cancelled", "failure": null});
        let simple =
            ["CheckingOut", "Building", "Hooking", "Starting", "Probing", "Warming", "Sharing", "Canary"];
        let simple = simple
            .into_iter()
            .chain(["Switching"])
            .map(|name| (one(name, work.clone()), one(name, 7.into())));
        let telling = json!({"Later": {"attempt": 2}});
        let others = [
            (json!({"Clearing": {"deploy": deploy, "release": release}}), json!("Clearing")),
            (
                json!({"Watching": {"work": work, "former": release, "held": null}}),
                json!({"Watching": {"effect": 7, "former": release, "held": null}}),
            ),
            (
                json!({"Reverting": {"work": work, "end": end, "telling": telling}}),
                json!({"Reverting": {"effect": 7, "end": end, "telling": telling}}),
            ),
            (
                json!({"Replacing": {"work": work, "wanted": release, "by": "PassedOn", "end": end}}),
                json!({"Replacing": {"effect": 7, "wanted": release, "by": "PassedOn", "end": end}}),
            ),
            (
                json!({"Retiring": {"deploy": deploy, "release": release, "end": end}}),
                json!({"Retiring": {"end": end}}),
            ),
        ];
        let mut read = 0;
        for (former, stage) in simple.chain(others) {
            let app = state(&json!({"pipeline": former, "last_effect": 7}).to_string()).expect("it is read");
            // Nothing is live: the idle color is blue, and a stage that names a color keeps it.
            let color = if former.to_string().contains("green") { "green" } else { "blue" };
            let today =
                json!({"Deploying": {"deploy": deploy, "release": release, "color": color, "stage": stage}});
            assert_eq!(serde_json::to_value(&app.pipeline).unwrap(), today, "{former}");
            assert_eq!(app.last_effect.0, 7);
            assert_eq!(state(&serde_json::to_string(&app).unwrap()).unwrap(), app);
            read += 1;
        }
        assert_eq!(read, 14);
        let unchanged = [
            json!("Resting"),
            json!({"Fetching": {"deploy": deploy, "effect": 7, "commit": null}}),
            json!({"Discarding": {"deploy": deploy, "release": null, "effect": 7, "end": end}}),
            json!({"TakingDown": {"effect": 7, "stage": "Draining"}}),
        ];
        for pipeline in unchanged {
            let app = state(&json!({ "pipeline": pipeline }).to_string()).expect("it is read");
            assert_eq!(serde_json::to_value(&app.pipeline).unwrap(), pipeline);
        }
    }

    /// Written by the release before while a second deploy was watched.
    #[test]
    fn a_whole_state_of_the_former_record_is_read() {
        let text = r#"{"serving":{"Live":{"color":"green","release":{"id":"20261121T101112Z-3-0000002",
            "commit":"0000002000000000000000000000000000000000","subject":"subject","author":"author"},"since":7062000,
            "instance":{"Up":{"since":7062000,"attempt":0}},"healthy":true}},"idle":{"Warm":{"release":{
            "id":"20261121T101112Z-2-0000001","commit":"0000001000000000000000000000000000000000","subject":"subject",
            "author":"author"},"timer":null,"healthy":true}},"pipeline":{"Watching":{"work":{"deploy":{"id":3,
            "kind":"Push","by":"poller","started":1002000,"phase_since":7062000},"release":{
            "id":"20261121T101112Z-3-0000002","commit":"0000002000000000000000000000000000000000","subject":"subject",
            "author":"author"},"color":"green","effect":17},"former":{"id":"20261121T101112Z-2-0000001",
            "commit":"0000001000000000000000000000000000000000","subject":"subject","author":"author"},"held":null}},
            "canary":null,"queued":null,"head":"0000002000000000000000000000000000000000","hold":null,"verdicts":{},
            "previous":null,"rerouting":null,"backup":"Absent","down_wanted":false,"superseded_in_a_row":0,
            "last_effect":17,"generation":2,"front_unsure":false,"standing_in":null,"announcing":null,
            "front_refusal":null}"#;
        let app = state(text).expect("it is read");
        let work = app.pipeline.work().expect("a deploy is under way");
        assert!(
            matches!(&work.stage, Stage::Watching { former: Some(former), .. } if former.id.as_str().contains("-2-"))
        );
        assert_eq!((work.deploy.id.0, work.stage.awaits().map(|effect| effect.0)), (3, Some(17)));
        assert!(matches!(app.serving, Serving::Live(live) if live.release == work.release));
    }

    #[test]
    fn what_is_of_neither_form_is_refused() {
        for text in [
            "",
            "7",
            r#"{"pipeline":{"Dreaming":{"deploy":1}}}"#,
            r#"{"pipeline":{"Building":{"effect":7}}}"#,
        ] {
            assert!(state(text).is_err(), "{text}");
        }
    }
}
