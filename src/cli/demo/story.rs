//! The day that `bgd demo` tells, scene by scene, each against what was promised: a step that does not go as
//! told is an error. Narration only; the load counts by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{
    load::{Load, LoadCounts, RATE},
    remote::{Database, DemoRemote, Version},
    scene::{APP, Ran, Scene},
};
use crate::{
    cli::{
        terminal::{self, StreamStyle, Tone},
        wording,
    },
    rules::ids::CommitId,
};

const FIRST: Version = Version {
    number: 1,
    subject: "Open the shop",
    author: "Ann",
    page: "Welcome to the shop",
    database: Database::Reachable,
    build_seconds: 0,
};
const SECOND: Version =
    Version { number: 2, subject: "Show the cart total", author: "Ben", page: "Cart total: 12.00", ..FIRST };
const BROKEN: Version = Version {
    number: 3,
    subject: "Rename the database",
    author: "Ben",
    database: Database::Misspelled,
    ..SECOND
};
const WRONG: Version =
    Version { number: 4, subject: "Faster cart", author: "Ann", page: "Cart total: -3.50", ..SECOND };
const SLOW: Version = Version {
    number: 5,
    subject: "Faster cart, with the right total",
    author: "Ann",
    build_seconds: 2,
    ..SECOND
};

/// The story while it is told.
pub struct Story<'s> {
    scene: &'s mut Scene,
    remote: DemoRemote,
    look: StreamStyle,
    begun: Instant,
    load: Option<Load>,
}

impl<'s> Story<'s> {
    /// A story that has not begun.
    pub fn new(scene: &'s mut Scene, look: StreamStyle) -> anyhow::Result<Self> {
        let remote = DemoRemote::create(&scene.remote(), &scene.work()).context("make the repositories")?;
        Ok(Self { scene, remote, look, begun: Instant::now(), load: None })
    }

    /// Tells the whole story, and in the end what became of the requests, even if the story failed.
    pub async fn tell(mut self) -> anyhow::Result<()> {
        let told = self.day().await;
        let counts = self.load.take().map(Load::finish);
        let lost = counts.as_ref().map_or(0, |counts| counts.lost.len());
        if let Some(counts) = counts {
            self.sum_up(&counts)?;
        }
        told?;
        ensure!(lost == 0, "{lost} requests were lost");
        Ok(())
    }

    async fn day(&mut self) -> anyhow::Result<()> {
        self.opening().await?;
        self.second_push().await?;
        self.broken_push().await?;
        self.wrong_push_and_flip().await?;
        self.killed_daemon().await?;
        self.title("The record")?;
        let history = self.told(&["history"]).await?;
        ensure!(history == 0, "`bgd history` failed");
        Ok(())
    }

    async fn opening(&mut self) -> anyhow::Result<()> {
        self.title("A first push")?;
        let pid = self.scene.start_daemon().await?;
        self.say(&format!("a bare git remote and `bgd daemon` (pid {pid}) are there, nothing is deployed"))?;
        let first = self.push(&FIRST)?;
        self.live(&first).await?;
        self.load = Some(Load::start(self.scene.front()).context("start the load")?);
        let front = self.scene.front();
        self.say(&format!("visitors come to http://{front}/ from now on: {RATE} requests a second"))
    }

    async fn second_push(&mut self) -> anyhow::Result<()> {
        self.title("A second push, under load")?;
        self.answered_by(&FIRST).await?;
        let second = self.push(&SECOND)?;
        self.live(&second).await?;
        self.answered_by(&SECOND).await?;
        let status = self.told(&["status"]).await?;
        ensure!(status == 0, "`bgd status` exits with {}", status);
        Ok(())
    }

    async fn broken_push(&mut self) -> anyhow::Result<()> {
        self.title("A push whose health check fails")?;
        let before = self.counts();
        let broken = self.push(&BROKEN)?;
        let ran = self.waited_for(&broken).await?;
        ensure!(ran.code == 1, "a broken push ends `bgd wait` with {}", ran.code);
        let live = self.value("live.commit").await?;
        ensure!(live != broken.as_str(), "the broken commit is live");
        self.say(&format!("refused; {} serves on. Why, says `bgd status`:", short(&live)))?;
        for key in ["last.error", "last.hint"] {
            let text = self.value(key).await?;
            if !text.is_empty() {
                terminal::data(&format!("         {} {text}", key.trim_start_matches("last.")))?;
            }
        }
        let shown = self.counts().answered.get("3").copied();
        ensure!(shown.is_none(), "visitors saw the broken version");
        self.nothing_lost_since(&before)
    }

    async fn wrong_push_and_flip(&mut self) -> anyhow::Result<()> {
        self.title("A push that no health check can fault, and the way back")?;
        let wrong = self.push(&WRONG)?;
        self.live(&wrong).await?;
        self.answered_by(&WRONG).await?;
        self.say(&format!("its page says {:?}: somebody notices", WRONG.page))?;
        let begun = Instant::now();
        let flip = self.told(&["flip"]).await?;
        ensure!(flip == 0, "`bgd flip` exits with {}", flip);
        let live = self.value("live.commit").await?;
        ensure!(live != wrong.as_str(), "the flip did not move the traffic");
        self.answered_by(&SECOND).await?;
        let took = wording::span(begun.elapsed());
        self.say(&format!("{} serves again, {took} after the command was typed", short(&live)))?;
        let why = self.told(&["why"]).await?;
        ensure!(why == 0, "`bgd why` exits with {}", why);
        Ok(())
    }

