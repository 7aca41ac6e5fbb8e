//! The fake front: bgd's own proxy, or an nginx with its file. What it has in force, what its file says, what a hand
//! did to that file and where the traffic truly goes are four things, and come apart as they do in life.

use bgd::rules::{
    canary::Share,
    effect::{Backend, CanaryShare},
    ids::{Color, Generation, ReleaseId},
    words::{Failure, Nature, Phase},
};

use crate::world::failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A process of ours: it forgets its route when it ends.
    Builtin,
    /// Somebody else's: it keeps its route in a file.
    Nginx,
}

/// What a hand did to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand {
    To(Color),
    ToNobody,
    /// Not to be parsed, and so not in force.
    Garbage,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    pub to: Option<(Color, ReleaseId)>,
    /// What receives a share beside it.
    pub canary: Option<(Color, Share)>,
    /// What takes the requests that it refuses.
    pub backup: Option<(Color, ReleaseId)>,
    pub generation: Generation,
}

impl Route {
    /// As a front reads it: live is the first that has any weight.
    pub fn new(generation: Generation, (to, canary, backup): Wanted<'_>) -> Self {
        let named = |it: &Backend| (it.color, it.release.clone());
        let backup = backup.map(named);
        match (to, canary) {
            (Some(live), Some(it)) if it.share == Share::ALL => {
                let canary = Some((live.color, Share::NONE));
                Self { to: Some(named(&it.backend)), canary, backup, generation }
            }
            (to, canary) => {
                let canary = canary.map(|it| (it.backend.color, it.share));
                Self { to: to.map(named), canary, backup, generation }
            }
        }
    }

    fn color(&self) -> Option<Color> {
        self.to.as_ref().map(|(color, _)| *color)
    }
}

/// What the machine asks for: where to, what beside it, and what behind it.
pub type Wanted<'a> = (Option<&'a Backend>, Option<&'a CanaryShare>, Option<&'a Backend>);

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub live: Option<Color>,
    pub canary: Option<(Color, Share)>,
}

impl Traffic {
    fn of(route: &Route) -> Self {
        Self { live: route.color(), canary: route.canary }
    }

    fn only(live: Option<Color>) -> Self {
        Self { live, canary: None }
    }

    /// Whether requests can come to the color, if only previews.
    pub fn names(&self, color: Color) -> bool {
        self.live == Some(color) || self.canary.is_some_and(|(canary, _)| canary == color)
    }

    /// Whether the public's requests come to the color.
    pub fn reaches(&self, color: Color) -> bool {
        self.live == Some(color)
            || self.canary.is_some_and(|(canary, share)| canary == color && share != Share::NONE)
    }
}

/// What a route that failed half way puts back.
#[derive(Debug, Clone)]
pub struct Former {
    file: Route,
    hand: Option<Hand>,
}

#[derive(Debug, Clone)]
pub struct Front {
    pub kind: Kind,
    /// What it says of itself.
    force: Route,
    /// What it would have in force after a reload or a restart.
    file: Route,
    pub hand: Option<Hand>,
    /// Where the traffic goes.
    pub truth: Traffic,
    /// Takes no route for now.
    pub broken: bool,
}

impl Front {
    pub fn new(kind: Kind) -> Self {
        let (force, file) = (Route::default(), Route::default());
        Self { kind, force, file, hand: None, truth: Traffic::default(), broken: false }
    }

    /// What a look at it tells: a hand's change to one color is seen, one to nobody is not.
    pub fn seen(&self) -> Traffic {
        match self.hand {
            Some(Hand::To(color)) => Traffic::only(Some(color)),
            Some(Hand::ToNobody | Hand::Garbage) | None => Traffic::of(&self.force),
        }
    }

    /// What bgd wrote last.
    pub fn file(&self) -> &Route {
        &self.file
    }

    /// What takes what the live instance refuses.
    pub fn backup(&self) -> Option<&(Color, ReleaseId)> {
        self.force.backup.as_ref()
    }

    pub fn generation(&self) -> Generation {
        self.force.generation
    }

    /// Whether status says that it is not as bgd left it.
    pub fn trouble(&self) -> bool {
        self.hand.is_some() || self.half_told()
    }

    /// Its file says what it was never brought to take up.
    pub fn half_told(&self) -> bool {
        self.kind == Kind::Nginx && self.hand.is_none() && self.file != self.force
    }

    /// The first half of a route: all is ready, nothing has changed for the traffic.
    pub fn begin(&mut self, wanted: Route) -> Result<Former, Failure> {
        let phase = Phase::Switching;
        if self.broken {
            // Half of the time for a reason that a way back does without the front for.
            let nature =
                if wanted.generation.0.is_multiple_of(2) { Nature::FrontStuck } else { Nature::FrontUnmoved };
            return Err(failure(phase, nature, "the front does not take it"));
        }
        let former = Former { file: self.file.clone(), hand: self.hand };
        let same = Route { generation: self.force.generation, ..wanted.clone() } == self.force;
        if same && self.kind == Kind::Nginx && !self.trouble() {
            return Ok(former);
        }
        // bgd's own proxy knows which route is older; an nginx reads what it is given, under a number that is not in
        // force.
        if self.kind == Kind::Builtin && wanted.generation <= self.force.generation {
            return Err(failure(phase, Nature::Transient, "the front knows a newer route"));
        }
        let next = Generation(self.force.generation.0 + 1);
        self.file = Route { generation: wanted.generation.max(next), ..wanted };
        self.hand = None;
        Ok(former)
    }

    /// The second half: proven by effect.
    pub fn finish(&mut self) {
        self.force = self.file.clone();
        self.truth = Traffic::of(&self.force);
    }

    pub fn put_back(&mut self, former: Former) {
        self.file = former.file;
        self.hand = former.hand;
        if self.hand.is_none() {
            self.finish();
        }
    }

    /// Its process is a new one.
    pub fn restart(&mut self) {
        match self.kind {
            Kind::Builtin => *self = Self::new(Kind::Builtin),
            Kind::Nginx => self.reload(),
        }
    }

    /// Somebody makes nginx read its files again, for reasons of their own.
    pub fn reload(&mut self) {
        if self.hand.is_none() && self.kind == Kind::Nginx {
            self.finish();
        }
    }

    /// The machine it runs on is a new one.
    pub fn reboot(&mut self) {
        if self.hand == Some(Hand::Garbage) {
            // Nobody gets it to start before that is put right.
            self.hand = None;
        }
        self.restart();
    }

    pub fn edit(&mut self, hand: Hand) {
        if self.kind == Kind::Builtin {
            return;
        }
        self.hand = Some(hand);
        match hand {
            Hand::To(color) => self.truth = Traffic::only(Some(color)),
            Hand::ToNobody => self.truth = Traffic::default(),
            Hand::Garbage => {}
        }
    }

    /// Whoever changed the file puts it right: to what bgd says is live, or to what the file was.
    pub fn mend(&mut self, right: Option<Route>) {
        if self.hand.take().is_some() {
            let right = right.unwrap_or_else(|| self.force.clone());
            self.file = Route { generation: self.file.generation, ..right };
            self.finish();
        }
    }
}
