//! Foreign processes that hold very many descriptors, as a busy web server or database of the host would: this program
//! again, in another role. Gone when dropped.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::stage::Res;

/// The role, as the first argument.
pub const ROLE: &str = "--holds-descriptors";

/// Kept back of the limit of a process.
const SPARE: u64 = 100;

pub struct Crowd(Vec<Child>);

impl Crowd {
    /// As many processes as that takes.
    pub fn with(descriptors: u64) -> Res<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let each = most.saturating_sub(SPARE).max(1);
        let mut crowd = Self(Vec::new());
        let mut left = descriptors;
        while left > 0 {
            let held = left.min(each);
            let mut child = Command::new(std::env::current_exe()?)
                .args([ROLE, &held.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let said = child.stdout.take().map(BufReader::new);
            crowd.0.push(child);
            let mut line = String::new();
            said.ok_or("no output")?.read_line(&mut line)?;
            if line.trim() != "ready" {
                return Err(format!("{held} descriptors can't be held here").into());
            }
            left -= held;
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It ends when its input does, too.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

/// The role itself: holds them until its input ends.
pub fn hold(descriptors: usize) -> Res<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let held: Vec<File> = (0..descriptors).map(|_| File::open("/dev/null")).collect::<Result<_, _>>()?;
    println!("ready");
    let _ended = std::io::stdin().read(&mut [0])?;
    drop(held);
    Ok(())
}
