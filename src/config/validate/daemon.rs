//! `[daemon]`: where bgd itself keeps things.

use std::path::Path;

use super::Judge;
use crate::config::{
    defaults, parse::Surroundings, problem::Place, raw::RawDaemon, settings::DaemonSettings,
};

/// The file name of the control socket, which has to fit into a socket address with its directory.
const SOCKET: &str = "bgd.sock";
/// Bytes of a socket address without the final NUL.
const LONGEST_SOCKET: usize = 107;

/// Judges `[daemon]`, with the defaults of the user that reads it.
pub(in crate::config) fn daemon(
    judge: &mut Judge<'_>,
    raw: &RawDaemon,
    surroundings: &Surroundings,
) -> DaemonSettings {
    let state_dir = judge.host_path(&raw.state_dir).unwrap_or_else(|| surroundings.state_dir.clone());
    let runtime_dir = judge
        .host_path(&raw.runtime_dir)
        .or_else(|| surroundings.runtime_dir.clone())
        .unwrap_or_else(|| state_dir.join(defaults::RUNTIME_BELOW_STATE));
    let at = raw.runtime_dir.place().cloned().unwrap_or_else(|| raw.at.absent("runtime_dir"));
    socket_fits(judge, &runtime_dir, &at);
    DaemonSettings { state_dir, runtime_dir }
}

fn socket_fits(judge: &mut Judge<'_>, runtime_dir: &Path, at: &Place) {
    let length = runtime_dir.join(SOCKET).as_os_str().len();
    if length > LONGEST_SOCKET {
        let what =
            format!("too long for a socket in it: {length} bytes with /{SOCKET}, at most {LONGEST_SOCKET}");
        judge.notes.error(at, what, "choose a shorter directory, such as /run/bgd");
    }
}
