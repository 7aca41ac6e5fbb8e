//! The daemon's side of a front's supervision: the turn on the front, the running colors, and reports of trouble.
//! Started by `tend`; the front itself supervises.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::MutexGuard;

use super::{
    app_task::{Inbox, Message},
    interpreter::Interpreter,
};
use crate::{
    front::FrontDaemon,
    rules::{
        event::Event,
        ids::{AppName, Color},
        words::EventKind,
    },
};

/// Supervises the front until the app's task ends.
pub(super) async fn attend(interpreter: Arc<Interpreter>, inbox: Inbox) {
    let attendant = Attendant { interpreter: &interpreter, inbox: &inbox, said: Mutex::default() };
    tokio::select! {
        () = interpreter.front().supervise(&attendant) => {}
        () = inbox.closed() => {}
    }
}

struct Attendant<'a> {
    interpreter: &'a Interpreter,
    inbox: &'a Inbox,
    /// The trouble last sent to the app's task.
    said: Mutex<Option<String>>,
}

impl FrontDaemon for Attendant<'_> {
    fn app(&self) -> &AppName {
        &self.interpreter.settings().name
    }

    fn turn(&self) -> BoxFuture<'_, MutexGuard<'_, ()>> {
        Box::pin(self.interpreter.front_turn.lock())
    }

    fn runs(&self, color: Color) -> bool {
        self.interpreter.instances().known.any_on(color)
    }

    fn tell_again(&self) {
        let _ended = self.inbox.send(Message::Event(Event::FrontRestarted));
    }

    fn trouble(&self, said: Option<String>) -> bool {
        let mut known = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *known != said;
        if news {
            known.clone_from(&said);
            let _ended = self.inbox.send(Message::FrontTrouble(said));
        }
        news
    }

    fn note<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(self.interpreter.record.note(EventKind::Trouble, None, text))
    }
}
