//! Entry. The small re-executed roles (shim, git worker, relay, front) are dispatched before anything is set up,
//! so that a shim stays tiny; everything else goes to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some(bgd::cli::demo::APP_ROLE) => bgd::cli::demo::app(),
        Some("shim") => bgd::shim::main(),
        Some("git-worker") => bgd::release::git::child::main(),
        Some(bgd::shim::relay::ROLE) => bgd::shim::relay::main(std::env::args_os().skip(2)),
        Some("front") => bgd::front::builtin::run(std::env::args_os().skip(2)),
        _ => bgd::cli::main(),
    }
}
