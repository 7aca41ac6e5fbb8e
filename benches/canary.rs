//! Canaries under load, on each front and with each kind of stickiness: whether every step has the share that was
//! asked for, whether a client that was moved to the new release stays there, and what is lost, from the first step to
//! all of the traffic, and when `bgd flip` takes a quarter of it back. Ends badly when a share is off by more than a
//! point, a client comes back, the wrong release answers afterwards, or a request is lost. `SECONDS` makes a canary
//! shorter (then chance gives fewer clients a wider range), `RATE` the load, `FRONTS` names those to be run.

mod stage;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use stage::{
    Res, Table,
    figures::ms,
    load,
    paced::{self, Paced, Plan, Visit, Visits},
    scene::{Kind, Scene, Wants},
};

/// Shares in percent, each for so many sixths of the time: a larger one needs more clients to be measured as well.
const STEPS: [(u8, u64); 3] = [(5, 1), (25, 2), (50, 3)];
/// The share that is flipped away.
const ABANDONED: u8 = 25;
/// Before a push and after the end.
const CALM: Duration = Duration::from_secs(2);
/// How many standard deviations chance may move what is no fault: one of a thousand is beyond.
const CHANCE: f64 = 3.3;
/// So that it is known which of nginx's workers answered, and clients get their cookie in spite of it.
const SITE: &str = "add_header X-Worker $pid always; add_header Set-Cookie $bgd_shop_cookie always;";
/// The comment in HAProxy's configuration above what tells bgd of each request.
const TOLD: &str = "For a verdict on real traffic";

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let size = Size { seconds: stage::count("SECONDS", 60) as u64, rate: stage::count("RATE", 1_000) as u64 };
    let fronts = std::env::var("FRONTS").unwrap_or_default().to_ascii_lowercase();
    let mut book = Book::new(size);
    for kind in Kind::ALL {
        if !fronts.is_empty() && !fronts.contains(&kind.name().to_ascii_lowercase()) {
            continue;
        }
        for sticky in Sticky::ALL {
            book.enter(Run { kind, sticky, end: End::Promoted, size });
        }
        book.enter(Run { kind, sticky: Sticky::Cookie, end: End::Flipped, size });
    }
    book.close()
}

/// Of a run.
#[derive(Debug, Clone, Copy)]
struct Size {
    seconds: u64,
    rate: u64,
}

/// What keeps a client where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sticky {
    None,
    Ip,
    Cookie,
}

