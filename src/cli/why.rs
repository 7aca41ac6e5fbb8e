//! `bgd why`: why nothing is being deployed.

use crate::{
    api::wire::{Answer, Exit, Request},
    cli::{
        Context,
        args::AppArg,
        problem::Problem,
        terminal::{self, one_line},
    },
};

pub(super) async fn run(context: &Context, args: AppArg) -> Result<Exit, Problem> {
    let Answer::Why(why) = context.installation()?.ask(&Request::Why { app: args.app }).await? else {
        return Err(Problem::unexpected());
    };
    terminal::data(&one_line(&why.text))?;
    if let Some(hint) = why.hint {
        terminal::chatter(&format!("hint: {}", one_line(&hint)));
    }
    Ok(Exit::Done)
}
