//! `[app.NAME.migration]`: which releases change the database, and which of them the former release can't live with.

use serde::{Deserialize, Serialize};

use crate::{
    config::{
        judge::Judge,
        patterns::Patterns,
        read::{Given, Written},
    },
    rules::barrier::OnFailure,
};

table! {
    /// `[app.NAME.migration]`.
    RawMigration { paths: Vec<Written<String>>, contract: Vec<Written<String>>, on_failure: String }
}

/// Which releases change the database. A trailer line `Migration: contract` in a commit says so too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRules {
    /// File patterns as in .gitignore: a release that adds or changes such a file migrates.
    pub paths: Option<Patterns>,
    /// File patterns as in .gitignore: releases from before such a file can't live with it.
    pub contract: Option<Patterns>,
    /// What follows when the watch of a release with a contract fails.
    pub on_failure: OnFailure,
}

impl Judge<'_> {
    pub(super) fn migration(&mut self, given: Given<RawMigration>) -> Option<MigrationRules> {
        let raw = given.into_value()?.value;
        let words = [("stay", OnFailure::Stay), ("flip", OnFailure::Flip)];
        let hint = "\"stay\": the new release stays live and a person decides; \"flip\": the traffic goes back all the same";
        Some(MigrationRules {
            paths: self.patterns(&raw.paths),
            contract: self.patterns(&raw.contract),
            on_failure: self
                .word(&raw.on_failure, &words, "does not say what follows", |_| hint.to_owned())
                .unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("migration = true", "4 app.shop.migration", "expected a table, found true"),
        ("migration.paths = \"db/**\"", "4 app.shop.migration.paths", "expected a list, found a text"),
        ("migration.contract = [\"\"]", "4 app.shop.migration.contract[0]", "is empty"),
        (
            "migration.on_failure = \"wait\"",
            "4 app.shop.migration.on_failure",
            "does not say what follows: \"wait\"",
        ),
        ("migration.contracts = []", "4 app.shop.migration.contracts", "unknown key"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
