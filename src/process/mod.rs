//! Processes: every instance, build and hook runs under its own small shim, which outlives the daemon, keeps
//! its log, tracks its whole tree and ends it on request. Called by the engine.
//!
//! ```text
//! daemon side   shims (start, find) · handle (ask, wait, stop) · status (what a handle reports)
//!               listening (whose socket is at an address)
//!               client (one exchange) · orphans (when a shim was killed) · logs (what shims wrote)
//!               strays (what is below no shim)
//! the shim      shim/: run (loop) · child (exec) · log (write, rotate) · ending (stop, kill) · socket
//!               limits (a scope of its own)
//! under a shim  relay (in the place of an instance, for a front that can't be moved)
//! both          spec (what to run) · wire (what they say) · record (the state file)
//! the kernel    ports · usage · bystanders
//! hanging       pulse (a sign of life) · vitals (what a silent process does)
//! ```
//!
//! Nothing here decides: whether to start, stop or restart is the engine's.

mod bystanders;
mod client;
mod handle;
mod limits;
mod listening;
pub mod logs;
mod orphans;
pub mod ports;
pub mod pulse;
mod record;
pub mod relay;
pub mod shim;
mod shims;
mod spec;
mod status;
pub mod strays;
pub mod usage;
pub mod vitals;
pub mod wire;

pub use bystanders::Bystanders;
pub use handle::Handle;
pub use limits::Limiter;
pub use listening::{Listening, Look, Places};
pub use record::{Exit, How, Record};
pub use shims::{Shims, StartError};
pub use spec::{LogSpec, Priority, Role, Slot, Spec, StopRequest, StopSpec};
pub use status::{Main, Overseer, ShimError, Status, Stopped};
