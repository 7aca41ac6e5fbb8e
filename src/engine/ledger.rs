//! The law of one app's order: step, then record, only then run the effects. While the record can't be written nothing
//! else happens to the app, except that a flip is carried out all the same; what came of it is recorded as soon as
//! that can be done. Pure: `app_task` drives it with tokio and the store, the simulator with chance and faults.

use crate::rules::{
    app::{App, Pipeline},
    effect::{Action, Effect, Note},
    event::Event,
    ids::DeployId,
    step::{AskReply, Context, Noted, Step},
};

/// Decides what an event changes: [`crate::rules::step::step`], or the simulator's machine with a defect.
pub type Machine = fn(&App, &Event, &Context) -> Step;

/// The state of one app, and what its record still lacks.
#[derive(Debug)]
pub struct Ledger {
    machine: Machine,
    app: App,
    /// A flip is under way: its steps are carried out even while the record can't be written.
    flipping: bool,
    /// The record could not be written when that was last tried.
    behind: bool,
    /// Notes of steps that were carried out without a record; written with the next one that can be.
    unwritten: Vec<Noted>,
}

/// The ledger's answer to an event.
#[derive(Debug)]
pub enum Offer {
    /// The event changes nothing, is not recorded, and has no effects.
    Nothing(Due),
    /// The entry has to be recorded before anything is done.
    Record(Box<Entry>),
}

/// One transaction for the record. The caller reports its result to [`Ledger::recorded`] or [`Ledger::refused`] before
/// it offers another event.
#[derive(Debug)]
pub struct Entry {
    event: Event,
    /// The context of the step; `None` for an entry that only catches up.
    context: Option<Context>,
    step: Step,
    /// Notes of steps without a record first.
    notes: Vec<Noted>,
    urgent: bool,
}

/// Work that the caller has to do now.
#[derive(Debug)]
pub struct Due {
    /// To be started in this order.
    pub effects: Vec<Effect>,
    /// The notes of the step.
    pub notes: Vec<Noted>,
    /// The answer to the operator who asked.
    pub answer: Option<AskReply>,
    /// The record can be written again: an [`Event::Ticked`] begins the work that waited for it.
    pub caught_up: bool,
}

/// The ledger's answer to an entry that can't be recorded.
#[derive(Debug)]
pub enum Unrecorded {
    /// The entry waits, and everything else behind it.
    Wait(Box<Entry>),
    /// The entry belongs to a flip, or is in the way of one, and is carried out without a record.
    Act(Due),
}

impl Due {
    /// Whether the step used the deploy number `fresh`; a deploy that waited for its turn has its own number.
    pub fn uses(&self, fresh: DeployId) -> bool {
        self.notes.iter().any(|noted| match &noted.note {
            Note::DeployStarted => noted.deploy.as_ref().is_some_and(|deploy| deploy.id == fresh),
            Note::Queued(queued) => queued.id == fresh,
            _ => false,
        })
    }
}

impl Entry {
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The step, to be carried out once it is recorded.
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// The notes to be recorded, in order, with those that earlier steps left unrecorded.
    pub fn notes(&self) -> &[Noted] {
        &self.notes
    }

    /// Tells that a flip waits behind the entry; a flip does not depend on a disk (promise I6).
    pub fn hurry(&mut self) {
        self.urgent = true;
    }
}

