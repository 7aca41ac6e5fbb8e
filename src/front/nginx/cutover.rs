//! The flip: write the file, test, reload, prove by effect; or undo. Called by the engine for every change of
//! the route, and again after a crash: it is idempotent, and repairs what an interrupted one left.
//!
//! ```text
//! look ─▶ write ─▶ test ─▶ reload ─▶ prove ─▶ done
//!           ▲        │ no     │ no      │ no
//!           └────────┴────────┘         ▼
//!            old text back, no reload   old text back, reload only if nginx has not refused by itself
//! ```
//! When the future is dropped before the reload, the old text goes back at once. When it is dropped later, the file
//! has the text that nginx was asked to load, and the old text is kept beside it, so that the next call can still go
//! back.

use std::{net::SocketAddrV4, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    Aftermath, Former, Include, Lead, Nginx, NginxError, PlaceError, PresentInclude, ReloadLimits,
    RouteError, SocketLink, TestFailure, command, effect,
    effect::ProofAnswer,
    errorlog::LogPosition,
    link::MovedLink,
    master,
    master::{Accepting, NginxWorker},
    place::FormerFile,
    placed::Placed,
    report,
};
use crate::{
    os::process::Process,
    rules::{
        address::Address,
        ids::{Color, Generation},
        route::{Route, Side},
    },
};

/// Proof that a route is in force, with the workers that must be gone before the old color may stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The live color of the proven route.
    pub color: Option<Color>,
    /// The generation of the proven route.
    pub generation: Generation,
    /// The master whose workers have the route in force.
    pub master: Process,
    /// The workers to wait for.
    pub former: Former,
    /// How the route came into force.
    pub how: SwitchedBy,
    /// From the call to the proof, without the wait for another flip on the same nginx.
    pub elapsed: Duration,
}

/// How a route came to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchedBy {
    /// By one reload.
    Reloaded,
    /// By one rename of the link to the live socket.
    Linked,
    /// The route was already in force; nothing was touched.
    AlreadyInForce,
}

/// Pauses between two looks for the proof. A look costs a few small files and one local request. A flip usually takes
/// 10 to 120 ms, so pauses are short for the time `AT_FIRST`, and longer after it.
const SOON: Duration = Duration::from_millis(4);
const LATER: Duration = Duration::from_millis(100);
const AT_FIRST: Duration = Duration::from_millis(500);
/// How long bgd still looks for a configuration after a refusal: nginx begins a queued reload within milliseconds.
const SETTLE: Duration = Duration::from_millis(300);

impl Nginx {
    /// Puts a route in force, proven by effect, with at most one reload; or leaves the old one untouched.
    pub async fn route(&self, route: &Route, limits: ReloadLimits) -> Result<Proof, RouteError> {
        let turn = self.turn.clone().lock_owned().await;
        let started = Instant::now();
        let mut plan = self.plan(route).await;
        if !plan.as_ref().is_ok_and(CutoverPlan::is_in_force) && self.upgrade().is_err() {
            self.upgraded().await.map_err(RouteError::Untouched)?;
            plan = self.plan(route).await;
        }
        let plan = plan.map_err(RouteError::Untouched)?;
        let answer = |former, how| Proof {
            color: route.color(),
            generation: route.generation,
            master: plan.master,
            former,
            how,
            elapsed: started.elapsed(),
        };
        if plan.is_in_force() {
            let moved = self.lead(&plan, route).map_err(untouched)?;
            let how = if moved.is_some() { SwitchedBy::Linked } else { SwitchedBy::AlreadyInForce };
            moved.iter().for_each(MovedLink::settle);
            let leaving = master::workers(plan.master).map_err(RouteError::Untouched)?;
            let leaving = leaving.iter().filter(|worker| worker.standing == Accepting::Leaving);
            let former = leaving.map(|worker| worker.process).collect();
            return Ok(answer(self.former(former, route), how));
        }
        // A link that nginx does not follow yet is set before the reload, so that it leads somewhere; one that nginx
        // follows is moved last.
        let moved = if plan.is_followed() { None } else { self.lead(&plan, route).map_err(untouched)? };
        let new = (plan.wanted.render(), moved);
        let mut placed = Placed::write(plan.present.place.clone(), plan.old.clone(), new, turn)
            .await
            .map_err(untouched)?;
        self.agree(&mut placed, &plan, limits).await?;
        let workers = self.cut(&mut placed, &plan, limits).await?;
        placed.settle();
        self.lead(&plan, route).map_err(untouched)?.iter().for_each(MovedLink::settle);
        Ok(answer(self.former(workers, route), SwitchedBy::Reloaded))
    }

