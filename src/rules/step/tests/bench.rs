//! A bench for the machine: keeps state, time and numbers, and answers each effect by its kind.

use super::super::{AskReply, Context, Policy, Step, step};
use crate::rules::{
    app::{App, Idle, Instance, Pipeline, Serving, Stage},
    barrier::SchemaNews,
    effect::{Action, Note},
    event::{Ask, Done, Event, Facts, Routed, Want},
    ids::{Color, CommitId, DeployId, EffectId, ReleaseId},
    time::Time,
    words::{Failure, Nature, Outcome, Phase},
};

pub struct Bench {
    pub app: App,
    pub now: Time,
    pub fresh: u64,
    pub unrecorded: bool,
    pub policy: Policy,
    /// Every action so far, newest last.
    pub acts: Vec<Action>,
    /// Every note so far, newest last.
    pub notes: Vec<Note>,
    /// What the next fetches find.
    pub news: SchemaNews,
}

pub fn commit(number: u32) -> CommitId {
    format!("{number:07x}{:033x}", 0).parse().unwrap()
}

pub fn failure(nature: Nature) -> Failure {
    Failure { phase: Phase::Building, nature, cause: "it broke".to_owned(), hint: None, log_tail: Vec::new() }
}

impl Bench {
    pub fn new() -> Self {
        Self {
            app: App::default(),
            now: Time(1_000_000),
            fresh: 1,
            unrecorded: false,
            policy: Policy::quiet(),
            acts: Vec::new(),
            notes: Vec::new(),
            news: SchemaNews::default(),
        }
    }

    /// Commit 1 is live on blue, the idle color is vacant, the watch is over.
    pub fn with_one_live() -> Self {
        let mut bench = Self::new();
        bench.push(1);
        bench.run_to("Resting");
        bench
    }

    /// Commit 2 is live on green, commit 1 was live before and is stopped.
    pub fn with_two_live() -> Self {
        let mut bench = Self::with_one_live();
        bench.push(2);
        bench.run_to("Resting");
        bench
    }

    pub fn tell(&mut self, event: &Event) -> Step {
        self.now.0 += 10;
        let context = Context {
            now: self.now,
            utc: "20261121T101112Z".to_owned(),
            fresh: DeployId(self.fresh),
            unrecorded: self.unrecorded,
            policy: self.policy.clone(),
        };
        let made = step(&self.app, event, &context);
        self.fresh += 1;
        self.app = made.next.clone();
        self.acts.extend(made.effects.iter().map(|effect| effect.action.clone()));
        self.notes.extend(made.notes.iter().map(|noted| noted.note.clone()));
        made
    }

    pub fn push(&mut self, number: u32) -> Step {
        self.tell(&Event::HeadSeen(commit(number)))
    }

    pub fn ask(&mut self, ask: Ask) -> AskReply {
        let event = Event::Asked { by: "ann".to_owned(), ask };
        self.tell(&event).answer.expect("an operator is always answered")
    }

    pub fn flip(&mut self) -> AskReply {
        self.ask(Ask::Flip)
    }

    pub fn end(&mut self, effect: EffectId, result: Result<Done, Failure>) -> Step {
        self.tell(&Event::Done { effect, result })
    }

    /// The effect that the deploy waits for, or else the one that empties the idle color.
    pub fn awaited(&self) -> EffectId {
        self.app.pipeline.awaits().or(self.idle_effect()).expect("something is awaited")
    }

    pub fn idle_effect(&self) -> Option<EffectId> {
        match &self.app.idle {
            Idle::Warm { timer, .. } => *timer,
            Idle::Draining { effect, .. } | Idle::Stopping { effect, .. } => Some(*effect),
            Idle::Vacant | Idle::Taken => None,
        }
    }

    pub fn live_effect(&self) -> Option<EffectId> {
        match self.app.live().map(|live| &live.instance) {
            Some(Instance::Starting { effect, .. } | Instance::Waiting { effect, .. }) => Some(*effect),
            _ => None,
        }
    }

    /// The good result of the awaited effect.
    pub fn good(&self) -> Done {
        match &self.app.pipeline {
            Pipeline::Fetching { commit: known, .. } => Done::Fetched {
                commit: known.clone().or(self.app.head.clone()).unwrap_or_else(|| commit(9)),
                subject: "subject".to_owned(),
                author: "author".to_owned(),
                news: self.news.clone(),
            },
            _ => Done::Ensured,
        }
    }

    pub fn succeed(&mut self) -> Step {
        let good = self.good();
        self.end(self.awaited(), Ok(good))
    }

    pub fn fail(&mut self, nature: Nature) -> Step {
        self.end(self.awaited(), Err(failure(nature)))
    }

    /// Lets every effect succeed until the pipeline is in that state.
    pub fn run_to(&mut self, state: &str) {
        for _ in 0..30 {
            if self.state() == state {
                return;
            }
            self.succeed();
        }
        panic!("never came to {state}, is in {}", self.state());
    }

