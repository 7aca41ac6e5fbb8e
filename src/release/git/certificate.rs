//! Finds out from a server's certificate why it is not trusted: libgit2 gives no reason. Used by `transfer` after a
//! connection has failed.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    path::Path,
    time::Duration,
};

use openssl::{
    asn1::Asn1Time,
    nid::Nid,
    ssl::{SslConnector, SslMethod, SslVerifyMode},
    x509::{X509, X509NameRef},
};
use serde::{Deserialize, Serialize};

use super::text::one_line;

/// A fault of a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum CertificateFault {
    #[error("it expired on {on}")]
    Expired { on: String },
    #[error("it is valid from {from} on")]
    NotYet { from: String },
    #[error("it is for {names}, not for {host}")]
    OtherName { host: String, names: String },
    #[error("it is signed by itself")]
    SelfSigned,
    #[error("its authority is not known here: {issuer}")]
    UnknownAuthority { issuer: String },
}

impl CertificateFault {
    /// The fault that shows in the certificate of `host` itself: its dates or its names.
    pub fn plain(der: &[u8], host: &str) -> Option<Self> {
        let certificate = X509::from_der(der).ok()?;
        let now = Asn1Time::days_from_now(0).ok()?;
        let names = names(&certificate);
        if certificate.not_after() < now {
            Some(Self::Expired { on: certificate.not_after().to_string() })
        } else if certificate.not_before() > now {
            Some(Self::NotYet { from: certificate.not_before().to_string() })
        } else if names.iter().any(|name| is_for(name, host)) {
            None
        } else {
            Some(Self::OtherName { host: host.to_owned(), names: names.join(", ") })
        }
    }

    /// The fault of a certificate without any other: its issuer is not trusted.
    pub fn distrusted(der: Option<&[u8]>) -> Self {
        let Some(certificate) = der.and_then(|der| X509::from_der(der).ok()) else {
            return Self::UnknownAuthority { issuer: "its certificate can't be read".to_owned() };
        };
        let signed_by_itself =
            certificate.public_key().is_ok_and(|key| certificate.verify(&key).unwrap_or(false));
        if signed_by_itself {
            Self::SelfSigned
        } else {
            Self::UnknownAuthority { issuer: name(certificate.issuer_name()) }
        }
    }

    /// Advice for the operator. `ca_file` is the configured file of authorities.
    pub fn hint(&self, ca_file: Option<&Path>) -> String {
        match (self, ca_file) {
            (Self::Expired { .. }, _) => "renew it on the server; `bgd doctor` tries again".to_owned(),
            (Self::NotYet { .. }, _) => "set the clock right, of this host or the server's; see `date`".to_owned(),
            (Self::OtherName { .. }, _) => {
                "write one of its names in `remote`, or renew it with the right one; `bgd doctor` tries it".to_owned()
            }
            (Self::SelfSigned | Self::UnknownAuthority { .. }, Some(file)) => format!(
                "{} does not have its authority: add that certificate, the intermediate ones as well; `bgd doctor` tries it",
                file.display()
            ),
            (Self::SelfSigned, None) => {
                "get it from the server's owner and set `auth.ca_file` to it, or trust it on the whole host with `update-ca-certificates`; `bgd doctor` tries it".to_owned()
            }
            (Self::UnknownAuthority { .. }, None) => {
                "set `auth.ca_file` to the authority's certificate, or trust it on the whole host with `update-ca-certificates`; a server that leaves out an intermediate certificate looks like this too; `bgd doctor` tries it".to_owned()
            }
        }
    }
}

/// Fetches the server's certificate as DER, without verifying it: libgit2 does not pass it on if the host is an
/// address and the certificate is for names only.
pub fn shown_by(host: &str, port: u16, limit: Duration) -> Option<Vec<u8>> {
    let address = (host, port).to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    let mut connector = SslConnector::builder(SslMethod::tls()).ok()?;
    connector.set_verify(SslVerifyMode::NONE);
    let connection = connector.build().configure().ok()?.verify_hostname(false).connect(host, stream).ok()?;
    connection.ssl().peer_certificate()?.to_der().ok()
}

/// The subject's alternative names, or its common name if it has none.
fn names(certificate: &X509) -> Vec<String> {
    let all: Vec<String> = certificate
        .subject_alt_names()
        .into_iter()
        .flatten()
        .filter_map(|name| {
            let address = || name.ipaddress().and_then(address_text);
            name.dnsname().map(|name| one_line(name.as_bytes())).or_else(address)
        })
        .collect();
    if all.is_empty() { vec![name(certificate.subject_name())] } else { all }
}

/// Whether a certificate's name matches the host; `*` matches one label.
fn is_for(name: &str, host: &str) -> bool {
    let wild = |name: &str| {
        let rest = name.strip_prefix("*.")?;
        Some(host.split_once('.')?.1.eq_ignore_ascii_case(rest))
    };
    name.eq_ignore_ascii_case(host.trim_matches(['[', ']'])) || wild(name).unwrap_or(false)
}

fn address_text(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| std::net::Ipv4Addr::from(four).to_string());
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|all| std::net::Ipv6Addr::from(all).to_string())).ok()
}

/// The common name, else the last entry of the name.
fn name(name: &X509NameRef) -> String {
    let entry = name.entries_by_nid(Nid::COMMONNAME).next().or_else(|| name.entries().last());
    let text = entry.and_then(|entry| entry.data().to_string().ok()).map(|text| one_line(text.as_bytes()));
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "a certificate without a name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_part_of_a_name() {
        assert!(
            is_for("*.example.com", "Git.example.com") && is_for("git.x", "GIT.x") && is_for("::1", "[::1]")
        );
        assert!(!is_for("*.example.com", "a.b.example.com") && !is_for("*.example.com", "example.com"));
    }
}
