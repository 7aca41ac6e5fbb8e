//! `bgd hold` and `bgd resume`: automatic deploys off and on.

use crate::{
    api::wire::{Exit, Request},
    cli::{
        CliContext,
        args::{AppArg, HoldArgs},
        problem::CliProblem,
        sentence,
    },
};

pub(super) async fn run(context: &CliContext, args: HoldArgs) -> Result<Exit, CliProblem> {
    sentence::asked(context, Request::Hold { app: args.app, reason: args.message }).await
}

pub(super) async fn resume(context: &CliContext, args: AppArg) -> Result<Exit, CliProblem> {
    sentence::asked(context, Request::Resume { app: args.app }).await
}
