//! Explains why a command did not run, after a shell ended with 126 or 127 or the kernel refused it: the file tells
//! more than `not found`. Called by the engine after a failure; reads the beginning of files and runs nothing.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::{
    config::commands::{ProgramCall, calls},
    os::confinement::{Confinement, ModuleRefusal},
};

/// Bytes read of a file: enough for a first line, and for the loader's name in an ELF program.
const HEAD: u64 = 4096;
/// Exit code of a shell that found the program and could not run it.
const CAN_NOT_RUN: i32 = 126;
/// Exit code of a shell that did not find the program.
const NOT_FOUND: i32 = 127;

/// A failed command: the facts that its files are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Program and arguments as they were started.
    pub argv: &'a [String],
    /// The release directory.
    pub cwd: &'a Path,
    /// The `PATH` that programs are looked for in.
    pub path: &'a str,
    /// The last lines of its output.
    pub said: &'a [String],
}

/// Why the program could not be run, and the operator's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrunnable {
    /// The cause, for people.
    pub why: String,
    /// The next step, for people.
    pub hint: String,
}

impl Unrunnable {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: hint.into() }
    }
}

const LF: &str =
    "commit it with LF (`*.sh text eol=lf` in .gitattributes, then `git add --renormalize .`) and push";

/// Why the command ended with this code; `None` where its files say nothing.
pub fn why_unrunnable(attempt: Attempt<'_>, code: i32) -> Option<Unrunnable> {
    let all = programs(attempt.argv);
    if let Some(script) = all.iter().find_map(|call| script_with_cr(call, attempt)) {
        let why = format!("{script} has Windows line ends (CRLF), so its first line names no program");
        return Some(Unrunnable::new(why, LF));
    }
    if ![CAN_NOT_RUN, NOT_FOUND].contains(&code) {
        return None;
    }
    let found = all.iter().find_map(|call| of_call(call, attempt, code));
    found.or_else(|| by_output(attempt)).or_else(|| {
        let what = if code == NOT_FOUND { "a program was not found" } else { "a program could not be run" };
        Some(Unrunnable::new(
            what,
            "the last output names it; it must be in the release or in PATH, and executable",
        ))
    })
}

/// The programs that `argv` runs: those of a shell's line, or of each line of a build.
fn programs(argv: &[String]) -> Vec<ProgramCall> {
    let is_shell =
        argv.first().is_some_and(|word| word == "/bin/sh") && argv.get(1).is_some_and(|word| word == "-c");
    match (is_shell, &argv[argv.len().min(2)..]) {
        (true, [line]) => calls(line),
        (true, [_runner, _name, lines @ ..]) => lines.iter().flat_map(|line| calls(line)).collect(),
        _ => vec![ProgramCall::of_argv(argv)],
    }
}

/// The script that a call runs, by itself or as an argument of a shell, if its lines end as on Windows.
fn script_with_cr(call: &ProgramCall, attempt: Attempt<'_>) -> Option<String> {
    let written = call.program_as_written()?;
    let shell = ["sh", "bash", "dash", "ksh", "zsh", ".", "source"].contains(&call.program());
    let argument = call.arguments().iter().find(|word| !word.starts_with('-')).filter(|_| shell);
    let is_script = |name: &&str| {
        let head = resolve(name, attempt).map(|file| head(&file)).unwrap_or_default();
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        line.ends_with(b"\r") && (line.starts_with(b"#!") || argument.is_some_and(|word| word == name))
    };
    [Some(written), argument.map(String::as_str)].into_iter().flatten().find(is_script).map(str::to_owned)
}

