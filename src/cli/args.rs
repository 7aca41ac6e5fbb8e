//! The command line as clap sees it: names, help texts, nothing else. `--help`, man pages and completions are
//! made from this file, so its words are the contract's.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::{
    config::duration,
    rules::{
        canary::Share,
        ids::{AppName, Color, CommitId, CronName, WorkerName},
    },
};

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed; the old color still serves
   2  usage or configuration
   3  nothing is live
   4  the daemon can't be reached
   5  refused because of a hold, a lock or a contract migration
   6  rolled back automatically
   7  not permitted
   8  timed out while waiting; the work goes on
  20  (status only) serving but degraded

The configuration is found by --config, then $BGD_CONFIG, then ./bgd.toml, then /etc/bgd/bgd.toml.
New here? `bgd demo` shows it all on this machine; `bgd init` writes a first bgd.toml.";

/// Blue/green releases: push to main and it deploys itself, nothing dropped
#[derive(Debug, Parser)]
#[command(name = "bgd", version, after_help = EXIT_CODES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file [default: $BGD_CONFIG, ./bgd.toml, /etc/bgd/bgd.toml]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Watch it work on this machine: pushes under load, a broken push, a way back
    ///
    /// Needs nothing but git repositories of its own making: a sample app, a bare remote and a daemon live in
    /// a temporary directory for about half a minute. Prints what was lost (nothing) and leaves nothing behind.
    Demo,
    /// Write an annotated bgd.toml into this directory
    ///
    /// An existing file is never overwritten.
    Init,
    /// Validate the configuration files
    ///
    /// Reports everything wrong at once, with file, line, key and a hint. Needs no daemon, no root, no network.
    Check,
    /// Validate this host: ports, disk, user, remote access, front
    ///
    /// One line a check: ok, warn or fail. Changes nothing. Exit 1 when a check fails.
    Doctor(AppArg),
    /// Run the supervisor, in the foreground
    ///
    /// Ends on SIGTERM and leaves apps and front serving; reads the configuration again on SIGHUP.
    Daemon,
    /// What is live, is it healthy, what happens next, can I go back
    Status(StatusArgs),
    /// Deploy now, and wait for the result
    ///
    /// Shows the progress and ends when the deploy has ended. The same commit again is a redeploy. Leaving
    /// with Ctrl-C leaves the deploy running.
    Deploy(DeployArgs),
    /// Go back one release, or cancel the deploy under way
    ///
    /// The one way back. During a deploy it cancels it; after one it moves the traffic to the release that
    /// was live before, starting it if it no longer runs. The abandoned commit is marked bad, and automatic
    /// deploys are held until a newer commit arrives. Works with the daemon stopped or hung.
    #[command(visible_aliases = ["rollback", "undo"])]
    Flip(FlipArgs),
    /// Set a canary's share of the traffic, or hand it back to the steps
    Canary {
        /// What to do with it
        #[command(subcommand)]
        command: CanaryCommand,
    },
    /// Give a canary all of the traffic now, or end the watch early
    ///
    /// Skips what is left of the steps of `canary`, or of the watch after the flip; with `--step` only what is left of
    /// this step. `bgd flip` is the other way.
    Promote(PromoteArgs),
    /// Turn automatic deploys off
    ///
    /// The live release serves on; `bgd resume` turns them on again.
    Hold(HoldArgs),
    /// Turn automatic deploys on again
    ///
    /// Deploys no commit that is marked bad, by a flip or a failure: push a newer one, or `bgd deploy`.
    Resume(AppArg),
    /// List the deploys, newest first
    History(HistoryArgs),
    /// One deploy with its steps, probe answers and log tail
    Show(ShowArgs),
    /// Output of the instances, of the newest build or of a schedule
    Logs(LogsArgs),
    /// What happened, one line an event
    Events(EventsArgs),
    /// The schedules: when they run next, and how the last run ended
    Cron(CronArgs),
    /// Why nothing is being deployed
    Why(AppArg),
    /// Wait until something is live; for scripts and CI
    ///
    /// Exit 0 when it is so, 8 when the time is over, 1 (or 6) at once when the deploy of that very commit
    /// failed (or was rolled back).
    Wait(WaitArgs),
    /// Run one command in the live release's directory, environment and user
    ///
    /// The exit code is the command's.
    Exec(ExecArgs),
    /// Take an app out of service: its instances are stopped, deploys are held
    Down(DownArgs),
    /// Put an app back into service
    Up(AppArg),
    /// Read the configuration again
    ///
    /// A bad file leaves the old configuration in force and says why.
    Reload,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write one page a command into a directory
    Man {
        /// Write all pages there
        #[arg(long, value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// What `bgd canary` does.
#[derive(Debug, Subcommand)]
pub enum CanaryCommand {
    /// Give it this share of the traffic, until `resume`, `bgd promote` or `bgd flip`
    Set {
        /// In percent, 0 to 99; at 0 only previews reach it
        #[arg(value_parser = share)]
        share: Share,
        /// The app; may be left out when there is one
        app: Option<AppName>,
    },
    /// On with the step that was left, from its beginning
    Resume(AppArg),
}

/// An app and nothing else.
#[derive(Debug, Args)]
pub struct AppArg {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
}

/// Arguments of `bgd flip`.
#[derive(Debug, Args)]
pub struct FlipArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// Go back although a contract migration stands in the way: the old release gets a schema that is ahead of it
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `bgd promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// Go on to the next step only; after the last one that is all of the traffic
    #[arg(long)]
    pub step: bool,
}

/// Arguments of `bgd status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The app; all when left out
    pub app: Option<AppName>,
    /// The whole status as JSON
    #[arg(long, conflicts_with_all = ["oneline", "output"])]
    pub json: bool,
    /// One line an app
    #[arg(long, conflicts_with = "output")]
    pub oneline: bool,
    /// Keep watching: refresh every second; in a pipe, a line whenever something changed
    #[arg(short, long)]
    pub watch: bool,
    /// Print one value of the JSON, such as `live.commit` or `state`; nothing known prints an empty line
    #[arg(short, long, value_name = "KEY")]
    pub output: Option<String>,
}

