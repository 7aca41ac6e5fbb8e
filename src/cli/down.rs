//! `bgd down`, which stops the live release and therefore needs `--yes`.

use crate::{
    api::wire::{Exit, Request},
    cli::{CliContext, args::DownArgs, problem::CliProblem, sentence},
};

pub(super) async fn run(context: &CliContext, args: DownArgs) -> Result<Exit, CliProblem> {
    if !args.yes {
        let name = args.app.as_ref().map(|app| format!(" {app}")).unwrap_or_default();
        let hint =
            format!("`bgd down{name} --yes` if that is meant; `bgd flip` goes back one release instead");
        return Err(CliProblem::usage(
            "this takes the app out of service: nothing would serve any more",
            hint,
        ));
    }
    sentence::followed(context, Request::Down { app: args.app }).await
}
