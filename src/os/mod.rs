//! The ground floor: what this host and its kernel know, and plumbing that every room needs in one form. Known to all,
//! knows nobody: nothing in here names an app, a release or a front.
//!
//! - `blocking`: work that may block, off the runtime
//! - `confinement`: what SELinux and AppArmor refuse whatever the mode bits say
//! - `door`: a unix listener that comes back when its file is removed
//! - `ended`: waiting for the end of a process that is not a child
//! - `errors`: an error with its causes, as one line
//! - `group`: the process group of a started command
//! - `hash`: FNV-1a and SplitMix64
//! - `holders`: who has a socket open
//! - `lines`: messages of one JSON line each
//! - `own_file`: a file that is replaced as a whole
//! - `printable`: text without what a terminal obeys
//! - `privilege`: what a started command inherits
//! - `process`, `tree`: who a process is, and what descends from it
//! - `pulse`, `vitals`: the daemon's sign of life, and whether a silent process hangs
//! - `tcp`, `unix`, `netlink`: the kernel's tables of TCP and unix sockets

pub(crate) mod blocking;
pub mod confinement;
pub(crate) mod door;
pub(crate) mod ended;
pub mod errors;
pub(crate) mod group;
pub(crate) mod hash;
pub mod holders;
pub(crate) mod lines;
pub(crate) mod netlink;
pub(crate) mod own_file;
pub mod printable;
pub mod privilege;
pub mod process;
pub mod pulse;
pub mod tcp;
pub(crate) mod tree;
pub mod unix;
pub mod vitals;
