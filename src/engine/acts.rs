//! Records operators' acts that belong to no step, in order and on one thread at a time: a stalled disk then holds up
//! one blocking thread only. Used by `apps`. Nobody waits for it: the act is done by then, and an act that can't be
//! recorded is logged.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::{
    os::errors::chain,
    store::{Store, record::EventRecord},
};

/// Acts that wait to be recorded.
#[derive(Debug)]
pub(super) struct Acts {
    store: Arc<Store>,
    events: broadcast::Sender<EventRecord>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<EventRecord>,
    /// A thread is recording, and looks here again before it leaves.
    served: bool,
}

impl Acts {
    /// Acts go to this record, and to the subscribers of `events`.
    pub(super) fn new(store: Arc<Store>, events: broadcast::Sender<EventRecord>) -> Arc<Self> {
        Arc::new(Self { store, events, queue: Mutex::default() })
    }

    /// Records an act.
    pub(super) fn note(self: &Arc<Self>, event: EventRecord) {
        let mut queue = self.lock();
        queue.waiting.push_back(event);
        if !std::mem::replace(&mut queue.served, true) {
            let acts = self.clone();
            tokio::task::spawn_blocking(move || acts.record());
        }
    }

    fn record(&self) {
        while let Some(event) = self.next() {
            match self.store.log_act(event) {
                // The event may have no subscribers.
                Ok(event) => drop(self.events.send(event)),
                Err(err) => tracing::error!(err = %chain(&err), "an act was not recorded"),
            }
        }
    }

    fn next(&self) -> Option<EventRecord> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        queue.served = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{time::Time, words::EventKind};

    #[tokio::test]
    async fn acts_are_recorded_and_told_in_the_order_in_which_they_were_noted() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), Time(0)).unwrap();
        let (store, (events, mut told)) = (Arc::new(store), broadcast::channel(64));
        let acts = Acts::new(store.clone(), events);
        let texts: Vec<String> = (0..50).map(|number| format!("act {number}")).collect();
        for text in &texts {
            acts.note(EventRecord::new(EventKind::Asked, Time(1), text));
        }
        for text in &texts {
            assert_eq!(told.recv().await.unwrap().text, *text);
        }
        let recorded = store.events(None, Some(0)).unwrap();
        assert_eq!(recorded.into_iter().map(|event| event.text).collect::<Vec<_>>(), texts);
    }
}
