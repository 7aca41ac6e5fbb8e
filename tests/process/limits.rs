//! A shim with limits is started in a scope of its own. What systemd makes of it is for a host that systemd runs;
//! here a script stands in its place, which keeps to the same terms: it becomes the command after `--`, or says why not.

use super::*;

fn limiter(house: &House, script: &str) -> Limiter {
    let scope = house.path("scope");
    program(&scope, &format!("#!/bin/sh\n{script}\n"));
    Limiter { program: scope, ..Limiter::default() }
}

#[tokio::test]
async fn limits_put_the_shim_into_a_scope_and_change_nothing_else() {
    let house = House::new();
    let args = house.path("args");
    let script = format!(
        "for word do echo \"$word\"; done >{}\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"",
        args.display()
    );
    let shims = House::shims_in(house.dir.path()).limited_by(limiter(&house, &script));
    let limits = Limits { memory: Some(64 << 20), cpu: Some(50), tasks: Some(32) };
    let spec = Spec { limits, ..house.spec("echo up; exec sleep 1000") };
    let handle = soon(shims.start(&spec)).await.unwrap();
    let asked = fs::read_to_string(&args).unwrap();
    let words: Vec<&str> = asked.lines().filter(|word| *word != "--user").collect();
    let unit = format!("--unit=bgd-shop-{}", handle.id());
    let expected = [
        "--scope",
        "--quiet",
        "--collect",
        &unit,
        "--description=bgd: blue of shop",
        "--property=Delegate=yes",
        "--property=MemoryMax=67108864",
        "--property=MemorySwapMax=0",
        "--property=CPUQuota=50%",
        "--property=TasksMax=32",
        "--",
        env!("CARGO_BIN_EXE_bgd"),
        "shim",
        "shop",
        "blue",
        handle.id(),
    ];
    assert_eq!(words, expected);
    // Found, asked and ended as any other.
    assert_eq!(soon(shims.find(handle.app())).await.unwrap().len(), 1);
    assert!(alive(handle.main_pid().unwrap()));
    assert!(!soon(handle.stop()).await.unwrap().killed);
    soon(handle.forget()).await.unwrap();
}

#[tokio::test]
async fn a_scope_that_can_not_be_made_is_said_in_its_own_words_and_nothing_runs() {
    let house = House::new();
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    let spec = Spec { limits, ..house.spec("echo ran >$D/ran; exec sleep 1000") };
    let refusing = limiter(&house, "echo 'Failed to connect to bus: none' >&2; exit 1");
    let error = soon(House::shims_in(house.dir.path()).limited_by(refusing).start(&spec)).await.unwrap_err();
    assert_eq!(error.to_string(), "the limits of blue can't be kept: Failed to connect to bus: none");
    let missing = Limiter { program: "/no/such/program".into(), ..Limiter::default() };
    let error = soon(House::shims_in(house.dir.path()).limited_by(missing).start(&spec)).await.unwrap_err();
    assert!(matches!(&error, StartError::Limits { why, .. } if why.contains("/no/such/program")), "{error}");
    assert!(!house.path("ran").exists());
    assert_eq!(house.run_files(), 0);
}

/// Whether scopes can really be made here; the reason is printed when they can't.
fn host_keeps_limits() -> bool {
    if let Some(why) = Limiter::default().obstacle() {
        println!("skipped: {why}");
        return false;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root (an ordinary user needs a session of its own)");
        return false;
    }
    let tried = std::process::Command::new("systemd-run").args(["--scope", "--quiet", "true"]).output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: systemd-run can't make a scope here");
    }
    works
}

#[tokio::test]
async fn the_kernel_keeps_the_limits_and_who_used_too_much_memory_is_told_so() {
    if !host_keeps_limits() {
        return;
    }
    let house = House::new();
    let limits = Limits { memory: Some(48 << 20), cpu: Some(50), tasks: Some(32) };
    let own = "$(sed -n s/^0:://p /proc/self/cgroup)";
    let look = format!("cd /sys/fs/cgroup{own} && cat memory.max memory.swap.max cpu.max pids.max");
    let (exit, log) = house.run(&Spec { limits, ..house.build(&look) }).await;
    assert_eq!((exit, log.as_str()), (code(0), "50331648\n0\n50000 100000\n32\n"));

    // tail keeps a line until it knows its end.
    let greedy = "head -c 300000000 /dev/zero | tail -n 1 >/dev/null";
    let (exit, log) = house.run(&Spec { limits, ..house.build(greedy) }).await;
    assert!(exit.out_of_memory && !exit.is_from_outside(), "{exit:?} {log}");
    assert!(exit.to_string().ends_with("because it used more memory than limits.memory allows"), "{exit}");
    let failing = house.run(&Spec { limits, ..house.build("exit 3") }).await.0;
    assert_eq!(failing, code(3), "a failure of another kind is no lack of memory");
}
