//! Answers of one sentence, which several commands share.

use crate::{
    api::wire::{Answer, Exit, Request},
    cli::{
        Context,
        problem::Problem,
        progress,
        terminal::{self, one_line},
    },
};

/// Sends a request that is done at once, and prints the answer.
pub(super) async fn asked(context: &Context, request: Request) -> Result<Exit, Problem> {
    said(context.installation()?.ask(&request).await?)
}

/// Sends a request that takes some time, shows its progress, and prints the answer.
pub(super) async fn followed(context: &Context, request: Request) -> Result<Exit, Problem> {
    let mut call = context.installation()?.open(&request).await?;
    said(progress::follow(&mut call, context.stderr).await?)
}

fn said(answer: Answer) -> Result<Exit, Problem> {
    let Answer::Said(text) = answer else { return Err(Problem::unexpected()) };
    // Reload may list several apps, a line each.
    let lines: Vec<_> = text.lines().map(one_line).collect();
    terminal::data(&lines.join("\n"))?;
    Ok(Exit::Done)
}
