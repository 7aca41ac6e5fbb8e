//! What is shipped beside the binary: samples, the README, the files for systemd.

mod contrib;
mod gates;
mod readme;
mod sample;
mod systemd;
