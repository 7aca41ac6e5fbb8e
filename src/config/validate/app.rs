//! One app: the keys that stand directly in `[app.NAME]`, `stop`, `rewrite` and `hooks`.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{Holds, Judge};
use crate::config::{
    defaults,
    duration::exact,
    problem::Place,
    raw::{Commands, RawApp, RawAuth, RawEnv, RawHooks, RawRewrite, RawStart, RawStop, RawWatch},
    read::{Given, Written},
    settings::{AppSettings, Hooks, Listen, MemoryCheck, Protocol, Rewrite, Start, Stop, StopHow},
};
use crate::{os::privilege::NewPrivileges, rules::ids::AppName};

/// Judges an app. What comes back is whole only if no error was noted.
pub(in crate::config) fn app(judge: &mut Judge<'_>, name: AppName, raw: RawApp) -> AppSettings {
    let listen = judge.app_listen(&raw, &name);
    judge.placeholders(&raw);
    judge.programs(&raw);
    let at = raw.at;
    let remote = judge.remote(&raw.remote, &at);
    let auth = judge.auth(
        &RawAuth::or_empty(raw.auth, at.absent("auth")),
        remote.as_ref().map(|remote| remote.transport),
    );
    let verify = judge.verify(raw.verify);
    let (shared, cache) = (judge.release_paths(&raw.shared), judge.release_paths(&raw.cache));
    judge.refuse_overlaps(&[&shared[..], &cache[..]].concat(), "a path is shared or cached, and once");
    let rewrites = judge.rewrites(&raw.rewrite, &shared);
    let protocol = judge.protocol(&raw.protocol);
    let health = judge.health(raw.health, protocol, &at);
    judge.warmup_speaks(protocol, raw.warmup.place());
    let warmup = judge.warmup(raw.warmup, &health);
    let canary = judge.canary(&raw.canary, &name);
    let preview = judge.preview(raw.preview, &raw.canary, &canary);
    let raw_watch = RawWatch::or_empty(raw.watch, at.absent("watch"));
    let watch = judge.watch(&raw_watch, &health, &canary);
    let address = raw.front.value().map_or(Given::Absent, |front| front.value.address.clone());
    let front = judge.front(raw.front, &name, &at);
    judge.backup_stands(&raw_watch.backup, front.as_ref());
    let public = judge.public(&address, front.as_ref(), &health);
    let limits = judge.limits(raw.limits, &at);
    let checkout_limit = judge.checkout_limit(raw.checkout_limit, &at);
    let instances = judge.instances(&raw.instances, front.as_ref(), &rewrites);
    judge.front_speaks(&raw.protocol, front.as_ref());
    judge.sockets_fit(raw.listen.place(), (&listen, instances), front.as_ref());
    if protocol == Protocol::Uwsgi {
        judge.uwsgi_ends(&raw.start, &raw.stop);
    }
    AppSettings {
        remote: remote.map(|remote| remote.url).unwrap_or_default(),
        branch: judge.branch(&raw.branch).unwrap_or_else(|| defaults::BRANCH.to_owned()),
        poll: judge.positive(&raw.poll, defaults::POLL),
        ports: judge.app_ports((&raw.ports, &listen), instances, &at),
        instances,
        build: judge.build(&raw.build),
        start: judge.start(&raw.start, &at),
        stop: judge.stop(RawStop::or_empty(raw.stop, at.absent("stop")), protocol),
        protocol,
        drain: judge.drain(raw.drain),
        standby: Judge::or(raw.standby, defaults::STANDBY),
        keep: judge.keep(&raw.keep),
        user: judge.user(&raw.user),
        new_privileges: new_privileges(raw.new_privileges),
        env: judge.env(raw.env, &listen),
        env_file: judge.host_file(&raw.env_file, Holds::Variables),
        shared: shared.into_iter().map(|path| path.value).collect(),
        cache: cache.into_iter().map(|path| path.value).collect(),
        build_timeout: judge.positive(&raw.build_timeout, defaults::BUILD_TIMEOUT),
        fast_forward_only: Judge::or(raw.fast_forward_only, defaults::FAST_FORWARD_ONLY),
        memory_check: judge.memory_check(&raw.memory_check),
        auth,
        verify,
        rewrites,
        health,
        warmup,
        canary,
        preview,
        watch,
        hooks: judge.hooks(&RawHooks::or_empty(raw.hooks, at.absent("hooks"))),
        front: front.unwrap_or_else(defaults::builtin_front),
        public,
        limits,
        checkout_limit,
        listen,
        name,
    }
}

