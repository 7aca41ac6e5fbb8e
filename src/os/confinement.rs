//! SELinux and AppArmor: whether they may have refused what the mode bits allow, and what the kernel logged of it.
//! Read after a `Permission denied` that files do not explain, and by `bgd doctor`. Says nothing where neither module
//! is active; changes nothing.

use std::{
    fmt,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Bytes read at the end of a log: minutes of a busy host.
const RECENT: u64 = 256 * 1024;
/// Logs that may contain refusals; the first with one is used.
const LOGS: [&str; 4] = ["var/log/audit/audit.log", "var/log/kern.log", "var/log/syslog", "var/log/messages"];
/// The kernel's message buffer, and the longest message in it, in bytes.
const KERNEL_MESSAGES: &str = "dev/kmsg";
const LONGEST_MESSAGE: usize = 8192;
/// Characters shown of a refusal.
const SHOWN: usize = 300;

/// The security modules of a kernel, below a root directory.
#[derive(Debug, Clone)]
pub struct Confinement {
    root: PathBuf,
}

/// A module that may refuse what mode bits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// Judges by labels of processes and files.
    SeLinux,
    /// Judges by paths, with a profile for a program.
    AppArmor,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SeLinux => "SELinux",
            Self::AppArmor => "AppArmor",
        })
    }
}

/// A refusal by a security module, and the operator's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRefusal {
    /// The cause, for people.
    pub why: String,
    /// The next step, for people.
    pub hint: String,
}

impl Confinement {
    /// The modules of this host.
    pub fn here() -> Self {
        Self::below(Path::new("/"))
    }

    /// The modules of a host whose root directory is `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The module that confines a process (`self`, or a pid) and enforces it, with the label or profile.
    pub fn of(&self, process: &str) -> Option<(Module, String)> {
        let dir = self.root.join("proc").join(process).join("attr");
        let label = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).ok()?;
            Some(text.trim_end_matches(['\0', '\n']).to_owned()).filter(|text| !text.is_empty())
        };
        if self.enforces() {
            let label = label("current").unwrap_or_else(|| "an unknown label".to_owned());
            return (!label.contains(":unconfined_t:")).then_some((Module::SeLinux, label));
        }
        let profile = label("apparmor/current").or_else(|| label("current"));
        let profile = profile.filter(|_| self.apparmor())?;
        profile.strip_suffix(" (enforce)").map(|name| (Module::AppArmor, name.to_owned()))
    }

    /// Whether SELinux is enforcing (not only permissive, which logs).
    pub fn enforces(&self) -> bool {
        self.says("sys/fs/selinux/enforce", "1")
    }

    /// A boolean of SELinux's policy; `None` where the policy does not have it.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        let text = fs::read_to_string(self.root.join("sys/fs/selinux/booleans").join(name)).ok()?;
        Some(text.starts_with('1'))
    }

    /// Explains a `Permission denied` at a path whose mode bits allow the access.
    pub fn refusal(&self, path: &Path) -> Option<ModuleRefusal> {
        let module = match (self.enforces(), self.apparmor()) {
            (true, _) => Module::SeLinux,
            (false, true) => Module::AppArmor,
            (false, false) => return None,
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let said = self.denial(module, &name);
        // AppArmor is active on most hosts and confines few programs.
        let confined = self.of("self");
        if said.is_none() && module == Module::AppArmor && confined.is_none() {
            return None;
        }
        let by = confined.map(|(_, label)| format!(" (bgd runs as {label})")).unwrap_or_default();
        let why = match said {
            Some(line) => format!("{module} refused it{by}: {line}"),
            None => format!("mode bits allow it, so {module} may have refused it{by}"),
        };
        let hint = match module {
            Module::SeLinux => format!(
                "`ausearch -m avc -ts recent` shows what was refused; `restorecon -Rv {}` restores labels",
                path.display()
            ),
            Module::AppArmor => {
                "`journalctl -k -g apparmor` shows what was refused; allow it in the profile (`aa-logprof`)"
                    .to_owned()
            }
        };
        Some(ModuleRefusal { why, hint })
    }

    /// The newest logged refusal that names this file or program; `None` where this user can't read the logs.
    fn denial(&self, module: Module, name: &str) -> Option<String> {
        let mark = match module {
            Module::SeLinux => "avc:  denied",
            Module::AppArmor => "apparmor=\"DENIED\"",
        };
        let texts = LOGS.iter().filter_map(|log| recent(&self.root.join(log)));
        let text = texts.chain([self.kernel_messages()]).find(|text| text.contains(mark))?;
        let line = text.lines().rev().find(|line| line.contains(mark) && line.contains(name))?;
        Some(line[line.find(mark)?..].chars().take(SHOWN).collect())
    }

    fn kernel_messages(&self) -> String {
        let path = self.root.join(KERNEL_MESSAGES);
        let Ok(mut messages) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) else {
            return String::new();
        };
        let mut text = String::new();
        let mut message = [0; LONGEST_MESSAGE];
        // One message per read. Non-blocking: at the end the kernel would have us wait.
        while let Ok(length @ 1..) = messages.read(&mut message) {
            text.push_str(&String::from_utf8_lossy(&message[..length]));
            text.push('\n');
        }
        text
    }

    fn apparmor(&self) -> bool {
        self.says("sys/module/apparmor/parameters/enabled", "Y")
    }

    fn says(&self, file: &str, word: &str) -> bool {
        fs::read_to_string(self.root.join(file)).is_ok_and(|text| text.trim() == word)
    }
}

