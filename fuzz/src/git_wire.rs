//! What daemon and git worker say to each other comes back, and every failure can be told.

use bgd::release::git::wire::{self, Opening, WorkerLine, WorkerRequest};

use super::line::{comes_back, comes_back_alike};

/// Lines as a daemon or a worker sends them.
pub fn git_wire(data: &[u8]) {
    for line in data.split(|c| *c == b'\n') {
        comes_back::<WorkerRequest>(line);
        comes_back_alike::<Opening>(line);
        if let Some(heard) = comes_back::<WorkerLine>(line) {
            let said = wire::print(&heard).expect("lines are plain data");
            assert_eq!(said.find('\n'), Some(said.len() - 1));
            assert_eq!(wire::parse::<WorkerLine>(&said).expect("written just now"), heard);
            if let WorkerLine::Failed(err) = heard {
                assert!(!err.to_string().is_empty());
                err.kind();
                err.hint();
            }
        }
    }
}
