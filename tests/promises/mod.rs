//! What bgd promises when things go wrong, each line on real parts: real git, real nginx, real children, real
//! `kill -9`, real full disks. A test's name begins with the line it proves.

mod around;
mod audit;
mod building;
mod disk;
mod drain;
mod everyday;
mod flips;
mod listening;
mod neighbours;
mod nginx;
mod record;
mod releases;
mod remotes;
mod restarts;
mod retiring;
mod signed;
mod stall;
