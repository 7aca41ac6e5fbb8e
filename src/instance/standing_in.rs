//! Relays for a front that can't be moved and still routes to the bad release: a relay takes the bad release's place
//! and passes everything on to the release that is to serve, on the other color (promise N4). Nobody waits for the bad
//! release's end.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    slice,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Instances, starting::slots};
use crate::{
    command::{failure, start_failure, trouble},
    os::{errors::chain, holders::held_by},
    process::ports,
    rules::{
        address::Address,
        app::Release,
        ids::{Color, ReleaseId},
        words::{Failure, Nature, Phase},
    },
    shim::{
        Handle, LogSpec, Priority, Role, Slot, Spec, StopRequest, StopSpec,
        relay::{self, STANDS_IN},
    },
};

/// How long the bad release may take to leave its port, or, if nothing else serves, to end.
pub(crate) const BRIEF: Duration = Duration::from_secs(1);
/// How long a relay may take to share the socket of the instance that it replaces; later the socket counts as not
/// shareable, and the relay listens when it is free.
const UNSHARED: Duration = Duration::from_millis(250);
/// How long the bad release may hold a port that a relay took over.
const PARTED: Duration = Duration::from_secs(3);
/// The limit for the whole takeover, KILL included.
const AT_MOST: Duration = Duration::from_secs(8);
/// Between two looks at who has the port.
const LOOK: Duration = Duration::from_millis(5);
const RELAY_LOG: u64 = 1 << 20;

impl Instances {
    /// Puts relays on the color in the place of `out`; when this returns, they alone have its ports. An instance that
    /// left its port has the rest of its grace for open requests.
    pub(crate) async fn stand_in(
        &self,
        color: Color,
        out: &ReleaseId,
        release: &Release,
    ) -> Result<(), Failure> {
        let phase = Phase::Switching;
        tracing::warn!(app = %self.settings.name, %color, %out, new = %release.id, "the front can't be moved; passing on what comes to its port");
        let (mut relays, mut leaving) = (BTreeMap::new(), Vec::new());
        for handle in self.commands.find_shims(phase).await? {
            let Some(slot) = handle.role().slot().filter(|slot| slot.color == color) else { continue };
            let status = handle.status().await.map_err(|err| trouble(phase, &err))?;
            match handle.stands_in() && *handle.release() == release.id && status.runs() {
                true => drop(relays.insert(slot, handle)),
                false => leaving.push((slot, handle)),
            }
        }
        let all = relays.values().chain(leaving.iter().map(|(_, handle)| handle));
        let known = all.map(Handle::siblings).max();
        // The front can't be told of more instances than it knows.
        let number = known.unwrap_or_else(|| self.number_of(color, out));
        for slot in slots(color, number) {
            if let Entry::Vacant(place) = relays.entry(slot) {
                let from = leaving.iter().rfind(|(it, _)| *it == slot).map(|(_, handle)| handle);
                place.insert(self.relay(release, (slot, number), from).await?);
            }
        }
        for (slot, handle) in &leaving {
            self.known.remove(*slot, handle.id());
        }
        for (slot, handle) in &relays {
            self.known.put(*slot, handle.clone());
            self.known.prove(*slot, handle.id());
        }
        Takeover { instances: self, relays, leaving }.carry_out().await
    }

    async fn relay(
        &self,
        release: &Release,
        (slot, siblings): (Slot, u16),
        from: Option<&Handle>,
    ) -> Result<Handle, Failure> {
        let other = slot.color.other();
        // If the other color has fewer instances, some of them serve several relays.
        let index = slot.index % self.number_of(other, &release.id).max(1);
        let to = self.settings.address_at(other, index);
        let listen = self.settings.address_at(slot.color, slot.index);
        let mut argv = vec![self.exe.display().to_string()];
        argv.extend(relay::arguments(&listen, &to, from.map(Handle::shim_pid)));
        let env = [
            ("BGD_APP", self.settings.name.to_string()),
            ("BGD_COLOR", slot.color.to_string()),
            ("BGD_EVENT", STANDS_IN.to_owned()),
            ("BGD_INSTANCE", slot.number().to_string()),
            ("BGD_RELEASE", release.id.to_string()),
        ];
        let spec = Spec {
            app: self.settings.name.clone(),
            role: Role::Instance(slot),
            release: release.id.clone(),
            argv,
            cwd: "/".into(),
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            user: None,
            new_privileges: Default::default(),
            log: LogSpec {
                path: self.commands.places.logs().join(format!("relay-{slot}.log")),
                max_bytes: RELAY_LOG,
                keep: 1,
            },
            stop: StopSpec { how: StopRequest::Signal(libc::SIGTERM), grace: BRIEF, quiet: None },
            time_limit: None,
            priority: Priority::Normal,
            limits: Default::default(),
            siblings,
            claim: None,
        };
        self.commands.shims.start(&spec).await.map_err(|err| start_failure(Phase::Switching, &err))
    }
}

