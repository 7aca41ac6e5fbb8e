//! Verifies signatures of SSH keys with `ssh-keygen -Y` against an allowed_signers file, as `git verify-commit` does:
//! principals, `namespaces`, `valid-after`, `valid-before` and `cert-authority` mean what ssh-keygen(1) says.
//! Validity is checked at the committer's time; to distrust a key completely the operator deletes its line.

use super::{
    SignatureRefusal,
    sealed::Sealed,
    signature::Signed,
    tool::{Said, no_memory, run},
    trust::TrustFile,
};
use crate::release::git::text::one_line;

const PROGRAM: &str = "ssh-keygen";
/// The namespace of git's signatures; a signature made for a file or a login is not valid for a commit.
const NAMESPACE: &str = "git";

/// Verifies one signature at the committer's time `at`, in seconds since 1970; returns the signer.
pub fn verify(signed: &Signed, at: i64, signers: &TrustFile) -> Result<String, SignatureRefusal> {
    let sealed = |bytes: &[u8]| Sealed::of(bytes).map_err(no_memory(PROGRAM));
    let question = SshCheck {
        signers: sealed(&signers.bytes)?,
        signature: sealed(&signed.signature)?,
        payload: sealed(&signed.payload)?,
        time: format!("-Overify-time={}", local_time(at)),
    };
    let shown = signers.path.display().to_string();
    let found = question.principals()?;
    let mut complaint = found.complaint(&shown, &question.signers);
    for principal in found.out.lines().filter(|_| found.good) {
        let said = question.verified(principal)?;
        if said.good {
            return Ok(signer_of(&said.out));
        }
        complaint = said.complaint(&shown, &question.signers);
    }
    let signature = question.signature_alone()?;
    Err(SignatureRefusal::Untrusted(if signature.good {
        format!("it is signed by {}, which {shown} does not accept: {complaint}", key_of(&signature.out))
    } else {
        format!("its signature is bad: {}", signature.complaint(&shown, &question.signers))
    }))
}

struct SshCheck {
    signers: Sealed,
    signature: Sealed,
    payload: Sealed,
    time: String,
}

impl SshCheck {
    /// The principals of the signing key by the allowed_signers file, one per line.
    fn principals(&self) -> Result<Said, SignatureRefusal> {
        let (signers, signature) = (self.signers.path(), self.signature.path());
        let args = ["-Y", "find-principals", "-f", &signers, "-s", &signature, &self.time];
        run(PROGRAM, &args, &self.payload)
    }

    fn verified(&self, principal: &str) -> Result<Said, SignatureRefusal> {
        let (signers, signature) = (self.signers.path(), self.signature.path());
        let args =
            ["-Y", "verify", "-n", NAMESPACE, "-f", &signers, "-I", principal, "-s", &signature, &self.time];
        run(PROGRAM, &args, &self.payload)
    }

    /// Whether the signature fits the commit, by any key; only for the message.
    fn signature_alone(&self) -> Result<Said, SignatureRefusal> {
        let signature = self.signature.path();
        run(PROGRAM, &["-Y", "check-novalidate", "-n", NAMESPACE, "-s", &signature], &self.payload)
    }
}

/// `ED25519 key SHA256:…` of `Good "git" signature with ED25519 key SHA256:…`.
fn key_of(out: &str) -> String {
    one_line(out.rsplit_once(" with ").map_or(out, |(_, key)| key).as_bytes())
}

/// `ann@example.com with ED25519 key SHA256:…` of `Good "git" signature for ann@example.com with …`.
fn signer_of(out: &str) -> String {
    one_line(out.split_once(" signature for ").map_or(out, |(_, signer)| signer).as_bytes())
}

/// The time as ssh-keygen reads it: in this host's time zone, like the times in the file.
fn local_time(at: i64) -> String {
    // SAFETY: all-zero is a valid `tm`: numbers and a pointer that may be null.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live values of the right types; a time out of range gives null and is not used.
    if unsafe { libc::localtime_r(&at, &mut tm) }.is_null() {
        return "invalid".to_owned();
    }
    let year = i64::from(tm.tm_year) + 1900;
    let (month, day) = (tm.tm_mon + 1, tm.tm_mday);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_told_from_the_rest_of_the_line() {
        let out = "Good \"git\" signature with ED25519 key SHA256:abc\n";
        assert_eq!(key_of(out), "ED25519 key SHA256:abc");
        assert_eq!(key_of("else\n"), "else");
        let out = "Good \"git\" signature for ann@x with ED25519 key SHA256:abc\n";
        assert_eq!(signer_of(out), "ann@x with ED25519 key SHA256:abc");
    }

    #[test]
    fn any_time_is_a_text_and_no_panic() {
        // In any time zone this is the last day of 1969 or the first of 1970.
        assert!(["19691231", "19700101"].contains(&&local_time(0)[..8]));
        assert_eq!(local_time(0).len(), 14);
        for odd in [i64::MIN, i64::MAX, 1 << 60, -1] {
            assert!(!local_time(odd).is_empty());
        }
    }
}
