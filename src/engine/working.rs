//! The engine's side of the workers: what happens to them reaches the app's task as events of the machine. Started by
//! `tend`.

use std::sync::Arc;

use super::{
    app_task::{Inbox, Message},
    interpreter::Interpreter,
};
use crate::{rules::event::Event, worker::WorkerNews};

/// Looks after the workers until the app's task ends.
pub(super) async fn look_after(interpreter: Arc<Interpreter>, inbox: Inbox) {
    let tell = |news: WorkerNews| {
        let message = match news {
            WorkerNews::Died { worker, release, how, last_words } => {
                Message::Event(Event::WorkerDied { worker, release, how, last_words })
            }
            WorkerNews::Left(release) => Message::Event(Event::WorkerLeft { release }),
            WorkerNews::Seen => Message::Instances,
        };
        // The receiver is gone only when the task ends.
        let _ended = inbox.send(message);
    };
    interpreter.workers().supervise(tell).await;
}
