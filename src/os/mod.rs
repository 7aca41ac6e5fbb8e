//! The ground floor: what this host and its kernel know, and plumbing that every room needs in one form. Known to all,
//! knows nobody: nothing in here names an app, a release or a front.
//!
//! - `confinement`: what SELinux and AppArmor refuse whatever the mode bits say
//! - `errors`: an error with its causes, as one line
//! - `printable`: text without what a terminal obeys
//! - `privilege`: what a started command inherits
//! - `tcp`, `unix`: the kernel's tables of TCP and unix sockets

pub mod confinement;
pub mod errors;
pub mod printable;
pub mod privilege;
pub mod tcp;
pub mod unix;
