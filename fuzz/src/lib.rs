//! What is fuzzed, one file a target: bytes in, a panic when the product does not hold what it promises. Called by
//! the programs in `fuzz_targets/` (long runs, guided by coverage) and by `tests/fuzz.rs` of the crate above (the
//! kept corpus and a short run on every `cargo test`). Uses only what the product makes public.

mod config;
mod control;
mod env_file;
mod front_control;
mod git_refs;
mod git_text;
mod git_wire;
mod known_hosts;
mod line;
mod nginx_include;
mod nginx_report;
mod probe_answer;
mod shim;
mod written;

pub use self::{
    config::config, control::control, env_file::env_file, front_control::front_control, git_refs::git_refs,
    git_text::git_text, git_wire::git_wire, known_hosts::known_hosts, nginx_include::nginx_include,
    nginx_report::nginx_report, probe_answer::probe_answer, shim::shim,
};
