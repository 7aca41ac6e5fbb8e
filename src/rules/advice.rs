//! Advice as data: a command of bgd, which is completed with the app's name where it is shown, or a sentence.

use crate::rules::ids::AppName;

/// The next step for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// One command, for the app that was asked about.
    Run(Verb),
    /// Several commands, or something besides.
    Say(&'static str),
}

/// A command that takes the app's name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `bgd deploy`.
    Deploy,
    /// `bgd resume`.
    Resume,
    /// `bgd status`.
    Status,
    /// `bgd up`.
    Up,
}

impl Advice {
    /// The advice as text, for people; the app's name may be left out where there is only one app.
    pub fn text(self, app: Option<&AppName>) -> String {
        match (self, app) {
            (Self::Run(verb), Some(app)) => format!("bgd {} {app}", verb.as_str()),
            (Self::Run(verb), None) => format!("bgd {}", verb.as_str()),
            (Self::Say(text), _) => text.to_owned(),
        }
    }
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Resume => "resume",
            Self::Status => "status",
            Self::Up => "up",
        }
    }
}

impl From<Verb> for Advice {
    fn from(verb: Verb) -> Self {
        Self::Run(verb)
    }
}

impl From<&'static str> for Advice {
    fn from(text: &'static str) -> Self {
        Self::Say(text)
    }
}