    /// Points the link, where the route has one, to the live instances; `None` when it already leads there.
    fn lead(&self, plan: &CutoverPlan, route: &Route) -> Result<Option<MovedLink>, PlaceError> {
        let (Some(_), Some(live)) = (&plan.wanted.link, &route.live) else { return Ok(None) };
        let link = SocketLink::of(&plan.present.place, live.addresses.len());
        let (color, generation, release) = (live.color, route.generation, live.release.clone());
        let wanted = Lead::Told { color, generation, release };
        let is = || link.read(&self.addresses).is_ok_and(|lead| lead == wanted);
        if is() {
            return Ok(None);
        }
        let moved = link.point(live, generation)?;
        if is() {
            return Ok(moved);
        }
        let source = std::io::Error::other("it leads elsewhere: somebody else sets it too");
        Err(PlaceError::Write { step: "set", path: link.path().to_owned(), source })
    }

    fn former(&self, workers: Vec<Process>, route: &Route) -> Former {
        let routed = |at: &Address| reached(route).any(|side| side.addresses.contains(at));
        let all = Color::ALL.into_iter().flat_map(|color| self.addresses.all(color));
        Former::new(workers, all.filter(|address| !routed(address)).collect())
    }

    /// Reads everything that the flip needs to know; changes nothing.
    async fn plan(&self, route: &Route) -> Result<CutoverPlan, NginxError> {
        let master = master::master(&self.settings.pid_file)?;
        let present = self.present()?;
        present.place.check()?;
        let proof = match &present.found {
            Some(found) => found.include.proof,
            None => effect::choose(&self.addresses)?,
        };
        // Before the first deploy, no answer is normal; any other problem shows in the proof.
        let before = effect::ask(proof).await.ok().filter(|effect| effect.app == self.app);
        let old = old_text(&present, before.as_ref());
        let mut wanted = self.wanted(route, proof, &present);
        if let Some(why) = self.silence().await {
            tracing::warn!(app = %self.app, why, "nginx does not tell of the app's traffic");
            wanted.traffic = None;
        }
        // A text with a link stays in force over many flips, with its first generation.
        if let Some(found) = present.found.as_ref().filter(|_| wanted.link.is_some()) {
            let kept = Route::nowhere(found.include.route.generation);
            let same = Include { route: kept, ..wanted.clone() };
            if same.render() == present.text.as_deref().unwrap_or_default() {
                wanted = same;
            }
        }
        Ok(CutoverPlan { master, wanted, parked: self.parked(proof), before, old, present })
    }

    /// The include for a route: with a link where the sockets of one color receive all requests, else with the
    /// addresses themselves.
    fn wanted(&self, route: &Route, proof: SocketAddrV4, present: &PresentInclude) -> Include {
        let Some(live) = route.live.as_ref().filter(|_| route.backup.is_none()) else {
            return self.include(route, proof);
        };
        let on_sockets = || live.addresses.iter().all(|address| address.socket().is_some());
        if reached(route).all(|side| side.color == live.color) && on_sockets() {
            let link = SocketLink::of(&present.place, live.addresses.len());
            return self.linked(&link, (route.generation, proof));
        }
        self.include(route, proof)
    }