impl Ledger {
    /// Begins with the recorded state.
    pub fn new(app: App, machine: Machine) -> Self {
        Self { machine, app, flipping: false, behind: false, unwritten: Vec::new() }
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    /// Whether the record lacks something that can't be written.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Steps on `event`. Overrides `context.unrecorded`: the ledger knows whether the record can be written.
    pub fn offer(&mut self, event: Event, context: Context) -> Offer {
        let context = Context { unrecorded: self.behind, ..context };
        let step = (self.machine)(&self.app, &event, &context);
        if step.next == self.app && is_quiet(&step) {
            let Step { effects, notes, answer, .. } = step;
            return Offer::Nothing(Due { effects, notes, answer, caught_up: false });
        }
        self.flipping |= matches!(&event, Event::Asked { ask, .. } if ask.is_flip());
        Offer::Record(self.entry(event, Some(context), step))
    }

    /// The notes that the record lacks, to be tried from time to time even if no event arrives. A refused entry is
    /// dropped, and the next try makes a new one.
    pub fn overdue(&self) -> Option<Box<Entry>> {
        let step = Step { next: self.app.clone(), effects: Vec::new(), notes: Vec::new(), answer: None };
        self.behind.then(|| self.entry(Event::Ticked, None, step))
    }

    fn entry(&self, event: Event, context: Option<Context>, step: Step) -> Box<Entry> {
        let notes = self.unwritten.iter().chain(&step.notes).cloned().collect();
        Box::new(Entry { event, context, step, notes, urgent: false })
    }

    /// Takes over the state of an entry that is in the record.
    pub fn recorded(&mut self, entry: Box<Entry>) -> Due {
        self.unwritten.clear();
        let caught_up = std::mem::take(&mut self.behind);
        Due { caught_up, ..self.take(entry.step) }
    }

    /// Decides what happens to an entry that can't be recorded.
    pub fn refused(&mut self, entry: Box<Entry>) -> Unrecorded {
        self.behind = true;
        match &entry.context {
            Some(context) if self.flipping || entry.urgent => {
                Unrecorded::Act(self.do_without(&entry.event, context))
            }
            _ => Unrecorded::Wait(entry),
        }
    }

    /// Steps again with `unrecorded` set, so that only what belongs to the flip begins.
    fn do_without(&mut self, event: &Event, context: &Context) -> Due {
        let context = Context { unrecorded: true, ..context.clone() };
        let step = (self.machine)(&self.app, event, &context);
        self.unwritten.extend(step.notes.iter().cloned());
        let mut due = self.take(step);
        // The record may need releases and ends of tasks that the state no longer does; the end of the next deploy prunes
        // again.
        due.effects
            .retain(|effect| !matches!(effect.action, Action::Prune { .. } | Action::ForgetTask { .. }));
        due
    }

    fn take(&mut self, step: Step) -> Due {
        let Step { next, effects, notes, answer } = step;
        self.flipping &= !matches!(next.pipeline, Pipeline::Resting);
        self.app = next;
        Due { effects, notes, answer, caught_up: false }
    }
}

/// Whether a step has no effects and only notes that are logged and not recorded.
fn is_quiet(step: &Step) -> bool {
    step.effects.is_empty() && step.notes.iter().all(|noted| matches!(noted.note, Note::Ignored(_)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rules::{
        event::{Ask, Want},
        ids::ReleaseId,
        step::{Policy, step},
        time::Time,
    };

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn context() -> Context {
        let policy = Policy { watch: Duration::ZERO, ..Policy::quiet() };
        let utc = "20261121T101112Z".to_owned();
        Context { now: Time(1_000), utc, fresh: DeployId(7), unrecorded: false, policy }
    }

    fn under_way() -> Pipeline {
        let asked = Event::Asked { by: "ann".to_owned(), ask: Ask::Deploy(Want::Tip) };
        step(&App::default(), &asked, &context()).next.pipeline
    }

    /// Each event changes the state, asks for an effect and a prune, and is noted; a flip lasts until [`Event::Ticked`].
    fn busy(app: &App, event: &Event, context: &Context) -> Step {
        let mut next = app.clone();
        next.last_effect.0 += 2;
        next.pipeline = match event {
            Event::Ticked => Pipeline::Resting,
            _ => under_way(),
        };
        let protect: Vec<ReleaseId> = Vec::new();
        let prune = Action::Prune { before: context.fresh, protect };
        let wake = Action::Wake { after: Duration::ZERO };
        let id = |back| crate::rules::ids::EffectId(next.last_effect.0 - back);
        let effects = vec![Effect { id: id(1), action: wake }, Effect { id: id(0), action: prune }];
        let said = if context.unrecorded { "without a record" } else { "with a record" };
        let note = Note::Inconclusive(said.to_owned());
        let notes = vec![Noted { deploy: None, release: None, note }];
        Step { next, effects, notes, answer: None }
    }

    fn head() -> Event {
        Event::HeadSeen(COMMIT.parse().unwrap())
    }

    fn flip() -> Event {
        Event::Asked { by: "ann".to_owned(), ask: Ask::Flip }
    }

    fn offered(ledger: &mut Ledger, event: Event) -> Box<Entry> {
        match ledger.offer(event, context()) {
            Offer::Record(entry) => entry,
            Offer::Nothing(due) => panic!("it changes nothing: {due:?}"),
        }
    }

    fn said(notes: &[Noted]) -> Vec<&str> {
        let text = |noted| match noted {
            &Noted { note: Note::Inconclusive(ref text), .. } => Some(text.as_str()),
            _ => None,
        };
        notes.iter().filter_map(text).collect()
    }

    #[test]
    fn nothing_is_due_and_nothing_changes_before_the_entry_is_recorded() {
        let mut ledger = Ledger::new(App::default(), step);
        let entry = offered(&mut ledger, head());
        assert_eq!(*ledger.app(), App::default());
        let due = ledger.recorded(entry);
        assert!(matches!(due.effects[..], [Effect { action: Action::Fetch { .. }, .. }]), "{due:?}");
        assert!(due.uses(DeployId(7)) && !due.uses(DeployId(6)) && !due.caught_up);
        assert_ne!(*ledger.app(), App::default());
        let Offer::Nothing(_) = ledger.offer(Event::Ticked, context()) else {
            panic!("a quiet step is recorded");
        };
    }

    #[test]
    fn what_is_refused_waits_and_changes_nothing_until_it_is_recorded() {
        let mut ledger = Ledger::new(App::default(), busy);
        let entry = offered(&mut ledger, head());
        let Unrecorded::Wait(entry) = ledger.refused(entry) else { panic!("it acts without a record") };
        assert_eq!((ledger.app(), ledger.is_behind()), (&App::default(), true));
        let due = ledger.recorded(entry);
        assert!(due.caught_up && !ledger.is_behind());
        assert_eq!(said(&due.notes), ["with a record"]);
    }

    #[test]
    fn i6_a_flip_does_without_a_record_as_does_what_is_in_its_way_until_it_is_over() {
        let mut ledger = Ledger::new(App::default(), busy);
        let mut first = offered(&mut ledger, head());
        first.hurry();
        let Unrecorded::Act(due) = ledger.refused(first) else { panic!("a flip waits behind it") };
        assert_eq!(said(&due.notes), ["without a record"], "the step is made again");
        for event in [flip(), head(), Event::Ticked] {
            let entry = offered(&mut ledger, event);
            let Unrecorded::Act(due) = ledger.refused(entry) else { panic!("the flip waits") };
            assert!(
                matches!(due.effects[..], [Effect { action: Action::Wake { .. }, .. }]),
                "no prune: {due:?}"
            );
        }
        let entry = offered(&mut ledger, head());
        assert_eq!(entry.notes().len(), 5, "with what is unwritten");
        assert!(matches!(ledger.refused(entry), Unrecorded::Wait(_)), "the flip is over");
    }

    #[test]
    fn what_came_of_a_flip_is_recorded_later_and_once() {
        let mut ledger = Ledger::new(App::default(), busy);
        assert!(ledger.overdue().is_none());
        let entry = offered(&mut ledger, flip());
        assert!(matches!(ledger.refused(entry), Unrecorded::Act(_)));
        let late = ledger.overdue().expect("the record is behind");
        assert!(matches!(ledger.refused(late), Unrecorded::Wait(_)), "there is nothing to act on");
        let late = ledger.overdue().expect("the record is still behind");
        assert_eq!((said(late.notes()), &late.step().next), (vec!["without a record"], ledger.app()));
        let due = ledger.recorded(late);
        assert!(due.caught_up && due.effects.is_empty() && ledger.overdue().is_none());
        assert_eq!(offered(&mut ledger, head()).notes().len(), 1);
    }
}
