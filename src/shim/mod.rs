//! The shim: every instance, build and hook runs under its own small one, which outlives the daemon, keeps its log,
//! tracks its whole tree and ends it on request. Called by the rooms.
//!
//! ```text
//! daemon_side/  shims (start, find) · handle (ask, wait, stop) · status (what a handle reports)
//!               listening (whose socket is at an address) · client (one exchange) · orphans (when a shim was killed)
//! child_side/   `bgd shim`: run (loop) · child (exec) · log (write, rotate) · ending (stop, kill) · socket
//! both          spec (what to run) · wire (what they say) · record (the state file) · logs (what shims wrote)
//!               limits (a scope of its own)
//! under a shim  relay (in the place of an instance, for a front that can't be moved)
//! ```
//!
//! Nothing here decides: whether to start, stop or restart is the engine's.

mod child_side;
mod daemon_side;
mod limits;
pub mod logs;
mod record;
pub mod relay;
mod spec;
pub mod wire;

pub use child_side::main;
pub use daemon_side::{
    Bystanders, ExpectedAddresses, Handle, Listening, ListeningLook, Main, Overseer, ShimError, ShimStatus,
    Shims, StartError, Stopped,
};
pub use limits::Limiter;
pub(crate) use record::DUE_AT;
pub use record::{CommandExit, ExitKind, Record};
pub use spec::{LogSpec, Priority, Role, Slot, Spec, StopRequest, StopSpec};
