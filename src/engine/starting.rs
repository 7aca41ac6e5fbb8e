//! Effects around a new instance: start it on a port proven free, prove that it is healthy and that the socket is
//! its own, and watch it once it is live.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    app_task::blocking,
    building::{build_failure, start_failure},
    clock,
    interpreter::{Interpreter, failure, tail, trouble},
};
use crate::{
    build,
    config::settings::{Limits, Probe},
    errors::chain,
    probe::{self, Answer, ProbeCommand, Target, Verdict},
    process::{Exit, Handle, Role, Spec, StartError, ports},
    rules::{
        app::Release,
        health::{Decision, Seen, Streak},
        ids::Color,
        words::{Failure, Nature, Phase},
    },
    store::record::EventRecord,
};

/// The first wait for the port to open; grows to `health.interval`, so that a fast app is promoted at once.
const FIRST_LOOK: Duration = Duration::from_millis(3);
/// The least wait between the first success and the next: two answers of the same instant are one.
const CONFIRM: Duration = Duration::from_millis(10);
/// Probe answers kept for `bgd show`.
const ANSWERS_KEPT: usize = 20;

impl Interpreter {
    pub(super) async fn start(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let phase = Phase::Starting;
        if self.adopt_or_clear(release, color).await? {
            return Ok(());
        }
        self.prove_free(color)?;
        let context = self.context(release, color);
        let command =
            build::start_command(&self.settings, &context).map_err(|err| build_failure(phase, &err))?;
        let mut spec = self.spec(Role::Instance(color), release, command);
        spec.stop.how = self.stop_request(&context).map_err(|err| build_failure(phase, &err))?;
        let started = match self.shims.start(&spec).await {
            Err(StartError::Limits { why, .. }) if self.was_live(release) => {
                self.say_unlimited(&why).await;
                self.shims.start(&Spec { limits: Limits::default(), ..spec }).await
            }
            started => started,
        };
        self.instances.put(color, started.map_err(|err| start_failure(phase, &err))?);
        Ok(())
    }

    /// Restarting what served, or going back to it, comes before its limits: refusing to serve is worse.
    fn was_live(&self, release: &Release) -> bool {
        let known = self.releases();
        known.iter().any(|(one, verdict)| one.id == release.id && verdict == "good")
    }

