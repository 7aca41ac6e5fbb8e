//! The daemon's side of a shim: starts it, finds it again, queries it, ends its command.

mod bystanders;
mod client;
mod handle;
mod listening;
mod orphans;
mod shims;
mod status;

pub use bystanders::Bystanders;
pub use handle::Handle;
pub use listening::{ExpectedAddresses, Listening, ListeningLook};
pub use shims::{Shims, StartError};
pub use status::{Main, Overseer, ShimError, ShimStatus, Stopped};