/// Arguments of `bgd deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// A commit, tag or branch [default: the tip of the configured branch]
    #[arg(long)]
    pub rev: Option<String>,
    /// Only begin it: print its number and end
    #[arg(long)]
    pub detach: bool,
    /// Deploy it although it is from before a contract migration
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `bgd hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// Why, for the others
    #[arg(short, long, value_name = "TEXT")]
    pub message: String,
}

/// Arguments of `bgd history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The app; all when left out
    pub app: Option<AppName>,
    /// At most this many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub limit: u32,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bgd show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The deploy's number, as `bgd history` lists it
    #[arg(value_parser = deploy_number)]
    pub id: u64,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bgd logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: u32,
    /// The instances on this color: blue or green [default: the live one]
    #[arg(long)]
    pub color: Option<Color>,
    /// One of several instances, counted from 1 [default: all of them, each line with its number]
    #[arg(long, value_name = "N", conflicts_with = "build")]
    pub instance: Option<u16>,
    /// The newest build instead
    #[arg(long, conflicts_with = "color")]
    pub build: bool,
    /// A worker instead
    #[arg(long, value_name = "NAME", conflicts_with_all = ["color", "build"])]
    pub worker: Option<WorkerName>,
    /// The runs of a schedule instead
    #[arg(long, value_name = "NAME", conflicts_with_all = ["color", "build", "instance"])]
    pub cron: Option<CronName>,
    /// The newest run of this task or hook instead
    #[arg(long, value_name = "NAME", conflicts_with_all = ["color", "build", "worker", "cron", "instance"])]
    pub task: Option<String>,
    /// Its run in this deploy
    #[arg(long, value_name = "ID", requires = "task")]
    pub deploy: Option<u64>,
}

/// Arguments of `bgd cron`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CronArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: Option<CronCommand>,
    #[command(flatten)]
    pub list: CronListArgs,
}

/// Commands of `bgd cron`.
#[derive(Debug, Subcommand)]
pub enum CronCommand {
    /// List the schedules (as `bgd cron` alone)
    List(CronListArgs),
    /// Run one now, in the live release, and show its output
    ///
    /// Exit 0 when it worked, 1 when it failed. Leaving with Ctrl-C does not end it.
    Run {
        /// Which one
        name: CronName,
        /// The app; may be left out when there is one
        app: Option<AppName>,
    },
}

/// Arguments of `bgd cron list`.
#[derive(Debug, Args)]
pub struct CronListArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// As JSON: the `cron` of `bgd status --json`
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bgd events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The app; all when left out
    pub app: Option<AppName>,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Only events after this number [default: the last 20]
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
}

