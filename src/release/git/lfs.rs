//! Git LFS: a release never contains a pointer file in place of its content. With git-lfs on the PATH its smudge
//! filter fetches the content, else the checkout fails. Used by `checkout` inside the worker.

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    error::{ErrorCause, GitError, GitStep},
    remote::{Location, location, same_server},
    ssh_config::on_path,
    transfer::TransferContext,
    wire::GitProgress,
};

/// Bytes; by the specification a pointer is smaller.
pub const LONGEST_POINTER: usize = 1024;
/// Wait between two checks of a running git-lfs.
const LOOK: Duration = Duration::from_millis(20);

/// The size of the content a pointer file stands for; `None` for any other file.
pub fn pointed_size(content: &[u8]) -> Option<u64> {
    if content.len() >= LONGEST_POINTER {
        return None;
    }
    let text = std::str::from_utf8(content).ok()?;
    let mut lines = text.lines();
    let version = lines.next()?.strip_prefix("version ")?;
    let known =
        ["https://git-lfs.github.com/spec/", "http://git-media.io/v/", "https://hawser.github.com/spec/"];
    if !known.iter().any(|spec| version.starts_with(spec)) {
        return None;
    }
    lines.clone().find(|line| line.starts_with("oid sha256:"))?;
    lines.find_map(|line| line.strip_prefix("size "))?.parse().ok()
}

/// Whether an attributes file assigns any file to LFS. If none does, a file that looks like a pointer is content.
pub fn hands_to_lfs(attributes: &[u8]) -> bool {
    let lines = attributes.split(|c| *c == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    lines.into_iter().any(|line| line.windows(10).any(|part| part == b"filter=lfs"))
}

/// A pointer to be replaced by its content.
pub struct Pointer<'a> {
    /// Path in the repository, for messages and for git-lfs.
    pub name: &'a str,
    /// The file on disk, which holds the pointer.
    pub file: &'a Path,
    /// The pointer's text.
    pub content: &'a [u8],
}

/// Where the content comes from.
pub struct LfsStore<'a> {
    pub context: &'a TransferContext,
    /// The mirror that the commit is in.
    pub mirror: &'a Path,
    /// The remote that the commit came from.
    pub remote: &'a str,
}

impl LfsStore<'_> {
    /// Replaces a pointer file by its content; returns the content's size in bytes.
    pub fn fill(&self, pointer: &Pointer<'_>) -> Result<u64, GitError> {
        let refused = |cause: &dyn std::fmt::Display| GitError::Lfs {
            path: pointer.name.to_owned(),
            cause: ErrorCause::new(super::text::scrub(&cause.to_string(), &self.context.secrets.texts())),
        };
        let size = pointed_size(pointer.content).unwrap_or_default();
        let tool = on_path("git-lfs").ok_or_else(|| refused(&"git-lfs is not installed"))?;
        let file =
            File::options().write(true).truncate(true).open(pointer.file).map_err(|err| refused(&err))?;
        let mut child =
            self.command(tool.as_ref(), pointer.name, file).spawn().map_err(|err| refused(&err))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(pointer.content).map_err(|err| refused(&err))?;
        }
        let status = self.wait(&mut child, pointer.file).map_err(|err| refused(&err))?;
        let got = std::fs::metadata(pointer.file).map_err(|err| refused(&err))?.len();
        if !status.success() {
            return Err(refused(&format!("git-lfs ended with {status}")));
        }
        if got != size {
            return Err(refused(&format!("git-lfs gave {got} of {size} bytes")));
        }
        Ok(got)
    }

    fn wait(&self, child: &mut Child, file: &Path) -> std::io::Result<std::process::ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let bytes = std::fs::metadata(file)?.len();
            self.context.reporter.progress(GitProgress { stage: GitStep::Writing, done: 0, bytes });
            std::thread::sleep(LOOK);
        }
    }

    /// Passes all settings in the environment: no configuration of the user's, no prompt, no secret in the arguments.
    fn command(&self, tool: &Path, name: &str, out: File) -> Command {
        let context = self.context;
        let mut settings = vec![
            ("remote.origin.url".to_owned(), self.remote.to_owned()),
            ("credential.helper".to_owned(), String::new()),
            ("safe.directory".to_owned(), "*".to_owned()),
        ];
        if let (Some((user, token)), Location::Url { scheme, authority }) =
            (context.secrets.login(self.remote), location(self.remote))
            && same_server(self.remote, &context.opening.remote)
        {
            let basic = STANDARD.encode(format!("{user}:{token}"));
            settings.push((
                format!("http.{scheme}://{authority}/.extraheader"),
                format!("Authorization: Basic {basic}"),
            ));
        }
        if let Some(proxy) = &context.opening.proxy {
            settings.push(("http.proxy".to_owned(), proxy.clone()));
        }
        if let Some(file) = &context.opening.ca_file {
            settings.push(("http.sslCAInfo".to_owned(), file.display().to_string()));
        }
        let mut command = Command::new(tool);
        command.args(["smudge", "--", name]).stdin(Stdio::piped()).stdout(out).stderr(Stdio::inherit());
        command.env("GIT_DIR", self.mirror).env("HOME", &context.home).current_dir(self.mirror);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false").env("SSH_ASKPASS", "false");
        command.env("GIT_SSH_COMMAND", ssh_command(context));
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (at, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), key).env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
    }
}

fn ssh_command(context: &TransferContext) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let mut command = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes".to_owned();
    if let Some(key) = &context.opening.ssh_key {
        command.push_str(&format!(" -o IdentitiesOnly=yes -i {}", quoted(key)));
    }
    if let Some(hosts) = &context.opening.known_hosts {
        command.push_str(&format!(" -o UserKnownHostsFile={}", quoted(hosts)));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
        oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

    #[test]
    fn b7_a_pointer_is_told_from_content() {
        assert_eq!(pointed_size(POINTER), Some(12345));
        assert_eq!(pointed_size(b"version 2\nsize 3\n"), None);
        assert_eq!(pointed_size(&[POINTER, &[b'x'; 2000]].concat()), None);
        assert!(hands_to_lfs(b"*.txt text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"));
        assert!(!hands_to_lfs(b"# *.bin filter=lfs\n*.bin binary\n"));
    }
}
