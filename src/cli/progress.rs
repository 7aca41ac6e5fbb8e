//! The progress of a deploy, flip, `up` or `down`: on a terminal a spinner with the current step below the finished
//! ones, in a pipe one line an event. All of it goes to stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    api::{
        client::{Call, CallError, Part},
        wire::{Answer, EventRecord, Progress},
    },
    cli::{
        terminal::{self, StreamStyle, Tone, one_line},
        wording,
    },
    rules::words::EventKind,
};

/// Time between two turns of the spinner: smooth, and cheap on a slow terminal line.
const TURN: Duration = Duration::from_millis(120);

/// Shows the events of a call until its answer is there.
pub async fn follow(call: &mut Call, look: StreamStyle) -> Result<Answer, CallError> {
    let mut display = Display::new(look);
    loop {
        match call.next().await? {
            Part::Progress(Progress::Event(event)) => display.event(&event),
            Part::Progress(Progress::Line(line)) => display.say(&one_line(&line)),
            Part::Done(answer) => return Ok(answer),
        }
    }
}

/// The display; dropping it removes the line of the current step.
struct Display {
    look: StreamStyle,
    spinner: Option<ProgressBar>,
    current: Option<(String, Instant)>,
}

impl Display {
    fn new(look: StreamStyle) -> Self {
        // `ansi` is also off with NO_COLOR, which says nothing about spinners; plain lines are right there too.
        let spinner = look.ansi.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:>}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TURN);
            bar
        });
        Self { look, spinner, current: None }
    }

    fn event(&mut self, event: &EventRecord) {
        let text = text(event);
        if self.spinner.is_none() {
            return terminal::chatter(&plain(event));
        }
        self.finish();
        if let Some(spinner) = &self.spinner {
            spinner.reset_elapsed();
            spinner.set_message(text.clone());
        }
        self.current = Some((text, Instant::now()));
    }

    fn say(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(text),
            None => terminal::chatter(text),
        }
    }

    /// The step that was current becomes a line above the spinner.
    fn finish(&mut self) {
        if let Some((text, since)) = self.current.take() {
            let took = self.look.paint(Tone::Quiet, &wording::span(since.elapsed()));
            self.say(&format!("{} {text}  {took}", self.look.paint(Tone::Good, "·")));
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.finish();
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// `07:51:12 shop #7 building`.
fn plain(event: &EventRecord) -> String {
    let app = event.app.as_ref().map(|app| format!(" {app}")).unwrap_or_default();
    let deploy = event.deploy.map(|id| format!(" #{id}")).unwrap_or_default();
    format!("{}{app}{deploy} {}", wording::clock(event.at), text(event))
}

/// The event's words; a phase as people read it.
fn text(event: &EventRecord) -> String {
    match event.kind {
        EventKind::PhaseEntered => wording::plain_word(&one_line(&event.text)),
        EventKind::Asked => format!("{} asked for it: {}", one_line(&event.by), one_line(&event.text)),
        _ => one_line(&event.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::status::fixture, rules::ids::DeployId};

    #[test]
    fn an_event_is_one_plain_line() {
        let event = EventRecord {
            seq: 9,
            at: fixture::before(0),
            app: Some("shop".parse().unwrap()),
            deploy: Some(DeployId(7)),
            kind: EventKind::PhaseEntered,
            by: "poller".to_owned(),
            uid: None,
            text: "checking_out\n".to_owned(),
        };
        assert_eq!(plain(&event), "07:51:12 shop #7 checking out ");
    }
}