fn of_call(call: &ProgramCall, attempt: Attempt<'_>, code: i32) -> Option<Unrunnable> {
    let name = call.program_as_written()?;
    if name.contains(['$', '*', '`']) {
        return None;
    }
    let Some(file) = resolve(name, attempt) else {
        let is_path = name.contains('/');
        // A shell builtin is in no directory, so a bare name counts only if the output says "not found".
        let named = attempt.said.iter().any(|line| line.contains(name) && line.contains("not found"));
        return (is_path || named).then(|| {
            let place = if is_path {
                "there is no such file".to_owned()
            } else {
                "it is not in PATH".to_owned()
            };
            let hint =
                "commit it, let the build bring it, or install it where `bgd doctor` says that the daemon looks";
            Unrunnable::new(format!("{name} was not found: {place}"), hint)
        });
    };
    if file.is_dir() {
        return Some(Unrunnable::new(format!("{name} is a directory"), "name the program in it"));
    }
    let mode = fs::metadata(&file).ok()?.permissions().mode();
    if code == CAN_NOT_RUN && mode & 0o111 == 0 {
        let hint =
            format!("`git update-index --chmod=+x {}`, commit and push", name.trim_start_matches("./"));
        return Some(Unrunnable::new(format!("{name} is not executable"), hint));
    }
    of_head(name, &head(&file), attempt)
        .or_else(|| mounted_without_programs(name, &file, code))
        .or_else(|| refused(&file, code))
}

/// Judges a file by its beginning: the interpreter or loader that it names, or the processor that it was built for.
fn of_head(name: &str, head: &[u8], attempt: Attempt<'_>) -> Option<Unrunnable> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default())
            .into_owned();
        let mut words = line.split_whitespace();
        let interpreter = words.next().unwrap_or_default();
        let asked = words.find(|word| !word.starts_with('-') && !word.contains('='));
        let missing = match (resolve(interpreter, attempt), asked.filter(|_| interpreter.ends_with("/env"))) {
            (None, _) => interpreter,
            (Some(_), Some(program)) if resolve(program, attempt).is_none() => program,
            _ => return None,
        };
        let why = format!("the first line of {name} names {missing}, which is not on this host");
        return Some(Unrunnable::new(why, "install that program, or correct the line and push"));
    }
    let own = fs::read("/proc/self/exe").ok().and_then(|own| machine(&own));
    if let (Some(built_for), Some(own)) = (machine(head), own)
        && built_for != own
    {
        let why = format!("{name} was built for another processor");
        return Some(Unrunnable::new(why, "build it for this host, best in `build`"));
    }
    let loader = loader(head).filter(|loader| !Path::new(loader).exists())?;
    let why = format!("{name} needs {loader}, which is not on this host");
    Some(Unrunnable::new(
        why,
        "it was built for another system (musl, Alpine): build it here, best in `build`, or statically",
    ))
}

/// The processor of an ELF file.
fn machine(head: &[u8]) -> Option<u16> {
    let bytes = head.strip_prefix(b"\x7fELF").and_then(|rest| rest.get(14..16))?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The loader that an ELF file names near its beginning.
fn loader(head: &[u8]) -> Option<String> {
    head.strip_prefix(b"\x7fELF")?;
    let at = head.windows(4).position(|four| four == b"/lib")?;
    let name = head[at..].split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    name.contains("/ld-").then(|| name.to_owned())
}

fn mounted_without_programs(name: &str, file: &Path, code: i32) -> Option<Unrunnable> {
    let flags = statvfs(file).ok()?.flags();
    (code == CAN_NOT_RUN && flags.contains(FsFlags::ST_NOEXEC)).then(|| {
        let why = format!("{name} is on a file system that is mounted noexec");
        Unrunnable::new(why, "mount it without noexec, or set daemon.state_dir to another place")
    })
}

/// A refusal by SELinux or AppArmor of a file that the mode bits allow to run.
fn refused(file: &Path, code: i32) -> Option<Unrunnable> {
    let ModuleRefusal { why, hint } = Confinement::here().refusal(file).filter(|_| code == CAN_NOT_RUN)?;
    Some(Unrunnable { why, hint })
}

/// A script that another script runs is not in `argv`: only the output shows that its lines end as on Windows.
fn by_output(attempt: Attempt<'_>) -> Option<Unrunnable> {
    let says_cr =
        |line: &&String| line.contains("\\r\u{2019}") || line.contains("\\r'") || line.contains("^M:");
    attempt.said.iter().find(says_cr).map(|_| {
        Unrunnable::new("a script has Windows line ends (CRLF), so its first line names no program", LF)
    })
}

/// The file of a program: in the release, or in a directory of `PATH`.
fn resolve(name: &str, attempt: Attempt<'_>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(attempt.cwd.join(name)).filter(|file| file.exists());
    }
    let by_path =
        attempt.path.split(':').map(|dir| attempt.cwd.join(dir).join(name)).find(|file| file.is_file());
    // `sh run.sh` names a file of the release without a slash.
    by_path.or_else(|| Some(attempt.cwd.join(name)).filter(|file| file.is_file()))
}

