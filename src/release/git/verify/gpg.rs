//! Verifies signatures of GPG keys with `gpgv` against a keyring file: every key in it is trusted, and no other. The
//! status output must report exactly one good signature, by a key that is not revoked, expired or weak; the exit code
//! alone is not enough.

use super::{
    SignatureRefusal,
    sealed::Sealed,
    signature::Signed,
    tool::{no_memory, run},
    trust::TrustFile,
};
use crate::release::git::text::one_line;

const PROGRAM: &str = "gpgv";
const STATUS: &str = "[GNUPG:] ";

/// Verifies one signature; returns the signer.
pub fn verify(signed: &Signed, keyring: &TrustFile) -> Result<String, SignatureRefusal> {
    let sealed = |bytes: &[u8]| Sealed::of(bytes).map_err(no_memory(PROGRAM));
    let (ring, signature) = (sealed(&keyring.bytes)?, sealed(&signed.signature)?);
    let payload = sealed(&signed.payload)?;
    let (ring_path, signature_path) = (ring.path(), signature.path());
    // That home does not exist, so gpgv reads no keyring but the given one.
    let args = [
        "--homedir",
        "/nonexistent",
        "--keyring",
        &ring_path,
        "--weak-digest",
        "SHA1",
        "--status-fd",
        "1",
        "--",
        &signature_path,
        "-",
    ];
    let said = run(PROGRAM, &args, &payload)?;
    match verdict(&said.out) {
        GpgVerdict::Good(signer) if said.good => Ok(signer),
        GpgVerdict::Good(_) | GpgVerdict::Unclear => {
            let complaint = said.complaint(&keyring.path.display().to_string(), &ring);
            Err(SignatureRefusal::Untrusted(format!("its signature is bad: {complaint}")))
        }
        GpgVerdict::Stranger(key) => {
            let list = keyring.path.display();
            Err(SignatureRefusal::Untrusted(format!(
                "it is signed by the GPG key {key}, which is not in {list}"
            )))
        }
        GpgVerdict::Bad(why) => Err(SignatureRefusal::Untrusted(why)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum GpgVerdict {
    Good(String),
    Stranger(String),
    Bad(String),
    Unclear,
}

/// Reads the status lines. A signature is good only if they say so without doubt.
fn verdict(out: &str) -> GpgVerdict {
    let lines: Vec<(&str, &str)> = out
        .lines()
        .filter_map(|line| line.strip_prefix(STATUS))
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect();
    let of =
        |word: &str| lines.iter().find(|(name, _)| *name == word).map(|(_, rest)| one_line(rest.as_bytes()));
    let count = |word: &str| lines.iter().filter(|(name, _)| *name == word).count();
    if count("NEWSIG") > 1 {
        return GpgVerdict::Bad("it has more than one signature".to_owned());
    }
    for (word, what) in [
        ("BADSIG", "does not fit the commit"),
        ("REVKEYSIG", "is by a revoked key"),
        ("EXPKEYSIG", "is by an expired key"),
        ("EXPSIG", "has expired"),
    ] {
        if let Some(who) = of(word) {
            return GpgVerdict::Bad(format!("its signature {what}: {who}"));
        }
    }
    if let Some(key) = of("NO_PUBKEY") {
        return GpgVerdict::Stranger(key);
    }
    let alone =
        count("GOODSIG") == 1 && count("VALIDSIG") == 1 && count("ERRSIG") == 0 && count("NODATA") == 0;
    of("GOODSIG").filter(|_| alone).map_or(GpgVerdict::Unclear, GpgVerdict::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 3C Ann <a@x>\n[GNUPG:] VALIDSIG 77 2026\n";

    #[test]
    fn one_good_signature_and_nothing_else_is_good() {
        assert_eq!(verdict(GOOD), GpgVerdict::Good("3C Ann <a@x>".to_owned()));
        assert_eq!(verdict(""), GpgVerdict::Unclear);
        assert_eq!(verdict(&GOOD.replace("VALIDSIG", "X")), GpgVerdict::Unclear);
        assert_eq!(verdict(&GOOD.replace("[GNUPG:] ", "")), GpgVerdict::Unclear);
        assert_eq!(verdict(&format!("{GOOD}[GNUPG:] ERRSIG 3C 22 8 00 1 9\n")), GpgVerdict::Unclear);
        assert!(matches!(verdict(&GOOD.repeat(2)), GpgVerdict::Bad(_)));
    }

    #[test]
    fn a_signature_that_is_not_good_is_told_with_its_reason_and_signer() {
        for (word, what) in
            [("BADSIG", "does not fit"), ("REVKEYSIG", "revoked"), ("EXPKEYSIG", "expired key")]
        {
            let GpgVerdict::Bad(why) = verdict(&GOOD.replace("GOODSIG", word)) else { panic!("{word}") };
            assert!(why.contains(what) && why.contains("Ann <a@x>"), "{why}");
        }
        let stranger = "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 3C 22 8 00 1 9 77\n[GNUPG:] NO_PUBKEY 3C\n";
        assert_eq!(verdict(stranger), GpgVerdict::Stranger("3C".to_owned()));
    }
}