    async fn killed_daemon(&mut self) -> anyhow::Result<()> {
        self.title("The daemon is killed in the middle of a deploy")?;
        let fixed = self.push(&SLOW)?;
        self.scene.until("deploy.phase", &["building"]).await?;
        let before = self.counts();
        self.scene.kill_daemon().await?;
        self.say("kill -9 of the daemon, while it builds")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let without = self.counts();
        let answered = without.total() - before.total();
        ensure!(answered > 0, "nothing was answered without the daemon");
        self.say(&format!("a second without a daemon: {answered} requests answered"))?;
        let pid = self.scene.start_daemon().await?;
        self.say(&format!("it is started again (pid {pid}) and takes up where it was"))?;
        self.live(&fixed).await?;
        self.answered_by(&SLOW).await
    }

    fn push(&self, version: &Version) -> anyhow::Result<CommitId> {
        let commit = self.remote.push(version).context("push")?;
        let (subject, author) = (version.subject, version.author);
        self.say(&format!("{author} pushes {}, version {}: {subject:?}", commit.short(), version.number))?;
        Ok(commit)
    }

    /// Waits until the commit is live and its watch is over.
    async fn live(&self, commit: &CommitId) -> anyhow::Result<()> {
        let begun = Instant::now();
        let ran = self.waited_for(commit).await?;
        ensure!(ran.code == 0, "`bgd wait` exits with {}: {}", ran.code, ran.stderr);
        let color = self.value("live.color").await?;
        self.say(&format!(
            "{} is live on {color}, {} after the push",
            commit.short(),
            wording::span(begun.elapsed())
        ))
    }

    async fn waited_for(&self, commit: &CommitId) -> anyhow::Result<Ran> {
        self.scene.bgd(&["wait", "--for", &format!("rev={commit}"), "--timeout", "20s"]).await
    }

    async fn value(&self, key: &str) -> anyhow::Result<String> {
        Ok(self.scene.bgd(&["status", APP, "-o", key]).await?.stdout)
    }

    /// Runs a command and shows it with what it printed; its exit code.
    async fn told(&self, words: &[&str]) -> anyhow::Result<i32> {
        let command = self.look.paint(Tone::Strong, &format!("$ bgd {}", words.join(" ")));
        terminal::data(&format!("         {command}"))?;
        let (code, text) = self.scene.shown(words).await?;
        for line in text.lines() {
            terminal::data(&format!("         {line}"))?;
        }
        Ok(code)
    }

    /// Waits until visitors see that version.
    async fn answered_by(&self, version: &Version) -> anyhow::Result<()> {
        let name = version.number.to_string();
        let seen = || self.counts().answered.get(&name).copied().unwrap_or_default();
        let (before, until) = (seen(), Instant::now() + Duration::from_secs(5));
        while seen() < before + 20 {
            ensure!(Instant::now() < until, "visitors do not see version {name}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn nothing_lost_since(&self, before: &LoadCounts) -> anyhow::Result<()> {
        let now = self.counts();
        let lost = now.lost.len() - before.lost.len();
        ensure!(lost == 0, "{lost} requests were lost");
        self.say(&format!("{} requests were answered meanwhile, none lost", now.total() - before.total()))
    }

    fn counts(&self) -> LoadCounts {
        self.load.as_ref().map(Load::counts).unwrap_or_default()
    }

    fn title(&self, text: &str) -> anyhow::Result<()> {
        terminal::data(&format!("\n{}", self.look.paint(Tone::Strong, text)))?;
        Ok(())
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        let at = self.look.paint(Tone::Quiet, &format!("{:6.1} s", self.begun.elapsed().as_secs_f32()));
        terminal::data(&format!("{at} {text}"))?;
        Ok(())
    }

    fn sum_up(&self, counts: &LoadCounts) -> anyhow::Result<()> {
        self.title("What the visitors saw")?;
        terminal::data(&summary(counts, self.look))?;
        Ok(())
    }
}

fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or("nothing")
}

/// The result in a few lines.
fn summary(counts: &LoadCounts, look: StreamStyle) -> String {
    let by: Vec<_> = counts.answered.iter().map(|(name, n)| format!("version {name}: {n}")).collect();
    let lost = match counts.lost.len() {
        0 => look.paint(Tone::Good, "0 LOST"),
        many => look.paint(Tone::Bad, &format!("{many} LOST")),
    };
    let mut text = format!(
        "  requests  {} sent, {} answered, {lost}\n  answers   {}\n  gap       the longest time without an answer was {}\n  slowest   {} for a page",
        counts.sent,
        counts.total(),
        by.join(", "),
        wording::span(counts.longest_gap),
        wording::span(counts.slowest),
    );
    for (at, what) in counts.lost.iter().take(5) {
        text.push_str(&format!("\n  lost      after {}: {what}", wording::span(*at)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_was_lost() {
        let mut counts = LoadCounts::default();
        counts.sent = 31;
        counts.answered = [("1".to_owned(), 10), ("2".to_owned(), 20)].into();
        counts.longest_gap = Duration::from_millis(14);
        counts.lost = vec![(Duration::from_millis(2_500), "answered 502 Bad Gateway".to_owned())];
        assert_eq!(
            summary(&counts, StreamStyle::PLAIN),
            "  requests  31 sent, 30 answered, 1 LOST
  answers   version 1: 10, version 2: 20
  gap       the longest time without an answer was 14 ms
  slowest   0 ms for a page
  lost      after 2.5 s: answered 502 Bad Gateway"
        );
    }
}
