//! The commands whose answer is one sentence: `hold`, `resume`, `canary`, `promote`, `down`, `reload`, `why`.

use crate::{
    api::wire::{Answer, Exit, Request},
    cli::{
        Context,
        args::{AppArg, CanaryCommand, DownArgs, HoldArgs, PromoteArgs},
        problem::Problem,
        progress,
        terminal::{self, one_line},
    },
};

/// Runs `bgd hold`.
pub async fn hold(context: &Context, args: HoldArgs) -> Result<Exit, Problem> {
    sentence(context, Request::Hold { app: args.app, reason: args.message }).await
}

/// Runs `bgd resume`.
pub async fn resume(context: &Context, args: AppArg) -> Result<Exit, Problem> {
    sentence(context, Request::Resume { app: args.app }).await
}

/// Runs `bgd canary`.
pub async fn canary(context: &Context, args: CanaryCommand) -> Result<Exit, Problem> {
    let request = match args {
        CanaryCommand::Set { share, app } => Request::SetShare { app, share },
        CanaryCommand::Resume(AppArg { app }) => Request::ResumeSteps { app },
    };
    followed(context, request).await
}

/// Runs `bgd promote`.
pub async fn promote(context: &Context, PromoteArgs { app, step }: PromoteArgs) -> Result<Exit, Problem> {
    followed(context, if step { Request::NextStep { app } } else { Request::Promote { app } }).await
}

/// Runs `bgd reload`.
pub async fn reload(context: &Context) -> Result<Exit, Problem> {
    sentence(context, Request::Reload).await
}

/// Runs `bgd down`, which stops what serves and therefore wants `--yes`.
pub async fn down(context: &Context, args: DownArgs) -> Result<Exit, Problem> {
    if !args.yes {
        let name = args.app.as_ref().map(|app| format!(" {app}")).unwrap_or_default();
        let hint =
            format!("`bgd down{name} --yes` if that is meant; `bgd flip` goes back one release instead");
        return Err(Problem::usage("this takes the app out of service: nothing would serve any more", hint));
    }
    followed(context, Request::Down { app: args.app }).await
}

async fn followed(context: &Context, request: Request) -> Result<Exit, Problem> {
    let mut call = context.installation()?.client().open(&request).await?;
    said(progress::follow(&mut call, context.stderr).await?)
}

/// Runs `bgd why`.
pub async fn why(context: &Context, args: AppArg) -> Result<Exit, Problem> {
    let Answer::Why(why) = context.installation()?.client().ask(&Request::Why { app: args.app }).await?
    else {
        return Err(Problem::unexpected());
    };
    terminal::data(&one_line(&why.text))?;
    if let Some(hint) = why.hint {
        terminal::chatter(&format!("hint: {}", one_line(&hint)));
    }
    Ok(Exit::Done)
}

async fn sentence(context: &Context, request: Request) -> Result<Exit, Problem> {
    said(context.installation()?.client().ask(&request).await?)
}

fn said(answer: Answer) -> Result<Exit, Problem> {
    let Answer::Said(text) = answer else { return Err(Problem::unexpected()) };
    // Reload may list several apps, a line each.
    let lines: Vec<_> = text.lines().map(one_line).collect();
    terminal::data(&lines.join("\n"))?;
    Ok(Exit::Done)
}
