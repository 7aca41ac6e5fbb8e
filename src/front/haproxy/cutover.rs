//! The flip: set the servers' states, read them back, or undo. Called by the engine for every change of the route, and
//! again after a crash: it is idempotent.
//!
//! ```text
//! look ─▶ (new color drains until HAProxy's check of it passes) ─▶ weights ─▶ raise, lower, maint ─▶ read back
//!              │ check fails: maint again, the old color never left      │ refused, or not so: as it was
//!              └ nobody serves: passes after it was raised, or everything is as it was
//! ```
//! The servers to raise come first, so that a server is ready at each moment. The commands that move traffic are sent
//! as one line, so that HAProxy runs all of them even if bgd dies after sending it.

use std::time::Duration;

use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    CutoverLimits, Haproxy, HaproxyError, LastSet, ServerGoal, ServerSides,
    figures::{LATER, SOON},
    roles,
    servers::{Availability, Server},
};
use crate::{
    os::errors::chain,
    rules::{
        ids::{Color, Generation},
        route::Route,
    },
};

/// Limit of a connection to the app, on this host or a host near it.
const REACHED_WITHIN: Duration = Duration::from_secs(2);
/// Time for an agent's first answer: HAProxy asks an agent every 2 s by default.
const AGENT_WITHIN: Duration = Duration::from_secs(3);

/// A color whose servers HAProxy checks before they receive traffic. A server's check health begins at `rise`: the
/// first failed check takes the server down, the first passed check raises the health.
struct Trial {
    color: Color,
    began: Instant,
    first: Vec<Server>,
    /// Whether the servers were taken out of maintenance for this trial.
    rested: bool,
}

impl Trial {
    fn is_passed(&self, now: &Server, first: &Server, limits: CutoverLimits) -> bool {
        let waited = self.began.elapsed();
        let heard = match (now.is_checked(), now.has_agent()) {
            (true, _) => now.check_health > first.check_health || !self.rested && now.passed(),
            (false, true) => waited >= AGENT_WITHIN,
            (false, false) => true,
        };
        // Without a result of HAProxy's check, bgd's own probe has to do.
        now.is_up() && (heard || waited >= limits.check)
    }
}

/// Which HAProxy process answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The process that bgd last set a route in.
    Same,
    /// Another process, in which bgd has set the last route again.
    New,
    /// Unknown: this bgd process has set no route yet.
    Unknown,
}

impl Haproxy {
    /// Puts a route in force and reads it back from HAProxy; on failure, restores the old one as far as possible.
    pub async fn route(&self, route: &Route, limits: CutoverLimits) -> Result<(), HaproxyError> {
        let process = self.process().await?;
        let sides = self.sides().await?;
        let [blue, green] = Color::ALL.map(|color| roles::wanted(route, color, &sides));
        let told = LastSet { process, blue, green, generation: route.generation };
        let put = self.put_proven(&told, &sides, limits).await;
        if put.is_err() {
            self.undo(&sides).await;
        }
        put
    }

    /// A color that begins to receive traffic has to pass HAProxy's own check: before the switch when the other color
    /// serves, else after it, because there is nothing to lose.
    async fn put_proven(
        &self,
        told: &LastSet,
        sides: &ServerSides,
        limits: CutoverLimits,
    ) -> Result<(), HaproxyError> {
        let mut open = Vec::new();
        for color in Color::ALL.into_iter().filter(|color| told.is_ready(*color)) {
            if self.is_known(color, sides) {
                continue;
            }
            let trial = self.begin_trial(color, told).await?;
            match self.serves_beside(color, sides, told.process) {
                true => self.end_trial(&trial, told, limits).await?,
                false => open.push(trial),
            }
        }
        self.put(told, sides, limits).await?;
        for trial in &open {
            self.end_trial(trial, told, limits).await?;
        }
        self.remember(told.clone());
        self.keep().await;
        Ok(())
    }

    /// After a restart or reload, HAProxy has the states of its configuration: sets the last route again.
    pub async fn put_back(&self, limits: CutoverLimits) -> Result<Life, HaproxyError> {
        let process = self.process().await?;
        let Some(last) = self.told() else { return Ok(Life::Unknown) };
        if last.process == process {
            return Ok(Life::Same);
        }
        let begun = Instant::now();
        while !self.told_anew(&last, limits).await? && begun.elapsed() < limits.proof {
            sleep(SOON).await;
        }
        Ok(Life::New)
    }

    /// Sets the last route; returns whether the new process has it. The commands may have reached the former process,
    /// which still answers while it is replaced.
    async fn told_anew(&self, last: &LastSet, limits: CutoverLimits) -> Result<bool, HaproxyError> {
        let (process, sides) = self.look().await?;
        if process == last.process {
            return Ok(false);
        }
        let [blue, green] = Color::ALL.map(|color| {
            let alone = !last.is_ready(color.other());
            let want = |(server, want): (&Server, ServerGoal)| match want {
                // The weight of the new configuration, not of the earlier one.
                ServerGoal::Ready(_) if alone => roles::alone(server),
                want => want,
            };
            last.paired(&sides, color).map(want).collect()
        });
        let told = LastSet { process, blue, green, generation: last.generation };
        self.put(&told, &sides, limits).await?;
        self.remember(told.clone());
        self.keep().await;
        let (after, now) = self.look().await?;
        Ok(after == process && told.is_met(&now))
    }

