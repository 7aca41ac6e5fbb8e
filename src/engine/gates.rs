//! Asks the gates of one app about the commits that its poller sees: compares them with what is live, looks at the
//! calendar, runs the gate command. Called by `poller` only; the machine decides what follows.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{interpreter::Interpreter, snapshot::Snapshot};
use crate::{
    command::gate_command,
    config::{duration::exact, settings::GateCommand},
    os::{errors::chain, printable::one_line},
    probe::{self, ProbeCommand},
    release::git::{Between, Compared, GitError, Passed},
    rules::{
        gate::{Gate, GateLook},
        ids::CommitId,
        time::{Stamp, Time},
        words::GateKind,
    },
    store::clock,
};

/// Commits of one look that the gate command is asked about, the newest first.
const MOST_ASKED: usize = 5;
/// Exit code of a gate command: not yet. `EX_TEMPFAIL` of sysexits.h.
const NOT_YET: i32 = 75;
/// Letters of a command's last line of output that are shown.
const SHOWN: usize = 160;

/// Asks the gates of one app, and remembers what the gate command said.
#[derive(Debug)]
pub(super) struct Gatekeeper {
    interpreter: Arc<Interpreter>,
    shown: watch::Receiver<Snapshot>,
    /// The tip of the last look, and what it was compared with.
    looked: Option<(CommitId, Option<CommitId>)>,
    answers: BTreeMap<CommitId, Answered>,
    /// The comparisons of the last look.
    compared: BTreeMap<CommitId, Compared>,
    /// When the gates have to be asked again although nothing else happens.
    again: Option<Instant>,
}

/// What the gate command said about a commit.
#[derive(Debug, Clone)]
struct Answered {
    /// The first run.
    since: Time,
    /// The last run of this daemon.
    run: Option<Instant>,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Open,
    NotYet,
    /// For good; the cause.
    Closed(String),
}

impl Gatekeeper {
    /// `None` for an app without gates. Goes on from the last look in the record.
    pub fn of(interpreter: &Arc<Interpreter>, shown: &watch::Receiver<Snapshot>) -> Option<Self> {
        let gates = &interpreter.settings().gates;
        if !gates.any() {
            return None;
        }
        let mut answers = BTreeMap::new();
        if let Some(look) = shown.borrow().app.gates.as_ref() {
            let asked = look.closed.iter().filter(|gate| gate.kind == GateKind::Command);
            answers.extend(asked.filter_map(remembered));
        }
        Some(Self {
            interpreter: interpreter.clone(),
            shown: shown.clone(),
            looked: None,
            answers,
            compared: BTreeMap::new(),
            again: None,
        })
    }

    /// Asks all gates about this tip.
    ///
    /// # Errors
    /// When commits can't be fetched or compared.
    pub async fn ask(&mut self, head: &CommitId) -> Result<GateLook, GitError> {
        let live = self.live();
        if self.looked.as_ref() != Some(&(head.clone(), live.clone())) {
            self.compared.clear();
            self.looked = Some((head.clone(), live.clone()));
        }
        let settings = self.interpreter.settings().clone();
        let now = clock::now();
        let mut look = GateLook {
            head: Some(head.clone()),
            live: live.clone(),
            closed: Vec::new(),
            passes: None,
            until: settings.gates.openings.good_until(now),
            settings: settings.gates.fingerprint(),
        };
        self.again = look.until.map(|until| Instant::now() + until.since(now));
        if live.as_ref() != Some(head) {
            look.closed.extend(self.own_gate(head, live.as_ref()).await?);
        }
        let shut = settings.gates.openings.shut(now);
        look.closed.extend(shut.iter().map(|shut| of_time(head, shut)));
        if live.as_ref() == Some(head) {
            return Ok(look);
        }
        match &settings.gates.command {
            None => look.passes = look.closed.is_empty().then(|| head.clone()),
            Some(command) if shut.is_empty() => self.ask_command(command, &mut look).await?,
            Some(_) => {}
        }
        Ok(look)
    }

