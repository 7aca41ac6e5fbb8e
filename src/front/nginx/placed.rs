//! The new text in its place, from the first write until the flip is proven or undone: makes sure that the old
//! text comes back when the flip is dropped before nginx was told. Used by `cutover` alone; decides nothing.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{PlaceError, RouteError, include::audience, place::Place};

/// The new text in its place. Owns the turn, so that going back can't cross another flip.
pub(super) struct Placed {
    place: Place,
    old: Option<String>,
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
    /// Keeps the old text beside the file, then puts the new one in its place.
    pub(super) async fn write(
        place: Place,
        old: Option<String>,
        new: String,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Self, PlaceError> {
        blocking(move || {
            // Kept before the new text appears, so that there is no instant without a way back.
            if let Some(old) = &old {
                place.keep(old, audience(old));
            }
            let placed = Self { place, old, state: State::Written, turn: Arc::new(turn) };
            placed.place.replace(&new, audience(&new))?;
            Ok(placed)
        })
        .await
    }

    /// nginx is about to be told: from here on the new text stays when this is dropped.
    pub(super) fn asked(&mut self) {
        self.state = State::Told;
    }

    /// Proven: the way back is not needed any more.
    pub(super) fn settle(&mut self) {
        self.state = State::Told;
        self.place.forget();
    }

    /// Puts the old text (or nothing) in place and passes the reason on.
    pub(super) async fn put_back(&mut self, reason: RouteError) -> RouteError {
        match self.write_back(self.old.clone()).await {
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
            && let Err(err) = restore(&self.place, self.old.as_deref())
        {
            tracing::error!(path = %self.place.path().display(), err = %err, "old text not put back");
        }
    }
}

fn restore(place: &Place, text: Option<&str>) -> Result<(), PlaceError> {
    match text {
        // Never replaced in the first place, for example because the disk is full.
        Some(text) if place.read()?.as_deref() == Some(text) => {}
        Some(text) => place.replace(text, audience(text))?,
        None => place.remove()?,
    }
    place.forget();
    Ok(())
}

/// Runs a file operation off the runtime's threads. Dropped meanwhile, it still ends, and its result is
/// dropped there.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
