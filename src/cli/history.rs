//! `bgd history` and `bgd show`: what happened to deploys, from the daemon or, without it, from the record.

use std::time::Duration;

use crate::{
    api::wire::{Answer, DeployDetail, DeployRecord, Exit, MeterRecord, Request, TaskRecord},
    cli::{
        CliContext,
        args::{HistoryArgs, ShowArgs},
        events, offline,
        problem::CliProblem,
        table,
        terminal::{self, StreamStyle, one_line},
        wording,
    },
    rules::{
        ids::DeployId,
        time::Time,
        words::{Outcome, Phase},
    },
};

/// Runs `bgd history`.
pub async fn run(context: &CliContext, args: HistoryArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let request = Request::History { app: args.app.clone(), limit: args.limit };
    let deploys = match installation.client().ask(&request).await {
        Ok(Answer::History(deploys)) => deploys,
        Ok(_) => return Err(CliProblem::unexpected()),
        Err(error) if error.without_daemon() => {
            let found = offline::history(installation.settings_or(&error)?, args.app.as_ref(), args.limit)?;
            context.say_record(&error);
            found
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        terminal::data(&serde_json::to_string_pretty(&deploys).expect("plain data"))?;
    } else if deploys.is_empty() {
        terminal::chatter("no deploys yet");
    } else {
        terminal::data(&list(&deploys, wording::now(), context.stdout))?;
    }
    Ok(Exit::Done)
}

/// Runs `bgd show`.
pub async fn show(context: &CliContext, args: ShowArgs) -> Result<Exit, CliProblem> {
    let installation = context.installation()?;
    let id = DeployId(args.id);
    let detail = match installation.client().ask(&Request::Show { id }).await {
        Ok(Answer::Show(detail)) => *detail,
        Ok(_) => return Err(CliProblem::unexpected()),
        Err(error) if error.without_daemon() => {
            let found = offline::show(installation.settings_or(&error)?, id)?;
            context.say_record(&error);
            found
        }
        Err(error) => return Err(error.into()),
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&detail).expect("plain data"),
        false => describe(&detail, wording::now()),
    };
    terminal::data(&text)?;
    Ok(Exit::Done)
}

fn list(deploys: &[DeployRecord], now: Time, look: StreamStyle) -> String {
    let several = deploys.iter().any(|deploy| deploy.app != deploys[0].app);
    let mut header =
        vec!["ID", "APP", "BEGUN", "OUTCOME", "COMMIT", "COLOR", "TOOK", "LOST", "GAP", "BY", "SUBJECT"];
    if !several {
        header.remove(1);
    }
    let row = |deploy: &DeployRecord| {
        let mut row = cells(deploy, now, look);
        if !several {
            row.remove(1);
        }
        row
    };
    table::render(&header, deploys.iter().map(row).collect(), look)
}

fn cells(deploy: &DeployRecord, now: Time, look: StreamStyle) -> Vec<String> {
    // Scripts get a timestamp, people an age.
    let begun = match look.width {
        Some(_) => wording::ago(deploy.started_at, now),
        None => deploy.started_at.to_string(),
    };
    let failed = matches!(deploy.outcome, Some(Outcome::Failed | Outcome::RolledBack));
    let subject = match &deploy.error {
        Some(error) if failed => format!("{}: {error}", deploy.subject.as_deref().unwrap_or("-")),
        _ => deploy.subject.clone().unwrap_or_else(|| "-".to_owned()),
    };
    vec![
        deploy.id.to_string(),
        deploy.app.to_string(),
        begun,
        progress_of(deploy),
        deploy.commit.as_ref().map_or("-", |commit| commit.short()).to_owned(),
        deploy.color.map_or("-", |color| color.as_str()).to_owned(),
        wording::took(deploy).map_or("-".to_owned(), wording::span),
        deploy.meter.map_or("-".to_owned(), |meter| format!("{}/{}", meter.lost, meter.requests)),
        deploy.meter.map_or("-".to_owned(), |meter| gap(&meter)),
        format!("{} ({})", deploy.by, deploy.kind),
        subject,
    ]
}

fn gap(meter: &MeterRecord) -> String {
    wording::span(Duration::from_millis(meter.longest_gap_ms))
}

