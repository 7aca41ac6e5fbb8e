//! Handles instances of the live color that hang while others of it answer: the front passes them over, and one at a
//! time is ended, so that the machine starts it again. Called by the health monitor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{interpreter::Interpreter, tend::end_rest};
use crate::{
    instance::{
        hanging::{InstanceHealth, dispensable},
        slots,
    },
    rules::{address::Address, ids::Color},
    shim::Slot,
};

impl Interpreter {
    /// Called after a round of probes of the live color; `last` has each instance's answer. Does nothing if the only
    /// instance is unwell. The next round is over after `within` at the latest.
    pub(super) async fn see_to_the_hanging(
        self: &Arc<Self>,
        color: Color,
        (each, last): (&[InstanceHealth], &[String]),
        within: Duration,
    ) {
        let unwell = if self.leads_to(color) { dispensable(each) } else { Vec::new() };
        let slot_of = |index: usize| slots(color, u16::try_from(each.len()).unwrap_or(u16::MAX)).nth(index);
        let slots: Vec<(usize, Slot)> =
            unwell.into_iter().filter_map(|index| Some((index, slot_of(index)?))).collect();
        let addresses = slots.iter().map(|(_, slot)| self.settings.address_at(color, slot.index)).collect();
        self.have_passed_over(addresses, within).await;
        if !self.settings.watch.restart {
            return;
        }
        let now = Instant::now();
        let hung = slots.into_iter().find(|(index, _)| each.get(*index).is_some_and(|one| one.is_hung(now)));
        if let Some((index, slot)) = hung {
            let answer = last.get(index).map_or("", String::as_str);
            let number = each.get(index).map_or(0, |one| one.unanswered);
            self.end_hung(slot, format!("it hung: {answer}, {number} times in a row"));
        }
    }

    async fn have_passed_over(&self, addresses: Vec<Address>, within: Duration) {
        if !self.instances.known.rest(&addresses) {
            return;
        }
        if let Err(err) = self.front.pass_over(addresses, within).await {
            tracing::warn!(app = %self.settings.name, %err, "the front was not told which instances to pass over");
        }
    }

    /// Ends a hung instance in a task of its own: that may take its whole grace.
    fn end_hung(self: &Arc<Self>, slot: Slot, why: String) {
        let Some(handle) = self.instances.known.blame(slot, &why, Instant::now()) else { return };
        let (app, color, instance) = (&self.settings.name, slot.color, slot.number());
        tracing::error!(%app, %color, instance, release = %handle.release(), why, "a hung instance is ended, to be started again");
        let interpreter = self.clone();
        tokio::spawn(async move {
            // The watcher of its end reports why it was ended.
            if !end_rest(&handle).await {
                interpreter.instances.known.acquit(slot, handle.id());
            }
        });
    }
}