/// The ports of a color on their way from one release to the relays.
struct Takeover<'a> {
    instances: &'a Instances,
    relays: BTreeMap<Slot, Handle>,
    leaving: Vec<(Slot, Handle)>,
}

impl Takeover<'_> {
    /// Waits until the relays alone have the ports. A relay that shares a port takes it over at once, and the instance
    /// is asked to end when it has answered what it has; it may take requests on connections that a proxy keeps, and
    /// is asked after `BRIEF` at the latest. If a port can't be shared, the instance is asked first, and killed if it
    /// holds the port longer than `BRIEF`.
    async fn carry_out(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let (mut asked, mut parted, mut killed) = (None, None, false);
        let past = |since: Option<Instant>, limit| since.is_some_and(|it: Instant| it.elapsed() >= limit);
        loop {
            let waits_for = self.relays.iter().find(|(slot, relay)| !self.is_alone(**slot, relay));
            if waits_for.is_none() && (past(asked, BRIEF) || !self.has_clients()) {
                if asked.is_none() {
                    self.ask_to_end();
                }
                return Ok(());
            }
            let shared = self.all_listen();
            if shared && parted.is_none() {
                parted = Some(Instant::now());
                self.part();
            } else if asked.is_none() && begun.elapsed() >= if shared { BRIEF } else { UNSHARED } {
                asked = Some(Instant::now());
                self.ask_to_end();
            }
            if let Some((slot, relay)) = waits_for {
                if !killed && (past(parted, PARTED) || !shared && past(asked, BRIEF)) {
                    killed = true;
                    self.leaving.iter().for_each(|(_, handle)| drop(tokio::spawn(kill(handle.clone()))));
                }
                if relay.main_pid().is_none() || begun.elapsed() >= AT_MOST {
                    return Err(self.not_alone(*slot));
                }
            }
            sleep(LOOK).await;
        }
    }

    fn ask_to_end(&self) {
        self.leaving.iter().for_each(|(_, handle)| drop(tokio::spawn(end(handle.clone()))));
    }

    fn part(&self) {
        for relay in self.relays.values() {
            if let Err(err) = relay.part() {
                tracing::warn!(app = %relay.app(), %err, "a relay can't be told to listen alone");
            }
        }
    }

    fn not_alone(&self, slot: Slot) -> Failure {
        let address = self.address(slot).named();
        let cause = format!("what comes to {address} can't be passed on: another process holds it");
        let hint = Some(format!("`ss -ltnp` shows who has {address}; then `bgd flip`"));
        Failure { hint, ..failure(Phase::Switching, Nature::Transient, cause) }
    }

    fn address(&self, slot: Slot) -> Address {
        self.instances.settings.address_at(slot.color, slot.index)
    }

    /// The listening sockets at an address that the relay holds, and all of them; `None` if the relay holds none.
    fn sockets(&self, slot: Slot, relay: &Handle) -> Option<(BTreeSet<u64>, BTreeSet<u64>)> {
        let all: BTreeSet<u64> = ports::listening_at(&self.address(slot)).ok()?.into_iter().collect();
        let held = held_by(relay.main_pid()?, &all);
        (!held.is_empty()).then_some((held, all))
    }

    fn all_listen(&self) -> bool {
        self.relays.iter().all(|(slot, relay)| self.sockets(*slot, relay).is_some())
    }

    /// Whether the relay holds every socket that listens at the address, and the instance that it replaces holds none.
    fn is_alone(&self, slot: Slot, relay: &Handle) -> bool {
        let left =
            |handle: &Handle| matches!(handle.listens_on(slice::from_ref(&self.address(slot))), Ok(None));
        self.sockets(slot, relay).is_some_and(|(held, all)| held == all)
            && self.leaving.iter().filter(|(it, _)| *it == slot).all(|(_, handle)| left(handle))
    }

    fn has_clients(&self) -> bool {
        let mut leaving = self.leaving.iter();
        leaving.any(|(slot, handle)| handle.has_clients_at(&self.address(*slot)).unwrap_or(true))
    }
}

async fn kill(handle: Handle) {
    if let Err(err) = handle.kill().await {
        let (app, release) = (handle.app(), handle.release());
        tracing::warn!(%app, %release, err = %chain(&err), "what a relay takes the place of was not killed");
    }
}

/// Asks an instance to end, with the rest of its grace for open requests; then what is left of it is killed.
async fn end(handle: Handle) {
    let (app, release) = (handle.app().clone(), handle.release().clone());
    let ended = async {
        handle.stop().await?;
        handle.forget().await
    };
    if let Err(err) = ended.await {
        tracing::warn!(%app, %release, err = %chain(&err), "what a relay took the place of was not ended");
    }
}
