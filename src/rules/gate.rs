//! Gates: what keeps a commit that was seen from being deployed by itself, yet or for good. The poller asks them and
//! reports them with the tip; the machine compares what it was told with what is live now, and never asks itself.

use serde::{Deserialize, Serialize};

use super::{app::App, ids::CommitId, time::Time, words::GateKind};

/// A closed gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub kind: GateKind,
    /// The commit that it keeps back.
    pub commit: CommitId,
    /// One line for people, which names the commit.
    pub text: String,
    /// When it opens by itself, where that is known.
    pub opens_at: Option<Time>,
    /// Of a gate command: when it was first asked about this commit.
    pub asked_since: Option<Time>,
    /// Of a gate command: it said no, or did not open by its deadline, and is not asked again.
    pub is_final: bool,
}

impl Gate {
    /// A gate without a time of its own.
    pub fn new(kind: GateKind, commit: &CommitId, text: String) -> Self {
        Self { kind, commit: commit.clone(), text, opens_at: None, asked_since: None, is_final: false }
    }

    /// Whether both are one closing: a gate of the calendar is closed for all commits at once.
    fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind.is_of_time() || self.commit == other.commit)
    }
}

/// The gates as the poller found them at one look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateLook {
    /// The tip that was seen; `None`: they were not asked yet.
    pub head: Option<CommitId>,
    /// The live commit that the tip was compared with.
    pub live: Option<CommitId>,
    /// The closed ones: of the tip first, then of older commits that were passed over.
    pub closed: Vec<Gate>,
    /// The newest commit after the live one that all gates let pass.
    pub passes: Option<CommitId>,
    /// The look tells nothing from this time on: a window opens or closes.
    pub until: Option<Time>,
    /// Identifies the configuration that was asked; another one makes the look worthless.
    pub settings: u64,
}

impl GateLook {
    /// Gates that were not asked yet: nothing passes.
    pub fn unasked(settings: u64) -> Self {
        Self { head: None, live: None, closed: Vec::new(), passes: None, until: None, settings }
    }

    /// Those that keep something back: none while the tip is live.
    fn keep_back(&self) -> &[Gate] {
        if self.head == self.live { &[] } else { &self.closed }
    }

    /// Whether a gate that was closed in an earlier look has opened, rather than lost its commit.
    fn opened(&self, gate: &Gate) -> bool {
        match gate.kind {
            GateKind::Window | GateKind::Freeze => !self.closed.iter().any(|now| now.is_same(gate)),
            GateKind::Command => self.passes.as_ref() == Some(&gate.commit),
            GateKind::Paths | GateKind::Skip => false,
        }
    }
}

