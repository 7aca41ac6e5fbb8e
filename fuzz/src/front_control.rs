//! The control socket of the builtin front: requests and answers come back, and a bad line is told on one line.

use bgd::front::builtin::control::{self, BadControlLine, ControlAnswer, ControlRequest};

use super::line::comes_back;

/// Lines as a daemon or a front sends them.
pub fn front_control(data: &[u8]) {
    for line in data.split_inclusive(|c| *c == b'\n') {
        let request = told(control::parse::<ControlRequest>(line));
        assert_eq!(request, comes_back(line));
        if let Some(request) = request {
            let again = control::parse::<ControlRequest>(&control::line(&request)).expect("written just now");
            assert_eq!(request, again);
        }
        assert_eq!(told(control::parse::<ControlAnswer>(line)), comes_back(line));
    }
}

fn told<T>(heard: Result<T, BadControlLine>) -> Option<T> {
    heard
        .map_err(|bad| {
            let text = bad.to_string();
            assert!(!text.contains(char::is_control) && bad.line.len() <= 3 * 80, "{text:?}");
        })
        .ok()
}
