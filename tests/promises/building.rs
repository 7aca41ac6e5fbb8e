//! Builds that fail, builds that flood, and repositories that are large: what they leave on disk and in memory.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::around::kib;
use crate::{
    shop::app,
    shop::{Kind, Plan, Stage},
    stage::servers::Server,
};

fn stage() -> Stage {
    Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }).expect("the builtin front needs nothing")
}

#[test]
fn c4_failed_builds_do_not_pile_up_and_the_last_ones_log_stays() {
    let stage = stage();
    stage.push_live("good");
    for number in 1..=4 {
        let rev = format!("bad{number}");
        let commit = stage.push_with(&rev, "", &format!("echo last words of {rev}; exit 7"));
        stage.until_failed(&commit);
    }
    stage.eventually("the live release and the last failure are left", |stage| stage.releases().len() == 2);
    let logs = |stage: &Stage| {
        let names = stage.names_in("state/shop/logs").into_iter();
        names.filter(|name| name.starts_with("build-")).collect::<Vec<_>>()
    };
    stage.eventually("so are their logs", |stage| logs(stage).len() == 2);
    let kept = stage.releases();
    assert!(kept.iter().all(|release| logs(&stage).contains(&format!("build-{release}.log"))), "{kept:?}");
    assert!(stage.done(&["logs", "--build"]).contains("last words of bad4"));
    assert_eq!(stage.served(), "good");
}

/// Far more than a log may hold, and than anything may keep in memory.
const FLOOD: u64 = 200 << 20;

#[test]
fn c5_a_flood_of_build_output_costs_no_memory_and_a_capped_log() {
    let stage = stage();
    stage.push_live("one");
    let daemon = stage.daemon_pid();
    let before = kib(daemon, "VmHWM").expect("the daemon runs");
    stage.close("flooded");
    let flood = format!(
        "yes a line of a very talkative build | head -c {FLOOD}\ntouch flooded\n{}echo the end",
        app::wait_at("flooded")
    );
    let two = stage.push_with("two", "", &flood);
    stage.eventually("all of it was taken", |stage| {
        stage
            .releases()
            .last()
            .is_some_and(|name| stage.path("state/shop/releases").join(name).join("flooded").exists())
    });
    let shims: Vec<u64> = stage.shims().into_iter().filter_map(|pid| kib(pid, "VmHWM")).collect();
    assert!(shims.len() == 2 && shims.iter().all(|kib| *kib < 48 << 10), "shims in KiB: {shims:?}");
    stage.open("flooded");
    stage.wait_live(&two);
    let after = kib(daemon, "VmHWM").expect("the daemon runs");
    assert!(after < before + (64 << 10), "the daemon grew from {before} to {after} KiB");
    let names = stage.names_in("state/shop/logs").into_iter().filter(|name| name.starts_with("build-"));
    let sizes: u64 =
        names.map(|name| fs::metadata(stage.path("state/shop/logs").join(name)).unwrap().len()).sum();
    assert!(sizes > 1 << 20 && sizes < 24 << 20, "{sizes} bytes of build logs");
    assert!(stage.done(&["logs", "--build", "-n", "5"]).ends_with("the end"));
}

/// The most anonymous memory of a git worker of the daemon, looked at again and again until it is dropped.
struct Weighing {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    scales: Option<thread::JoinHandle<()>>,
}

impl Weighing {
    fn of_workers_below(daemon: u32) -> Self {
        let (most, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (noted, stopped) = (most.clone(), stop.clone());
        let scales = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for pid in children(daemon).into_iter().filter(|pid| is_worker(*pid)) {
                    noted.fetch_max(kib(pid, "RssAnon").unwrap_or(0), Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { most, stop, scales: Some(scales) }
    }
}

impl Drop for Weighing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of it shows as nothing weighed.
        let _ = self.scales.take().map(thread::JoinHandle::join);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn is_worker(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("git-worker"))
}

/// Files of the repository, of a MiB each that does not compress.
const FILES: u64 = 48;

#[test]
fn b4_a_large_repository_costs_neither_daemon_nor_worker_its_size() {
    let stage = stage();
    for dir in ["work", "remote.git"] {
        let dir = stage.path(dir);
        stage.git(&["-C", dir.to_str().unwrap(), "config", "core.compression", "0"]);
        stage.git(&["-C", dir.to_str().unwrap(), "config", "receive.unpackLimit", "1"]);
    }
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut block = vec![0_u8; 1 << 20];
    for number in 0..FILES {
        for chunk in block.chunks_exact_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            chunk.copy_from_slice(&noise.to_le_bytes());
        }
        fs::write(stage.path("work").join(format!("blob{number}")), &block).unwrap();
    }
    let Some(server) = Server::git_daemon(&stage.path("")) else { return };
    stage.point_to(server.url());
    let daemon = stage.daemon_pid();
    let before = kib(daemon, "VmHWM").expect("the daemon runs");
    let weighing = Weighing::of_workers_below(daemon);
    let one = stage.push("one", "");
    stage.wait_live(&one);
    let most = weighing.most.load(Ordering::Relaxed);
    drop(weighing);
    assert!(most > 0, "no worker was seen");
    assert!(most < (FILES << 10) / 2, "the worker took {most} KiB for a repository of {FILES} MiB");
    let after = kib(daemon, "VmHWM").expect("the daemon runs");
    assert!(after < before + (64 << 10), "the daemon grew from {before} to {after} KiB");
    let release = stage.path("state/shop/releases").join(&stage.releases()[0]);
    assert_eq!(fs::metadata(release.join("blob0")).unwrap().len(), 1 << 20);
}
