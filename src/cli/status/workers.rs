//! The workers of an app in a line: `queue ×2, clock; 1 of 24ff388 finishes its work, at most 4 min`.

use std::collections::BTreeMap;

use crate::{
    api::wire::{AppReport, LeavingReport, WorkerReport},
    cli::wording,
    rules::time::Time,
};

/// `None` for an app without workers.
pub fn workers(app: &AppReport, now: Time) -> Option<String> {
    let mut parts = Vec::new();
    let kinds: Vec<String> = app.workers.iter().filter_map(kind).collect();
    if !kinds.is_empty() {
        parts.push(kinds.join(", "));
    }
    let mut leaving: BTreeMap<&str, Vec<&LeavingReport>> = BTreeMap::new();
    for one in app.workers.iter().flat_map(|kind| &kind.leaving) {
        leaving.entry(short(one)).or_default().push(one);
    }
    parts.extend(leaving.into_iter().map(|(of, all)| finishing(of, &all, now)));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `queue ×2`, `queue ×3 (1 does not run)`; a kind that is only leaving is not named here.
fn kind(worker: &WorkerReport) -> Option<String> {
    let (all, down) =
        (worker.instances.len(), worker.instances.iter().filter(|one| one.pid.is_none()).count());
    let name = match all {
        0 if worker.leaving.is_empty() => return Some(format!("{} (waits)", worker.name)),
        0 => return None,
        1 => worker.name.to_string(),
        _ => format!("{} ×{all}", worker.name),
    };
    let waits = !worker.leaving.is_empty();
    Some(match (down, all) {
        (0, _) => name,
        (_, 1) if waits => format!("{name} (waits for the former one)"),
        (_, 1) => format!("{name} (does not run)"),
        (1, _) => format!("{name} (1 does not run)"),
        (down, _) => format!("{name} ({down} do not run)"),
    })
}

fn finishing(of: &str, all: &[&LeavingReport], now: Time) -> String {
    let (verb, whose) = if all.len() == 1 { ("finishes", "its") } else { ("finish", "their") };
    let by = all.iter().filter_map(|one| one.ends_by).max();
    let limit = by.map(|by| format!(", at most {}", wording::whole(by.0.since(now)))).unwrap_or_default();
    format!("{} of {of} {verb} {whose} work{limit}", all.len())
}

fn short(one: &LeavingReport) -> &str {
    let of_name = one.release.as_str().rsplit('-').next().unwrap_or_default();
    one.commit.as_ref().map_or(of_name, |commit| commit.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::wire::WorkerInstanceReport, cli::status::fixture, rules::ids::ReleaseId};

    fn worker(name: &str, pids: &[Option<u32>], leaving: usize) -> WorkerReport {
        let instance = |pid: &Option<u32>| WorkerInstanceReport { pid: *pid, since: None, restarts: 0 };
        let commit = fixture::commit("b2");
        let one = LeavingReport {
            release: ReleaseId::new("20261121T073912Z", 5, &commit),
            commit: Some(commit),
            pid: Some(7),
            ends_by: Some(fixture::after(240)),
        };
        WorkerReport {
            name: name.parse().unwrap(),
            release: None,
            commit: None,
            instances: pids.iter().map(instance).collect(),
            leaving: vec![one; leaving],
            host: None,
        }
    }

    fn line(workers: Vec<WorkerReport>) -> Option<String> {
        super::workers(&AppReport { workers, ..fixture::live() }, fixture::NOW)
    }

    #[test]
    fn who_works_and_who_finishes_is_said_in_one_line() {
        assert_eq!(line(Vec::new()), None);
        let all = vec![worker("queue", &[Some(1), Some(2)], 1), worker("clock", &[Some(3)], 0)];
        let said = "queue ×2, clock; 1 of b2b2b2b finishes its work, at most 4 min";
        assert_eq!(line(all).as_deref(), Some(said));
        let waits = vec![worker("clock", &[None], 1), worker("gone", &[], 1)];
        let said = "clock (waits for the former one); 2 of b2b2b2b finish their work, at most 4 min";
        assert_eq!(line(waits).as_deref(), Some(said));
        let down = vec![worker("queue", &[Some(1), None], 0), worker("mail", &[None], 0)];
        assert_eq!(line(down).as_deref(), Some("queue ×2 (1 does not run), mail (does not run)"));
    }
}