    /// The reason for leaving nginx's traffic log out although it is wanted; `None` when nothing is against it.
    async fn silence(&self) -> Option<&'static str> {
        let socket = self.traffic.as_deref()?;
        if !report::can_name(socket) {
            return Some("its configuration can't name the path of the socket");
        }
        let default_log = self.hidden().await.is_some_and(|hidden| hidden.default_log);
        default_log.then_some("it would lose the log that it writes by default")
    }

    /// Tests the new file with nginx, before the reload: on a refusal the old text goes back, and nginx never left it.
    async fn agree(
        &self,
        placed: &mut Placed,
        plan: &CutoverPlan,
        limits: ReloadLimits,
    ) -> Result<(), RouteError> {
        let (tested, alone) = tokio::join!(self.test(&plan.present, limits.command), self.alone(plan.master));
        let refusal = match (tested, alone) {
            (Ok(()), Ok(())) => return Ok(()),
            (Ok(()), Err(err)) => return Err(placed.put_back(RouteError::Untouched(err)).await),
            (Err(refusal), _) => refusal,
        };
        let taken_back = placed.take_back().await;
        let cause = match refusal {
            TestFailure::Foreign(fault) if self.is_to_blame(&plan.present, &fault).await => {
                RouteError::TakenBack(NginxError::OwnConfig(fault))
            }
            TestFailure::Foreign(fault) => RouteError::ForeignConfig(fault),
            other => RouteError::TakenBack(self.judge(other)),
        };
        Err(match taken_back {
            Ok(()) => cause,
            Err(source) => RouteError::NotPutBack { cause: Box::new(cause), source },
        })
    }

    /// Reloads nginx and waits for the proof; returns the workers to wait for.
    async fn cut(
        &self,
        placed: &mut Placed,
        plan: &CutoverPlan,
        limits: ReloadLimits,
    ) -> Result<Vec<Process>, RouteError> {
        let former = match processes(plan.master) {
            Ok(former) => former,
            Err(err) => return Err(placed.put_back(RouteError::TakenBack(err)).await),
        };
        let log = LogPosition::now(plan.master);
        let witness = Witness { address: plan.wanted.proof, sum: plan.wanted.sum(), former, log };
        let asked = Instant::now();
        placed.asked();
        let (refused, result) = match self.reload(limits.command).await {
            // Only the effect shows whether nginx received a reload whose command hangs.
            Ok(()) | Err(NginxError::CommandTimeout { .. }) => {
                (None, self.prove(&witness, limits.proof).await)
            }
            Err(err) => {
                let seen = err.to_string();
                (Some(err), Err(Unproven { seen, rejected: true }))
            }
        };
        let unproven = match result {
            Ok(workers) => return Ok(workers),
            Err(unproven) => unproven,
        };
        let aftermath = self.bring_back(placed, plan, &unproven, limits).await.and_then(|aftermath| {
            // While the old route is unproven, nginx may still follow the link.
            if aftermath != Aftermath::Unproven {
                placed.lead_back()?;
            }
            Ok(aftermath)
        });
        let not_in_effect = |aftermath| RouteError::NotInEffect {
            waited: asked.elapsed(),
            seen: unproven.seen,
            log: witness.log.as_ref().map(LogPosition::complaints).unwrap_or_default(),
            aftermath,
        };
        Err(match (aftermath, refused) {
            (Ok(Aftermath::NeverLeft | Aftermath::BroughtBack), Some(err)) => RouteError::TakenBack(err),
            (Ok(aftermath), _) => not_in_effect(aftermath),
            (Err(source), _) => {
                RouteError::NotPutBack { cause: Box::new(not_in_effect(Aftermath::Unproven)), source }
            }
        })
    }

    async fn reload(&self, limit: Duration) -> Result<(), NginxError> {
        let ended = command::run(&self.settings.reload, limit).await?;
        if ended.status.success() {
            return Ok(());
        }
        let (status, said) = (ended.status, command::fault(&ended).quote);
        Err(NginxError::Reload { command: self.settings.reload.join(" "), status, said })
    }

    /// Waits for the proof: new workers, every former one leaving or gone, and nginx's own answer. Looks at the
    /// workers again after the answer, to catch one that started between the first look and the reload.
    async fn prove(&self, witness: &Witness, limit: Duration) -> Result<Vec<Process>, Unproven> {
        let start = Instant::now();
        let deadline = start + limit;
        loop {
            // Read before the look: an answer or change after a final refusal does not come from this reload.
            let rejected = witness.log.as_ref().is_some_and(LogPosition::is_rejected);
            let seen = match self.testify(witness).await {
                Ok(workers) => return Ok(workers),
                Err(seen) => seen,
            };
            if rejected || Instant::now() >= deadline {
                return Err(Unproven { seen, rejected });
            }
            sleep(if start.elapsed() < AT_FIRST { SOON } else { LATER }).await;
        }
    }

    async fn testify(&self, witness: &Witness) -> Result<Vec<Process>, String> {
        self.look_at_workers(&witness.former)?;
        let effect = effect::ask(witness.address).await.map_err(|err| err.to_string())?;
        if effect.sum != witness.sum {
            let color = effect.color.map_or("no color", Color::as_str);
            return Err(format!("nginx still answers with generation {} ({color})", effect.generation));
        }
        self.look_at_workers(&witness.former)
    }

    /// Looks once at the workers; returns those to wait for: former ones, and any other that is leaving.
    fn look_at_workers(&self, former: &[Process]) -> Result<Vec<Process>, String> {
        // Read again each time: a restart of nginx meanwhile has also put the new file in force.
        let master = master::master(&self.settings.pid_file).map_err(|err| err.to_string())?;
        let workers = master::workers(master).map_err(|err| err.to_string())?;
        // Under any master: one that was replaced or upgraded leaves its workers behind.
        let old =
            former.iter().filter(|worker| master::standing(**worker) == Some(Accepting::Serving)).count();
        if old > 0 {
            return Err(format!("{old} of its workers still accept with the old configuration"));
        }
        let is_new =
            |worker: &NginxWorker| worker.standing == Accepting::Serving && !former.contains(&worker.process);
        if !workers.iter().any(is_new) {
            return Err("nginx has started no new worker".to_owned());
        }
        let leaving = workers.iter().filter(|worker| worker.standing == Accepting::Leaving);
        let mut all: Vec<Process> = former.iter().copied().filter(|worker| worker.is_alive()).collect();
        all.extend(leaving.map(|worker| worker.process).filter(|worker| !former.contains(worker)));
        Ok(all)
    }

    /// After a reload without proof: puts the old text back, and reloads nginx with it unless nginx has refused the
    /// new text for good. On the very first route there is no old text; then an include that routes nowhere stays, or
    /// no file if nginx has refused the new text and can start without one.
    async fn bring_back(
        &self,
        placed: &mut Placed,
        plan: &CutoverPlan,
        unproven: &Unproven,
        limits: ReloadLimits,
    ) -> Result<Aftermath, PlaceError> {
        let text = plan.old.clone().unwrap_or_else(|| plan.parked.render());
        placed.write_back(Some(text)).await?;
        if unproven.rejected && !self.serves(&plan.wanted).await {
            if plan.old.is_none() {
                self.leave_nothing(placed, plan, limits).await?;
            }
            return Ok(Aftermath::NeverLeft);
        }
        // Without a master or its workers nothing can be proven.
        let Ok(former) = processes(plan.master) else { return Ok(Aftermath::Unproven) };
        let sum = match (&plan.before, &plan.old) {
            (Some(effect), _) => effect.sum.clone(),
            (None, Some(_)) => plan.present.found.as_ref().map_or_else(String::new, |f| f.sum.clone()),
            (None, None) => plan.parked.sum(),
        };
        let log = LogPosition::now(plan.master);
        let witness = Witness { address: plan.wanted.proof, sum, former, log };
        if let Err(err) = self.reload(limits.command).await {
            tracing::warn!(app = %self.app, err = %err, "reload with the old text failed");
        }
        Ok(match self.prove(&witness, limits.proof).await {
            Ok(_) => Aftermath::BroughtBack,
            // Refused again, so the route from before the flip is still in force.
            Err(again) if again.rejected && !self.serves(&plan.wanted).await => Aftermath::NeverLeft,
            Err(_) => Aftermath::Unproven,
        })
    }

    /// Removes the file where nginx can start without it, else leaves an include that routes nowhere.
    async fn leave_nothing(
        &self,
        placed: &mut Placed,
        plan: &CutoverPlan,
        limits: ReloadLimits,
    ) -> Result<(), PlaceError> {
        placed.write_back(None).await?;
        match self.test(&plan.present, limits.command).await {
            Ok(()) => Ok(()),
            Err(_) => placed.write_back(Some(plan.parked.render())).await,
        }
    }

    /// Whether an include comes into force despite a refusal in the log, which may be of a reload that another program
    /// requested just before.
    async fn serves(&self, include: &Include) -> bool {
        let deadline = Instant::now() + SETTLE;
        loop {
            if effect::ask(include.proof).await.is_ok_and(|effect| effect.sum == include.sum()) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(SOON).await;
        }
    }
}

