//! The new text in the file, from the first write until it is proven or undone: restores the old text when the flip is
//! dropped before nginx was asked to reload. Used by `cutover` and `ensure`; decides nothing.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{
    PlaceError, RouteError,
    include::audience,
    link::MovedLink,
    place::{Audience, IncludeFile},
};
use crate::os::blocking::blocking;

/// A written and unproven text. Holds the lock on nginx, so that no other flip runs while the text goes back.
pub(super) struct Placed {
    place: IncludeFile,
    /// The text before; `None` where there was no file.
    old: Option<String>,
    /// The link that was set for the new text, which nginx does not follow before the reload.
    moved: Option<MovedLink>,
    state: PlacedState,
    /// The lock on nginx, shared with a running write, so that no other flip begins before that write has ended.
    turn: Arc<OwnedMutexGuard<()>>,
}

#[derive(PartialEq, Eq)]
enum PlacedState {
    /// nginx was not asked to reload: a drop puts the old text back.
    Written,
    /// nginx may have been asked to reload, or the old text is back: a drop does nothing.
    Told,
}

impl Placed {
    /// Keeps the old text beside the file, then writes the new text.
    pub(super) async fn write(
        place: IncludeFile,
        old: Option<String>,
        (new, moved): (String, Option<MovedLink>),
        turn: OwnedMutexGuard<()>,
    ) -> Result<Self, PlaceError> {
        blocking(move || {
            // Kept before the new text is written, so that going back is possible at every instant.
            place.keep(old.as_deref(), old.as_deref().map_or(Audience::Everybody, audience));
            let placed = Self { place, old, moved, state: PlacedState::Written, turn: Arc::new(turn) };
            placed.place.replace(&new, audience(&new))?;
            Ok(placed)
        })
        .await
    }

    /// Takes over a text that an interrupted flip wrote and did not prove.
    pub(super) fn found(
        place: IncludeFile,
        old: Option<String>,
        moved: Option<MovedLink>,
        turn: OwnedMutexGuard<()>,
    ) -> Self {
        Self { place, old, moved, state: PlacedState::Told, turn: Arc::new(turn) }
    }

    /// Call before the reload: from now on the new text stays when this is dropped.
    pub(super) fn asked(&mut self) {
        self.state = PlacedState::Told;
    }

    /// Call after the proof: removes what was kept for going back.
    pub(super) fn settle(&mut self) {
        self.state = PlacedState::Told;
        self.place.forget();
        if let Some(moved) = &self.moved {
            moved.settle();
        }
    }

    /// Restores text and link from before the first write; only for an nginx that was not asked to reload.
    pub(super) async fn take_back(&mut self) -> Result<(), PlaceError> {
        self.write_back(self.old.clone()).await?;
        self.lead_back()
    }

    /// Points the link to its former target; only once nginx does not have the new text in force.
    pub(super) fn lead_back(&mut self) -> Result<(), PlaceError> {
        self.moved.take().map_or(Ok(()), |moved| moved.undo())
    }

    /// Restores text and link, and returns the given error, or one that says that this failed.
    pub(super) async fn put_back(&mut self, reason: RouteError) -> RouteError {
        match self.take_back().await {
            Ok(()) => reason,
            Err(source) => RouteError::NotPutBack { cause: Box::new(reason), source },
        }
    }

    /// Writes a text, or removes the file. The state changes only after the write: a drop during it restores the old
    /// text once more.
    pub(super) async fn write_back(&mut self, text: Option<String>) -> Result<(), PlaceError> {
        let (place, turn) = (self.place.clone(), self.turn.clone());
        let result = blocking(move || {
            let _turn = turn;
            restore(&place, text.as_deref())
        })
        .await;
        self.state = PlacedState::Told;
        result
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.state == PlacedState::Written
            && let Err(err) = restore(&self.place, self.old.as_deref()).and_then(|()| self.lead_back())
        {
            tracing::error!(path = %self.place.path().display(), err = %err, "old text not put back");
        }
    }
}

fn restore(place: &IncludeFile, text: Option<&str>) -> Result<(), PlaceError> {
    match text {
        // The file was never replaced, for example because the disk is full.
        Some(text) if place.read()?.as_deref() == Some(text) => {}
        Some(text) => place.bring_back(text, audience(text))?,
        None => place.remove()?,
    }
    place.forget();
    Ok(())
}
