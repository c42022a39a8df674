//! What stands in a certificate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::subject::DistinguishedName;

/// Why nothing can be read out of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate in a text.
    #[error("there is no certificate in PEM in it (-----BEGIN CERTIFICATE-----)")]
    NoPem,
    /// The text around a certificate is broken.
    #[error("its PEM is broken: {0}")]
    Pem(String),
    /// The bytes are no certificate.
    #[error("it holds what is no X.509 certificate")]
    Der,
}

/// What people and programs ask of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, in the form of RFC 4514: `CN=till-1,O=Harbour`.
    pub subject: String,
    /// The one common name of the subject.
    pub common_name: Option<String>,
    /// DNS names and IP addresses that it is for.
    pub names: Vec<String>,
    /// Who signed it, in the form of RFC 4514.
    pub issuer: String,
    /// The first moment at which it is good.
    pub not_before: Timestamp,
    /// The last moment at which it is good.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
}

impl CertificateFacts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`CertificateError::Der`] when it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let subject = DistinguishedName::of_certificate(certificate.subject());
        let validity = certificate.validity();
        Ok(Self {
            common_name: subject.common_name().map(str::to_owned),
            subject: subject.to_string(),
            names: names(&certificate),
            issuer: DistinguishedName::of_certificate(certificate.issuer()).to_string(),
            not_before: moment(validity.not_before)?,
            not_after: moment(validity.not_after)?,
            is_authority: certificate.is_ca(),
        })
    }

    /// Reads all certificates of a text in PEM: of a server's file its own is the first.
    ///
    /// # Errors
    /// When there is none, or one is broken.
    pub fn from_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let certificates = CertificateDer::pem_slice_iter(text);
        let facts = certificates.map(|der| match der {
            Ok(der) => Self::from_der(&der),
            Err(error) => Err(CertificateError::Pem(error.to_string())),
        });
        let facts: Vec<Self> = facts.collect::<Result<_, _>>()?;
        if facts.is_empty() {
            return Err(CertificateError::NoPem);
        }
        Ok(facts)
    }

    /// Whole days until it ends; negative when it has ended.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        let seconds = self.not_after.as_second().saturating_sub(now.as_second());
        seconds.div_euclid(SECONDS_OF_DAY)
    }

    /// Whether it is good at this moment, as far as time goes.
    #[must_use]
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

const SECONDS_OF_DAY: i64 = 86_400;

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Der),
    }
}

fn moment(time: ASN1Time) -> Result<Timestamp, CertificateError> {
    Timestamp::from_second(time.timestamp()).map_err(|_| CertificateError::Der)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    names.collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into());
    v4.or_else(|_| v6()).ok()
}

/// The certificate with which a client proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whose it is, in the form of RFC 4514: `CN=till-1,O=Harbour`.
    pub subject: String,
    /// The one common name of the subject.
    pub common_name: Option<String>,
    /// The last moment at which it is good, which may come while a connection is open.
    pub not_after: Timestamp,
}

impl ClientCertificate {
    /// Reads it as it came over the wire; whether it is to be believed was decided in the handshake.
    ///
    /// # Errors
    /// [`CertificateError::Der`] when it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let subject = DistinguishedName::of_certificate(certificate.subject());
        Ok(Self {
            common_name: subject.common_name().map(str::to_owned),
            subject: subject.to_string(),
            not_after: moment(certificate.validity().not_after)?,
        })
    }

    /// Whether it is no longer good.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        now > self.not_after
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName as MadeName, DnType, KeyPair};

    use super::*;

    fn with_subject(parts: &[(DnType, &str)], names: &[&str]) -> rcgen::Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = MadeName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params
            .self_signed(&KeyPair::generate().expect("a key"))
            .expect("signed")
    }

    #[test]
    fn a_subject_is_written_from_its_last_part_to_its_first() {
        // openssl x509 -nameopt RFC2253 says the same.
        let made = with_subject(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Harbour, Inc."),
                (DnType::CommonName, "till-1"),
            ],
            &["box.local", "10.0.0.5", "::1"],
        );
        let facts = CertificateFacts::from_der(made.der()).expect("read");
        assert_eq!(facts.subject, r"CN=till-1,O=Harbour\, Inc.,C=DE");
        assert_eq!(facts.common_name.as_deref(), Some("till-1"));
        assert_eq!(facts.names, ["box.local", "10.0.0.5", "::1"]);
        assert_eq!(facts.issuer, facts.subject);
        assert_eq!(facts.not_after.to_string(), "2027-01-01T00:00:00Z");
        assert!(!facts.is_authority);
        let client = ClientCertificate::from_der(made.der()).expect("read");
        assert_eq!(
            (client.subject, client.common_name),
            (facts.subject, facts.common_name)
        );
    }

    #[test]
    fn days_are_counted_down_and_go_below_zero() {
        let facts = CertificateFacts::from_der(with_subject(&[], &[]).der()).expect("read");
        for (now, days, is_good) in [
            ("2025-12-31T23:59:59Z", 365, false),
            ("2026-12-02T00:00:00Z", 30, true),
            ("2026-12-31T23:59:59Z", 0, true),
            ("2027-01-01T00:00:00Z", 0, true),
            ("2027-01-01T00:00:01Z", -1, false),
        ] {
            let now = now.parse().expect("a moment");
            assert_eq!(
                (facts.days_left(now), facts.is_good_at(now)),
                (days, is_good),
                "{now}"
            );
        }
    }

    #[test]
    fn a_certificate_without_a_common_name_or_with_two_names_nobody_by_it() {
        let without = with_subject(&[(DnType::OrganizationName, "Harbour")], &[]);
        let client = ClientCertificate::from_der(without.der()).expect("read");
        assert_eq!(
            (client.subject.as_str(), client.common_name),
            ("O=Harbour", None)
        );
        let unreadable = with_subject(&[(DnType::CommonName, "a\nb")], &[]);
        let client = ClientCertificate::from_der(unreadable.der()).expect("read");
        assert_eq!(client.subject, r"CN=a\0Ab");
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert_eq!(
            CertificateFacts::from_pem(b"hello"),
            Err(CertificateError::NoPem)
        );
        assert_eq!(
            CertificateFacts::from_der(b"hello"),
            Err(CertificateError::Der)
        );
        let wrong = b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert_eq!(
            CertificateFacts::from_pem(wrong),
            Err(CertificateError::Der)
        );
        let broken = b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n";
        assert!(matches!(
            CertificateFacts::from_pem(broken),
            Err(CertificateError::Pem(_))
        ));
        let made = with_subject(&[], &[]).pem();
        let twice = format!("{made}{made}");
        assert_eq!(
            CertificateFacts::from_pem(twice.as_bytes()).map(|facts| facts.len()),
            Ok(2)
        );
    }
}
