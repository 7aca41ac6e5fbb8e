//! The new text in its place, from the first write until it is proven or undone: makes sure that what was there
//! before comes back when the flip is dropped before nginx was told. Used by `cutover` and `ensure`; decides nothing.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{
    PlaceError, RouteError,
    include::audience,
    link::Moved,
    place::{Audience, Place},
};
use crate::os::blocking::blocking;

/// The new text in its place. Owns the turn, so that going back can't cross another flip.
pub(super) struct Placed {
    place: Place,
    /// What was there before; `None` is no file.
    old: Option<String>,
    /// The link that was set for the new text, which nginx does not follow before it is told.
    moved: Option<Moved>,
    state: State,
    /// Shared with a write under way, so that no other flip begins before that write has ended.
    turn: Arc<OwnedMutexGuard<()>>,
}

#[derive(PartialEq, Eq)]
enum State {
    /// nginx has not been told: a drop puts the old text back.
    Written,
    /// nginx may have been told, or the old text is back.
    Told,
}

impl Placed {
    /// Keeps what was there beside the file, then puts the new text in its place.
    pub(super) async fn write(
        place: Place,
        old: Option<String>,
        (new, moved): (String, Option<Moved>),
        turn: OwnedMutexGuard<()>,
    ) -> Result<Self, PlaceError> {
        blocking(move || {
            // Kept before the new text appears, so that there is no instant without a way back.
            place.keep(old.as_deref(), old.as_deref().map_or(Audience::Everybody, audience));
            let placed = Self { place, old, moved, state: State::Written, turn: Arc::new(turn) };
            placed.place.replace(&new, audience(&new))?;
            Ok(placed)
        })
        .await
    }

    /// The text that somebody was stopped from proving is there already.
    pub(super) fn found(
        place: Place,
        old: Option<String>,
        moved: Option<Moved>,
        turn: OwnedMutexGuard<()>,
    ) -> Self {
        Self { place, old, moved, state: State::Told, turn: Arc::new(turn) }
    }

    /// nginx is about to be told: from here on the new text stays when this is dropped.
    pub(super) fn asked(&mut self) {
        self.state = State::Told;
    }

    /// Proven: the way back is not needed any more.
    pub(super) fn settle(&mut self) {
        self.state = State::Told;
        self.place.forget();
        if let Some(moved) = &self.moved {
            moved.settle();
        }
    }

    /// Has everything as it was before the first write; nginx was not told.
    pub(super) async fn take_back(&mut self) -> Result<(), PlaceError> {
        self.write_back(self.old.clone()).await?;
        self.lead_back()
    }

    /// The link leads where it led before, once nginx does not follow the new text.
    pub(super) fn lead_back(&mut self) -> Result<(), PlaceError> {
        self.moved.take().map_or(Ok(()), |moved| moved.undo())
    }

    /// Has everything as it was and passes the reason on.
    pub(super) async fn put_back(&mut self, reason: RouteError) -> RouteError {
        match self.take_back().await {
            Ok(()) => reason,
            Err(source) => RouteError::NotPutBack { cause: Box::new(reason), source },
        }
    }

    /// Puts a text (or nothing) in place. The state changes only after the write: a drop during it writes the same once more.
    pub(super) async fn write_back(&mut self, text: Option<String>) -> Result<(), PlaceError> {
        let (place, turn) = (self.place.clone(), self.turn.clone());
        let result = blocking(move || {
            let _turn = turn;
            restore(&place, text.as_deref())
        })
        .await;
        self.state = State::Told;
        result
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.state == State::Written
            && let Err(err) = restore(&self.place, self.old.as_deref()).and_then(|()| self.lead_back())
        {
            tracing::error!(path = %self.place.path().display(), err = %err, "old text not put back");
        }
    }
}

fn restore(place: &Place, text: Option<&str>) -> Result<(), PlaceError> {
    match text {
        // Never replaced in the first place, for example because the disk is full.
        Some(text) if place.read()?.as_deref() == Some(text) => {}
        Some(text) => place.bring_back(text, audience(text))?,
        None => place.remove()?,
    }
    place.forget();
    Ok(())
}