    async fn say_unlimited(&self, why: &str) {
        tracing::error!(app = %self.settings.name, why, "started without its limits, which can't be kept");
        let text = format!("started without its limits, which can't be kept: {why}");
        let mut event = EventRecord::new("limits_not_kept", clock::now(), &text);
        event.app = Some(self.settings.name.clone());
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.log(event)).await {
            tracing::warn!(app = %self.settings.name, err = %chain(&err), "an event was not recorded");
        }
    }

    /// True when this very instance runs already. Another one of ours on the color is an orphan and goes (D1).
    async fn adopt_or_clear(&self, release: &Release, color: Color) -> Result<bool, Failure> {
        let phase = Phase::Starting;
        let shims = self.shims.find(&self.settings.name).await.map_err(|err| trouble(phase, &err))?;
        let mut adopted = false;
        for handle in shims.into_iter().filter(|handle| *handle.role() == Role::Instance(color)) {
            let alive = !handle.status().await.map_err(|err| trouble(phase, &err))?.tree.is_empty();
            if alive && *handle.release() == release.id && !adopted {
                self.instances.put(color, handle);
                adopted = true;
            } else {
                self.end_shim(&handle).await.map_err(|err| trouble(phase, &err))?;
            }
        }
        Ok(adopted)
    }

    pub(super) async fn end_shim(&self, handle: &Handle) -> Result<(), crate::process::ShimError> {
        let stopped = handle.stop().await?;
        if stopped.killed {
            tracing::warn!(app = %self.settings.name, release = %handle.release(), role = %handle.role(), "ended by KILL after its grace");
        }
        if let Role::Instance(color) = handle.role() {
            self.instances.remove(*color, handle.id());
        }
        handle.forget().await
    }

    pub(super) fn prove_free(&self, color: Color) -> Result<(), Failure> {
        let port = self.settings.ports.of(color);
        let listeners = ports::listeners(port).map_err(|err| trouble(Phase::Starting, &err))?;
        if listeners.is_empty() {
            return Ok(());
        }
        let holder = holders_of(port);
        let cause = format!("port {port} ({color}) is held by {holder}, which is not bgd's to stop");
        let hint = format!("stop it or change `ports` of {}; then `bgd deploy`", self.settings.name);
        Err(Failure { hint: Some(hint), ..failure(Phase::Starting, Nature::Transient, cause) })
    }

    pub(super) async fn probe(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let handle = self.to_be_probed(release, color).await?;
        let target = self.target(release, color)?;
        let mut answers = VecDeque::new();
        let deadline = Instant::now() + self.settings.health.deadline;
        // Both arms are cancel-safe: `ended` consumes nothing, and a probe that is dropped ends by itself.
        let proven = tokio::select! {
            exit = handle.ended() => Err(self.exited_early(&handle, exit, &answers)),
            proven = self.until_healthy((&handle, &target), deadline, &mut answers) => proven,
        };
        self.keep_answers(release, answers).await;
        if proven.is_ok() {
            self.instances.prove(color, handle.id());
        }
        proven
    }

    /// The new instance; also one that ended before anybody asked, for how it ended (promise D3).
    async fn to_be_probed(&self, release: &Release, color: Color) -> Result<Handle, Failure> {
        let phase = Phase::Probing;
        if let Some(handle) = self.instances.on(color).filter(|handle| *handle.release() == release.id) {
            return Ok(handle);
        }
        let ended =
            self.shim(&Role::Instance(color), &release.id).await.map_err(|err| trouble(phase, &err))?;
        ended.ok_or_else(|| failure(phase, Nature::Transient, "the new instance is not there to be probed"))
    }

    async fn until_healthy(
        &self,
        (handle, target): (&Handle, &Target),
        deadline: Instant,
        answers: &mut VecDeque<String>,
    ) -> Result<(), Failure> {
        let health = &self.settings.health;
        let mut streak = Streak::new(health.successes);
        let mut pause = FIRST_LOOK;
        let mut said = None;
        loop {
            self.refuse_other_port(handle, target.port)?;
            let mut socket = Socket::glance(handle, target.port);
            let answer = self.ask((&socket, target), deadline, &mut said).await;
            let settled = self.settled(handle);
            let healthy = answer.0 && settled;
            note_answer(answers, answer.1);
            if let Socket::Ours(owner) = &socket {
                let seen = if healthy { Seen::Healthy } else { Seen::Unhealthy };
                if streak.observe(seen, owner) == Decision::Healthy {
                    // Promise D1, in full before the flip; a stranger seen only now is waited for like any other.
                    socket = Socket::of(handle, target.port);
                    if matches!(socket, Socket::Ours(_)) {
                        return self.refuse_other_port(handle, target.port);
                    }
                    streak = Streak::new(health.successes);
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(self.not_healthy(handle, &socket, answers));
            }
            sleep(if healthy { pause.max(CONFIRM.min(health.interval)) } else { pause }).await;
            pause = if healthy { health.interval } else { (pause * 2).min(health.interval) };
        }
    }

    /// One probe, if the port is open; `said` is what the last whole one found.
    async fn ask(
        &self,
        (socket, target): (&Socket, &Target),
        deadline: Instant,
        said: &mut Option<String>,
    ) -> (bool, String) {
        if !matches!(socket, Socket::Ours(_)) {
            return (false, format!("port {} is not open yet", target.port));
        }
        let Ok(answer) = timeout_at(deadline, probe::once(&self.settings.health, target)).await else {
            // What it said before tells more than a probe that was cut short.
            return (false, said.take().unwrap_or_else(|| "no answer before the deadline".to_owned()));
        };
        let answer = answer_line(&answer);
        *said = Some(answer.1.clone());
        answer
    }

    /// An open port alone is weak evidence: the process must also have been up for a while.
    fn settled(&self, handle: &Handle) -> bool {
        match self.settings.health.probe {
            Probe::Tcp => handle.age() >= Probe::TCP_SETTLE,
            Probe::Http(_) | Probe::FastCgi(_) | Probe::Uwsgi(_) | Probe::Command(_) => true,
        }
    }

    /// Promise D2: an app that listens on its neighbour's port takes the live color's traffic, healthy or not; so it
    /// is refused as soon as it is seen there, not at the deadline.
    fn refuse_other_port(&self, handle: &Handle, port: u16) -> Result<(), Failure> {
        let ports = self.settings.ports;
        let other = if ports.blue == port { ports.green } else { ports.blue };
        // The live color's own listener there is as it should be; one of ours beside it would share its traffic.
        if !handle.listens_on(other).map_err(|err| trouble(Phase::Probing, &err))? {
            return Ok(());
        }
        let cause = format!("the new instance listens on port {other}, which is the other color's");
        Err(Failure {
            hint: Some(format!("the app must listen on $PORT alone; {} shows its output", logs_of(handle))),
            log_tail: tail(handle.log()),
            ..failure(Phase::Probing, Nature::Deterministic, cause)
        })
    }

    fn exited_early(&self, handle: &Handle, exit: Exit, answers: &VecDeque<String>) -> Failure {
        let last = answers.back().map(|answer| format!("; last probe: {answer}")).unwrap_or_default();
        Failure {
            hint: Some(format!("{} shows its output; push a fix", logs_of(handle))),
            log_tail: tail(handle.log()),
            ..failure(
                Phase::Probing,
                Nature::Deterministic,
                format!("the app ended before it was healthy: {exit}{last}"),
            )
        }
    }

    fn not_healthy(&self, handle: &Handle, socket: &Socket, answers: &VecDeque<String>) -> Failure {
        let port = handle_port(handle, &self.settings);
        let deadline = self.settings.health.deadline;
        let last = answers.back().cloned().unwrap_or_default();
        let (cause, hint) = match socket {
            Socket::Ours(_) => (
                format!(
                    "not healthy within {deadline:?} (one probe: {:?}): {last}{}",
                    self.settings.health.timeout,
                    out_of_reach(port),
                ),
                format!(
                    "`bgd show {}` has the answers, {} its output",
                    handle.release().deploy(),
                    logs_of(handle)
                ),
            ),
            Socket::Absent => {
                let instead = listens_instead(handle);
                (
                    format!("the app did not listen on port {port} within {deadline:?}; {instead}"),
                    format!(
                        "it must listen on 127.0.0.1:$PORT (`rewrite` is for a port in a file); {} shows its output",
                        logs_of(handle)
                    ),
                )
            }
            Socket::Strange(holder) => (
                format!("port {port} is held by {holder}, not by the new instance"),
                "stop it or change `ports`; then `bgd deploy`".to_owned(),
            ),
        };
        Failure {
            hint: Some(hint),
            log_tail: tail(handle.log()),
            ..failure(Phase::Probing, Nature::Deterministic, cause)
        }
    }

    async fn keep_answers(&self, release: &Release, answers: VecDeque<String>) {
        let (store, deploy) = (self.store.clone(), release.id.deploy());
        let kept = blocking(move || store.keep_probes(deploy, &Vec::from(answers))).await;
        if let Err(err) = kept {
            tracing::warn!(app = %self.settings.name, err = %chain(&err), "probe answers were not recorded");
        }
    }

    pub(super) fn target(&self, release: &Release, color: Color) -> Result<Target, Failure> {
        let context = self.context(release, color);
        let command = build::probe_command(&self.settings, &context)
            .map_err(|err| build_failure(Phase::Probing, &err))?;
        let command = command.map(|command| ProbeCommand {
            argv: command.argv,
            cwd: command.cwd,
            env: command.env,
            user: command.user,
            new_privileges: command.new_privileges,
        });
        Ok(Target { port: self.settings.ports.of(color), release_dir: context.release_dir(), command })
    }
}

