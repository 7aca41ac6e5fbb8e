//! `bgd why`: why nothing is being deployed.

use crate::{
    api::wire::{Answer, Exit, Request},
    cli::{
        CliContext,
        args::AppArg,
        problem::CliProblem,
        terminal::{self, one_line},
    },
};

pub(super) async fn run(context: &CliContext, args: AppArg) -> Result<Exit, CliProblem> {
    let Answer::Why(why) = context.installation()?.ask(&Request::Why { app: args.app }).await? else {
        return Err(CliProblem::unexpected());
    };
    terminal::data(&one_line(&why.text))?;
    if let Some(hint) = why.hint {
        terminal::chatter(&format!("hint: {}", one_line(&hint)));
    }
    Ok(Exit::Done)
}