    pub fn state(&self) -> &'static str {
        name(&self.app.pipeline)
    }

    pub fn live(&self) -> Option<(Color, u32)> {
        let live = self.app.live()?;
        Some((live.color, u32::from_str_radix(live.release.commit.short(), 16).unwrap()))
    }

    /// The live color and commit of the last route.
    pub fn routed(&self) -> Option<(Color, u32)> {
        self.acts
            .iter()
            .rev()
            .find_map(|action| match action {
                Action::Route { to, .. } => Some(to.as_ref()),
                _ => None,
            })?
            .map(|to| (to.color, u32::from_str_radix(to.commit.short(), 16).unwrap()))
    }

    /// The canary's color and share in the last route, in percent.
    pub fn shared(&self) -> Option<(Color, u8)> {
        let told = self.acts.iter().rev().find_map(|action| match action {
            Action::Route { canary, .. } => Some(canary.as_ref()),
            _ => None,
        });
        told.flatten().map(|canary| (canary.backend.color, canary.share.get()))
    }

    /// The color of the backup in the last route.
    pub fn backup(&self) -> Option<Color> {
        let told = self.acts.iter().rev().find_map(|action| match action {
            Action::Route { backup, .. } => Some(backup.as_ref()),
            _ => None,
        });
        told.flatten().map(|backup| backup.color)
    }

    /// The front proves the route that bgd sends again beside a deploy.
    pub fn rerouted(&mut self) -> Step {
        let effect = self.app.rerouting.expect("the front is told again").effect;
        self.end(effect, Ok(Done::Ensured))
    }

    pub fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |note: &Note| match note {
            Note::DeployEnded(end) => Some(end.outcome),
            _ => None,
        };
        self.notes.iter().filter_map(outcome).collect()
    }

    pub fn dies(&mut self, color: Color, release: ReleaseId) -> Step {
        self.tell(&Event::InstanceDied { color, release, how: "exit 1".to_owned(), last_words: Vec::new() })
    }

    pub fn live_dies(&mut self) -> Step {
        let live = self.app.live().unwrap().clone();
        self.dies(live.color, live.release.id)
    }

    pub fn warm_dies(&mut self) -> Step {
        let Idle::Warm { release, .. } = self.app.idle.clone() else { panic!("nothing is warm") };
        self.dies(self.app.idle_color(), release.id)
    }

    /// Facts with every instance of the state running.
    pub fn facts(&self, routed: Routed) -> Facts {
        let mut facts = Facts { routed, ..Facts::default() };
        if let Some(live) = self.app.live() {
            facts.running.insert(live.color, live.release.id.clone());
        }
        let idle = match (&self.app.idle, &self.app.pipeline) {
            (
                Idle::Warm { release, .. } | Idle::Draining { release, .. } | Idle::Stopping { release, .. },
                _,
            ) => Some(release.id.clone()),
            (Idle::Taken, pipeline) => pipeline.release().map(|release| release.id.clone()),
            (Idle::Vacant, _) => None,
        };
        facts.running.extend(idle.map(|id| (self.app.idle_color(), id)));
        facts.known.extend(self.app.pipeline.release().cloned());
        if let (Some(work), Some(canary)) = (self.app.pipeline.work(), &self.app.canary)
            && matches!(work.stage, Stage::Canary(_))
        {
            facts.canary = Some((work.color, canary.share));
        }
        facts
    }

    pub fn recover(&mut self, facts: Facts) -> Step {
        self.tell(&Event::Recovered(facts))
    }

    pub fn deploy_rev(&mut self, number: u32) -> AskReply {
        self.ask(Ask::Deploy(Want::Commit(commit(number))))
    }

    pub fn is_out_of_service(&self) -> bool {
        matches!(self.app.serving, Serving::OutOfService(_))
    }
}

pub fn name(pipeline: &Pipeline) -> &'static str {
    match pipeline {
        Pipeline::Resting => "Resting",
        Pipeline::Fetching { .. } => "Fetching",
        Pipeline::Deploying(work) => match work.stage {
            Stage::CheckingOut(_) => "CheckingOut",
            Stage::Building(_) => "Building",
            Stage::Clearing => "Clearing",
            Stage::Hooking(_) => "Hooking",
            Stage::Tasking { .. } => "Tasking",
            Stage::Starting(_) => "Starting",
            Stage::Probing(_) => "Probing",
            Stage::Warming(_) => "Warming",
            Stage::Sharing(_) => "Sharing",
            Stage::Canary(_) => "Canary",
            Stage::Switching(_) => "Switching",
            Stage::Watching { .. } => "Watching",
            Stage::Retiring { .. } => "Retiring",
            Stage::Reverting { .. } => "Reverting",
            Stage::Replacing { .. } => "Replacing",
        },
        Pipeline::Discarding { .. } => "Discarding",
        Pipeline::TakingDown { .. } => "TakingDown",
    }
}