    async fn put(
        &self,
        told: &LastSet,
        sides: &ServerSides,
        limits: CutoverLimits,
    ) -> Result<(), HaproxyError> {
        let [ahead, moving] = self.commands(told, sides);
        // A `balance` with fixed weights refuses here, where nothing has changed yet.
        for commands in [ahead, moving].iter().filter(|commands| !commands.is_empty()) {
            self.socket.tell(commands).await?;
        }
        self.prove(told, limits).await
    }

    /// Restores the servers' former states. Best effort: the cause that stopped the route may stop the restoration too;
    /// then the next look reports the actual state.
    async fn undo(&self, before: &ServerSides) {
        let undone = async {
            let now = self.sides().await?;
            let [blue, green] = before.map(ServerGoal::as_it_is);
            let was =
                LastSet { process: self.process().await?, blue, green, generation: Generation::default() };
            for commands in self.commands(&was, &now).iter().filter(|commands| !commands.is_empty()) {
                self.socket.tell(commands).await?;
            }
            Ok::<(), HaproxyError>(())
        };
        if let Err(err) = undone.await {
            tracing::warn!(err = %chain(&err), "haproxy may be left between two routes");
        }
    }

    /// Whether the color already receives traffic, as bgd set it.
    fn is_known(&self, color: Color, sides: &ServerSides) -> bool {
        self.told().is_some_and(|told| told.is_ready(color)) && sides.of(color).iter().any(Server::is_ready)
    }

    /// Whether the other color serves, in a HAProxy process that did not restart since bgd's last route.
    fn serves_beside(&self, color: Color, sides: &ServerSides, process: super::HaproxyProcess) -> bool {
        let undisturbed = self.told().is_none_or(|told| told.process == process);
        let serves = |server: &Server| server.is_ready() && server.weight > 0 && server.is_up();
        undisturbed && sides.of(color.other()).iter().any(serves)
    }

    /// Lets HAProxy check a color that is in maintenance, by draining it: a draining server is checked and receives
    /// nothing new.
    async fn begin_trial(&self, color: Color, told: &LastSet) -> Result<Trial, HaproxyError> {
        let wanted = told.wanted(&self.sides().await?, color);
        for server in &wanted {
            self.reach(server).await?;
        }
        if wanted.iter().any(Server::is_ready) {
            return Ok(Trial { color, began: Instant::now(), first: wanted, rested: false });
        }
        // Both on one connection: a check that passed before a separate look would never be seen to pass.
        let look = self.states();
        let text = self.socket.tell_and_look(&self.each("drain", &wanted), &look).await?;
        let first = told.wanted(&self.read_sides(&look, &text)?, color);
        Ok(Trial { color, began: Instant::now(), first, rested: true })
    }

    /// Waits until every server of the color that shall receive traffic has passed.
    async fn end_trial(
        &self,
        trial: &Trial,
        told: &LastSet,
        limits: CutoverLimits,
    ) -> Result<(), HaproxyError> {
        let down = loop {
            let now = told.wanted(&self.sides().await?, trial.color);
            let waited = trial.began.elapsed();
            if now.iter().zip(&trial.first).all(|(now, first)| trial.is_passed(now, first, limits)) {
                return Ok(());
            }
            match now.into_iter().find(|server| !server.is_up()) {
                // One slow answer on a busy machine is not a failure yet: the next checks decide.
                Some(down) if waited >= limits.verdict => break down,
                _ => sleep(SOON).await,
            }
        };
        let check = self.counters_of(&down).await?.check;
        Err(HaproxyError::CheckFails { server: self.path(&down.name), check })
    }