fn processes(master: Process) -> Result<Vec<Process>, NginxError> {
    Ok(master::workers(master)?.iter().map(|worker| worker.process).collect())
}

/// The sides that requests can reach: a canary without a share only if the route has a preview.
fn reached(route: &Route) -> impl Iterator<Item = &Side> {
    let previewed = route.preview.is_some();
    route.sides().filter(move |(_, percent)| *percent > 0 || previewed).map(|(side, _)| side)
}

fn untouched(err: PlaceError) -> RouteError {
    RouteError::Untouched(NginxError::Place(err))
}

/// The text to go back to: the one that nginx has in force. After an interrupted flip it is the one kept beside the
/// file.
fn old_text(present: &PresentInclude, before: Option<&ProofAnswer>) -> Option<String> {
    let in_force = |text: &String| {
        let found = super::parse(text);
        before.zip(found.ok()).is_some_and(|(effect, found)| found.sum == effect.sum)
    };
    let file = present.text.clone();
    if file.as_ref().is_some_and(in_force) {
        return file;
    }
    match present.place.kept() {
        Some(FormerFile::Nothing) if before.is_none() => None,
        Some(FormerFile::Text(text)) if in_force(&text) => Some(text),
        _ => file,
    }
}

struct CutoverPlan {
    master: Process,
    wanted: Include,
    parked: Include,
    /// nginx's answer before the flip; `None` when it did not answer for this app.
    before: Option<ProofAnswer>,
    /// The text to go back to.
    old: Option<String>,
    present: PresentInclude,
}

impl CutoverPlan {
    /// Whether nginx follows the wanted link already.
    fn is_followed(&self) -> bool {
        let old = self.old.as_deref().and_then(|text| super::parse(text).ok());
        let same = old.is_none_or(|old| old.include.link == self.wanted.link);
        same && self.before.as_ref().is_some_and(|effect| effect.link)
    }

    fn is_in_force(&self) -> bool {
        let on_file = self.present.text.as_deref() == Some(self.wanted.render().as_str());
        // A flip that was never settled may be half way: nginx lets old and new workers accept side by side for
        // 100 ms, and only a reload of our own shows which are new.
        let settled = self.present.place.kept().is_none();
        settled && on_file && self.before.as_ref().is_some_and(|effect| effect.sum == self.wanted.sum())
    }
}

/// What a proof needs: the expected sum at the proof address, and the workers that must leave.
struct Witness {
    address: SocketAddrV4,
    sum: String,
    former: Vec<Process>,
    log: Option<LogPosition>,
}

struct Unproven {
    seen: String,
    /// Whether nginx itself gave up the new configuration.
    rejected: bool,
}