fn metered(meter: &MeterRecord) -> String {
    let MeterRecord { requests, lost, .. } = meter;
    format!("{lost} of {requests} requests lost, longest gap {}", gap(meter))
}

/// The outcome, or the current phase.
fn progress_of(deploy: &DeployRecord) -> String {
    match (deploy.outcome, deploy.phase) {
        (None, Some(phase)) => wording::doing(phase),
        (outcome, _) => wording::outcome(outcome).to_owned(),
    }
}

fn describe(detail: &DeployDetail, now: Time) -> String {
    let deploy = &detail.deploy;
    let mut lines =
        vec![format!("deploy #{} of {}: {}", deploy.id, deploy.app, progress_of(deploy)), String::new()];
    let mut row = |label: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {label:<9}{}", one_line(&value))));
    };
    let author = deploy.author.as_deref().map(|author| format!("by {author}"));
    let commit = deploy.commit.as_ref().map(|commit| commit.to_string());
    row("commit", commit);
    row("", deploy.subject.clone());
    row("", author);
    row("release", deploy.release.as_ref().map(|release| release.to_string()));
    row("color", deploy.color.map(|color| color.to_string()));
    let uid = deploy.uid.map(|uid| format!(", uid {uid}")).unwrap_or_default();
    row("asked by", Some(format!("{} ({}{uid})", deploy.by, deploy.kind)));
    row("begun", Some(when(deploy.started_at, now)));
    row("ended", deploy.finished_at.map(|at| when(at, now)));
    row("meter", deploy.meter.as_ref().map(metered));
    let replaced = "the front could not be moved: it took the place of another release on its port";
    row("replaced", deploy.replaced.then(|| replaced.to_owned()));
    row("failed", deploy.error.as_ref().map(|_| phase(deploy.phase)));
    row("error", deploy.error.clone());
    row("hint", deploy.hint.clone());
    let width = deploy.steps.iter().map(|step| step.name.len() + 2).max().unwrap_or(0).max(9);
    section(
        &mut lines,
        "steps",
        deploy
            .steps
            .iter()
            .map(|step| format!("{:<width$}{}", step.name, wording::span(Duration::from_millis(step.ms)))),
    );
    section(&mut lines, "probe answers", detail.probes.iter().map(|probe| one_line(probe)));
    for task in &detail.tasks {
        task_run(&mut lines, task, &detail.log_tail);
    }
    section(&mut lines, "last output", detail.log_tail.iter().map(|line| format!("| {}", one_line(line))));
    section(&mut lines, "events", detail.events.iter().map(events::line));
    lines.join("\n")
}

/// A task or hook with its last lines, unless those are the deploy's last output, which follows.
fn task_run(lines: &mut Vec<String>, task: &TaskRecord, shown: &[String]) {
    let how = task.outcome.map_or("under way".to_owned(), |outcome| wording::task(outcome, task.exit));
    let took =
        task.ms.map(|ms| format!(" in {}", wording::span(Duration::from_millis(ms)))).unwrap_or_default();
    let moment = if task.when == task.name { "hook" } else { &task.when };
    lines.extend([String::new(), format!("{} ({moment}): {how}{took}", task.name)]);
    if task.tail != shown {
        lines.extend(task.tail.iter().map(|line| format!("  | {}", one_line(line))));
    }
}

fn when(at: crate::rules::time::Stamp, now: Time) -> String {
    format!("{}Z, {}", wording::moment(at), wording::ago(at, now))
}

fn phase(phase: Option<Phase>) -> String {
    phase.map_or("before its first phase", wording::at).to_owned()
}

