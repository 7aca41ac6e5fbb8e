//! Compares the memory of a second copy of the app with what the host has free, before a new release is started beside
//! the live one. A release that serves, or that served well before, is never refused for it.

use super::Instances;
use crate::{
    command::failure,
    config::settings::MemoryCheck,
    instance::usage,
    os::blocking::blocking,
    rules::{
        ids::Color,
        words::{EventKind, Failure, Nature, Phase},
    },
};

/// The memory that a new copy of the app needs, and what the host has free, both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    second_copy: u64,
    free: u64,
}

impl Instances {
    /// Warns, or fails with `memory_check = "refuse"`, if `number` new instances on `color` are likely to need more
    /// memory than is free. The need of one is estimated from the live color's instances.
    pub(crate) async fn prove_memory(&self, color: Color, number: u16) -> Result<(), Failure> {
        let Some(need) = self.need(color, number).await else { return Ok(()) };
        if need.second_copy <= need.free {
            return Ok(());
        }
        let said = need.said(self.settings.name.as_str());
        match self.settings.memory_check {
            MemoryCheck::Warn => {
                tracing::warn!(app = %self.settings.name, need = said, "memory may not suffice for the new release");
                self.record.note(EventKind::Trouble, None, &said).await;
                Ok(())
            }
            MemoryCheck::Refuse => {
                let hint = "free some memory, then `bgd deploy`; or take memory_check = \"refuse\" out";
                let refused = failure(Phase::Starting, Nature::Transient, said);
                Err(Failure { hint: Some(hint.to_owned()), ..refused })
            }
        }
    }

    /// The need; `None` if nothing runs beside the new copy, or if it can't be measured.
    async fn need(&self, color: Color, number: u16) -> Option<Need> {
        let live = self.known.all().into_iter().filter(|(slot, _)| slot.color != color);
        let shims: Vec<i32> = live.map(|(_, handle)| handle.shim_pid()).collect();
        if shims.is_empty() {
            return None;
        }
        let read = blocking(move || Ok::<_, std::io::Error>((usage::below(&shims)?, usage::free_memory()?)));
        let (used, free) = match read.await {
            Ok(read) => read,
            Err(err) => {
                tracing::warn!(app = %self.settings.name, %err, "free memory can't be compared with a second copy");
                return None;
            }
        };
        let running = u64::try_from(used.len()).ok().filter(|running| *running > 0)?;
        let each = used.values().map(|one| one.memory_bytes).sum::<u64>() / running;
        Some(Need { second_copy: each * u64::from(number), free })
    }
}

impl Need {
    /// A sentence such as `a second copy of shop needs about 320 MiB, and 210 MiB are free`.
    fn said(self, app: &str) -> String {
        let (needed, free) = (self.second_copy >> 20, self.free >> 20);
        format!("a second copy of {app} needs about {needed} MiB, and {free} MiB are free")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_said_in_figures() {
        let need = Need { second_copy: 320 << 20, free: 210 << 20 };
        assert_eq!(need.said("shop"), "a second copy of shop needs about 320 MiB, and 210 MiB are free");
    }
}