fn head(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Reading a pipe would wait for ever.
    let opened = Some(file).filter(|file| file.is_file()).and_then(|file| File::open(file).ok());
    // A file that can't be read explains nothing.
    opened.map(|file| file.take(HEAD).read_to_end(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Release(tempfile::TempDir);

    impl Release {
        fn with(name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
            let release = Self(tempfile::tempdir().unwrap());
            let file = release.0.path().join(name);
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            release
        }

        fn why(&self, line: &str, code: i32, said: &[&str]) -> Option<String> {
            let argv = ["/bin/sh", "-c", line].map(str::to_owned);
            let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
            let attempt = Attempt { argv: &argv, cwd: self.0.path(), path: "/usr/bin:/bin", said: &said };
            why_unrunnable(attempt, code).map(|found| format!("{}; {}", found.why, found.hint))
        }
    }

    #[test]
    fn n9_a_script_with_windows_line_ends_is_called_by_name() {
        let release = Release::with("run.sh", 0o755, "#!/bin/sh\r\nexec true\r\n");
        for (line, code) in [("exec ./run.sh", 127), ("exec sh run.sh", 2), ("cd . && bash ./run.sh", 1)] {
            let why = release.why(line, code, &[]).unwrap();
            assert!(
                why.contains("run.sh has Windows line ends (CRLF)") && why.contains("eol=lf"),
                "{line}: {why}"
            );
        }
        let inner =
            release.why("./other", 127, &["env: \u{2018}python3\\r\u{2019}: No such file or directory"]);
        assert!(inner.is_some());
        let data = Release::with("data.csv", 0o644, "a,b\r\nc,d\r\n");
        assert_eq!(data.why("node data.csv", 1, &[]), None, "data of an app that failed otherwise");
    }

    #[test]
    fn n9_what_a_shell_calls_126_or_127_is_told_for_what_it_is() {
        let why = |name: &str, mode, content: &[u8], line: &str, code| {
            Release::with(name, mode, content).why(line, code, &[]).unwrap()
        };
        assert!(
            why("run", 0o644, b"#!/bin/sh\n", "./run", 126)
                .starts_with("./run is not executable; `git update-index --chmod=+x run`")
        );
        assert!(
            why("run", 0o755, b"#!/no/such/python\n", "./run", 127)
                .contains("names /no/such/python, which is not on")
        );
        assert!(
            why("run", 0o755, b"#!/usr/bin/env no-such-ruby\n", "./run", 127).contains("names no-such-ruby")
        );
        assert!(why("x", 0o755, b"", "./run", 127).starts_with("./run was not found: there is no such file"));
        let musl = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0/lib/ld-no-such-musl.so.1\0";
        let mut musl = musl.to_vec();
        musl[18..20].copy_from_slice(&machine(&fs::read("/proc/self/exe").unwrap()).unwrap().to_le_bytes());
        assert!(why("run", 0o755, &musl, "./run", 127).contains("needs /lib/ld-no-such-musl.so.1"));
        let foreign = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x16\0";
        assert!(why("run", 0o755, foreign, "./run", 126).contains("built for another processor"));
        let release = Release::with("x", 0o644, "");
        let said = release.why("no-such-node server.js", 127, &["sh: 1: no-such-node: not found"]).unwrap();
        assert!(said.starts_with("no-such-node was not found: it is not in PATH"), "{said}");
        assert!(release.why("true", 127, &[]).unwrap().starts_with("a program was not found"));
        assert_eq!(release.why("true", 1, &[]), None);
    }

    #[test]
    fn the_lines_of_a_build_are_looked_at_one_by_one() {
        let argv = ["/bin/sh", "-c", "for command do …", "bgd", "true", "./make it"].map(str::to_owned);
        let found: Vec<String> = programs(&argv).iter().map(|call| call.program().to_owned()).collect();
        assert_eq!(found, ["true", "make"]);
    }
}