    /// Where HAProxy has no check of the server, connects to the address at which HAProxy will reach the app.
    async fn reach(&self, server: &Server) -> Result<(), HaproxyError> {
        let Some(address) = server.elsewhere().filter(|_| !server.has_check()) else { return Ok(()) };
        let failed = |source| HaproxyError::Unreachable { server: self.path(&server.name), address, source };
        match timeout(REACHED_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn each(&self, state: &str, servers: &[Server]) -> Vec<String> {
        servers.iter().map(|server| format!("set server {} state {state}", self.path(&server.name))).collect()
    }

    /// The commands that reach the target. The first list sets weights of servers that receive nothing yet, which moves
    /// no client. The second raises servers, then takes servers out, then lowers weights: lowering a weight before the
    /// other server is out would move clients to that server for an instant.
    fn commands(&self, told: &LastSet, sides: &ServerSides) -> [Vec<String>; 2] {
        let [mut ahead, mut raised, mut lowered, mut left] = [const { Vec::new() }; 4];
        for (now, want) in Color::ALL.into_iter().flat_map(|color| told.paired(sides, color)) {
            let server = self.path(&now.name);
            match want {
                want if want.is_met(now) => {}
                ServerGoal::Ready(weight) if now.standing() == Availability::Ready && weight < now.weight => {
                    lowered.push(format!("set server {server} weight {weight}"));
                }
                ServerGoal::Ready(weight) if now.standing() == Availability::Ready => {
                    raised.push(format!("set server {server} weight {weight}"));
                }
                ServerGoal::Ready(weight) => {
                    if now.weight != weight {
                        ahead.push(format!("set server {server} weight {weight}"));
                    }
                    raised.push(format!("set server {server} state ready"));
                }
                ServerGoal::Maint => left.push(format!("set server {server} state maint")),
            }
        }
        [ahead, raised.into_iter().chain(left).chain(lowered).collect()]
    }

    async fn prove(&self, told: &LastSet, limits: CutoverLimits) -> Result<(), HaproxyError> {
        let begun = Instant::now();
        let mut pause = SOON;
        loop {
            let sides = self.sides().await?;
            if told.is_met(&sides) {
                return Ok(());
            }
            if begun.elapsed() >= limits.proof {
                let seen = sides.said();
                return Err(HaproxyError::NotInEffect { waited: begun.elapsed(), seen });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::servers::tests::*, *};
    use crate::{
        config::settings::{HaproxyServers, HaproxySettings, Ports},
        front::haproxy::HaproxyProcess,
        rules::ids::Generation,
    };

    fn commands([told_blue, told_green]: [ServerGoal; 2], [blue, green]: [Server; 2]) -> Vec<String> {
        each([vec![told_blue], vec![told_green]], [vec![blue], vec![green]])
    }

    fn each([told_blue, told_green]: [Vec<ServerGoal>; 2], [blue, green]: [Vec<Server>; 2]) -> Vec<String> {
        let haproxy = Haproxy::new(
            HaproxySettings {
                socket: "/nowhere".into(),
                backend: "shop".to_owned(),
                servers: HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() },
                state_file: None,
            },
            Ports { blue: 1, green: 2 },
        );
        let process = HaproxyProcess { pid: 1, started: 1 };
        let told = LastSet { process, blue: told_blue, green: told_green, generation: Generation(1) };
        haproxy.commands(&told, &ServerSides { blue, green }).concat()
    }

    #[test]
    fn all_instances_of_the_new_color_are_ready_before_any_of_the_old_one_leaves() {
        let said = each(
            [vec![ServerGoal::Maint; 2], vec![ServerGoal::Ready(1); 2]],
            [
                vec![ready("blue", 1), ready("blue-2", 1)],
                vec![maint("green", 1), maint("green-2", 1), ready("green-3", 1)],
            ],
        );
        let expected = [
            "green state ready",
            "green-2 state ready",
            "blue state maint",
            "blue-2 state maint",
            "green-3 state maint",
        ];
        assert_eq!(said, expected.map(|said| format!("set server shop/{said}")));
    }

    #[test]
    fn the_new_color_is_ready_before_the_old_one_leaves() {
        let said =
            commands([ServerGoal::Maint, ServerGoal::Ready(50)], [ready("blue", 100), maint("green", 50)]);
        assert_eq!(said, ["set server shop/green state ready", "set server shop/blue state maint"]);
        let said =
            commands([ServerGoal::Ready(9), ServerGoal::Maint], [maint("blue", 1), ready("green", 50)]);
        let expected = [
            "set server shop/blue weight 9",
            "set server shop/blue state ready",
            "set server shop/green state maint",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_canary_is_raised_before_the_live_color_is_lowered() {
        let said = commands(
            [ServerGoal::Ready(151), ServerGoal::Ready(50)],
            [ready("blue", 191), ready("green", 10)],
        );
        let expected = ["set server shop/green weight 50", "set server shop/blue weight 151"];
        assert_eq!(said, expected);
    }

    #[test]
    fn who_stays_with_less_weight_gets_it_after_the_other_has_left() {
        // In the other order, nearly all of the traffic would go to the leaving server for an instant.
        let said =
            commands([ServerGoal::Maint, ServerGoal::Ready(1)], [ready("blue", 101), ready("green", 100)]);
        assert_eq!(said, ["set server shop/blue state maint", "set server shop/green weight 1"]);
        let said =
            commands([ServerGoal::Ready(1), ServerGoal::Maint], [ready("blue", 151), ready("green", 50)]);
        assert_eq!(said, ["set server shop/green state maint", "set server shop/blue weight 1"]);
    }

    #[test]
    fn a_live_color_gets_its_weight_back_before_the_abandoned_canary_leaves() {
        let said =
            commands([ServerGoal::Ready(220), ServerGoal::Maint], [ready("blue", 101), ready("green", 100)]);
        let expected = ["set server shop/blue weight 220", "set server shop/green state maint"];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_so_already_is_not_told() {
        let said =
            commands([ServerGoal::Ready(100), ServerGoal::Maint], [ready("blue", 100), maint("green", 3)]);
        assert!(said.is_empty(), "{said:?}");
    }
}
