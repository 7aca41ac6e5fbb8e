//! Gates: what the poller reports of them is taken over with the tip, and told once for each that closes or opens.

use super::Turn;
use crate::rules::{
    app::Kind,
    effect::Note,
    gate::{self, GateLook},
    ids::CommitId,
};

impl Turn<'_> {
    /// The tip was seen, and the gates were asked about it.
    pub(super) fn gates_seen(&mut self, look: &GateLook) {
        let Some(head) = &look.head else { return };
        let (closed, opened) = gate::news(self.app.gates.as_ref(), look);
        self.app.gates = Some(look.clone());
        self.head_seen(head);
        for gate in closed {
            self.note(Note::GateClosed(gate));
        }
        for gate in opened {
            self.note(Note::GateOpened(gate));
        }
    }

    /// A deploy by hand goes through all gates; the record says which of them were closed.
    pub(super) fn pass_gates(&mut self, kind: &Kind, commit: &CommitId) {
        if !matches!(kind, Kind::Manual { .. }) {
            return;
        }
        let kinds = self.app.passed_gates(commit);
        if !kinds.is_empty() {
            self.note(Note::GatesPassed(kinds));
        }
    }
}
