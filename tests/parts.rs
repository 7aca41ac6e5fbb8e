//! Parts of the library on real things of their kind: fronts, processes, repositories.

mod front_builtin;
mod front_haproxy;
mod front_nginx;
mod git;
mod process;
mod stage;
