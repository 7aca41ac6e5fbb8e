//! `[app.NAME.verify]`: the keys that must have signed deployed commits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{
    judge::{Holds, Judge},
    read::Given,
};

table! {
    /// `[app.NAME.verify]`.
    RawVerify { signers: String, keyring: String, range: String }
}

/// The keys that must have signed deployed commits; at least one file is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// SSH keys, in OpenSSH's format allowed_signers (`gpg.ssh.allowedSignersFile` of git).
    pub signers: Option<PathBuf>,
    /// GPG keys, as `gpg --export` writes them; all of them are trusted.
    pub keyring: Option<PathBuf>,
    /// Which commits have to be signed.
    pub range: VerifyRange,
}

/// Which commits have to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyRange {
    /// Only the deployed commit: its signer vouches for its history.
    Tip,
    /// Every commit since the last accepted one; at the first deploy only the tip.
    All,
}

const RANGE: VerifyRange = VerifyRange::Tip;

impl Judge<'_> {
    /// Checks the table. It must name a file of keys, or it would only look like a check.
    pub(super) fn verify(&mut self, given: Given<RawVerify>) -> Option<Verify> {
        let raw = given.into_value()?.value;
        if raw.signers.span().or(raw.keyring.span()).is_none() {
            let hint = "write signers = \"allowed_signers\" (SSH keys), keyring = \"keyring.gpg\" (GPG keys), or both";
            self.notes.error(&raw.at, "names nobody to trust", hint);
        }
        if let Some(signers) = raw.signers.value().filter(|written| written.value.ends_with(".pub")) {
            let hint =
                "a line of an allowed_signers file begins with who: `ann@example.com ssh-ed25519 AAAA…`";
            self.notes.warn(&signers.at, "looks like a public key, which names nobody", hint);
        }
        Some(Verify {
            signers: self.host_file(&raw.signers, Holds::Plain),
            keyring: self.host_file(&raw.keyring, Holds::Plain),
            range: self
                .word(
                    &raw.range,
                    &[("tip", VerifyRange::Tip), ("all", VerifyRange::All)],
                    "is not a range",
                    |_| "\"tip\": the commit that is deployed; \"all\": every new commit".to_owned(),
                )
                .unwrap_or(RANGE),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("verify = {}", "4 app.shop.verify", "names nobody to trust"),
        ("verify.range = \"all\"", "4 app.shop.verify", "names nobody to trust"),
        (
            "verify = { signers = \"s\", range = \"some\" }",
            "4 app.shop.verify.range",
            "is not a range: \"some\"",
        ),
        ("verify.signers = \"~/s\"", "4 app.shop.verify.signers", "`~` is not expanded"),
        ("verify.keyring = \"\"", "4 app.shop.verify.keyring", "is empty"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_public_key_in_the_place_of_a_list_of_signers_is_warned_of() {
        let app = "remote = \"/srv/shop.git\"\nstart = \"./serve $PORT\"\nhealth.path = \"/\"";
        let said = warnings(&format!("[app.shop]\n{app}\nverify.signers = \"/etc/bgd/id_ed25519.pub\""));
        assert_eq!(said, ["app.shop.verify.signers: looks like a public key, which names nobody"]);
    }
}
