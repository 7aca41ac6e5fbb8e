//! Starts a color's new instances, each on a port proven free, and proves that all are healthy and that each one's
//! socket is its own.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::{Instances, candidate::Candidate, exits};
use crate::{
    command::{self, command_failure, explained, failure, not_started, tail, trouble},
    config::{commands::FOREGROUND, settings::Limits},
    os::{blocking::blocking, holders::holders, tcp},
    probe::{ProbeCommand, ProbeResult, ProbeVerdict, Target},
    process::ports,
    rules::{
        address::Address,
        app::Release,
        event::Done,
        ids::{Color, ReleaseId},
        words::{EventKind, Failure, Nature, Phase},
    },
    shim::{
        Bystanders, CommandExit, ExitKind, ExpectedAddresses, Handle, Listening, Role, ShimError, Slot, Spec,
        StartError,
    },
};

/// Probe answers kept for `bgd show`.
const ANSWERS_KEPT: usize = 20;

/// The first `number` slots of a color.
pub(crate) fn slots(color: Color, number: u16) -> impl Iterator<Item = Slot> {
    (0..number).map(move |index| Slot { color, index })
}

impl Instances {
    /// Ensures that the release runs on the color, with its former number of instances if it had one.
    pub(crate) async fn start(&self, release: &Release, color: Color) -> Result<Done, Failure> {
        let shims = self.commands.find_shims(Phase::Starting).await?;
        let recorded = shims.iter().filter(|it| it.role().is_on(color) && *it.release() == release.id);
        let number = recorded.map(Handle::siblings).max();
        let number = number.unwrap_or_else(|| self.number_of(color, &release.id));
        self.start_beside(shims, (release, color), number).await
    }

    /// Ensures that `number` instances run; `shims` are all known shims of the app.
    pub(crate) async fn start_beside(
        &self,
        shims: Vec<Handle>,
        (release, color): (&Release, Color),
        number: u16,
    ) -> Result<Done, Failure> {
        let running = exits::running(&shims);
        let adopted = self.adopt_or_clear(shims, (release, color), number).await?;
        let missing: Vec<Slot> = slots(color, number).filter(|slot| !adopted.contains(slot)).collect();
        for slot in &missing {
            self.end_strays(*slot, &running).await?;
        }
        // Taken before the ports are proven free: then none of these processes can hold an instance's listener.
        let bystanders = self.bystanders().await;
        for slot in &missing {
            self.prove_free(*slot)?;
        }
        if !missing.is_empty() && !self.was_live(release) {
            self.prove_memory(color, number).await?;
        }
        for slot in &missing {
            let started = self.start_one(release, (*slot, number), &bystanders).await;
            started.map_err(|failure| of_one(*slot, number, failure))?;
        }
        Ok(match number {
            1 => Done::Ensured,
            of => Done::Started { instances: missing.iter().map(|slot| slot.number()).collect(), of },
        })
    }

    /// The processes that run before the start. If the list can't be made, more is searched before the flip.
    async fn bystanders(&self) -> Arc<Bystanders> {
        blocking(Bystanders::now).await.map(Arc::new).unwrap_or_default()
    }

    async fn start_one(
        &self,
        release: &Release,
        (slot, siblings): (Slot, u16),
        bystanders: &Arc<Bystanders>,
    ) -> Result<(), Failure> {
        let phase = Phase::Starting;
        self.clear_socket(slot)?;
        let context = self.commands.context_of(release, slot);
        let command =
            command::start_command(&self.settings, &context).map_err(|err| command_failure(phase, &err))?;
        let mut spec = Spec { siblings, ..self.commands.spec(Role::Instance(slot), release, command) };
        spec.stop.how = self.commands.stop_request(&context).map_err(|err| command_failure(phase, &err))?;
        let started = match self.commands.shims.start(&spec).await {
            Err(StartError::Limits { why, .. }) if self.was_live(release) => {
                self.say_unlimited(&why).await;
                self.commands.shims.start(&Spec { limits: Limits::default(), ..spec.clone() }).await
            }
            started => started,
        };
        let handle = started.map_err(|err| not_started(phase, &err, &spec))?;
        self.open_when_it_listens(&handle, slot);
        self.known.put_new(slot, handle, bystanders.clone());
        Ok(())
    }

    /// The number of instances of a release on a color: its former number, or the configured one.
    pub(crate) fn number_of(&self, color: Color, release: &ReleaseId) -> u16 {
        self.known.given(color, release).unwrap_or(self.settings.instances)
    }

