//! The credentials of one connection, each offered once: what the settings name first, then the ssh agent and
//! the user's own keys. Used by `transfer` inside the worker. Never prompts, never asks git's helpers, and never
//! shows the app's token or key to another server than the app's.

use std::{
    io,
    path::{Path, PathBuf},
};

use git2::{Cred, CredentialType, Error, ErrorClass, ErrorCode};

use super::{
    error::{AuthAdvice, ErrorCause, GitError},
    remote::{Location, location, same_server, user_of},
    wire::Opening,
};
use crate::config::auth_file::{self, FileFault};

/// Names of the user's own keys, in the order of OpenSSH's strength.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

const TOKEN: &str = "token_file";
const CONFIGURED_KEY: &str = "ssh_key";

/// The content of the credential files in the settings, read before the worker becomes the app's user.
#[derive(Clone, Default)]
pub struct Secrets {
    ssh_key: Option<String>,
    token: Option<String>,
}

impl Secrets {
    /// Reads the files named in the settings.
    pub fn read(opening: &Opening) -> Result<Self, GitError> {
        let key = |path| read_file(path, auth_file::private_key);
        let token = |path| read_file(path, auth_file::token);
        if let Some(path) = &opening.ca_file {
            read_file(path, auth_file::certificates)?;
        }
        Ok(Self {
            ssh_key: opening.ssh_key.as_deref().map(key).transpose()?,
            token: opening.token_file.as_deref().map(token).transpose()?,
        })
    }

    /// The user name and the token for `url`, if there is a token.
    pub fn login(&self, url: &str) -> Option<(String, &str)> {
        let user = user_of(url).unwrap_or_else(|| default_user(url).to_owned());
        Some((user, self.token.as_deref()?))
    }

    /// Texts that must not appear in a message.
    pub fn texts(&self) -> Vec<String> {
        self.token.iter().cloned().collect()
    }
}

/// User name to send with a token if the URL has none. Most forges look at the token only.
fn default_user(url: &str) -> &'static str {
    match location(url) {
        Location::Url { authority, .. } if authority == "bitbucket.org" => "x-token-auth",
        _ => "x-access-token",
    }
}

fn read_file<T>(path: &Path, judge: fn(&[u8]) -> Result<T, FileFault>) -> Result<T, GitError> {
    let failed = |cause: &dyn std::fmt::Display, hint: &str| GitError::Credentials {
        path: path.to_owned(),
        hint: hint.to_owned(),
        cause: ErrorCause::new(cause),
    };
    let bytes = auth_file::read(path).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => failed(&err, "create it, or correct the path"),
        io::ErrorKind::PermissionDenied => {
            failed(&err, &format!("user {} has to be able to read it", own_name()))
        }
        io::ErrorKind::IsADirectory => failed(&err, "name the file itself"),
        _ => failed(&err, "name a readable file"),
    })?;
    judge(&bytes).map_err(|fault| failed(&fault, fault.hint()))
}

/// One credential that was not tried yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum UntriedCredential {
    Token,
    ConfiguredKey,
    Agent,
    OwnKey(PathBuf),
}

impl UntriedCredential {
    fn fits(&self, allowed: CredentialType) -> bool {
        match self {
            Self::Token => allowed.contains(CredentialType::USER_PASS_PLAINTEXT),
            Self::ConfiguredKey => allowed.contains(CredentialType::SSH_MEMORY),
            Self::Agent | Self::OwnKey(_) => allowed.contains(CredentialType::SSH_KEY),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Token => TOKEN.to_owned(),
            Self::ConfiguredKey => CONFIGURED_KEY.to_owned(),
            Self::Agent => "ssh agent".to_owned(),
            Self::OwnKey(path) => path.display().to_string(),
        }
    }
}

/// The credentials of one connection, used up one by one.
pub struct Offers {
    secrets: Secrets,
    url: String,
    left: Vec<UntriedCredential>,
    tried: Vec<String>,
}

impl Offers {
    /// The credentials for `url`; `home` is where the user's own keys are.
    pub fn new(opening: &Opening, secrets: &Secrets, url: &str, home: &Path) -> Self {
        let ours = same_server(&opening.remote, url);
        let left = match location(url) {
            Location::Ssh { .. } if ours && secrets.ssh_key.is_some() => {
                vec![UntriedCredential::ConfiguredKey]
            }
            Location::Ssh { .. } => own_offers(home),
            Location::Url { .. } if ours && secrets.token.is_some() => vec![UntriedCredential::Token],
            Location::Url { .. } | Location::Local(_) => Vec::new(),
        };
        Self { secrets: secrets.clone(), url: url.to_owned(), left, tried: Vec::new() }
    }