fn new_privileges(given: Given<bool>) -> NewPrivileges {
    match Judge::or(given, defaults::NEW_PRIVILEGES) {
        true => NewPrivileges::Allowed,
        false => NewPrivileges::Refused,
    }
}

impl Judge<'_> {
    fn memory_check(&mut self, given: &Given<String>) -> MemoryCheck {
        match given.value().map(|written| (written.value.as_str(), &written.at)) {
            None => MemoryCheck::default(),
            Some(("warn", _)) => MemoryCheck::Warn,
            Some(("refuse", _)) => MemoryCheck::Refuse,
            Some((other, at)) => {
                let hint = "\"warn\": the deploy goes on; \"refuse\": it fails before its start";
                self.notes.error(at, format!("is not a memory check: {other:?}"), hint);
                MemoryCheck::default()
            }
        }
    }

    fn build(&mut self, given: &Given<Commands>) -> Vec<String> {
        let all = given.value().map_or(&[][..], |written| &written.value.0);
        for command in all {
            self.filled(command, "write a command, or leave it out");
        }
        all.iter().map(|command| command.value.clone()).collect()
    }

    fn start(&mut self, given: &Given<RawStart>, app: &Place) -> Start {
        let hint =
            "a text (/bin/sh -c) or a list (argv), such as \"node server.js\" or [\"node\", \"server.js\"]";
        let (argv, at) = match given {
            Given::Value(Written { value: RawStart::Shell(command), .. }) if !command.trim().is_empty() => {
                return Start::Shell(command.clone());
            }
            Given::Value(Written { value: RawStart::Shell(_), at }) => (&[][..], at),
            Given::Value(Written { value: RawStart::Argv(argv), at }) => (&argv[..], at),
            Given::Unreadable(_) => return Start::Argv(Vec::new()),
            Given::Absent => {
                self.notes.error(&app.absent("start"), "is required", hint);
                return Start::Argv(Vec::new());
            }
        };
        match argv.first() {
            Some(program) if !program.value.trim().is_empty() => {}
            Some(program) => self.notes.error(&program.at, "is empty", hint),
            None => self.notes.error(at, "is empty", hint),
        }
        Start::Argv(argv.iter().map(|word| word.value.clone()).collect())
    }

    fn stop(&mut self, raw: RawStop, protocol: Protocol) -> Stop {
        if let (Some(_), Some(at)) = (raw.signal.place(), raw.command.place()) {
            self.notes.error(at, "`signal` and `command` exclude each other", "keep one of them");
        }
        let number = raw.signal.value().and_then(|written| {
            let number = super::protocol::number(&written.value);
            number.map_err(|bad| self.notes.error(&written.at, bad.to_string(), bad.hint())).ok()
        });
        let how = match self.command(&raw.command) {
            Some(command) => StopHow::Command(command),
            None => StopHow::Signal(number.unwrap_or_else(|| defaults::stop_signal(protocol))),
        };
        Stop { how, grace: Self::or(raw.grace, defaults::STOP_GRACE) }
    }

    fn drain(&mut self, given: Given<Duration>) -> Duration {
        if let Some(written) = given.value().filter(|written| written.value.is_zero()) {
            let hint = format!("leave it out for {}", exact(defaults::DRAIN));
            self.notes.warn(&written.at, "requests still in flight at a flip are cut", hint);
        }
        Self::or(given, defaults::DRAIN)
    }

    fn keep(&mut self, given: &Given<i64>) -> NonZeroUsize {
        let Some(written) = given.value() else { return defaults::KEEP };
        usize::try_from(written.value).ok().and_then(NonZeroUsize::new).unwrap_or_else(|| {
            let hint = "keep at least 1; 2 or more leave a way back";
            self.notes.error(&written.at, format!("must be 1 or more: {}", written.value), hint);
            defaults::KEEP
        })
    }

    fn user(&mut self, given: &Given<String>) -> Option<String> {
        let written = given.value()?;
        let inner = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c) || !c.is_ascii();
        let fits = !written.value.is_empty()
            && written.value.chars().all(|c| inner(c) && !c.is_control() && !c.is_whitespace())
            && !written.value.starts_with('-');
        if !fits {
            let what = format!("is no name of a user: {:?}", written.value);
            self.notes.error(&written.at, what, "the name alone; its groups come with it");
        }
        if fits && written.value.bytes().all(|c| c.is_ascii_digit()) {
            let what = format!("is a number, and users are looked up by name: {:?}", written.value);
            self.notes.warn(&written.at, what, "`getent passwd` shows the name of a number");
        }
        fits.then(|| written.value.clone())
    }

    fn env(&mut self, given: Given<RawEnv>, listen: &Listen) -> BTreeMap<String, String> {
        let Some(all) = given.into_value() else { return BTreeMap::new() };
        for (name, written) in &all.value.0 {
            if name.is_empty() || name.contains(|c: char| c == '=' || c.is_control() || c.is_whitespace()) {
                self.notes.error(&written.at, "is no name of a variable", "letters, digits and `_`");
            }
            let (own, stands_for) = match listen {
                Listen::Ports => ("PORT", "{port}"),
                Listen::Sockets(_) => ("SOCKET", "{socket}"),
            };
            let address = name == own && written.value != stands_for;
            if address || name.starts_with("BGD_") {
                self.notes.error(&written.at, "is set by bgd itself", "leave it out, or choose another name");
            }
        }
        all.value.0.into_iter().map(|(name, written)| (name, written.value)).collect()
    }

    fn rewrites(
        &mut self,
        given: &Given<Vec<Written<RawRewrite>>>,
        shared: &[Written<PathBuf>],
    ) -> Vec<Rewrite> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        all.iter().filter_map(|one| self.rewrite(&one.value, shared)).collect()
    }

    fn rewrite(&mut self, raw: &RawRewrite, shared: &[Written<PathBuf>]) -> Option<Rewrite> {
        for (name, place) in
            [("file", raw.file.place()), ("find", raw.find.place()), ("with", raw.with.place())]
        {
            if place.is_none() {
                self.notes.error(&raw.at.absent(name), "is required", "a rewrite needs file, find and with");
            }
        }
        let find = raw.find.value();
        if let Some(find) = find.filter(|find| find.value.is_empty()) {
            self.notes.error(&find.at, "is empty", "write the text to replace");
        }
        let file = raw.file.value()?;
        let path = self.release_file(file)?;
        if let Some(holder) = shared.iter().find(|shared| path.starts_with(&shared.value)) {
            let what = format!("{path:?} is the same file in both colors: it lies in {}", holder.at);
            self.notes.error(&file.at, what, "rewrite a file of the repository, or take it out of `shared`");
        }
        Some(Rewrite { file: path, find: find?.value.clone(), with: raw.with.value()?.value.clone() })
    }

    fn hooks(&mut self, raw: &RawHooks) -> Hooks {
        Hooks {
            before_start: self.command(&raw.before_start),
            after_live: self.command(&raw.after_live),
            after_failed: self.command(&raw.after_failed),
            timeout: self.positive(&raw.timeout, defaults::HOOK_TIMEOUT),
        }
    }
}