impl Sticky {
    const ALL: [Self; 3] = [Self::None, Self::Ip, Self::Cookie];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ip => "ip",
            Self::Cookie => "cookie",
        }
    }

    /// The comments of HAProxy's shipped configuration.
    fn haproxy(self) -> &'static [&'static str] {
        match self {
            Self::None => &[TOLD],
            Self::Ip => &[TOLD, "canary.sticky = \"ip\""],
            Self::Cookie => &[TOLD, "canary.sticky = \"cookie\""],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Promoted,
    Flipped,
}

impl End {
    fn words(self) -> String {
        match self {
            Self::Promoted => "promoted".to_owned(),
            Self::Flipped => format!("flipped at {ABANDONED}%"),
        }
    }
}

/// One canary.
#[derive(Debug, Clone, Copy)]
struct Run {
    kind: Kind,
    sticky: Sticky,
    end: End,
    size: Size,
}

/// What was seen of it. Times are microseconds since 1970.
struct Seen {
    visits: Visits,
    /// In force from then on.
    shares: Vec<(u64, u8)>,
    /// What bgd itself measured, last.
    by_bgd: HashMap<u8, String>,
    /// When the end was begun, and when it was reported done.
    ending: u64,
    ended: u64,
}

impl Run {
    fn name(self) -> String {
        format!("{}, sticky {}, {}", self.kind.name(), self.sticky.name(), self.end.words())
    }

    fn hold(self, sixths: u64) -> Duration {
        Duration::from_millis(self.size.seconds * 1000 * sixths / 6)
    }

    fn scene(self) -> Res<Option<Scene>> {
        let steps = STEPS.map(|(share, sixths)| format!("\"{share}%:{}ms\"", self.hold(sixths).as_millis()));
        let cookie = if self.sticky == Sticky::Cookie { ", cookie = \"bgd\"" } else { "" };
        let (steps, sticky) = (steps.join(", "), self.sticky.name());
        let more = format!("canary = {{ steps = [{steps}], sticky = \"{sticky}\"{cookie} }}");
        let (kind, haproxy) = (self.kind, self.sticky.haproxy());
        Scene::with(Wants { kind, more: &more, interval: "250ms", site: SITE, haproxy })
    }

    /// `None` where the front is not installed.
    fn go(self) -> Res<Option<Seen>> {
        let Some(scene) = self.scene()? else { return Ok(None) };
        scene.deploy("old")?;
        let releases = ["old".to_owned(), "new".to_owned()];
        let load = Paced::start(Plan { to: scene.public, rate: self.size.rate, releases });
        sleep(CALM);
        let commit = scene.remote.stage_version("new")?;
        scene.remote.push(commit)?;
        let mut by_bgd = HashMap::new();
        let (ending, ended) = match self.end {
            End::Promoted => {
                self.follow(&scene, &load, &mut by_bgd, |app| {
                    app["live"]["commit"] == commit.to_string() && app["idle"]["state"] == "stopped"
                })?;
                // The record has milliseconds, and the rest is cut off.
                let at = happened(&scene, "went_live")?;
                (at, at + 1_000)
            }
            End::Flipped => {
                self.follow(&scene, &load, &mut by_bgd, |app| {
                    app["canary"]["wanted"] == ABANDONED
                        && shares(&scene).is_ok_and(|all| all.iter().any(|(_, share)| *share == ABANDONED))
                })?;
                sleep(self.hold(1) / 2);
                let ending = paced::now();
                scene.daemon.flip_command("shop")?;
                let ended = paced::now();
                self.follow(&scene, &load, &mut by_bgd, |app| app["idle"]["state"] == "stopped")?;
                (ending, ended)
            }
        };
        sleep(CALM);
        let visits = load.end()?;
        Ok(Some(Seen { visits, shares: shares(&scene)?, by_bgd, ending, ended }))
    }

    /// Until the app is as wanted; with each step the first clients ask again.
    fn follow(
        self,
        scene: &Scene,
        load: &Paced,
        by_bgd: &mut HashMap<u8, String>,
        is_there: impl Fn(&serde_json::Value) -> bool,
    ) -> Res<()> {
        let until = Instant::now() + Duration::from_secs(self.size.seconds + 60);
        let mut since = serde_json::Value::Null;
        loop {
            let app = scene.daemon.app("shop")?;
            let canary = &app["canary"];
            if canary["since"] != since && canary["since"].is_string() {
                since = canary["since"].clone();
                load.again_from_first();
            }
            if let (Some(share), Some(measured)) = (canary["wanted"].as_u64(), canary["measured"].as_str()) {
                by_bgd.insert(u8::try_from(share)?, measured.to_owned());
            }
            if is_there(&app) {
                return Ok(());
            }
            if ["failed", "rolled_back"].iter().any(|outcome| app["last"]["outcome"] == *outcome)
                || Instant::now() > until
            {
                return Err(format!("it does not come to its end: {app}").into());
            }
            sleep(Duration::from_millis(50));
        }
    }
}

fn at(event: &serde_json::Value) -> Res<u64> {
    let at: jiff::Timestamp = event["at"].as_str().ok_or("an event without a time")?.parse()?;
    Ok(u64::try_from(at.as_microsecond())?)
}

/// When an event of this kind last happened.
fn happened(scene: &Scene, kind: &str) -> Res<u64> {
    let events = scene.daemon.events()?;
    at(events.iter().rev().find(|event| event["kind"] == kind).ok_or(format!("no {kind}"))?)
}

/// When each share came in force.
fn shares(scene: &Scene) -> Res<Vec<(u64, u8)>> {
    let events = scene.daemon.events()?;
    let changed = events.iter().filter(|event| event["kind"] == "share_changed");
    let share = |event: &serde_json::Value| {
        let text = event["text"].as_str()?;
        text.split(' ').find_map(|word| word.strip_suffix('%')?.parse().ok())
    };
    changed.map(|event| Ok((at(event)?, share(event).ok_or(format!("no share: {event}"))?))).collect()
}

/// What is printed at the end, and what was wrong.
struct Book {
    shares: Table,
    runs: Table,
    faults: Vec<String>,
}

impl Book {
    fn new(Size { seconds, rate }: Size) -> Self {
        let title = format!("shares of canaries of {seconds} s at {rate} requests a second, in percent");
        let columns =
            ["front", "sticky", "asked", "measured", "off by", "allowed", "of", "by bgd", "nginx's workers"];
        let runs = [
            "front",
            "sticky",
            "ended",
            "requests",
            "of the pace",
            "lost",
            "came back",
            "wrong afterwards",
            "sent anew",
            "median",
            "p99",
        ];
        Self {
            shares: Table::new(&title, &columns),
            runs: Table::new("what became of the requests", &runs),
            faults: Vec::new(),
        }
    }

    /// One that fails altogether is a fault, and the others are run all the same.
    fn enter(&mut self, run: Run) {
        println!("{} …", run.name());
        if let Err(err) = self.run(run) {
            self.faults.push(format!("{}: {err}", run.name()));
        }
    }

    fn run(&mut self, run: Run) -> Res<()> {
        let Some(seen) = run.go()? else { return Ok(()) };
        for (share, sixths) in STEPS {
            let Some((from, _)) = seen.shares.iter().find(|(_, found)| *found == share) else {
                if run.end == End::Promoted || share <= ABANDONED {
                    self.faults.push(format!("{}: {share}% never came", run.name()));
                }
                continue;
            };
            let hold = u64::try_from(run.hold(sixths).as_micros())?;
            let within = (*from, (from + hold).min(seen.ending));
            self.share(run, &seen, (share, within));
        }
        self.requests(run, &seen);
        Ok(())
    }

    /// The share of one step, of requests that were sent and answered while it was in force.
    fn share(&mut self, run: Run, seen: &Seen, (asked, within): (u8, (u64, u64))) {
        let visits = answered_within(&seen.visits.answered, within);
        let measured = match run.sticky {
            Sticky::None => Measured::requests(&visits),
            Sticky::Ip | Sticky::Cookie => Measured::clients(&visits),
        };
        let off = measured.percent() - f64::from(asked);
        let allowed = match run.sticky {
            Sticky::None => 1.0,
            Sticky::Ip | Sticky::Cookie => measured.chance(asked).max(1.0),
        };
        if off.abs() > allowed || measured.all == 0 {
            self.faults.push(format!("{}: {:.2}% instead of {asked}%", run.name(), measured.percent()));
        }
        let what = if run.sticky == Sticky::None { "requests" } else { "clients" };
        self.shares.row([
            run.kind.name().to_owned(),
            run.sticky.name().to_owned(),
            asked.to_string(),
            format!("{:.2}", measured.percent()),
            format!("{off:+.2}"),
            format!("{allowed:.2}"),
            format!("{} {what}", measured.all),
            seen.by_bgd.get(&asked).cloned().unwrap_or_default(),
            if run.sticky == Sticky::None { workers(&visits, asked) } else { String::new() },
        ]);
    }

    fn requests(&mut self, run: Run, seen: &Seen) {
        let (visits, lost) = (&seen.visits, &seen.visits.lost);
        let back = came_back(run, seen);
        let wrong = visits.answered.iter().filter(|visit| {
            visit.sent > seen.ended && visit.release != usize::from(run.end == End::Promoted)
        });
        let wrong = wrong.count();
        let lasts = |what: String| format!("{}: {what}", run.name());
        if !lost.is_empty() {
            self.faults.push(lasts(format!(
                "{} lost: {}",
                lost.len(),
                load::words(lost.iter().map(|(_, how)| how.as_str()))
            )));
        }
        if let Some(first) = back.first() {
            let [sent, ended] = [first.sent, seen.ended].map(|at| at / 1000);
            let what = format!(
                "{} times the old release again, first at {sent} ms; it ended at {ended}",
                back.len()
            );
            self.faults.push(lasts(what));
        }
        if wrong > 0 {
            self.faults.push(lasts(format!("{wrong} answers of the wrong release afterwards")));
        }
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let pace = visits.sent as f64 * 100.0 / visits.due.max(1) as f64;
        self.runs.row([
            run.kind.name().to_owned(),
            run.sticky.name().to_owned(),
            run.end.words(),
            visits.sent.to_string(),
            format!("{pace:.1}%"),
            lost.len().to_string(),
            if run.sticky == Sticky::None { "-".to_owned() } else { back.len().to_string() },
            wrong.to_string(),
            visits.anew.to_string(),
            ms(visits.took.median()),
            ms(visits.took.quantile(0.99)),
        ]);
    }

    fn close(self) -> Res<()> {
        self.shares.print();
        self.runs.print();
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.join("\n       ").into()) }
    }
}