/// Whose listening socket is on a port.
enum Socket {
    /// All of it belongs to the instance; by this process.
    Ours(i32),
    /// Nobody listens.
    Absent,
    /// Somebody else listens.
    Strange(String),
}

impl Socket {
    /// The same as [`Self::of`] for the usual case that the main process itself listens, without reading what
    /// every process of the host has open; whoever else may have the socket open is left to [`Self::of`].
    fn glance(handle: &Handle, port: u16) -> Self {
        let Ok(listeners) = ports::listeners(port) else { return Self::Absent };
        let inodes: Vec<u64> = listeners.iter().map(|listener| listener.inode).collect();
        match handle.main_pid() {
            _ if inodes.is_empty() => Self::Absent,
            Some(main) if handle.owns(main) && ports::held_by(main, &inodes).len() == inodes.len() => {
                Self::Ours(main)
            }
            _ => Self::of(handle, port),
        }
    }

    fn of(handle: &Handle, port: u16) -> Self {
        let Ok(listeners) = ports::listeners(port) else { return Self::Absent };
        if listeners.is_empty() {
            return Self::Absent;
        }
        let inodes: Vec<u64> = listeners.iter().map(|listener| listener.inode).collect();
        let Ok(holders) = ports::holders(&inodes) else { return Self::Absent };
        match holders.iter().find(|holder| !handle.owns(holder.pid)) {
            Some(stranger) => Self::Strange(format!("pid {} ({})", stranger.pid, stranger.command)),
            None => holders.iter().map(|holder| holder.pid).min().map_or(Self::Absent, Self::Ours),
        }
    }
}

