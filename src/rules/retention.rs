//! Which releases to delete. Decides only; the engine asks after a deploy and when disk space is short, and `build`
//! deletes.

use std::{cmp::Reverse, collections::BTreeSet, num::NonZeroUsize};

use crate::rules::{
    ids::{DeployId, ReleaseId},
    words::Fate,
};

/// The value of a release on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It passed its checks; a flip can go back to it.
    Good,
    /// Its deploy failed.
    Failed,
    /// Its deploy was superseded or cancelled, or the record does not know it.
    Abandoned,
}

impl From<Fate> for Worth {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Good => Self::Good,
            Fate::Failed | Fate::RolledBack => Self::Failed,
            Fate::Making | Fate::Superseded | Fate::Cancelled => Self::Abandoned,
        }
    }
}

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRelease {
    pub release: ReleaseId,
    /// The number of its deploy; a higher one is newer.
    pub seq: u64,
    pub worth: Worth,
}

/// How much to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thrift {
    /// Keep this many of the newest good releases, and the newest failed one, whose directory explains the failure; but
    /// at most one directory above that number.
    None(NonZeroUsize),
    /// Disk space is short: keep this many of the newest good releases. Of a failed one the log is enough.
    Remains(NonZeroUsize),
    /// Disk space is still short: keep only guarded releases.
    Most,
}

/// Releases that are never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guarded {
    /// The live release, the target of a flip, the release of a deploy under way, what still runs on the idle color,
    /// and what an unfinished effect or a command uses.
    pub needed: Vec<ReleaseId>,
    /// Releases of this deploy and later ones: made after `needed` was read.
    pub since: Option<DeployId>,
}

