//! `bgd canary` and `bgd promote`: the share of the traffic that a new release has.

use crate::{
    api::wire::{Exit, Request},
    cli::{
        CliContext,
        args::{AppArg, CanaryCommand, PromoteArgs},
        problem::CliProblem,
        sentence,
    },
};

pub(super) async fn run(context: &CliContext, args: CanaryCommand) -> Result<Exit, CliProblem> {
    let request = match args {
        CanaryCommand::Set { share, app } => Request::SetShare { app, share },
        CanaryCommand::Resume(AppArg { app }) => Request::ResumeSteps { app },
    };
    sentence::followed(context, request).await
}

pub(super) async fn promote(
    context: &CliContext,
    PromoteArgs { app, step }: PromoteArgs,
) -> Result<Exit, CliProblem> {
    let request = if step { Request::NextStep { app } } else { Request::Promote { app } };
    sentence::followed(context, request).await
}
