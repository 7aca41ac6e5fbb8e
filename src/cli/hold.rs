//! `bgd hold` and `bgd resume`: automatic deploys off and on.

use crate::{
    api::wire::{Exit, Request},
    cli::{
        Context,
        args::{AppArg, HoldArgs},
        problem::Problem,
        sentence,
    },
};

pub(super) async fn run(context: &Context, args: HoldArgs) -> Result<Exit, Problem> {
    sentence::asked(context, Request::Hold { app: args.app, reason: args.message }).await
}

pub(super) async fn resume(context: &Context, args: AppArg) -> Result<Exit, Problem> {
    sentence::asked(context, Request::Resume { app: args.app }).await
}
