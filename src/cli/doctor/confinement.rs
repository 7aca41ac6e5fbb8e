//! Whether SELinux or AppArmor keeps the front from the app, or bgd from its work. No findings where they are not
//! active.

use super::{acting::Acting, finding::Finding};
use crate::{
    config::settings::{AppSettings, Listen},
    front::{Confined, Front},
    os::confinement::{Confinement, Module},
};

/// Checks the daemon itself.
pub fn check(here: &Confinement, acting: &Acting) -> Vec<Finding> {
    let process = acting.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    // These domains may do what root may: systemd's own, and those given to bgd by a policy without one for it.
    let free = ["init_t", "unconfined_service_t", "initrc_t"];
    let Some((module, label)) = here.of(&process) else { return Vec::new() };
    if free.iter().any(|domain| label.contains(domain)) {
        return Vec::new();
    }
    let what = format!("{module}: bgd runs confined as {label}, and its apps inherit that");
    vec![Finding::warn(
        what,
        "a `Permission denied` that mode bits don't explain comes from there; see the kernel's log",
    )]
}

/// Checks the front of one app.
pub fn check_app(app: &AppSettings, front: &dyn Front, here: &Confinement) -> Option<Finding> {
    let Confined { program, pid, switches } = front.confined()?;
    let (module, label) = here.of(&pid)?;
    judge(app, here, (program, module, &label), switches)
}

fn judge(
    app: &AppSettings,
    here: &Confinement,
    (program, module, label): (&str, Module, &str),
    switches: &[&str],
) -> Option<Finding> {
    let name = &app.name;
    let on = switches.iter().any(|switch| here.boolean(switch) == Some(true));
    match (module, &app.listen) {
        (Module::SeLinux, Listen::Ports) if on || here.boolean(switches.first()?).is_none() => None,
        (Module::SeLinux, Listen::Ports) => {
            let switch = switches.first()?;
            let what = format!(
                "{name}: SELinux keeps {program} ({label}) from connecting to the app: {switch} is off"
            );
            Some(Finding::fail(what, format!("setsebool -P {switch} on")))
        }
        (Module::SeLinux, Listen::Sockets(sockets)) => {
            let directory = sockets.directory.display();
            let what =
                format!("{name}: SELinux lets {program} ({label}) connect only to sockets of its own types");
            let hint = format!(
                "semanage fcontext -a -t httpd_var_run_t '{directory}(/.*)?' && restorecon -Rv {directory}"
            );
            Some(Finding::warn(what, hint))
        }
        (Module::AppArmor, _) => {
            let what = format!("{name}: AppArmor confines {program} by the profile {label}");
            Some(Finding::warn(
                what,
                "the profile has to allow bgd's file and connections to the app: `aa-status`",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture};

    #[test]
    fn a_front_that_selinux_keeps_from_the_app_fails_with_the_switch_and_nothing_is_said_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let booleans = root.path().join("sys/fs/selinux/booleans");
        fs::create_dir_all(&booleans).unwrap();
        let (settings, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let here = Confinement::below(root.path());
        let nginx = ("nginx", Module::SeLinux, "system_u:system_r:httpd_t:s0");
        let said = || judge(&app, &here, nginx, &["httpd_can_network_connect"]);
        assert_eq!(said(), None, "a policy without that switch");
        fs::write(booleans.join("httpd_can_network_connect"), "0 0").unwrap();
        let found = said().unwrap();
        assert_eq!(
            (found.level, found.hint.as_deref()),
            (Level::Fail, Some("setsebool -P httpd_can_network_connect on"))
        );
        fs::write(booleans.join("httpd_can_network_connect"), "1 1").unwrap();
        assert_eq!(said(), None);
        let front = crate::front::of(&app, crate::cli::doctor::ground(&settings, &app));
        assert_eq!(check_app(&app, &*front, &here), None, "the builtin front");
        let profile = judge(&app, &here, ("nginx", Module::AppArmor, "nginx"), &[]).unwrap();
        assert_eq!(profile.level, Level::Warn);
    }
}
