//! The guard on the way back over a migration. A release that changes the database so that older releases can't live
//! with it (a contract) leaves a barrier in the record as soon as its commands may run. The machine then refuses to
//! go back to a release from before it, unless an operator forces it. Used by `rules::step`; git tells which commits
//! are behind the barrier.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    app::{App, Pipeline, Release, Serving, Stage},
    deploy::{Deploy, Kind},
    ids::{CommitId, DeployId, ReleaseId},
    time::Time,
    words::Outcome,
};

/// A file of a contract, as the release has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractFile {
    /// Its path in the repository.
    pub path: String,
    /// The git object id of its content.
    pub object: String,
}

/// A change of the database that older releases can't live with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// `contract: ` and the file or the commit that says so, for people.
    pub text: String,
    /// The files that say so.
    pub files: Vec<ContractFile>,
    /// The commits that say so, by a trailer line.
    pub commits: Vec<CommitId>,
}

/// What a release changes in the database, as far as git tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The files that migrate, for people.
    pub text: String,
    /// Set if older releases can't live with it.
    pub contract: Option<Contract>,
}

/// The commits that a fetch compares the new commit with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Landmarks {
    /// The commit that is live, or was last.
    pub live: Option<CommitId>,
    /// The commit that set the barrier, and why.
    pub barrier: Option<(CommitId, Contract)>,
}

/// What the new commit means for the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SchemaNews {
    /// The migration since what is live.
    pub migration: Option<Migration>,
    /// The commit contains the change that set the barrier.
    pub behind: bool,
}

/// A contract has begun to change the database: releases from before it would run on a schema that they can't live
/// with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// The deploy whose commands changed the database.
    pub deploy: DeployId,
    pub release: ReleaseId,
    pub commit: CommitId,
    /// When its first command was about to run.
    pub since: Time,
    /// Why.
    pub contract: Contract,
    /// The commits of the releases at hand that contain the contract.
    pub behind: BTreeSet<CommitId>,
    /// An operator has sent a release from before it to the traffic.
    pub passed: bool,
}

/// What follows when the watch of a release with a contract fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnFailure {
    /// It stays live, and a person decides.
    #[default]
    Stay,
    /// The traffic goes back all the same.
    Flip,
}

/// The live release failed its watch, and the barrier keeps bgd from going back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// The deploy that failed its watch.
    pub deploy: DeployId,
    /// One sentence, for people.
    pub why: String,
}

impl Barrier {
    /// Why a move to the commit is refused.
    pub fn objection(&self, to: &CommitId) -> String {
        let (to, commit, text) = (to.short(), self.commit.short(), &self.contract.text);
        format!("going back to {to} would run it on the schema of {commit} ({text})")
    }
}

impl App {
    /// The barrier, if the commit is from before it.
    pub fn barrier_after(&self, commit: &CommitId) -> Option<&Barrier> {
        self.barrier.as_ref().filter(|barrier| !barrier.behind.contains(commit))
    }

    /// The barrier, if the live release is from before it: the schema is ahead of what serves.
    pub fn schema_ahead(&self) -> Option<&Barrier> {
        self.barrier_after(&self.live()?.release.commit)
    }

    /// The release to which a flip would move traffic that is elsewhere; `None` if it moves none.
    pub fn flips_to(&self) -> Option<&Release> {
        let live = &self.live()?.release;
        match &self.pipeline {
            Pipeline::Resting if !self.down_wanted => self.previous.as_ref(),
            Pipeline::Deploying(work) => match &work.stage {
                Stage::Switching(_) if work.deploy.kind != Kind::Rollback => Some(live),
                Stage::Watching { former, .. } => former.as_ref().or(self.previous.as_ref()),
                Stage::Retiring { end } if end.outcome == Outcome::Live && !self.down_wanted => {
                    self.previous.as_ref()
                }
                _ => None,
            },
            Pipeline::Resting
            | Pipeline::Fetching { .. }
            | Pipeline::Discarding { .. }
            | Pipeline::TakingDown { .. } => None,
        }
    }

    /// The commits that a fetch compares the next commit with.
    pub fn landmarks(&self) -> Landmarks {
        let live = match &self.serving {
            Serving::Live(live) | Serving::OutOfService(live) => Some(&live.release),
            Serving::Nothing => self.previous.as_ref(),
        };
        let barrier = self.barrier.as_ref();
        Landmarks {
            live: live.map(|release| release.commit.clone()),
            barrier: barrier.map(|barrier| (barrier.commit.clone(), barrier.contract.clone())),
        }
    }

    /// Notes that the commit contains the contract, and forgets commits of which no release is at hand.
    pub(super) fn is_behind(&mut self, commit: &CommitId) {
        let at_hand: BTreeSet<CommitId> = self.releases().map(|release| release.commit.clone()).collect();
        if let Some(barrier) = &mut self.barrier {
            barrier.behind.retain(|known| *known == barrier.commit || at_hand.contains(known));
            barrier.behind.insert(commit.clone());
        }
    }

    /// Puts up the barrier of a deploy with a contract, whose commands are about to run. Returns it if it is new. The
    /// barrier that a forced deploy passed stays: the schema is still ahead of that release.
    pub(super) fn raise_barrier(
        &mut self,
        (deploy, release): (&Deploy, &Release),
        now: Time,
    ) -> Option<Barrier> {
        let contract = deploy.migration.as_ref()?.contract.clone()?;
        let is_up = self.barrier.as_ref().is_some_and(|barrier| barrier.deploy == deploy.id);
        if is_up || self.barrier_after(&release.commit).is_some() {
            return None;
        }
        let barrier = Barrier {
            deploy: deploy.id,
            release: release.id.clone(),
            commit: release.commit.clone(),
            since: now,
            contract,
            behind: BTreeSet::from([release.commit.clone()]),
            passed: false,
        };
        self.barrier = Some(barrier.clone());
        Some(barrier)
    }
}