fn recent(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(RECENT))).ok()?;
    let mut bytes = Vec::new();
    file.take(RECENT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Confinement) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let here = Confinement::below(dir.path());
        (dir, here)
    }

    const SELINUX: (&str, &str) = ("sys/fs/selinux/enforce", "1");
    const APPARMOR: (&str, &str) = ("sys/module/apparmor/parameters/enabled", "Y\n");

    #[test]
    fn nothing_is_said_where_no_module_is_active_or_it_confines_nobody() {
        let path = Path::new("/srv/bgd/run.sh");
        for files in [
            &[][..],
            &[("sys/fs/selinux/enforce", "0")],
            &[APPARMOR, ("proc/self/attr/current", "unconfined\n")],
            &[APPARMOR, ("proc/self/attr/current", "bgd (complain)\n")],
        ] {
            let (_dir, here) = host(files);
            assert_eq!((here.refusal(path), here.of("self")), (None, None), "{files:?}");
        }
    }

    #[test]
    fn a_refusal_of_selinux_is_told_in_the_kernels_words() {
        let audit = "type=AVC msg=audit(1.2:3): avc:  denied  { execute } for  pid=7 comm=\"sh\" name=\"run.sh\" scontext=a\n\
                     type=AVC msg=audit(1.2:4): avc:  denied  { read } for  pid=8 comm=\"x\" name=\"other\" scontext=b\n";
        let label = ("proc/self/attr/current", "system_u:system_r:init_t:s0\0");
        let (_dir, here) = host(&[SELINUX, label, ("var/log/audit/audit.log", audit)]);
        assert_eq!(here.of("self"), Some((Module::SeLinux, "system_u:system_r:init_t:s0".to_owned())));
        let said = here.refusal(Path::new("/srv/bgd/run.sh")).unwrap();
        assert!(
            said.why.starts_with(
                "SELinux refused it (bgd runs as system_u:system_r:init_t:s0): avc:  denied  { execute }"
            ),
            "{said:?}"
        );
        assert!(said.hint.contains("restorecon -Rv /srv/bgd/run.sh"), "{said:?}");
        let unknown = here.refusal(Path::new("/srv/bgd/another")).unwrap();
        assert!(unknown.why.starts_with("mode bits allow it, so SELinux may have refused it"), "{unknown:?}");
        let (_dir, here) = host(&[SELINUX, ("sys/fs/selinux/booleans/httpd_can_network_connect", "0 0")]);
        assert_eq!(here.boolean("httpd_can_network_connect"), Some(false));
        assert_eq!(here.boolean("no_such_switch"), None);
    }

    #[test]
    fn a_profile_of_apparmor_is_named_where_it_is_enforced() {
        let log = "kernel: audit: apparmor=\"DENIED\" operation=\"exec\" profile=\"bgd\" name=\"/srv/bgd/run.sh\"\n";
        let (_dir, here) =
            host(&[APPARMOR, ("proc/7/attr/current", "nginx (enforce)\n"), ("var/log/kern.log", log)]);
        assert_eq!(here.of("7"), Some((Module::AppArmor, "nginx".to_owned())));
        let said = here.refusal(Path::new("/srv/bgd/run.sh")).unwrap();
        assert!(said.why.starts_with("AppArmor refused it: apparmor=\"DENIED\""), "{said:?}");
        assert_eq!(here.refusal(Path::new("/srv/bgd/other.sh")), None);
    }
}
