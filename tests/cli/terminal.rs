//! The binary on a terminal: what commands that are run for somebody may do to it, and what output may.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bgd::{
    api::wire::{Answer, ExecPlan, Progress, Reply},
    os::privilege::NewPrivileges,
};
use nix::{
    poll::{PollFd, PollFlags, poll},
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, Termios, tcgetattr},
    },
    unistd::{Pid, setsid, ttyname},
};

use super::Place;

nix::ioctl_write_int_bad!(take_control, libc::TIOCSCTTY);
nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);

const SIZE: Winsize = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };

/// Somebody at a terminal, who runs one command.
struct Person {
    screen: File,
    /// Held open, so that the modes can be asked for when the command has ended.
    terminal: OwnedFd,
    child: Child,
    seen: String,
}

impl Person {
    fn run(mut command: Command) -> Self {
        let pair = openpty(Some(&SIZE), None).unwrap();
        let slave = pair.slave.as_raw_fd();
        let own = || Stdio::from(pair.slave.try_clone().unwrap());
        command.stdin(own()).stdout(own()).stderr(own()).env("TERM", "xterm");
        let begin = move || {
            setsid()?;
            // SAFETY: the parent holds the descriptor.
            unsafe { take_control(slave, 0) }?;
            Ok(())
        };
        // SAFETY: two system calls between fork and exec.
        unsafe { command.pre_exec(begin) };
        let child = command.spawn().unwrap();
        drop(command);
        Self { screen: File::from(pair.master), terminal: pair.slave, child, seen: String::new() }
    }

    /// Reads on until the screen shows it.
    fn sees(&mut self, text: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            assert!(Instant::now() < until, "never seen: {text:?} in {:?}", self.seen);
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&self.screen), PollFlags::POLLIN)];
            if poll(&mut ready, 100_u16).unwrap() > 0 {
                let mut piece = [0; 4096];
                let read = self.screen.read(&mut piece).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        }
    }

    fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    fn ends_with(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // One that has ended is not there any more.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn exec(script: &str) -> (Place, Command) {
    exec_words(&["sh", "-c", script])
}

fn exec_words(words: &[&str]) -> (Place, Command) {
    let plan = ExecPlan {
        cwd: "/".to_owned(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        user: None,
        new_privileges: NewPrivileges::Refused,
    };
    let place = Place::with(move |_| vec![Reply::Done(Answer::Exec(plan.clone()))]);
    let command = place.command(&[&["exec", "--"], words].concat());
    (place, command)
}

#[test]
fn n12_a_command_run_for_somebody_has_a_terminal_of_its_own_of_the_same_size() {
    let script = "tty; stty size; read word; echo got-$word; exit 7";
    let (_place, command) = exec(script);
    let mut person = Person::run(command);
    let ours = ttyname(&person.terminal).unwrap().display().to_string();
    let before = person.modes();
    person.sees("31 97");
    assert!(person.seen.contains("/dev/pts/") && !person.seen.contains(&ours), "{ours}: {:?}", person.seen);
    assert!(!person.modes().local_flags.contains(LocalFlags::ICANON), "every key is the command's");
    person.types("hello\r");
    person.sees("got-hello");
    assert_eq!(person.ends_with(), 7);
    assert_eq!(person.modes().local_flags, before.local_flags, "the terminal is as it was");
    assert_eq!(person.modes().output_flags, before.output_flags);
}

#[test]
fn n12_keys_signals_and_the_size_of_the_window_reach_the_command() {
    let script =
        "trap 'stty size' WINCH; trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let (_place, command) = exec(script);
    let mut person = Person::run(command);
    person.sees("ready");
    let wider = Winsize { ws_col: 133, ..SIZE };
    // SAFETY: the kernel reads exactly this struct.
    unsafe { set_size(person.screen.as_raw_fd(), &raw const wider) }.unwrap();
    person.sees("31 133");
    kill(Pid::from_raw(person.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    person.sees("told");
    assert_eq!(person.ends_with(), 9);
}

#[test]
fn n12_a_command_without_a_shell_has_no_signal_blocked_or_ignored() {
    let (_place, command) = exec_words(&["grep", "Sig[BI]", "/proc/self/status"]);
    let mut person = Person::run(command);
    person.sees("SigBlk:\t0000000000000000");
    person.sees("SigIgn:\t0000000000000000");
    assert_eq!(person.ends_with(), 0);

    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (_place, command) = exec_words(&["cat"]);
        let mut person = Person::run(command);
        let before = person.modes();
        person.types("hello\r");
        person.sees("hello\r\nhello");
        match signal {
            Signal::SIGINT => person.types("\x03"),
            other => kill(Pid::from_raw(person.child.id().cast_signed()), other).unwrap(),
        }
        assert_eq!(person.ends_with(), 128 + signal as i32);
        assert_eq!(person.modes().local_flags, before.local_flags);
    }
}

#[test]
fn n12_more_keys_than_a_terminal_holds_reach_a_command_that_is_slow_to_read() {
    let (_place, command) = exec("echo ready; sleep 0.2; wc -c; read -r rest; echo done");
    let mut person = Person::run(command);
    person.sees("ready");
    let mut keyboard = person.screen.try_clone().unwrap();
    let line = format!("{}\r", "x".repeat(99));
    let typist = std::thread::spawn(move || {
        for _ in 0..2_000 {
            keyboard.write_all(line.as_bytes()).unwrap();
        }
        keyboard.write_all(b"\x04\r").unwrap();
    });
    person.sees("200000");
    person.sees("done");
    typist.join().unwrap();
    assert_eq!(person.ends_with(), 0);
}

#[test]
fn n12_a_command_with_its_streams_elsewhere_leaves_the_terminal_s_session() {
    let (place, mut inner) = exec("cut -d' ' -f7 /proc/self/stat; exit 5");
    // A shell on the terminal runs it with all streams redirected.
    let out = place.dir.path().join("out");
    let words: Vec<_> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
        .collect();
    let line = format!("{} </dev/null >{} 2>&1; echo ended-$?", words.join(" "), out.display());
    inner = Command::new("sh");
    inner.args(["-c", &line]).current_dir(place.dir.path());
    let mut person = Person::run(inner);
    person.sees("ended-5");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "0\n", "it has no terminal");
}

#[test]
fn n12_logs_keep_colours_on_a_terminal_and_nothing_else_and_stay_raw_in_a_pipe() {
    let line = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2Jend\u{202e}";
    let reply = |line: &str| Reply::Progress(Progress::Line(line.to_owned()));
    let place = Place::with(move |_| vec![reply(line), Reply::Done(Answer::Said(String::new()))]);
    assert_eq!(place.run(&["logs"]).out, format!("{line}\n"));
    let mut person = Person::run(place.command(&["logs"]));
    person.sees("end");
    assert_eq!(person.ends_with(), 0);
    assert!(person.seen.contains("\x1b[31mred\x1b[0m end\r\n"), "{:?}", person.seen);
    let mut plain = place.command(&["logs"]);
    plain.env("NO_COLOR", "1");
    let mut person = Person::run(plain);
    person.sees("red end\r\n");
    assert_eq!(person.ends_with(), 0);
}