    /// Whether the release served before: restarting it, or going back to it, comes before its limits and free memory,
    /// because refusing to serve is worse.
    fn was_live(&self, release: &Release) -> bool {
        self.record.served_well(&release.id)
    }

    async fn say_unlimited(&self, why: &str) {
        tracing::error!(app = %self.settings.name, why, "started without its limits, which can't be kept");
        let said = format!("started without its limits, which can't be kept: {why}");
        self.record.note(EventKind::LimitsNotKept, None, &said).await;
    }

    /// The wanted instances that run already. Any other of ours on the color is an orphan and ends (D1); one that was
    /// told to end is waited for, so that a new instance finds its port free.
    async fn adopt_or_clear(
        &self,
        shims: Vec<Handle>,
        (release, color): (&Release, Color),
        number: u16,
    ) -> Result<BTreeSet<Slot>, Failure> {
        let phase = Phase::Starting;
        let mut adopted = BTreeSet::new();
        let mut others = Vec::new();
        for handle in shims {
            let Some(slot) = handle.role().slot().filter(|slot| slot.color == color) else { continue };
            let runs = handle.status().await.map_err(|err| trouble(phase, &err))?.runs();
            let wanted =
                runs && *handle.release() == release.id && slot.index < number && !handle.stands_in();
            if wanted && !self.is_cut_off(slot) && adopted.insert(slot) {
                self.known.put(slot, handle);
            } else {
                others.push(handle);
            }
        }
        self.end_shims(&others).await.map_err(|err| trouble(phase, &err))?;
        Ok(adopted)
    }

    /// Ends the shims at the same time: each may take its whole grace.
    pub(crate) async fn end_shims(&self, handles: &[Handle]) -> Result<(), ShimError> {
        join_all(handles.iter().map(|handle| self.end_shim(handle))).await.into_iter().collect()
    }

    async fn end_shim(&self, handle: &Handle) -> Result<(), ShimError> {
        let stopped = handle.stop().await?;
        if stopped.killed {
            tracing::warn!(app = %self.settings.name, release = %handle.release(), role = %handle.role(), "ended by KILL after its grace");
        }
        if let Some(slot) = handle.role().slot() {
            self.known.remove(slot, handle.id());
        }
        handle.forget().await
    }

    pub(crate) fn prove_free(&self, slot: Slot) -> Result<(), Failure> {
        let (address, color) = (self.settings.address_at(slot.color, slot.index), slot.color);
        let listeners = ports::listening_at(&address).map_err(|err| trouble(Phase::Starting, &err))?;
        if listeners.is_empty() {
            return Ok(());
        }
        let (holder, place) = (holders_of(&address), address.named());
        let cause = format!("{place} ({color}) is held by {holder}, which is not bgd's to stop");
        let hint = match address {
            Address::Port(_) => {
                format!("stop it or change `ports` of {}; then `bgd deploy`", self.settings.name)
            }
            Address::Socket(_) => "stop it; then `bgd deploy`".to_owned(),
        };
        Err(Failure { hint: Some(hint), ..failure(Phase::Starting, Nature::Transient, cause) })
    }

    /// Probes all instances at the same time and with one deadline; the first failure ends it.
    pub(crate) async fn probe(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let number = self.number_of(color, &release.id);
        let mut candidates = Vec::new();
        for slot in slots(color, number) {
            let candidate = self.candidate(release, slot, number).await;
            candidates.push(candidate.map_err(|failure| of_one(slot, number, failure))?);
        }
        let deadline = Instant::now() + self.settings.health.deadline;
        let proven = candidates.iter_mut().map(|one| async move {
            let slot = one.slot;
            self.prove(one, deadline).await.map_err(|failure| of_one(slot, number, failure))
        });
        let proven = try_join_all(proven).await.map(drop);
        self.keep_answers(release, &candidates).await;
        if proven.is_ok() {
            candidates.iter().for_each(|one| self.known.prove(one.slot, one.handle.id()));
        }
        proven
    }

    async fn candidate(&self, release: &Release, slot: Slot, number: u16) -> Result<Candidate, Failure> {
        let other = slot.color.other();
        let others = slots(other, self.known.last_given(other).max(self.settings.instances));
        let siblings = slots(slot.color, number).filter(|sibling| *sibling != slot);
        let handle = self.to_be_probed(release, slot).await?;
        Ok(Candidate {
            slot,
            bystanders: self.known.bystanders(slot, handle.id()),
            handle,
            target: self.target(release, slot)?,
            command: command::start_command(&self.settings, &self.commands.context_of(release, slot))
                .map_err(|err| command_failure(Phase::Probing, &err))?,
            places: Arc::new(ExpectedAddresses {
                own: self.settings.address_at(slot.color, slot.index),
                foreign: others
                    .chain(siblings)
                    .map(|it| self.settings.address_at(it.color, it.index))
                    .collect(),
            }),
            answers: VecDeque::new(),
        })
    }

