//! The `after_live` hook: run for each release that becomes live, on the way forward and on each way back, by whomever
//! it was asked for. Beside the deploy: nothing waits for it, and its failure is only said.

use super::Turn;
use crate::rules::{
    app::{Announcing, Release},
    effect::{Action, Hook, Note},
    event::Done,
    ids::{Color, EffectId},
    words::Failure,
};

impl Turn<'_> {
    /// Tells the app that the release is live there. Of two that went live while a third is told, the last one counts.
    pub(super) fn announce(&mut self, color: Color, release: Release) {
        if let Some(running) = &mut self.app.announcing {
            running.again = true;
        } else if self.context.policy.after_live {
            let action = Action::RunHook { hook: Hook::AfterLive, release, color, failure: None };
            let effect = self.act(action);
            self.app.announcing = Some(Announcing { effect, again: false });
        }
    }

    pub(super) fn announced(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        let Some(Announcing { again, .. }) = self.app.announcing.filter(|it| it.effect == effect) else {
            return false;
        };
        if let Err(trouble) = result {
            self.note(Note::Trouble(trouble.clone()));
        }
        self.app.announcing = None;
        if again {
            self.announce_live();
        }
        true
    }

    /// Unless that is under way by what went live in this very step.
    pub(super) fn announce_live(&mut self) {
        if let (Some(live), None) = (self.app.live().cloned(), self.app.announcing) {
            self.announce(live.color, live.release);
        }
    }
}
