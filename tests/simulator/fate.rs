//! How the fake daemon ends and begins again: killed between any two of step, commit and effects, with the host or
//! alone, and back with what the record and a look at the world tell it.

use bgd::{
    engine::ledger::Ledger,
    rules::{
        event::{Event, Facts, Routed},
        ids::Color,
    },
};

use crate::{
    daemon::{Daemon, Shown},
    defects::Habit,
    front::{Hand, Kind},
};

impl Daemon {
    /// Step and commit, then die before, in or after the effects.
    pub(crate) fn deliver_and_die(&mut self, event: &Event) -> Result<(), String> {
        let Some(entry) = self.decide(event)? else { return self.crash() };
        if self.habit == Habit::ActsBeforeCommit {
            self.run(&entry.step().effects)?;
        }
        if self.world.disk_full {
            return self.crash();
        }
        let transaction = self.transaction(&entry);
        match self.rng.below(4) {
            // Before it is written.
            0 => return self.crash(),
            // While it is.
            1 => {
                let chance = self.rng.next();
                self.record.commit_torn(&transaction, chance)?;
                let written = self.record.is_of(&entry.step().next);
                self.tell(|_| format!("POWER LOSS in a commit, which is written: {written}"));
                if written {
                    self.recorded(entry)?;
                }
                return self.lose_power_and_return();
            }
            _ => {}
        }
        self.record.commit(&transaction)?;
        for effect in self.recorded(entry)?.effects {
            if self.rng.percent(50) {
                self.tell(|_| format!("  half run before the crash: {:?}", effect.action));
                self.spawn(effect)?;
                let _lost = self.act()?;
            }
        }
        self.crash()
    }

    /// The daemon is killed, the world goes on without it, and it comes back.
    pub fn crash(&mut self) -> Result<(), String> {
        self.figures.crashes += 1;
        self.tell(|_| "CRASH".to_owned());
        self.orphan_tasks();
        for color in Color::ALL {
            if self.rng.percent(10) {
                self.world.kill(color);
            }
        }
        if self.rng.percent(3) && self.setup.front == Kind::Nginx {
            let color = self.rng.pick(&Color::ALL);
            self.tell(|_| format!("somebody routes to {color}"));
            self.world.front.edit(Hand::To(color));
        }
        if self.rng.percent(20) {
            self.world.front.restart();
        }
        self.come_back()
    }

    pub fn power_loss(&mut self) -> Result<(), String> {
        self.tell(|_| "POWER LOSS".to_owned());
        self.record.lose_power()?;
        self.lose_power_and_return()
    }

    fn lose_power_and_return(&mut self) -> Result<(), String> {
        self.figures.power_losses += 1;
        self.orphan_tasks();
        let rng = &mut self.rng;
        self.world.lose_power(|| rng.percent(70));
        self.come_back()
    }

    fn come_back(&mut self) -> Result<(), String> {
        if let Some(crime) = self.world.crimes.first() {
            return Err(crime.clone());
        }
        self.forget();
        let (app, fresh) = self.record.load()?;
        (self.ledger, self.fresh) = (Ledger::new(app, self.machine), fresh);
        let could_be_asked = !self.rng.percent(10);
        let routed = match self.world.front.seen().live {
            _ if !could_be_asked => Routed::Unknown,
            Some(color) => Routed::Color(color),
            None => Routed::Nothing,
        };
        if could_be_asked {
            self.ahead = self.world.front.generation().0.saturating_sub(self.app().generation.0);
        }
        let event = Event::Recovered(self.facts(routed));
        self.look_at_front();
        if self.rng.percent(10) && !self.world.healed {
            self.deliver_and_die(&event)
        } else {
            self.deliver(&event)
        }
    }

    /// What was only in memory.
    fn forget(&mut self) {
        self.tasks.clear();
        self.inbox.clear();
        self.told.clear();
        self.world.ended.clear();
        self.world.working.forget();
        self.world.adopt_workers(self.steady);
        self.stuck = None;
        self.flip = false;
        self.ahead = 0;
        self.shown = Shown::default();
        if let Some(oracle) = self.remembered.take() {
            self.oracle.forget_unrecorded(oracle);
        }
        self.oracle.forget_tasks();
    }

    fn facts(&mut self, routed: Routed) -> Facts {
        let trusts_all = self.habit == Habit::TrustsAnEarlierBoot;
        let builds = self.world.builds.iter().filter(|(_, of_this_boot)| **of_this_boot || trusts_all);
        let builds: Vec<_> = builds.map(|(release, _)| release.clone()).collect();
        self.world.builds.retain(|release, _| builds.contains(release));
        let mut known = self.record.known();
        known.extend(self.app().live().map(|live| live.release.clone()));
        known.extend(self.world.processes.iter().map(|process| process.release.clone()));
        let could_be_asked = routed != Routed::Unknown;
        let half_told = could_be_asked && self.world.front.half_told();
        let canary = self.world.front.seen().canary.filter(|_| could_be_asked);
        let running = self.world.processes.iter().filter(|it| !it.ending);
        let running = running.map(|it| (it.color, it.release.id.clone())).collect();
        let backup = could_be_asked && self.world.front.backup().is_some();
        let workers = self.world.working.are_any();
        let stands_in = self.world.processes.iter().find(|it| it.passes_on && !it.ending).map(|it| it.color);
        Facts { routed, canary, backup, half_told, running, stands_in, builds, workers, known }
    }
}