    async fn prove(&self, one: &mut Candidate, deadline: Instant) -> Result<(), Failure> {
        let handle = one.handle.clone();
        // Both arms are cancel-safe: `ended` consumes nothing, and a probe that is dropped ends by itself.
        let exit = tokio::select! {
            exit = handle.ended() => exit,
            proven = self.until_healthy(one, deadline) => return proven,
        };
        Err(self.exited_early((&handle, exit), &one.command, one.answers.back()).await)
    }

    /// The new instance; also one that ended before the first probe, so that its exit is reported (promise D3).
    async fn to_be_probed(&self, release: &Release, slot: Slot) -> Result<Handle, Failure> {
        let phase = Phase::Probing;
        if let Some(handle) = self.known.at(slot).filter(|handle| *handle.release() == release.id) {
            return Ok(handle);
        }
        let ended = self
            .commands
            .shim(&Role::Instance(slot), &release.id)
            .await
            .map_err(|err| trouble(phase, &err))?;
        ended.ok_or_else(|| failure(phase, Nature::Transient, "the new instance is not there to be probed"))
    }

    pub(crate) async fn not_healthy(&self, one: &Candidate, own: &Listening) -> Failure {
        let (handle, address, deadline) = (&one.handle, &one.places.own, self.settings.health.deadline);
        let (cause, hint) = match (own, self.stranger_at(one).await) {
            (_, Some(holder)) => (
                format!("{} is held by {holder}, not by the new instance", address.named()),
                match address {
                    Address::Port(_) => "stop it or change `ports`; then `bgd deploy`".to_owned(),
                    Address::Socket(_) => "stop it; then `bgd deploy`".to_owned(),
                },
            ),
            (Listening::Instance { .. }, None) => (
                format!(
                    "not healthy within {deadline:?} (one probe: {:?}): {}{}",
                    self.settings.health.timeout,
                    one.answers.back().map_or("", String::as_str),
                    address.port().map(out_of_reach).unwrap_or_default(),
                ),
                format!(
                    "`bgd show {}` has the answers, {} its output",
                    handle.release().deploy(),
                    logs_of(handle)
                ),
            ),
            (Listening::Nobody | Listening::Stranger, None) => {
                let instead = listens_instead(handle).await;
                (
                    format!("the app did not listen on {} within {deadline:?}; {instead}", address.named()),
                    format!("{}; {} shows its output", must_listen(address), logs_of(handle)),
                )
            }
        };
        let hint = match self.manager_of_start().filter(|_| !matches!(own, Listening::Instance { .. })) {
            Some(name) => format!("{name} runs the app somewhere else: {FOREGROUND}; then `bgd deploy`"),
            None => hint,
        };
        let failure = Failure {
            hint: Some(hint),
            log_tail: tail(handle.log()),
            ..failure(Phase::Probing, Nature::Deterministic, cause)
        };
        // A health command that can't be run says nothing about the app.
        let code =
            |code: &i32| one.answers.back().is_some_and(|last| last.contains(&format!("exit code {code}")));
        let Some(command) = &one.target.command else { return failure };
        let Some(code) = [126, 127].into_iter().find(code) else { return failure };
        let exit = CommandExit { how: ExitKind::Code(code), timed_out: false, out_of_memory: false };
        explained(failure, (&command.argv, &command.cwd, &command.env), exit, "then `bgd deploy`")
    }

    /// The other process that holds the instance's address, for people.
    async fn stranger_at(&self, one: &Candidate) -> Option<String> {
        let (handle, places) = (one.handle.clone(), one.places.clone());
        let stranger = blocking(move || handle.stranger_at(&places.own)).await.ok()??;
        Some(format!("pid {} ({})", stranger.pid, stranger.command))
    }

    async fn keep_answers(&self, release: &Release, candidates: &[Candidate]) {
        // The last answers of each, so that many instances don't fill the record.
        let each = (ANSWERS_KEPT / candidates.len().max(1)).max(2);
        let lines = candidates.iter().flat_map(|one| {
            let several = candidates.len() > 1;
            let last = one.answers.iter().skip(one.answers.len().saturating_sub(each));
            last.map(move |line| match several {
                true => format!("instance {}: {line}", one.slot.number()),
                false => line.clone(),
            })
        });
        let answers: Vec<String> = lines.collect();
        self.record.keep_probes(release.id.deploy(), answers).await;
    }

