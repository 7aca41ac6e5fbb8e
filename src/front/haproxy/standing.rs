//! What HAProxy serves now, and whether that is how it was left. Disagreements are reported, never resolved here: the
//! engine decides, and the next `route()` makes them agree.

use super::{Haproxy, HaproxyError, Process, Sides, Standing, Told, Want, roles, servers::Server};
use crate::rules::ids::{Color, Generation};

/// What is not as it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discord {
    /// For people.
    pub said: String,
    /// After a change by hand: the color that receives the traffic and should have none.
    pub moved_to: Option<Color>,
}

impl Haproxy {
    /// What HAProxy truly serves now, and the number under which this process told it so: none after a restart of
    /// bgd, because HAProxy keeps none.
    pub async fn routed(&self) -> Result<(Standing, Generation), HaproxyError> {
        let process = self.process().await?;
        let sides = self.sides().await?;
        // Only whoever starts can be told that nobody knows: it goes by its record then.
        let undecided = roles::undecided(&sides).filter(|_| self.told().is_none());
        let told = self.told_or_adopted(process, &sides);
        Ok((undecided.unwrap_or_else(|| roles::standing(&sides)), told.generation))
    }

    /// What is wrong; `None` when HAProxy is as it was left, or nothing is known of how that was.
    pub async fn trouble(&self) -> Result<Option<Discord>, HaproxyError> {
        let process = self.process().await?;
        let sides = self.sides().await?;
        let told = self.told_or_adopted(process, &sides);
        if told.process == process && !told.is_met(&sides) {
            let standing = roles::standing(&sides);
            let backend = &self.settings.backend;
            let said = format!("haproxy's backend {backend} was changed by hand: {}", sides.said());
            let alone = standing.live.filter(|_| standing.canary.is_none());
            let moved_to = alone.filter(|color| !told.is_ready(*color));
            return Ok(Some(Discord { said, moved_to }));
        }
        Ok(self.down(&sides).await)
    }

    /// A server that shall receive traffic and does not pass HAProxy's own check.
    async fn down(&self, sides: &Sides) -> Option<Discord> {
        let receives = |server: &&Server| Want::as_it_is(server).is_ready();
        let down = sides.all().filter(receives).find(|server| !server.is_up())?;
        let check = self.counters_of(down).await.map(|counters| counters.check).unwrap_or_default();
        let said = format!("haproxy's own check of {} fails: {check}", self.path(&down.name));
        Some(Discord { said, moved_to: None })
    }

    /// What is found at first is taken for what was left: bgd was restarted, or has told nothing yet.
    fn told_or_adopted(&self, process: Process, sides: &Sides) -> Told {
        self.told().unwrap_or_else(|| {
            let [blue, green] = sides.map(Want::as_it_is);
            let adopted = Told { process, blue, green, generation: Generation::default() };
            self.remember(adopted.clone());
            adopted
        })
    }
}