/// The command that shows what an instance says; `bgd logs` alone shows what is live.
fn logs_of(handle: &Handle) -> String {
    // An instance's role is written as its color.
    format!("`bgd logs --color {}`", handle.role())
}

/// Who holds a port, for people.
pub(super) fn holders_of(port: u16) -> String {
    let found = ports::listeners(port)
        .and_then(|listeners| ports::holders(&listeners.iter().map(|one| one.inode).collect::<Vec<_>>()));
    match found {
        Ok(holders) if !holders.is_empty() => {
            let named: Vec<String> =
                holders.iter().map(|holder| format!("pid {} ({})", holder.pid, holder.command)).collect();
            named.join(", ")
        }
        Ok(_) => "a process that this user may not see".to_owned(),
        Err(err) => format!("a process that can't be named ({err})"),
    }
}

/// Where the port is open instead, when it is open on no address that a probe of 127.0.0.1 reaches.
fn out_of_reach(port: u16) -> String {
    let addresses: Vec<SocketAddr> =
        ports::listeners(port).unwrap_or_default().into_iter().map(|one| one.address).collect();
    let reached = |ip: IpAddr| ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST);
    if addresses.is_empty() || addresses.iter().any(|address| reached(address.ip())) {
        return String::new();
    }
    let named: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("; it listens on {} instead", named.join(", "))
}

fn listens_instead(handle: &Handle) -> String {
    match ports::listening_of(|pid| handle.owns(pid)) {
        Ok(addresses) if !addresses.is_empty() => {
            let named: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("it listens on {} instead", named.join(", "))
        }
        Ok(_) => "it listens on no port at all".to_owned(),
        Err(err) => format!("where it listens can't be seen ({err})"),
    }
}

fn handle_port(handle: &Handle, settings: &crate::config::settings::AppSettings) -> u16 {
    match handle.role() {
        Role::Instance(color) => settings.ports.of(*color),
        Role::Build | Role::Hook(_) => 0,
    }
}

/// Whether an answer is healthy, and the answer as one line.
pub(super) fn answer_line(answer: &Answer) -> (bool, String) {
    match &answer.verdict {
        Verdict::Healthy => (true, format!("healthy in {} ms", answer.took.as_millis())),
        Verdict::Unhealthy(reason) if answer.excerpt.is_empty() => (false, reason.to_string()),
        Verdict::Unhealthy(reason) => (false, format!("{reason}: {}", answer.excerpt)),
    }
}

fn note_answer(answers: &mut VecDeque<String>, line: String) {
    // A long wait for the port is one line, not a hundred.
    if answers.back() == Some(&line) {
        return;
    }
    if answers.len() == ANSWERS_KEPT {
        answers.pop_front();
    }
    answers.push_back(line);
}
