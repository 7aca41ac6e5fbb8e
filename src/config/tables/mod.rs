//! The tables of the configuration, one file each: the keys, their meaning, defaults and rules, and the wrong values
//! that tests go through. The keys, defaults and name of a front are only in the file of that front.
//!
//! [`read`](super::read) fills a table from TOML, [`Judge`](super::judge::Judge) makes settings from it.

use toml::de::{DeTable, DeValue};

use super::{
    read::{FromToml, Given, Item, Reader},
    span::Span,
};

/// Declares a table: its fields, their types, and their keys where those differ from the fields. `with` adds the keys
/// of other tables.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident $(= $key:literal)?: $kind:ty),* $(,)? }
     $(with { $($part:ident: $of:ty),* $(,)? })?) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(in crate::config) struct $name {
            /// Where the table begins.
            #[allow(dead_code, reason = "not asked of every table")]
            pub at: $crate::config::span::Span,
            $(pub $field: $crate::config::read::Given<$kind>,)*
            $($(pub $part: $of,)*)?
        }

        impl $crate::config::tables::Table for $name {
            fn keys() -> Vec<&'static str> {
                #[allow(unused_mut, reason = "most tables have no others among them")]
                let mut keys = vec![$($crate::config::tables::key!($field $($key)?)),*];
                $($(keys.extend(<$of as $crate::config::tables::Table>::keys());)*)?
                keys
            }

            fn written(&self) -> Vec<(&'static str, &$crate::config::span::Span)> {
                let all = [$(($crate::config::tables::key!($field $($key)?), self.$field.span())),*];
                all.into_iter().filter_map(|(key, at)| Some((key, at?))).collect()
            }

            fn empty(at: &$crate::config::span::Span) -> Self {
                Self {
                    at: at.clone(),
                    $($field: $crate::config::read::Given::Absent,)*
                    $($($part: <$of as $crate::config::tables::Table>::empty(at),)*)?
                }
            }

            fn fields(
                table: &toml::de::DeTable<'_>,
                at: &$crate::config::span::Span,
                reader: &mut $crate::config::read::Reader<'_>,
            ) -> Self {
                Self {
                    at: at.clone(),
                    $($field: reader.field(table, at, $crate::config::tables::key!($field $($key)?)),)*
                    $($($part: <$of as $crate::config::tables::Table>::fields(table, at, reader),)*)?
                }
            }
        }
    };
}

/// The key of a field: the one that is given, or its own name.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
use key;

pub(super) mod app;
mod assets;
mod auth;
mod canary;
mod checkout_limit;
mod cron;
pub(super) mod daemon;
mod env;
mod freeze;
mod front;
pub(super) mod front_builtin;
mod front_haproxy;
mod front_nginx;
mod gate;
mod health;
mod hooks;
mod limits;
mod listen;
mod migration;
mod named;
pub(super) mod ports;
mod preview;
mod protocol;
mod public;
mod remote;
mod rewrite;
pub(super) mod start;
mod static_site;
mod stop;
mod task;
mod unknown;
mod verify;
mod warmup;
mod watch;
mod window;
mod worker;

use self::{app::RawApp, daemon::RawDaemon, named::Named};
/// The settings made from the tables.
pub(super) mod settings {
    pub use super::{
        app::{AppSettings, MemoryCheck},
        assets::{Assets, AssetsKept},
        auth::Auth,
        canary::CanarySettings,
        cron::CronSettings,
        daemon::{DaemonSettings, Principal},
        front::FrontSettings,
        front_haproxy::{HaproxyServers, HaproxySettings},
        front_nginx::NginxSettings,
        gate::{GateCommand, Gates},
        health::{FastCgiProbe, Health, HttpProbe, Probe},
        hooks::Hooks,
        listen::{AppSockets, Listen},
        migration::MigrationRules,
        ports::Ports,
        preview::PreviewSettings,
        protocol::Protocol,
        public::PublicAddress,
        rewrite::Rewrite,
        start::Start,
        static_site::StaticSite,
        stop::{Stop, StopHow},
        task::{Repeat, Task},
        verify::{Verify, VerifyRange},
        warmup::Warmup,
        watch::{Inconclusive, Watch},
        worker::WorkerSettings,
    };
}

table! {
    /// `bgd.toml`.
    RawFile { app: Named<RawApp>, daemon: RawDaemon }
}

/// A table as written: every key optional, nothing judged.
pub(super) trait Table: Sized {
    /// The known keys of the table.
    fn keys() -> Vec<&'static str>;

    /// The known keys present in the file, readable or not.
    fn written(&self) -> Vec<(&'static str, &Span)>;

    /// An empty table.
    fn empty(at: &Span) -> Self;

    /// Reads the known keys.
    fn fields(table: &DeTable<'_>, at: &Span, reader: &mut Reader<'_>) -> Self;

    /// Reads the table, and notes every problem in it.
    fn read(table: &DeTable<'_>, at: &Span, reader: &mut Reader<'_>) -> Self {
        let known = Self::keys();
        reader.refuse_unknown(table, at, &known, |key| unknown::hint(key, &known, at));
        Self::fields(table, at, reader)
    }

    /// The table, or an empty one at `at`.
    fn or_empty(given: Given<Self>, at: Span) -> Self {
        match given {
            Given::Value(written) => written.value,
            Given::Absent | Given::Unreadable(_) => Self::empty(&at),
        }
    }
}

impl<T: Table> FromToml for T {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Table(table) => Some(Self::read(table, at, reader)),
            _ => reader.wrong_type(at, "a table", item),
        }
    }
}

/// The keys of each table of an app; the empty name stands for the app's own table.
pub(super) fn of_an_app() -> [(&'static str, Vec<&'static str>); 23] {
    [
        ("", RawApp::keys()),
        ("static", static_site::RawStatic::keys()),
        ("assets", assets::RawAssets::keys()),
        ("stop", stop::RawStop::keys()),
        ("auth", auth::RawAuth::keys()),
        ("verify", verify::RawVerify::keys()),
        ("rewrite", rewrite::RawRewrite::keys()),
        ("health", health::RawHealth::keys()),
        ("warmup", warmup::RawWarmup::keys()),
        ("canary", canary::RawCanary::keys()),
        ("preview", preview::RawPreview::keys()),
        ("watch", watch::RawWatch::keys()),
        ("migration", migration::RawMigration::keys()),
        ("hooks", hooks::RawHooks::keys()),
        ("worker", worker::RawWorker::keys()),
        ("cron", cron::RawCron::keys()),
        ("task", task::RawTask::keys()),
        ("front", front::RawFront::keys()),
        ("limits", limits::RawLimits::keys()),
        ("checkout_limit", checkout_limit::RawCheckoutLimit::keys()),
        ("window", window::RawWindow::keys()),
        ("freeze", freeze::RawFreeze::keys()),
        ("gate", gate::RawGate::keys()),
    ]
}
