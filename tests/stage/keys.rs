//! Keys and signed commits, made by the real tools: `ssh-keygen`, `gpg`, `git commit -S`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// An SSH key pair of its own.
pub struct Key {
    pub file: PathBuf,
    pub public: String,
}

impl Key {
    pub fn new(dir: &Path, name: &str) -> Self {
        let file = dir.join(name);
        keygen(&["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file.to_str().unwrap()]);
        let public = fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned();
        Self { file, public }
    }

    /// What git needs to sign with it.
    pub fn git_settings(&self) -> [String; 4] {
        let key = format!("user.signingkey={}", self.file.display());
        ["-c".to_owned(), "gpg.format=ssh".to_owned(), "-c".to_owned(), key]
    }

    pub fn fingerprint(&self) -> String {
        let out = keygen(&["-l", "-f", self.file.to_str().unwrap()]);
        out.split(' ').nth(1).unwrap().to_owned()
    }
}

pub fn keygen(args: &[&str]) -> String {
    let output = Command::new("ssh-keygen").args(args).stdin(Stdio::null()).output().expect("ssh-keygen");
    assert!(output.status.success(), "ssh-keygen {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A commit object with this signature in it.
pub fn with_signature(unsigned: &[u8], signature: &str) -> Vec<u8> {
    let end = unsigned.windows(2).position(|pair| pair == b"\n\n").unwrap() + 1;
    let header = format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "));
    [&unsigned[..end], header.as_bytes(), &unsigned[end..]].concat()
}

/// A GnuPG home of its own, its agent ended with it.
pub struct Gpg {
    home: tempfile::TempDir,
}

impl Gpg {
    /// `None`, with the reason printed, where gpg can't work.
    pub fn new() -> Option<Self> {
        for program in ["gpg", "gpgv", "gpg-agent"] {
            if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        // Short and below /tmp: the agent's sockets have to fit 107 bytes.
        let home = tempfile::Builder::new().prefix("bgd-gpg-").tempdir_in("/tmp").unwrap();
        Some(Self { home })
    }

    /// A new key; its fingerprint. `more` goes before the command.
    pub fn key(&self, who: &str, more: &[&str]) -> String {
        self.run(more, &["--quick-gen-key", who, "ed25519", "sign", "1y"], b"");
        let listed = String::from_utf8(self.run(&["--with-colons"], &["--list-keys", who], b"")).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    pub fn sign(&self, key: &str, more: &[&str], payload: &[u8]) -> String {
        let more = [more, &["--local-user", key, "--armor", "--output", "-"]].concat();
        String::from_utf8(self.run(&more, &["--detach-sign"], payload)).unwrap()
    }

    pub fn export(&self, key: &str, to: &Path) {
        fs::write(to, self.run(&[], &["--export", key], b"")).unwrap();
    }

    fn run(&self, more: &[&str], args: &[&str], input: &[u8]) -> Vec<u8> {
        let file = self.home.path().join("input");
        fs::write(&file, input).unwrap();
        let output = Command::new("gpg")
            .arg("--homedir")
            .arg(self.home.path())
            .args([
                "--batch",
                "--quiet",
                "--no-tty",
                "--yes",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
            ])
            .args(more)
            .args(args)
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .expect("gpg");
        assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        for what in [&["--kill", "all"][..], &["--remove-socketdir"]] {
            let mut command = Command::new("gpgconf");
            command.arg("--homedir").arg(self.home.path()).args(what);
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}