    /// Returns when the gates have to be asked again: another release is live, a window opens or closes, or the gate
    /// command is due. Cancel-safe: a sleep, and a watch that keeps what it saw.
    pub async fn due(&mut self) {
        let live = self.looked.as_ref().map(|(_, live)| live.clone());
        let again = self.again;
        let moved = async {
            match live {
                // Fails only when the app's task has ended, which ends the poller too.
                Some(live) => {
                    if self.shown.wait_for(|shown| live_of(shown) != live).await.is_err() {
                        pending::<()>().await;
                    }
                }
                None => pending().await,
            }
        };
        let time = async {
            match again {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        // Both arms are cancel-safe, see above.
        tokio::select! {
            () = moved => {}
            () = time => {}
        }
    }

    fn live(&self) -> Option<CommitId> {
        live_of(&self.shown.borrow())
    }

    /// The gate that a commit closes by what is in it. A first deploy has nothing to be compared with.
    async fn own_gate(
        &mut self,
        commit: &CommitId,
        live: Option<&CommitId>,
    ) -> Result<Option<Gate>, GitError> {
        let gates = self.interpreter.settings().gates.clone();
        let Some(live) = live.filter(|_| gates.paths.is_some() || !gates.skip.is_empty()) else {
            return Ok(None);
        };
        let compared = self.compare(commit, Some(live)).await?;
        let untouched = compared.touched.first().is_some_and(|touched| touched.count == 0);
        if untouched && compared.from_known {
            let text = format!("{} touches nothing of `paths` since live {}", commit.short(), live.short());
            return Ok(Some(Gate::new(GateKind::Paths, commit, text)));
        }
        let skipped = compared.all && !compared.commits.is_empty() && compared.from_known;
        if skipped && compared.commits.iter().all(|passed| is_marked(passed, &gates.skip)) {
            let text = format!(
                "{} is held back by `skip`: every commit since live {} bears a marker",
                commit.short(),
                live.short()
            );
            return Ok(Some(Gate::new(GateKind::Skip, commit, text)));
        }
        Ok(None)
    }

    async fn compare(&mut self, commit: &CommitId, live: Option<&CommitId>) -> Result<Compared, GitError> {
        if let Some(known) = self.compared.get(commit) {
            return Ok(known.clone());
        }
        let patterns = self.interpreter.settings().gates.paths.iter().cloned().collect();
        let between = Between { from: live.cloned(), to: commit.clone(), patterns };
        let compared = self.interpreter.git().compare(between).await?;
        self.compared.insert(commit.clone(), compared.clone());
        Ok(compared)
    }

    /// Asks the command about the tip and then about older commits, until one passes.
    async fn ask_command(&mut self, command: &GateCommand, look: &mut GateLook) -> Result<(), GitError> {
        let Some(head) = look.head.clone() else { return Ok(()) };
        let live = look.live.clone();
        let candidates = self.candidates(&head, live.as_ref()).await?;
        self.answers.retain(|commit, _| candidates.contains(commit));
        for commit in candidates {
            let own = match commit == head {
                true => look.closed.first().cloned(),
                false => self.own_gate(&commit, live.as_ref()).await?,
            };
            if let Some(gate) = own {
                if commit != head {
                    look.closed.push(gate);
                }
                continue;
            }
            match self.answer(command, (&commit, live.as_ref())).await {
                None => {
                    look.passes = Some(commit);
                    break;
                }
                Some(gate) => look.closed.push(gate),
            }
        }
        Ok(())
    }

    /// The tip, and the commits after the live one that were tips before it.
    async fn candidates(
        &mut self,
        head: &CommitId,
        live: Option<&CommitId>,
    ) -> Result<Vec<CommitId>, GitError> {
        let Some(live) = live else { return Ok(vec![head.clone()]) };
        let compared = self.compare(head, Some(live)).await?;
        if !compared.from_known {
            return Ok(vec![head.clone()]);
        }
        let line = compared.commits.into_iter().filter(|passed| passed.on_main_line);
        Ok(line.map(|passed| passed.commit).take(MOST_ASKED).collect())
    }

    /// The command's answer about a commit, asked anew if its time has come; `None`: open.
    async fn answer(
        &mut self,
        command: &GateCommand,
        (commit, live): (&CommitId, Option<&CommitId>),
    ) -> Option<Gate> {
        let first = Answered { since: clock::now(), run: None, verdict: Verdict::NotYet };
        let mut answered = self.answers.get(commit).cloned().unwrap_or(first);
        let is_due = answered.run.is_none_or(|run| run.elapsed() >= command.interval);
        if answered.verdict == Verdict::NotYet && is_due {
            answered.verdict = match left(command, &answered) {
                Some(left) => self.run(command, left, (commit, live)).await,
                None => Verdict::Closed(format!("was not open within {}", exact(command.deadline))),
            };
            answered.run = Some(Instant::now());
            let cause = match &answered.verdict {
                Verdict::Closed(cause) => cause.as_str(),
                Verdict::Open => "open",
                Verdict::NotYet => "not yet",
            };
            tracing::debug!(app = %self.interpreter.settings().name, rev = %commit, cause, "the gate was asked");
        }
        self.answers.insert(commit.clone(), answered.clone());
        let gate = |text, is_final| Gate {
            asked_since: Some(answered.since),
            is_final,
            ..Gate::new(GateKind::Command, commit, text)
        };
        match &answered.verdict {
            Verdict::Open => None,
            Verdict::Closed(cause) => {
                Some(gate(format!("{} is passed over: the gate command {cause}", commit.short()), true))
            }
            Verdict::NotYet => {
                let run = answered.run.unwrap_or_else(Instant::now) + command.interval;
                let next = run.min(Instant::now() + left(command, &answered).unwrap_or_default());
                self.again = Some(self.again.map_or(next, |again| again.min(next)));
                let until = Stamp(answered.since.plus(command.deadline));
                let text = format!(
                    "{} waits for the gate command, which says not yet; closed for this commit at {until}",
                    commit.short()
                );
                Some(gate(text, false))
            }
        }
    }

    async fn run(
        &self,
        command: &GateCommand,
        left: Duration,
        (commit, live): (&CommitId, Option<&CommitId>),
    ) -> Verdict {
        let settings = self.interpreter.settings();
        let made = gate_command((settings, self.interpreter.places()), command, (commit, live));
        let made = match made {
            Ok(made) => made,
            Err(err) => return Verdict::Closed(format!("can't be run: {}", one_line(&chain(&err)))),
        };
        let crate::command::Command { argv, cwd, env, user, new_privileges } = made;
        let run = ProbeCommand { argv, cwd, env, user, new_privileges };
        match probe::run(&run, command.timeout.min(left)).await {
            Err(err) => Verdict::Closed(format!("can't be run: {}", one_line(&err.to_string()))),
            Ok(ended) => match ended.status {
                None => Verdict::NotYet,
                Some(status) if status.success() => Verdict::Open,
                Some(status) if status.code() == Some(NOT_YET) => Verdict::NotYet,
                Some(status) => {
                    let output = String::from_utf8_lossy(&ended.output);
                    Verdict::Closed(said(&probe::exit_words(status), &output))
                }
            },
        }
    }
}

/// The time until the deadline of a commit; `None`: it is over.
fn left(command: &GateCommand, answered: &Answered) -> Option<Duration> {
    let waited = clock::now().since(answered.since);
    command.deadline.checked_sub(waited).filter(|left| !left.is_zero())
}

fn live_of(shown: &Snapshot) -> Option<CommitId> {
    shown.app.live().map(|live| live.release.commit.clone())
}

/// What the record knows of the gate command's answer about a commit.
fn remembered(gate: &Gate) -> Option<(CommitId, Answered)> {
    let cause = || gate.text.split_once("the gate command ").map_or("said no", |(_, cause)| cause).to_owned();
    let verdict = if gate.is_final { Verdict::Closed(cause()) } else { Verdict::NotYet };
    Some((gate.commit.clone(), Answered { since: gate.asked_since?, run: None, verdict }))
}

fn is_marked(passed: &Passed, markers: &[String]) -> bool {
    markers.iter().any(|marker| passed.message.contains(marker.as_str()))
}

fn of_time(head: &CommitId, shut: &crate::rules::opening::Shut) -> Gate {
    let opens = match shut.opens.as_str() {
        "" => "never opens".to_owned(),
        opens => format!("opens {opens}"),
    };
    let text = match (shut.kind, &shut.reason) {
        (GateKind::Freeze, Some(reason)) => {
            format!("{} waits for the end of a freeze ({}): {opens}", head.short(), one_line(reason))
        }
        (GateKind::Freeze, None) => format!("{} waits for the end of a freeze: {opens}", head.short()),
        _ => format!("{} waits for a window: the next one {opens}", head.short()),
    };
    Gate { opens_at: shut.opens_at, ..Gate::new(shut.kind, head, text) }
}

/// `ended with exit code 1: the last line that it printed`.
fn said(status: &str, output: &str) -> String {
    let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match last {
        Some(line) => {
            format!("ended with {status}: {}", one_line(line).chars().take(SHOWN).collect::<String>())
        }
        None => format!("ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_shows_the_last_line_that_its_command_printed() {
        assert_eq!(
            said("exit code 1", "looking\n\n checks failed: lint \n\n"),
            "ended with exit code 1: checks failed: lint"
        );
        assert_eq!(said("signal 9", ""), "ended with signal 9");
        assert!(said("exit code 1", &"x".repeat(1 << 20)).len() < 200);
    }

    #[test]
    fn what_the_record_knows_of_a_commit_is_not_asked_again() {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let text = "0123456 is passed over: the gate command ended with exit code 1: lint".to_owned();
        let gate = Gate {
            asked_since: Some(Time(7)),
            is_final: true,
            ..Gate::new(GateKind::Command, &commit, text)
        };
        let (_, answered) = remembered(&gate).unwrap();
        assert_eq!(answered.verdict, Verdict::Closed("ended with exit code 1: lint".to_owned()));
        let (_, answered) = remembered(&Gate { is_final: false, ..gate }).unwrap();
        assert_eq!((answered.since, answered.verdict), (Time(7), Verdict::NotYet));
    }
}