/// The releases to delete, oldest first; never a guarded one. Guarded good releases count towards the number that is
/// kept, failed ones never do, and abandoned ones never stay.
pub fn to_delete(releases: &[KeptRelease], thrift: Thrift, guarded: &Guarded) -> Vec<ReleaseId> {
    let mut newest_first: Vec<&KeptRelease> = releases.iter().collect();
    newest_first.sort_by_key(|kept| Reverse((kept.seq, &kept.release)));
    let newest = |worth: Worth, count: usize| {
        newest_first.iter().filter(move |kept| kept.worth == worth).take(count).map(|kept| &kept.release)
    };
    let good = match thrift {
        Thrift::None(keep) | Thrift::Remains(keep) => keep.get(),
        Thrift::Most => 0,
    };
    let mut spared: BTreeSet<&ReleaseId> = newest(Worth::Good, good).collect();
    spared.extend(guarded.needed.iter().filter(|id| releases.iter().any(|kept| kept.release == **id)));
    if matches!(thrift, Thrift::None(_)) && spared.len() <= good {
        spared.extend(newest(Worth::Failed, 1));
    }
    let old = |kept: &&&KeptRelease| guarded.since.is_none_or(|since| kept.seq < since.0);
    let old = newest_first.iter().rev().filter(old).map(|kept| &kept.release);
    old.filter(|id| !spared.contains(id)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Worth::*, *};
    use crate::rules::ids::CommitId;

    fn id(seq: u64) -> ReleaseId {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        ReleaseId::new("20261121T101112Z", seq, &commit)
    }

    fn deleted(worths: &[Worth], keep: usize, guarded: &Guarded) -> Vec<u64> {
        deleted_by(worths, Thrift::None(NonZeroUsize::new(keep).unwrap()), guarded)
    }

    fn deleted_by(worths: &[Worth], thrift: Thrift, guarded: &Guarded) -> Vec<u64> {
        let kept = |(at, worth): (usize, &Worth)| {
            let seq = at as u64 + 1;
            KeptRelease { release: id(seq), seq, worth: *worth }
        };
        let releases: Vec<KeptRelease> = worths.iter().enumerate().map(kept).collect();
        let gone = to_delete(&releases, thrift, guarded);
        gone.iter().map(|gone| releases.iter().find(|kept| &kept.release == gone).unwrap().seq).collect()
    }

    #[test]
    fn i1_good_releases_beyond_the_newest_are_deleted_oldest_first() {
        assert_eq!(deleted(&[Good; 12], 10, &Guarded::default()), [1, 2]);
        assert_eq!(deleted(&[Good; 3], 5, &Guarded::default()), [0; 0]);
    }

    #[test]
    fn i1_failures_never_push_out_good_ones_and_c4_only_the_last_failure_stays() {
        let worths = [Good, Good, Failed, Failed, Failed, Failed];
        assert_eq!(deleted(&worths, 2, &Guarded::default()), [3, 4, 5]);
        assert_eq!(deleted(&[Abandoned, Good, Abandoned], 2, &Guarded::default()), [1, 3]);
    }

    #[test]
    fn i1_live_last_good_starting_and_draining_are_never_deleted() {
        let guarded = Guarded { needed: [1, 2, 3, 4, 5].map(id).to_vec(), since: None };
        let worths = [Good, Good, Abandoned, Failed, Failed, Good];
        assert_eq!(deleted(&worths, 1, &guarded), [0; 0]);
        assert_eq!(deleted(&[Good, Good, Good], 1, &guarded), [0; 0]);
    }

    #[test]
    fn no_more_than_one_directory_above_keep_stays() {
        let guarded = Guarded { needed: vec![id(2), id(1)], ..Guarded::default() };
        assert_eq!(deleted(&[Good, Good, Failed], 1, &guarded), [3], "the way back counts");
        assert_eq!(deleted(&[Good, Good, Failed], 2, &guarded), [0; 0]);
    }

    #[test]
    fn j1_where_room_is_short_remains_of_failures_go_and_then_all_that_is_not_needed() {
        let guarded = Guarded { needed: vec![id(4), id(2)], ..Guarded::default() };
        let worths = [Good, Good, Good, Good, Failed, Abandoned];
        let keep = NonZeroUsize::new(3).unwrap();
        assert_eq!(deleted_by(&worths, Thrift::None(keep), &guarded), [1, 6]);
        assert_eq!(deleted_by(&worths, Thrift::Remains(keep), &guarded), [1, 5, 6]);
        assert_eq!(deleted_by(&worths, Thrift::Most, &guarded), [1, 3, 5, 6]);
        let few = [Good, Good, Good, Good, Failed];
        assert_eq!(deleted_by(&few, Thrift::None(NonZeroUsize::new(4).unwrap()), &guarded), [0; 0]);
        assert_eq!(deleted_by(&few, Thrift::Remains(NonZeroUsize::new(4).unwrap()), &guarded), [5]);
    }

    #[test]
    fn i1_a_release_made_since_it_was_decided_is_not_deleted_however_late_that_is_done() {
        let guarded = Guarded { since: Some(DeployId(4)), ..Guarded::default() };
        assert_eq!(deleted(&[Abandoned, Good, Abandoned, Abandoned, Abandoned], 2, &guarded), [1, 3]);
    }

    fn worth() -> impl Strategy<Value = Worth> {
        prop_oneof![Just(Good), Just(Failed), Just(Abandoned)]
    }

    proptest! {
        #[test]
        fn the_newest_good_and_every_guarded_release_survive(
            worths in prop::collection::vec(worth(), 0..30),
            keep in 1_usize..8,
            live in 1_u64..30,
        ) {
            let guarded = Guarded { needed: vec![id(live)], ..Guarded::default() };
            let gone = deleted(&worths, keep, &guarded);
            prop_assert!(!gone.contains(&live));
            let good: Vec<u64> =
                (1..).zip(&worths).filter(|(_, worth)| **worth == Good).map(|(seq, _)| seq).collect();
            prop_assert!(good.iter().rev().take(keep).all(|seq| !gone.contains(seq)));
            let left = worths.len() - gone.len();
            prop_assert!(left <= keep + 1);
        }
    }
}
