//! Judges the real traffic of a new release beside the former release's, with front and instances together. Asked
//! repeatedly while the release is watched.

use super::interpreter::Interpreter;
use crate::{
    rules::{app::Release, ids::Color, traffic::Judgement, words::Failure},
    shim::Slot,
};

impl Interpreter {
    /// Looks at what a watched release shows beside its instances' health: its files, and its real traffic.
    pub(super) async fn judge(&self, release: &Release, color: Color) -> Result<Option<String>, Failure> {
        self.still_there(&release.id).await?;
        self.judge_traffic(color).await
    }

    /// A sentence on the traffic seen if it is too little to judge; `None` if it is enough and good.
    async fn judge_traffic(&self, color: Color) -> Result<Option<String>, Failure> {
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
