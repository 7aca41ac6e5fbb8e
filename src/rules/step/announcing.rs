//! The `after_live` hook: it runs for each release that becomes live, on the way forward and on each way back. It runs
//! beside the deploy: nothing waits for it, and its failure is only noted.

use super::Turn;
use crate::rules::{
    app::{Announcing, Release},
    effect::{Action, Hook, Note},
    event::Done,
    ids::{Color, EffectId},
    words::Failure,
};

impl Turn<'_> {
    /// Tells the app that the release is live there. While a run is under way, only the newest release after it counts.
    pub(super) fn announce(&mut self, color: Color, release: Release) {
        if let Some(running) = &mut self.app.announcing {
            running.again = true;
        } else if self.context.policy.after_live {
            let deploy = self.app.pipeline.deploy().map(|deploy| deploy.id);
            let action = Action::RunHook { hook: Hook::AfterLive, release, color, failure: None, deploy };
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

    /// Tells the app which release is live, unless a run is under way already.
    pub(super) fn announce_live(&mut self) {
        if let (Some(live), None) = (self.app.live().cloned(), self.app.announcing) {
            self.announce(live.color, live.release);
        }
    }
}
