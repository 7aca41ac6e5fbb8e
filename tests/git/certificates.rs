//! Certificates of all kinds, made for a test.

use std::{fs, path::PathBuf};

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    ssl::{SslAcceptor, SslMethod},
    x509::{
        X509, X509Builder, X509Name,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};

use super::repo::Bench;

pub struct Certificate {
    pub x509: X509,
    pub key: PKey<Private>,
}

/// What a certificate says.
pub struct Wish {
    /// An address or a name.
    pub host: &'static str,
    /// Seconds since 1970.
    pub until: i64,
}

pub const FOR_LONG: i64 = 4_000_000_000;

impl Certificate {
    pub fn authority(name: &str) -> Self {
        let (mut builder, key) = begun(name, FOR_LONG);
        let issuer = named(name);
        builder.set_issuer_name(&issuer).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { x509: builder.build(), key }
    }

    /// Signed by itself where there is no authority.
    pub fn server(authority: Option<&Self>, wish: &Wish) -> Self {
        let (mut builder, key) = begun("git.corp", wish.until);
        let issuer = authority.map_or_else(
            || named("git.corp"),
            |authority| {
                let mut name = X509Name::builder().unwrap();
                for entry in authority.x509.subject_name().entries() {
                    name.append_entry_by_nid(entry.object().nid(), &entry.data().to_string().unwrap())
                        .unwrap();
                }
                name.build()
            },
        );
        builder.set_issuer_name(&issuer).unwrap();
        let mut names = SubjectAlternativeName::new();
        if wish.host.parse::<std::net::IpAddr>().is_ok() {
            names.ip(wish.host);
        } else {
            names.dns(wish.host);
        }
        let names = names.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(authority.map_or(&key, |authority| &authority.key), MessageDigest::sha256()).unwrap();
        Self { x509: builder.build(), key }
    }

    /// For a server that shows it.
    pub fn acceptor(&self) -> SslAcceptor {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_private_key(&self.key).unwrap();
        acceptor.set_certificate(&self.x509).unwrap();
        acceptor.build()
    }

    pub fn write(&self, bench: &Bench, name: &str) -> PathBuf {
        let file = bench.dir(name);
        fs::write(&file, self.x509.to_pem().unwrap()).unwrap();
        file
    }
}

fn begun(name: &str, until: i64) -> (X509Builder, PKey<Private>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&named(name)).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_500_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(until).unwrap()).unwrap();
    builder.set_serial_number(&BigNum::from_u32(until as u32).unwrap().to_asn1_integer().unwrap()).unwrap();
    (builder, key)
}

fn named(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}
