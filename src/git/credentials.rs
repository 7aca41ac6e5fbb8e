//! The credentials of one connection, each offered once: what the settings name first, then the ssh agent and
//! the user's own keys. Used by `transfer` inside the worker. Never prompts, never asks git's helpers, and never
//! shows the app's token or key to another server than the app's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use git2::{Cred, CredentialType, Error, ErrorClass, ErrorCode};

use super::{
    error::{Cause, GitError},
    remote::{Location, location, same_server},
    wire::Opening,
};

/// Names of the user's own keys, in the order of OpenSSH's strength.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// What the settings name, read while the worker may still read it (before it becomes the app's user).
#[derive(Clone, Default)]
pub struct Secrets {
    ssh_key: Option<String>,
    token: Option<String>,
}

impl Secrets {
    /// Reads the files that the settings name.
    pub fn read(opening: &Opening) -> Result<Self, GitError> {
        let ssh_key = opening.ssh_key.as_deref().map(read_secret).transpose()?;
        let token = opening.token_file.as_deref().map(read_secret).transpose()?;
        Ok(Self { ssh_key, token: token.map(|token| token.trim().to_owned()) })
    }

    /// The token for https, if there is one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Texts that must not appear in a message.
    pub fn texts(&self) -> Vec<String> {
        self.token.iter().cloned().collect()
    }
}

fn read_secret(path: &Path) -> Result<String, GitError> {
    fs::read_to_string(path)
        .map_err(|err| GitError::Credentials { path: path.to_owned(), cause: Cause::new(err) })
}

/// One credential not tried yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Offer {
    Token,
    ConfiguredKey,
    Agent,
    OwnKey(PathBuf),
}

impl Offer {
    fn fits(&self, allowed: CredentialType) -> bool {
        match self {
            Self::Token => allowed.contains(CredentialType::USER_PASS_PLAINTEXT),
            Self::ConfiguredKey => allowed.contains(CredentialType::SSH_MEMORY),
            Self::Agent | Self::OwnKey(_) => allowed.contains(CredentialType::SSH_KEY),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Token => "token_file".to_owned(),
            Self::ConfiguredKey => "ssh_key".to_owned(),
            Self::Agent => "ssh agent".to_owned(),
            Self::OwnKey(path) => path.display().to_string(),
        }
    }
}

/// The credentials of one connection, used up one by one.
pub struct Offers {
    secrets: Secrets,
    left: Vec<Offer>,
    tried: Vec<String>,
}

impl Offers {
    /// The credentials for `url`; `home` is where the user's own keys are.
    pub fn new(opening: &Opening, secrets: &Secrets, url: &str, home: &Path) -> Self {
        let ours = same_server(&opening.remote, url);
        let left = match location(url) {
            Location::Ssh { .. } if ours && secrets.ssh_key.is_some() => vec![Offer::ConfiguredKey],
            Location::Ssh { .. } => own_offers(home),
            Location::Url { .. } if ours && secrets.token.is_some() => vec![Offer::Token],
            Location::Url { .. } | Location::Local(_) => Vec::new(),
        };
        Self { secrets: secrets.clone(), left, tried: Vec::new() }
    }

    /// libgit2's question; it is asked again after each refusal.
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
                Err(err) => self.tried.push(format!("({})", err.message())),
            }
        }
        Err(Error::new(ErrorCode::Auth, ErrorClass::Callback, "no credential is left to try"))
    }

    fn made(&self, offer: &Offer, user: &str) -> Result<Cred, Error> {
        match offer {
            Offer::Token => {
                Cred::userpass_plaintext("x-access-token", self.secrets.token.as_deref().unwrap_or_default())
            }
            Offer::ConfiguredKey => {
                let key = self.secrets.ssh_key.as_deref().unwrap_or_default();
                Cred::ssh_key_from_memory(user, None, key, None)
            }
            Offer::Agent => Cred::ssh_key_from_agent(user),
            Offer::OwnKey(path) => Cred::ssh_key(user, None, path, None),
        }
    }

    /// What was tried, for the message.
    pub fn tried(&self) -> String {
        if self.tried.is_empty() { "none to try".to_owned() } else { self.tried.join(", ") }
    }
}

/// Who ssh logs in as when the URL does not say: the user that runs the worker, as with OpenSSH.
fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    user.map_or_else(|| "git".to_owned(), |user| user.name)
}

/// The agent, if one is announced, then the key files that exist.
fn own_offers(home: &Path) -> Vec<Offer> {
    let agent = std::env::var_os("SSH_AUTH_SOCK").map(|_| Offer::Agent);
    let keys = DEFAULT_KEYS.iter().map(|name| home.join(".ssh").join(name)).filter(|path| path.is_file());
    agent.into_iter().chain(keys.map(Offer::OwnKey)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(remote: &str) -> Opening {
        Opening {
            mirror: "/m".into(),
            remote: remote.into(),
            branch: "main".into(),
            fast_forward_only: None,
            ssh_key: None,
            known_hosts: None,
            token_file: None,
            user: None,
            home: "/nonexistent".into(),
            read_timeout_ms: 1000,
        }
    }

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
        assert_eq!(offers.left, [Offer::ConfiguredKey]);
    }
}
