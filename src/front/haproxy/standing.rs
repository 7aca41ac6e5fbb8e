//! Reads the route that HAProxy has in force, and compares it with bgd's last one. Differences are reported, never
//! resolved here: the engine decides, and the next `route()` makes them agree.

use super::{
    Haproxy, HaproxyError, HaproxyProcess, LastSet, RouteInForce, ServerGoal, ServerSides, roles,
    servers::Server,
};
use crate::rules::ids::{Color, Generation};

/// A difference between HAProxy's state and the one that bgd set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discord {
    /// The difference, as a message.
    pub said: String,
    /// After a change by hand: the color that receives the traffic and should have none.
    pub moved_to: Option<Color>,
}

impl Haproxy {
    /// The route that HAProxy has in force now, and its generation: 0 after a restart of bgd, because HAProxy does not
    /// store one.
    pub async fn routed(&self) -> Result<(RouteInForce, Generation), HaproxyError> {
        let process = self.process().await?;
        let sides = self.sides().await?;
        // Only a bgd that just started gets the undecided route: it then decides by its own record.
        let undecided = roles::undecided(&sides).filter(|_| self.told().is_none());
        let told = self.told_or_adopted(process, &sides);
        Ok((undecided.unwrap_or_else(|| roles::standing(&sides)), told.generation))
    }

    /// Compares HAProxy with bgd's last route; `None` when they agree, or when bgd has set no route yet.
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

    /// Reports a server that shall receive traffic and does not pass HAProxy's own check.
    async fn down(&self, sides: &ServerSides) -> Option<Discord> {
        let receives = |server: &&Server| ServerGoal::as_it_is(server).is_ready();
        let down = sides.all().filter(receives).find(|server| !server.is_up())?;
        let check = self.counters_of(down).await.map(|counters| counters.check).unwrap_or_default();
        let said = format!("haproxy's own check of {} fails: {check}", self.path(&down.name));
        Some(Discord { said, moved_to: None })
    }

    /// The state that bgd last set. Without one (bgd was restarted, or has set no route yet), the state found now is
    /// adopted.
    fn told_or_adopted(&self, process: HaproxyProcess, sides: &ServerSides) -> LastSet {
        self.told().unwrap_or_else(|| {
            let [blue, green] = sides.map(ServerGoal::as_it_is);
            let adopted = LastSet { process, blue, green, generation: Generation::default() };
            self.remember(adopted.clone());
            adopted
        })
    }
}
