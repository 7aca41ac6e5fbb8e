//! What the real traffic of a new release says against it, beside the former release's: front and instances together.
//! Asked again and again while the release is watched.

use super::interpreter::Interpreter;
use crate::{
    rules::{ids::Color, traffic::Judgement, words::Failure},
    shim::Slot,
};

impl Interpreter {
    /// What was seen of too little traffic; `None`: enough, and it is well.
    pub(super) async fn judge_traffic(&self, color: Color) -> Result<Option<String>, Failure> {
        let limits = &self.settings.watch.traffic;
        if !limits.any() {
            return Ok(None);
        }
        self.count_traffic().await;
        let (new, old) = (self.traffic.since_mark(color), self.traffic.last_minutes(color.other()));
        match limits.judge(&new, &old) {
            Judgement::Well => Ok(None),
            Judgement::TooLittle(seen) => Ok(Some(format!("too little traffic to tell: {seen}"))),
            Judgement::Bad(why) => Err(self.instances.bad_in_watch(
                (Slot { color, index: 0 }, 1),
                format!("worse than allowed on real traffic: {why}"),
            )),
        }
    }
}