fn section(lines: &mut Vec<String>, title: &str, entries: impl Iterator<Item = String>) {
    let before = lines.len();
    lines.extend(entries.map(|entry| format!("  {entry}")));
    if lines.len() > before {
        lines.insert(before, title.to_owned());
        lines.insert(before, String::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::wire::{EventRecord, StepRecord},
        cli::status::fixture,
        rules::{
            ids::Color,
            words::{DeployKind, EventKind, TaskOutcome},
        },
    };

    fn record(id: u64, app: &str) -> DeployRecord {
        DeployRecord {
            id: DeployId(id),
            app: app.parse().unwrap(),
            kind: DeployKind::Push,
            by: "poller".to_owned(),
            uid: None,
            commit: Some(fixture::commit("c3")),
            subject: Some("Add a banner".to_owned()),
            author: Some("Ann".to_owned()),
            release: None,
            color: Some(Color::Green),
            outcome: Some(Outcome::Live),
            phase: None,
            error: None,
            hint: None,
            started_at: fixture::before(20),
            finished_at: Some(fixture::before(16)),
            steps: vec![StepRecord { name: "build".to_owned(), ms: 2_100 }],
            meter: Some(MeterRecord { requests: 57, lost: 0, longest_gap_ms: 108 }),
            replaced: false,
            passed_gates: Vec::new(),
        }
    }

    fn failed(id: u64) -> DeployRecord {
        DeployRecord {
            outcome: Some(Outcome::Failed),
            phase: Some(Phase::Probing),
            error: Some("GET /up answered 500".to_owned()),
            meter: None,
            ..record(id, "shop")
        }
    }

    #[test]
    fn history_is_a_plain_table_in_a_pipe() {
        assert_eq!(
            list(&[failed(8), record(7, "shop")], fixture::NOW, StreamStyle::PLAIN),
            "\
ID  BEGUN                     OUTCOME  COMMIT   COLOR  TOOK   LOST  GAP     BY             SUBJECT
8   2026-11-21T07:50:52.034Z  failed   c3c3c3c  green  4.0 s  -     -       poller (push)  Add a banner: GET /up answered 500
7   2026-11-21T07:50:52.034Z  live     c3c3c3c  green  4.0 s  0/57  108 ms  poller (push)  Add a banner"
        );
    }

    #[test]
    fn history_names_the_app_when_there_are_several() {
        let text = list(&[record(8, "blog"), record(7, "shop")], fixture::NOW, StreamStyle::PLAIN);
        assert!(text.starts_with("ID  APP   BEGUN"), "{text}");
    }

    #[test]
    fn show_tells_what_the_flip_cost() {
        let meter = Some(MeterRecord { requests: 57, lost: 3, longest_gap_ms: 1_230 });
        let deploy = DeployRecord { meter, ..record(7, "shop") };
        let detail = DeployDetail {
            deploy,
            log_tail: Vec::new(),
            probes: Vec::new(),
            events: Vec::new(),
            tasks: Vec::new(),
        };
        let text = describe(&detail, fixture::NOW);
        assert!(text.contains("\n  meter    3 of 57 requests lost, longest gap 1.2 s\n"), "{text}");
        let unmeasured = describe(&DeployDetail { deploy: failed(8), ..detail }, fixture::NOW);
        assert!(!unmeasured.contains("meter"), "{unmeasured}");
    }

    #[test]
    fn show_tells_the_whole_story() {
        let event = EventRecord {
            seq: 12,
            at: fixture::before(18),
            app: Some("shop".parse().unwrap()),
            deploy: Some(DeployId(8)),
            kind: EventKind::PhaseEntered,
            by: "poller".to_owned(),
            uid: None,
            text: "probing".to_owned(),
        };
        let task = TaskRecord {
            name: "migrate".to_owned(),
            when: "before_start".to_owned(),
            outcome: Some(TaskOutcome::Done),
            exit: Some(0),
            ms: Some(1_200),
            attempt: 1,
            host: None,
            tail: vec!["2 tables made".to_owned()],
        };
        let detail = DeployDetail {
            deploy: failed(8),
            log_tail: vec!["no database".to_owned()],
            probes: vec!["500 Internal Server Error".to_owned()],
            events: vec![event],
            tasks: vec![task],
        };
        assert_eq!(
            describe(&detail, fixture::NOW),
            "\
deploy #8 of shop: failed

  commit   c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3
           Add a banner
           by Ann
  color    green
  asked by poller (push)
  begun    2026-11-21 07:50:52Z, 20 s ago
  ended    2026-11-21 07:50:56Z, 16 s ago
  failed   at its health check
  error    GET /up answered 500

steps
  build    2.1 s

probe answers
  500 Internal Server Error

migrate (before_start): done in 1.2 s
  | 2 tables made

last output
  | no database

events
  12 2026-11-21T07:50:54.034Z shop #8 phase_entered probing (poller)"
        );
    }
}
