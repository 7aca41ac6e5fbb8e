//! Names and numbers that identify things, as newtypes, so that one can't be passed for another.
//! Used everywhere; this file must stay free of behaviour beyond parsing and display.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}: {value:?}")]
pub struct BadId {
    /// The expected form, with its article.
    pub expected: &'static str,
    /// The text that was rejected.
    pub value: String,
}

/// The name of an app: 1 to 32 of `a-z 0-9 - _`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

impl AppName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names that an app can't have: each app has a directory of its name in the state directory, where these are files of
/// bgd.
const TAKEN_NAMES: [&str; 2] = ["lock", "reserve"];

impl FromStr for AppName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if TAKEN_NAMES.contains(&text) {
            let expected = "an app name (`lock` and `reserve` are files of bgd in the state directory)";
            return Err(BadId { expected, value: text.to_owned() });
        }
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadId { expected: "an app name (1 to 32 of a-z 0-9 - _)", value: text.to_owned() })
        }
    }
}

/// Names in the form of an app's name, and what is expected in the place of another text.
macro_rules! name_id {
    ($($(#[$doc:meta])* $name:ident = $expected:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                match is_name(text) {
                    true => Ok(Self(text.to_owned())),
                    false => Err(BadId { expected: $expected, value: text.to_owned() }),
                }
            }
        }
    )*};
}
name_id! {
    /// The name of one kind of worker of an app: 1 to 32 of `a-z 0-9 - _`, beginning with a letter or digit.
    WorkerName = "a worker's name (1 to 32 of a-z 0-9 - _)";
    /// The name of a schedule of an app: it stands in file names.
    CronName = "a schedule's name (1 to 32 of a-z 0-9 - _)";
    /// The name of a task: it stands in file names and in names of steps.
    TaskName = "a task name (1 to 32 of a-z 0-9 - _)";
}

/// Whether a text is safe as a part of file names, and short.
fn is_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=32).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['-', '_'])
}

/// One of an app's two places: blue listens on the first port, green on the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// The first port.
    Blue,
    /// The second port.
    Green,
}

impl Color {
    /// Both colors, in port order.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The name as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

impl FromStr for Color {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::ALL
            .into_iter()
            .find(|color| color.as_str() == text)
            .ok_or_else(|| BadId { expected: "a color (blue or green)", value: text.to_owned() })
    }
}

/// A git commit: 40 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

impl CommitId {
    /// The 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first seven digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

impl FromStr for CommitId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.len() == 40 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadId { expected: "a commit (40 hex digits)", value: text.to_owned() })
        }
    }
}

/// A release: `<YYYYMMDDTHHMMSSZ>-<seq>-<short sha>`, the name of its directory.
/// Order is the stored counter `seq`, never the time in the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(String);

impl ReleaseId {
    /// Names a release; `utc` is `YYYYMMDDTHHMMSSZ`.
    pub fn new(utc: &str, seq: u64, commit: &CommitId) -> Self {
        Self(format!("{utc}-{seq}-{}", commit.short()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The deploy that made it: its `seq` is the deploy's number.
    pub fn deploy(&self) -> DeployId {
        let seq = self.0.split('-').nth(1).and_then(|seq| seq.parse().ok());
        DeployId(seq.unwrap_or_default())
    }
}

impl FromStr for ReleaseId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { expected: "a release (<UTC time>-<seq>-<short sha>)", value: text.to_owned() };
        let mut parts = text.split('-');
        let (Some(utc), Some(seq), Some(sha), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let utc_ok = utc.len() == 16
            && utc.bytes().enumerate().all(|(at, c)| match at {
                8 => c == b'T',
                15 => c == b'Z',
                _ => c.is_ascii_digit(),
            });
        let seq_ok = !seq.is_empty() && seq.len() < 20 && seq.bytes().all(|c| c.is_ascii_digit());
        let sha_ok = sha.len() == 7 && sha.bytes().all(|c| c.is_ascii_hexdigit());
        if utc_ok && seq_ok && sha_ok { Ok(Self(text.to_owned())) } else { Err(bad()) }
    }
}

macro_rules! text_id {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
    )*};
}
text_id!(AppName, Color, CommitId, CronName, ReleaseId, TaskName, WorkerName);

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
number_id!(
    /// One due time of a schedule in the record.
    CronRunId,
    /// The number of a deploy, as `bgd show` takes it; one counter for all apps.
    DeployId,
    /// One effect of the machine; its result comes back under the same number.
    EffectId,
    /// The number of a front's route; a higher one is newer.
    Generation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_name_round_trips_and_garbage_is_refused() {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let id = ReleaseId::new("20261121T101112Z", 42, &commit);
        assert_eq!(id.as_str(), "20261121T101112Z-42-0123456");
        assert_eq!(id.as_str().parse(), Ok(id));
        for bad in ["", "..", "20261121T101112Z-42-0123456/..", "20261121T101112Z--0123456", "a-b-c"] {
            assert!(bad.parse::<ReleaseId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn app_names_are_safe_as_file_names() {
        assert!("shop-2_x".parse::<AppName>().is_ok());
        for bad in ["", ".", "..", "a/b", "-a", "A", "ä", "a b", "lock", "reserve", &"x".repeat(33)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }
}
