//! Answers of one sentence, which several commands share.

use crate::{
    api::wire::{Answer, Exit, Request},
    cli::{
        CliContext,
        problem::CliProblem,
        progress,
        terminal::{self, one_line},
    },
};

/// Sends a request that is done at once, and prints the answer.
pub(super) async fn asked(context: &CliContext, request: Request) -> Result<Exit, CliProblem> {
    said(context.installation()?.ask(&request).await?)
}

/// Sends a request that takes some time, shows its progress, and prints the answer.
pub(super) async fn followed(context: &CliContext, request: Request) -> Result<Exit, CliProblem> {
    let mut call = context.installation()?.open(&request).await?;
    said(progress::follow(&mut call, context.stderr).await?)
}

fn said(answer: Answer) -> Result<Exit, CliProblem> {
    let Answer::Said(text) = answer else { return Err(CliProblem::unexpected()) };
    // Reload may list several apps, a line each.
    let lines: Vec<_> = text.lines().map(one_line).collect();
    terminal::data(&lines.join("\n"))?;
    Ok(Exit::Done)
}