    pub(crate) fn target(&self, release: &Release, slot: Slot) -> Result<Target, Failure> {
        let context = self.commands.context_of(release, slot);
        let asked = command::probe_command(&self.settings, &context)
            .map_err(|err| command_failure(Phase::Probing, &err))?;
        let command = asked.map(|command| ProbeCommand {
            argv: command.argv,
            cwd: command.cwd,
            env: command.env,
            user: command.user,
            new_privileges: command.new_privileges,
        });
        let address = self.settings.address_at(slot.color, slot.index);
        Ok(Target { address, release_dir: command::work_dir(&self.settings, &context), command })
    }
}

/// The command that shows an instance's output; `bgd logs` alone shows the live release.
pub(crate) fn logs_of(handle: &Handle) -> String {
    let Some(slot) = handle.role().slot() else { return "`bgd logs`".to_owned() };
    logs_of_slot(slot, handle.siblings())
}

/// The command that shows the output of one of `number` instances.
pub(crate) fn logs_of_slot(slot: Slot, number: u16) -> String {
    match number {
        1 => format!("`bgd logs --color {}`", slot.color),
        _ => format!("`bgd logs --color {} --instance {}`", slot.color, slot.number()),
    }
}

/// Names the instance that failed, if there are several.
pub(crate) fn of_one(slot: Slot, number: u16, failure: Failure) -> Failure {
    match number {
        1 => failure,
        _ => {
            Failure { cause: format!("instance {} of {number}: {}", slot.number(), failure.cause), ..failure }
        }
    }
}

/// The processes that hold an address, for people.
pub(crate) fn holders_of(address: &Address) -> String {
    let found = |inodes: Vec<u64>| holders(&inodes.into_iter().collect());
    match ports::listening_at(address).and_then(found) {
        Ok(holders) if !holders.is_empty() => {
            let named: Vec<String> =
                holders.iter().map(|holder| format!("pid {} ({})", holder.pid, holder.command)).collect();
            named.join(", ")
        }
        Ok(_) => "a process that this user may not see".to_owned(),
        Err(err) => format!("a process that can't be named ({err})"),
    }
}

/// A sentence on where the port is open, if on no address that a probe of 127.0.0.1 reaches.
fn out_of_reach(port: u16) -> String {
    let addresses: Vec<SocketAddr> =
        tcp::listening(port).unwrap_or_default().into_iter().map(|one| one.local).collect();
    let reached = |ip: IpAddr| ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST);
    if addresses.is_empty() || addresses.iter().any(|address| reached(address.ip())) {
        return String::new();
    }
    let named: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("; it listens on {} instead", named.join(", "))
}

async fn listens_instead(handle: &Handle) -> String {
    let handle = handle.clone();
    match blocking(move || handle.listens_at_all()).await {
        Ok(addresses) if !addresses.is_empty() => {
            let named: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("it listens on {} instead", named.join(", "))
        }
        Ok(_) => "it listens on no port at all".to_owned(),
        Err(err) => format!("where it listens can't be seen ({err})"),
    }
}

/// The variable by which the app learns its address.
pub(crate) fn variable(address: &Address) -> &'static str {
    match address {
        Address::Port(_) => "$PORT",
        Address::Socket(_) => "$SOCKET",
    }
}

fn must_listen(address: &Address) -> &'static str {
    match address {
        Address::Port(_) => "it must listen on 127.0.0.1:$PORT (`rewrite` is for a port in a file)",
        Address::Socket(_) => "it must listen on the unix socket $SOCKET, by that very path",
    }
}

/// Whether an answer is healthy, and its text in one line.
pub(crate) fn answer_line(answer: &ProbeResult) -> (bool, String) {
    match &answer.verdict {
        ProbeVerdict::Healthy => (true, format!("healthy in {} ms", answer.took.as_millis())),
        ProbeVerdict::Unhealthy(reason) if answer.excerpt.is_empty() => (false, reason.to_string()),
        ProbeVerdict::Unhealthy(reason) => (false, format!("{reason}: {}", answer.excerpt)),
    }
}

pub(crate) fn note_answer(answers: &mut VecDeque<String>, line: String) {
    // A long wait for the port takes one line and not a hundred.
    if answers.back() == Some(&line) {
        return;
    }
    if answers.len() == ANSWERS_KEPT {
        answers.pop_front();
    }
    answers.push_back(line);
}