/// Sent while a share was in force, up to the first one that was not answered before it ended: who leaves out slow
/// answers alone leaves out those of the slower release.
fn answered_within(all: &[Visit], (from, until): (u64, u64)) -> Vec<Visit> {
    let begun = all.iter().filter(|visit| visit.sent > from && visit.sent < until);
    let late = begun.clone().filter(|visit| visit.done >= until).map(|visit| visit.sent);
    let until = late.min().unwrap_or(until);
    begun.filter(|visit| visit.sent < until).copied().collect()
}

/// So many of so many at the new release.
struct Measured {
    new: usize,
    all: usize,
}

impl Measured {
    fn requests(visits: &[Visit]) -> Self {
        Self { new: visits.iter().filter(|visit| visit.release == 1).count(), all: visits.len() }
    }

    /// A client that was at both is one that came: it is at the new release.
    fn clients(visits: &[Visit]) -> Self {
        let all: HashSet<u32> = visits.iter().map(|visit| visit.client).collect();
        let new = visits.iter().filter(|visit| visit.release == 1).map(|visit| visit.client);
        Self { new: new.collect::<HashSet<_>>().len(), all: all.len() }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn percent(&self) -> f64 {
        self.new as f64 * 100.0 / self.all.max(1) as f64
    }

    /// How far chance may move the share of so many clients, in points.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn chance(&self, asked: u8) -> f64 {
        let part = f64::from(asked) / 100.0;
        CHANCE * 100.0 * (part * (1.0 - part) / self.all.max(1) as f64).sqrt()
    }
}

