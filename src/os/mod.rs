//! The ground floor: facts about this host and its kernel, and plumbing that every room needs in one form. Every room
//! may use it and it uses none: nothing here names an app, a release or a front.
//!
//! - `alarm`: waiting for a time of the wall clock
//! - `blocking`: work that may block, off the runtime
//! - `confinement`: refusals by SELinux and AppArmor that the mode bits do not explain
//! - `door`: a unix listener that comes back when its file is removed
//! - `ended`: waiting for the end of a process that is not a child
//! - `errors`: an error with its causes, as one line
//! - `group`: the process group of a started command
//! - `hash`: FNV-1a and SplitMix64
//! - `holders`: the processes that have a socket open
//! - `link`: a symbolic link that leads elsewhere by one rename
//! - `lines`: messages of one JSON line each
//! - `own_file`: a file that is replaced as a whole
//! - `printable`: text without terminal control sequences
//! - `privilege`: the rights and state that a started command inherits
//! - `process`, `tree`: the identity of a process, and its descendants
//! - `pulse`, `vitals`: the daemon's sign of life, and whether a silent process hangs
//! - `reader`: what a process may pass and read
//! - `tcp`, `unix`, `netlink`: the kernel's tables of TCP and unix sockets

pub(crate) mod alarm;
pub(crate) mod blocking;
pub mod confinement;
pub(crate) mod door;
pub(crate) mod ended;
pub mod errors;
pub(crate) mod group;
pub(crate) mod hash;
pub mod holders;
pub(crate) mod lines;
pub mod link;
pub(crate) mod netlink;
pub(crate) mod own_file;
pub mod printable;
pub mod privilege;
pub mod process;
pub mod pulse;
pub mod reader;
pub mod tcp;
pub(crate) mod tree;
pub mod unix;
pub mod vitals;
