//! Who may do what through the control socket, asked of the real binary by real users; and that every act is in the
//! record with name and uid.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Group, Uid, User, geteuid, setgid, setgroups, setuid};
use serde_json::Value;

use crate::shop::{Kind, Plan, Ran, Stage};

/// Nobody of this host: no name, no group of anybody.
const STRANGER: u32 = 54_321;

/// A person at the command line.
#[derive(Debug, Clone, Copy)]
struct Person {
    uid: u32,
    /// Supplementary, as a login gives them.
    group: u32,
}

/// Runs bgd as a person, from a copy that everybody may run.
fn bgd_as(stage: &Stage, person: Person, words: &[&str]) -> Ran {
    let binary = stage.path("bgd");
    if !binary.exists() {
        // By another process: one that is forked meanwhile must not hold it open for writing.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_bgd")).arg(&binary).status().unwrap();
        assert!(copied.success());
    }
    let mut command = Command::new(binary);
    command.args(words.iter().take_while(|word| **word != "--"));
    command.arg("--config").arg(stage.path("bgd.toml")).args(words.iter().skip_while(|word| **word != "--"));
    command.env_remove("BGD_CONFIG").current_dir("/").stdin(Stdio::null());
    let become_person = move || {
        setgroups(&[Gid::from_raw(person.group)])?;
        setgid(Gid::from_raw(STRANGER))?;
        Ok(setuid(Uid::from_raw(person.uid))?)
    };
    // SAFETY: three system calls on values made before the fork.
    unsafe { command.pre_exec(become_person) };
    let output = command.output().expect("run bgd as somebody else");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn socket_mode(stage: &Stage) -> u32 {
    fs::metadata(stage.path("run/bgd.sock")).unwrap().mode() & 0o777
}

fn events(stage: &Stage) -> Vec<Value> {
    let lines = stage.done(&["events", "--json", "--since", "0"]);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until_recorded(stage: &Stage, (kind, by, uid, text): (&str, &str, u32, &str)) {
    let what = format!("{kind} {by} {uid} {text}");
    stage.eventually(&what, |stage| {
        events(stage).iter().any(|event| {
            event["kind"] == kind && event["by"] == by && event["uid"] == uid && event["text"] == text
        })
    });
}

/// Starts the daemon again with more lines for its own table.
pub fn restart_with(stage: &mut Stage, lines: &str) {
    stage.end_daemon();
    let text = fs::read_to_string(stage.path("bgd.toml")).unwrap();
    fs::write(stage.path("bgd.toml"), text.replacen("[daemon]\n", &format!("[daemon]\n{lines}"), 1)).unwrap();
    stage.start_daemon();
}

#[test]
fn l4_named_operators_act_readers_read_and_everybody_else_is_refused() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root to ask as somebody else");
        return;
    }
    let (Ok(Some(operator)), Ok(Some(readers))) = (User::from_name("nobody"), Group::from_name("daemon"))
    else {
        eprintln!("skipped: no user nobody, or no group daemon");
        return;
    };
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    stage.push_live("one");
    stage.until_at_rest();
    assert_eq!(socket_mode(&stage), 0o660);
    let operator = Person { uid: operator.uid.as_raw(), group: STRANGER };
    let reader = Person { uid: STRANGER + 1, group: readers.gid.as_raw() };
    let stranger = Person { uid: STRANGER, group: STRANGER };
    assert_ne!(bgd_as(&stage, operator, &["hold", "-m", "early"]).code, 0, "the mode keeps strangers out");

    restart_with(&mut stage, "operators = [\"nobody\"]\nreaders = [\"@daemon\"]\n");
    assert_eq!(socket_mode(&stage), 0o666);
    let ran = bgd_as(&stage, operator, &["hold", "-m", "freeze"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(stage.value("hold.by"), "nobody");
    until_recorded(&stage, ("asked", "nobody", operator.uid, "hold: freeze"));
    for words in [&["logs"][..], &["exec", "--", "true"], &["events"]] {
        let ran = bgd_as(&stage, operator, words);
        assert_eq!(ran.code, 0, "an operator's {words:?}: {ran:?}");
    }

    for words in [&["status", "--json"][..], &["history"], &["why"], &["events"], &["show", "1"]] {
        let ran = bgd_as(&stage, reader, words);
        assert_eq!(ran.code, 0, "a reader's {words:?}: {ran:?}");
        let ran = bgd_as(&stage, stranger, words);
        assert_eq!(ran.code, 7, "a stranger's {words:?}: {ran:?}");
    }
    let acts = [&["flip"][..], &["deploy"], &["resume"], &["reload"], &["logs"], &["exec", "--", "true"]];
    for words in acts {
        let ran = bgd_as(&stage, reader, words);
        assert_eq!((ran.code, ran.stdout.as_str()), (7, ""), "a reader's {words:?}: {ran:?}");
        let said = format!("{} is not permitted for uid {}", words[0], reader.uid);
        assert!(ran.stderr.contains(&said) && ran.stderr.contains("nobody"), "{ran:?}");
    }
    until_recorded(&stage, ("refused", &format!("uid {}", reader.uid), reader.uid, "flip: not permitted"));
    let refusals = events(&stage).iter().filter(|event| event["kind"] == "refused").count();
    assert_eq!(refusals, 2, "one for each of the two: more would push the record out");
    assert_eq!(stage.value("state"), "held", "nothing happened");
    // Root may, whatever is named.
    stage.done(&["resume"]);
    stage.assert_no_leftover();
}

#[test]
fn l4_every_act_is_in_the_record_with_name_and_uid() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    let uid = geteuid();
    let name = User::from_uid(uid).unwrap().map_or_else(|| format!("uid {uid}"), |user| user.name);
    // Through sudo or not: who logged in, where the kernel keeps it, follows in brackets; not on a build machine.
    let login = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    let plain = ["", "4294967295", &uid.to_string()].contains(&login.trim());

    stage.done(&["hold", "-m", "freeze"]);
    stage.done(&["resume"]);
    stage.done(&["reload"]);
    stage.done(&["exec", "--", "true"]);
    stage.done(&["deploy"]);
    let before = stage.bgd(&["deploy", "--rev", "no-such-revision"]);
    assert_ne!(before.code, 0);
    stage.done(&["flip"]);
    stage.until_at_rest();
    if plain {
        for text in
            ["hold: freeze", "resume", "reload", "exec", "deploy", "deploy of no-such-revision", "flip"]
        {
            until_recorded(&stage, ("asked", &name, uid.as_raw(), text));
        }
    } else {
        eprintln!("not asked: texts, which here name who logged in");
    }
    let history: Value = serde_json::from_str(&stage.done(&["history", "--json"])).unwrap();
    let manual = |deploy: &&Value| deploy["kind"] == "manual";
    let deploys = history.as_array().unwrap_or_else(|| panic!("{history:#}"));
    assert!(deploys.iter().any(|deploy| manual(&deploy)), "{history:#}");
    for deploy in deploys {
        let expected = if deploy["kind"] == "push" { Value::Null } else { uid.as_raw().into() };
        assert_eq!(deploy["uid"], expected, "{deploy:#}");
    }
    stage.assert_no_leftover();
}
