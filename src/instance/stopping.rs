//! The end of instances: on request with their grace, or at once if nobody is served until they are gone. The caller
//! checks first what the front routes to.

use std::collections::BTreeSet;

use super::{Instances, standing_in::BRIEF, starting::slots};
use crate::{
    command::trouble,
    rules::{
        app::Release,
        ids::{Color, ReleaseId},
        words::{Failure, Phase},
    },
    shim::{Handle, Slot},
};

impl Instances {
    /// Replaces the release that the front routes to: the one stop that does not ask the front first, because the front
    /// can't be moved and the operator wants that release gone (promise F4).
    pub(crate) async fn replace(
        &self,
        color: Color,
        out: &ReleaseId,
        release: &Release,
    ) -> Result<(), Failure> {
        tracing::warn!(app = %self.settings.name, %color, %out, new = %release.id, "the front can't be moved; replacing what serves on its port");
        // The front can't be told of more instances than it knows.
        let number = self.number_of(color, out);
        self.end_briefly(color, |handle| handle.release() == out || handle.stands_in()).await?;
        let shims = self.commands.find_shims(Phase::Starting).await?;
        self.start_beside(shims, (release, color), number).await?;
        self.probe(release, color).await
    }

    /// Ends instances within a second, even if their grace is longer: nobody is served until they are gone.
    async fn end_briefly(&self, color: Color, ends: impl Fn(&Handle) -> bool) -> Result<(), Failure> {
        let ended = self.end(color, &ends);
        // Dropping the future does not call the stop off; KILL follows it.
        if let Ok(ended) = tokio::time::timeout(BRIEF, ended).await {
            return ended.map(drop);
        }
        let phase = Phase::Stopping;
        let mut late = self.commands.find_shims(phase).await?;
        late.retain(|handle| handle.role().is_on(color) && ends(handle));
        for handle in &late {
            handle.kill().await.map_err(|err| trouble(phase, &err))?;
        }
        self.end(color, ends).await.map(drop)
    }

    /// Ends instances of a color; returns every slot that the color may have used.
    pub(crate) async fn end(
        &self,
        color: Color,
        ends: impl Fn(&Handle) -> bool,
    ) -> Result<BTreeSet<Slot>, Failure> {
        let phase = Phase::Stopping;
        let mut ending = self.commands.find_shims(phase).await?;
        ending.retain(|handle| handle.role().is_on(color) && ends(handle));
        self.end_shims(&ending).await.map_err(|err| trouble(phase, &err))?;
        let ended = ending.iter().filter_map(|handle| handle.role().slot());
        Ok(slots(color, self.settings.instances).chain(ended).collect())
    }

    /// Logs that the port is still held. Not an error: all our processes are gone, and the holder is not ours.
    pub(crate) fn say_if_held(&self, slot: Slot) {
        if let Err(held) = self.prove_free(slot) {
            tracing::warn!(app = %self.settings.name, color = %slot.color, cause = held.cause, "the port is not free after the stop");
        }
    }
}
