//! An app and its places in a temporary directory, for the tests of this folder.

use std::{
    collections::BTreeMap,
    fs,
    num::{NonZeroU32, NonZeroUsize},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    command::{Places, ReleaseContext},
    config::{
        settings::{
            AppSettings, Auth, CanarySettings, CheckoutLimit, FrontSettings, Health, Hooks, Inconclusive,
            Listen, MemoryCheck, Ports, Probe, Protocol, Start, Stop, StopHow, Watch,
        },
        template::Values,
    },
    rules::{
        address::Address,
        ids::{Color, CommitId, ReleaseId},
        traffic::TrafficLimits,
    },
};

pub(crate) struct Fixture {
    pub(crate) app: AppSettings,
    pub(crate) context: ReleaseContext,
    pub(crate) previous: ReleaseId,
    pub(crate) root: TempDir,
}

impl Fixture {
    /// Two empty releases: the previous one and the one of `context`.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let app = app();
        let places = Places::new(root.path(), &app.name);
        places.create().unwrap();
        let previous = release(1);
        let values = Values {
            address: Address::Port(9502),
            instance: 1,
            color: Color::Green,
            release: release(2),
            commit: commit(),
        };
        let context = ReleaseContext { places, values };
        fs::create_dir(context.places.release(&previous)).unwrap();
        fs::create_dir(context.release_dir()).unwrap();
        Self { app, context, previous, root }
    }

    /// Writes a file below a directory of the app.
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let path = path.as_ref();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

pub(crate) fn commit() -> CommitId {
    "0123456789abcdef0123456789abcdef01234567".parse().unwrap()
}

pub(crate) fn release(seq: u64) -> ReleaseId {
    ReleaseId::new("20261121T101112Z", seq, &commit())
}

fn app() -> AppSettings {
    let second = Duration::from_secs(1);
    AppSettings {
        name: "shop".parse().unwrap(),
        site: None,
        assets: None,
        remote: "unused".to_owned(),
        branch: "main".to_owned(),
        poll: second,
        listen: Listen::Ports,
        ports: Ports { blue: 9501, green: 9502 },
        build: Vec::new(),
        protocol: Protocol::Http,
        start: Start::Shell("true".to_owned()),
        stop: Stop { how: StopHow::Signal(15), grace: second },
        drain: second,
        standby: Duration::ZERO,
        keep: NonZeroUsize::MIN,
        user: None,
        new_privileges: crate::os::privilege::NewPrivileges::Refused,
        limits: Default::default(),
        instances: 1,
        env: BTreeMap::new(),
        env_file: None,
        shared: Vec::new(),
        cache: Vec::new(),
        build_timeout: second,
        fast_forward_only: false,
        memory_check: MemoryCheck::Warn,
        checkout_limit: CheckoutLimit { files: 1_000, bytes: 1 << 30 },
        auth: Auth::default(),
        verify: None,
        rewrites: Vec::new(),
        health: Health {
            probe: Probe::Tcp,
            interval: second,
            timeout: second,
            deadline: second,
            successes: NonZeroU32::MIN,
        },
        watch: Watch {
            period: second,
            restart: true,
            backup: false,
            traffic: TrafficLimits::IGNORED,
            inconclusive: Inconclusive::GoOn,
        },
        warmup: None,
        canary: CanarySettings::default(),
        preview: None,
        migration: None,
        workers: Vec::new(),
        crons: Vec::new(),
        tasks: Vec::new(),
        hooks: Hooks { before_start: None, after_live: None, after_failed: None, timeout: second },
        front: FrontSettings::Builtin {
            listen: "127.0.0.1:0".parse().unwrap(),
            request_timeout: Duration::from_secs(60),
            response_timeout: Duration::from_secs(60),
        },
        public: None,
        dir: None,
        gates: Default::default(),
    }
}