/// What an app's gates let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage<'a> {
    /// This commit may be deployed.
    Open(&'a CommitId),
    /// The first closed gate keeps the tip back.
    Closed(&'a Gate),
    /// The gates have to be asked again before anything is deployed.
    Unasked,
}

impl App {
    /// What the gates say about the tip `head` now.
    pub fn passage<'a>(&'a self, head: &'a CommitId, now: Time) -> Passage<'a> {
        let Some(look) = &self.gates else { return Passage::Open(head) };
        let live = self.live().map(|live| &live.release.commit);
        let is_present = look.head.as_ref() == Some(head)
            && look.live.as_ref() == live
            && look.until.is_none_or(|until| now < until);
        if !is_present {
            return Passage::Unasked;
        }
        match (&look.passes, look.closed.first()) {
            (Some(commit), _) if Some(commit) != live => Passage::Open(commit),
            (_, Some(gate)) => Passage::Closed(gate),
            (_, None) => Passage::Unasked,
        }
    }

    /// The closed gates, the tip's first, while they keep something back.
    pub fn closed_gates(&self) -> &[Gate] {
        let live = self.live().map(|live| &live.release.commit);
        match &self.gates {
            Some(look) if look.live.as_ref() == live && look.head == self.head => look.keep_back(),
            _ => &[],
        }
    }

    /// The gates that a deploy of `commit` by hand passes, each kind once.
    pub fn passed_gates(&self, commit: &CommitId) -> Vec<GateKind> {
        let closed = self.gates.iter().flat_map(|look| &look.closed);
        let its_own = closed.filter(|gate| gate.kind.is_of_time() || gate.commit == *commit);
        let mut kinds: Vec<GateKind> = Vec::new();
        for gate in its_own {
            if !kinds.contains(&gate.kind) {
                kinds.push(gate.kind);
            }
        }
        kinds
    }
}

/// Gates that closed and gates that opened from one look to the next.
pub fn news(before: Option<&GateLook>, after: &GateLook) -> (Vec<Gate>, Vec<Gate>) {
    let of = |look: Option<&GateLook>| look.map_or_else(Vec::new, |look| look.keep_back().to_vec());
    let (before, now) = (of(before), of(Some(after)));
    let lacks = |all: &[Gate], gate: &Gate| !all.iter().any(|other| other.is_same(gate));
    let closed = now.iter().filter(|gate| lacks(&before, gate)).cloned().collect();
    let opened = before.into_iter().filter(|gate| lacks(&now, gate) && after.opened(gate)).collect();
    (closed, opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: &str) -> CommitId {
        digit.repeat(40).parse().unwrap()
    }

    fn gate(kind: GateKind, digit: &str) -> Gate {
        Gate::new(kind, &commit(digit), format!("{digit} waits"))
    }

    fn look(head: &str, closed: Vec<Gate>) -> GateLook {
        let passes = closed.is_empty().then(|| commit(head));
        GateLook {
            head: Some(commit(head)),
            live: Some(commit("1")),
            closed,
            passes,
            until: None,
            settings: 0,
        }
    }

    fn kinds(gates: &[Gate]) -> Vec<GateKind> {
        gates.iter().map(|gate| gate.kind).collect()
    }

    #[test]
    fn a_closing_is_told_once_and_so_is_its_end() {
        let shut = look("2", vec![gate(GateKind::Window, "2")]);
        let (closed, opened) = news(None, &shut);
        assert_eq!((kinds(&closed), kinds(&opened)), (vec![GateKind::Window], vec![]));
        // A newer commit waits for the window that is closed already.
        let newer = look("3", vec![gate(GateKind::Window, "3")]);
        assert_eq!(news(Some(&shut), &newer), (vec![], vec![]));
        let (closed, opened) = news(Some(&newer), &look("3", vec![]));
        assert_eq!((kinds(&closed), kinds(&opened)), (vec![], vec![GateKind::Window]));
    }

    #[test]
    fn a_commit_that_is_passed_over_or_deployed_by_hand_opens_no_gate() {
        let paths = look("2", vec![gate(GateKind::Paths, "2")]);
        assert_eq!(news(Some(&paths), &look("3", vec![])), (vec![], vec![]));
        // Deployed by hand while the window is closed: the tip is live.
        let shut = look("2", vec![gate(GateKind::Window, "2")]);
        let live = GateLook { live: Some(commit("2")), ..shut.clone() };
        assert_eq!(news(Some(&shut), &live), (vec![], vec![]));
    }

    #[test]
    fn the_gates_of_another_tip_another_live_release_or_another_time_let_nothing_pass() {
        let mut app = App { head: Some(commit("2")), ..App::default() };
        let head = commit("2");
        assert_eq!(app.passage(&head, Time(0)), Passage::Open(&head));
        let open = GateLook { live: None, until: Some(Time(10)), ..look("2", vec![]) };
        app.gates = Some(open.clone());
        assert_eq!(app.passage(&head, Time(9)), Passage::Open(&head));
        assert_eq!(app.passage(&head, Time(10)), Passage::Unasked);
        assert_eq!(app.passage(&commit("3"), Time(9)), Passage::Unasked);
        app.gates = Some(GateLook { live: Some(commit("1")), ..open.clone() });
        assert_eq!(app.passage(&head, Time(9)), Passage::Unasked);
        // A red tip, and an older commit that passes.
        let red = gate(GateKind::Command, "2");
        app.gates = Some(GateLook { closed: vec![red], passes: Some(commit("4")), ..open });
        assert_eq!(app.passage(&head, Time(9)), Passage::Open(&commit("4")));
        assert_eq!(app.passed_gates(&head), [GateKind::Command]);
        assert_eq!(app.passed_gates(&commit("4")), []);
    }
}