    /// Answers libgit2's request for a credential; libgit2 asks again after each refusal.
    pub fn next(&mut self, user: Option<&str>, allowed: CredentialType) -> Result<Cred, Error> {
        let own = own_name();
        let user = user.unwrap_or(&own);
        if allowed == CredentialType::USERNAME {
            return Cred::username(user);
        }
        while let Some(at) = self.left.iter().position(|offer| offer.fits(allowed)) {
            let offer = self.left.remove(at);
            self.tried.push(offer.name());
            match self.made(&offer, user) {
                Ok(cred) => return Ok(cred),
                Err(why) => self.tried.push(format!("({why})")),
            }
        }
        Err(Error::new(ErrorCode::Auth, ErrorClass::Callback, "no credential is left to try"))
    }

    fn made(&self, offer: &UntriedCredential, user: &str) -> Result<Cred, String> {
        let made = match offer {
            UntriedCredential::Token => {
                let (user, token) = self.secrets.login(&self.url).ok_or("no token")?;
                Cred::userpass_plaintext(&user, token)
            }
            UntriedCredential::ConfiguredKey => {
                let key = self.secrets.ssh_key.as_deref().unwrap_or_default();
                Cred::ssh_key_from_memory(user, None, key, None)
            }
            UntriedCredential::Agent => Cred::ssh_key_from_agent(user),
            UntriedCredential::OwnKey(path) => {
                let bytes = auth_file::read(path).map_err(|err| err.to_string())?;
                let key = auth_file::private_key(&bytes).map_err(|fault| fault.to_string())?;
                Cred::ssh_key_from_memory(user, None, &key, None)
            }
        };
        made.map_err(|err| err.message().to_owned())
    }

    /// The token with its user name, if it may be sent to this server. Marks it as tried.
    pub fn login(&mut self) -> Option<(String, String)> {
        let at = self.left.iter().position(|offer| *offer == UntriedCredential::Token)?;
        self.tried.push(self.left.remove(at).name());
        self.secrets.login(&self.url).map(|(user, token)| (user, token.to_owned()))
    }

    /// The credentials tried, for the message.
    pub fn tried(&self) -> String {
        if self.tried.is_empty() { "none to try".to_owned() } else { self.tried.join(", ") }
    }

    /// Advice if the server refused all of them.
    pub fn advice(&self) -> AuthAdvice {
        let tried = |what: &str| self.tried.iter().any(|name| name == what);
        match location(&self.url) {
            Location::Ssh { .. } if tried(CONFIGURED_KEY) => AuthAdvice::OtherKey,
            Location::Ssh { .. } | Location::Local(_) => AuthAdvice::SetKey,
            Location::Url { .. } if tried(TOKEN) => AuthAdvice::OtherToken,
            Location::Url { .. } if user_of(&self.url).is_some() => AuthAdvice::OtherUserInfo,
            Location::Url { .. } => AuthAdvice::SetToken,
        }
    }
}

/// The ssh login name if the URL has none: the worker's user, as with OpenSSH.
fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    user.map_or_else(|| "git".to_owned(), |user| user.name)
}

/// The agent, if `SSH_AUTH_SOCK` is set, then the default key files that exist.
fn own_offers(home: &Path) -> Vec<UntriedCredential> {
    let agent = std::env::var_os("SSH_AUTH_SOCK").map(|_| UntriedCredential::Agent);
    let keys = DEFAULT_KEYS.iter().map(|name| home.join(".ssh").join(name)).filter(|path| path.is_file());
    agent.into_iter().chain(keys.map(UntriedCredential::OwnKey)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::git::fixture::opening;

    #[test]
    fn a6_a_token_is_offered_once_and_to_its_server_only() {
        let secrets = Secrets { ssh_key: None, token: Some("tok".into()) };
        let opening = opening("https://h/a.git");
        let mut ours = Offers::new(&opening, &secrets, "https://h/a.git", Path::new("/nonexistent"));
        assert!(ours.next(None, CredentialType::USER_PASS_PLAINTEXT).is_ok());
        let spent = ours.next(None, CredentialType::USER_PASS_PLAINTEXT).err().unwrap();
        assert_eq!((spent.code(), ours.tried().as_str()), (ErrorCode::Auth, "token_file"));
        let mut other = Offers::new(&opening, &secrets, "https://other/a.git", Path::new("/nonexistent"));
        assert!(other.next(None, CredentialType::USER_PASS_PLAINTEXT).is_err());
    }

    #[test]
    fn a6_a_configured_key_is_the_only_one_offered() {
        let secrets = Secrets { ssh_key: Some("key".into()), token: None };
        let offers = Offers::new(&opening("git@h:a.git"), &secrets, "git@h:a.git", Path::new("/nonexistent"));
        assert_eq!(offers.left, [UntriedCredential::ConfiguredKey]);
    }
}
