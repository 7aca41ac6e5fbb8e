//! What HAProxy serves now, and whether that is how it was left. Disagreements are reported, never resolved here: the
//! engine decides, and the next `route()` makes them agree.

use super::{Haproxy, HaproxyError, Pair, Process, Standing, Told, Want, roles};
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
        let pair = self.pair().await?;
        // Only whoever starts can be told that nobody knows: it goes by its record then.
        let undecided = roles::undecided(&pair).filter(|_| self.told().is_none());
        let told = self.told_or_adopted(process, &pair);
        Ok((undecided.unwrap_or_else(|| roles::standing(&pair)), told.generation))
    }

    /// What is wrong; `None` when HAProxy is as it was left, or nothing is known of how that was.
    pub async fn trouble(&self) -> Result<Option<Discord>, HaproxyError> {
        let process = self.process().await?;
        let pair = self.pair().await?;
        let told = self.told_or_adopted(process, &pair);
        let as_left = |color: &Color| told.of(*color).is_met(pair.of(*color));
        if told.process == process && !Color::ALL.iter().all(as_left) {
            let standing = roles::standing(&pair);
            let said = format!(
                "haproxy's backend {} was changed by hand: {}, {}",
                self.settings.backend,
                pair.blue.said(),
                pair.green.said()
            );
            let alone = standing.live.filter(|_| standing.canary.is_none());
            let moved_to = alone.filter(|color| !told.of(*color).is_ready());
            return Ok(Some(Discord { said, moved_to }));
        }
        Ok(self.down(&pair).await)
    }

    /// A server that shall receive traffic and does not pass HAProxy's own check.
    async fn down(&self, pair: &Pair) -> Option<Discord> {
        let receives = |color: &Color| Want::as_it_is(pair.of(*color)).is_ready();
        let down = Color::ALL.into_iter().filter(receives).find(|color| !pair.of(*color).is_up())?;
        let check = self.counters(down).await.map(|counters| counters.check).unwrap_or_default();
        let said = format!("haproxy's own check of {} fails: {check}", self.path(down));
        Some(Discord { said, moved_to: None })
    }

    /// What is found at first is taken for what was left: bgd was restarted, or has told nothing yet.
    fn told_or_adopted(&self, process: Process, pair: &Pair) -> Told {
        self.told().unwrap_or_else(|| {
            let [blue, green] = Color::ALL.map(|color| Want::as_it_is(pair.of(color)));
            let adopted = Told { process, blue, green, generation: Generation::default() };
            self.remember(adopted);
            adopted
        })
    }
}