/// Arguments of `bgd wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// `live`: something serves; `rev=SHA`: that commit serves and its watch is over
    #[arg(long = "for", value_name = "live|rev=SHA", value_parser = Goal::parse)]
    pub goal: Goal,
    /// How long at most, such as 90s or 10m
    #[arg(long, value_name = "D", default_value = "10m", value_parser = duration_arg)]
    pub timeout: Duration,
}

/// Arguments of `bgd exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// In the environment of this worker
    #[arg(long, value_name = "NAME")]
    pub worker: Option<WorkerName>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// Arguments of `bgd down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The app; may be left out when there is one
    pub app: Option<AppName>,
    /// Yes, nothing shall serve any more
    #[arg(long)]
    pub yes: bool,
}

/// What `bgd wait` waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Something receives the traffic and is not known to be unhealthy.
    Live,
    /// This commit (its first 7 to 40 hex digits, in lower case) is live and its watch is over.
    Rev(String),
}

impl Goal {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "live" {
            return Ok(Self::Live);
        }
        let Some(sha) = text.strip_prefix("rev=") else {
            return Err("write `live` or `rev=SHA`".to_owned());
        };
        let sha = sha.to_ascii_lowercase();
        if (7..=40).contains(&sha.len()) && sha.bytes().all(|c| c.is_ascii_hexdigit()) {
            Ok(Self::Rev(sha))
        } else {
            Err("a commit is 7 to 40 hex digits, as `git rev-parse HEAD` prints it".to_owned())
        }
    }

    /// Whether this is the commit meant; `Live` means no commit.
    pub fn names(&self, commit: &CommitId) -> bool {
        match self {
            Self::Live => false,
            Self::Rev(prefix) => commit.as_str().starts_with(prefix.as_str()),
        }
    }
}

fn duration_arg(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| format!("{error}: {}", error.hint()))
}

fn share(text: &str) -> Result<Share, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent < 100);
    percent.and_then(Share::percent).ok_or("a share is 0 to 99 percent; `bgd promote` gives all".to_owned())
}

fn deploy_number(text: &str) -> Result<u64, String> {
    // `#7` is how messages write it, and what people paste.
    text.trim_start_matches('#').parse().map_err(|_| "a number such as 7 or #7".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_parses() {
        for line in [
            "bgd demo",
            "bgd init",
            "bgd check",
            "bgd doctor",
            "bgd daemon --config /etc/bgd/bgd.toml",
            "bgd --config x.toml status",
            "bgd status shop --json",
            "bgd status shop --oneline -w",
            "bgd status -o live.commit",
            "bgd deploy shop --rev v1.2 --detach",
            "bgd flip shop",
            "bgd flip shop --force",
            "bgd deploy --rev v1.2 --force",
            "bgd rollback",
            "bgd undo",
            "bgd hold shop -m freeze",
            "bgd resume",
            "bgd canary set 20",
            "bgd canary set 20% shop",
            "bgd canary resume shop",
            "bgd promote shop",
            "bgd history shop --json",
            "bgd show 7",
            "bgd show #7",
            "bgd logs shop -f -n 5 --color green",
            "bgd logs --build",
            "bgd events -f --json --since 12",
            "bgd why shop",
            "bgd wait shop --for live --timeout 5s",
            "bgd wait --for rev=0123456 --timeout 1h30m",
            "bgd exec shop -- php artisan tinker",
            "bgd exec -- ls -l",
            "bgd down shop --yes",
            "bgd up shop",
            "bgd reload",
            "bgd completions bash",
            "bgd man --dir /tmp",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn mistakes_are_refused_before_anything_happens() {
        for line in [
            "bgd",
            "bgd flop",
            "bgd status Shop",
            "bgd hold shop",
            "bgd canary",
            "bgd canary set 100",
            "bgd canary set -1",
            "bgd logs --build --color blue",
            "bgd logs --color red",
            "bgd wait --for rev=012345 --timeout 5s",
            "bgd wait --for dead",
            "bgd wait --for live --timeout 5",
            "bgd exec shop",
            "bgd show",
            "bgd status --json -o state",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn i8_flip_help_does_nothing() {
        let error = parse("bgd flip --help").unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
        assert_eq!(error.exit_code(), 0);
    }

    #[test]
    fn a_commit_is_named_by_seven_digits_or_more_of_either_case() {
        let goal = Goal::parse("rev=0123456789ABCDEF").unwrap();
        assert!(goal.names(&"0123456789abcdef0123456789abcdef01234567".parse().unwrap()));
        assert!(!goal.names(&"0123456789abcdee0123456789abcdef01234567".parse().unwrap()));
    }
}