/// How evenly nginx's workers share, each of which counts for itself.
fn workers(visits: &[Visit], asked: u8) -> String {
    let mut each = BTreeMap::<u32, Measured>::new();
    for visit in visits {
        let Some(worker) = visit.worker else { continue };
        let one = each.entry(worker).or_insert(Measured { new: 0, all: 0 });
        one.all += 1;
        one.new += usize::from(visit.release == 1);
    }
    if each.is_empty() {
        return String::new();
    }
    let shares: Vec<f64> = each.values().map(Measured::percent).collect();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let variance =
        shares.iter().map(|share| (share - f64::from(asked)).powi(2)).sum::<f64>() / shares.len() as f64;
    let shares: Vec<String> = shares.iter().map(|share| format!("{share:.3}")).collect();
    format!("{}; variance {variance:.5}", shares.join(", "))
}

/// Requests of clients who had been at the new release, sent after that was answered, that the old one answered while
/// the canary went on.
fn came_back(run: Run, seen: &Seen) -> Vec<Visit> {
    if run.sticky == Sticky::None {
        return Vec::new();
    }
    let mut moved = HashMap::<u32, u64>::new();
    for visit in seen.visits.answered.iter().filter(|visit| visit.release == 1) {
        let first = moved.entry(visit.client).or_insert(visit.done);
        *first = visit.done.min(*first);
    }
    let goes_on = |visit: &Visit| run.end == End::Promoted || visit.done < seen.ending;
    let back = seen.visits.answered.iter().filter(|visit| visit.release == 0 && goes_on(visit));
    let mut back: Vec<Visit> = back
        .filter(|visit| moved.get(&visit.client).is_some_and(|since| visit.sent > *since))
        .copied()
        .collect();
    back.sort_by_key(|visit| visit.sent);
    back
}
