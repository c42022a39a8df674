//! An authority in a folder, for a box whose owner has none: devices trust its certificate once, and what it signs may
//! be renewed as often as one likes.
//!
//! Keys are kept when a certificate is renewed. So the certificate is replaced in one step, and never stands beside a
//! key that is not its own, also after a power cut. Whoever wants another key removes the file of the old one first.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::authority_error::AuthorityError;
use super::certificate::{CertificateError, CertificateFacts, parse};
use super::issued_names::ServerName;
use crate::replace_file::{OWNER_ONLY, parent, replace_file, replace_own_file};

/// Apple's devices refuse servers whose certificate is good for longer.
pub const LONGEST_SERVER_DAYS: u32 = 825;
/// Nobody refuses a client for this.
pub const LONGEST_CLIENT_DAYS: u32 = 3650;
const AUTHORITY_DAYS: u32 = 3652;

/// Clocks of clients may be behind.
const BEFORE_NOW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that says something outside of these has not been set, and would make certificates that are good for nothing.
const CLOCK: [&str; 2] = ["2026-01-01T00:00:00Z", "2200-01-01T00:00:00Z"];

const READABLE_BY_ALL: u32 = 0o644;

/// Where a certificate and its key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl CertificateFiles {
    fn named(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}-key.pem")),
        }
    }
}

/// A certificate that was just written.
#[derive(Debug)]
pub struct MadeCertificate {
    /// Where it and its key lie.
    pub files: CertificateFiles,
    /// What stands in it.
    pub facts: CertificateFacts,
    /// Whether the key was there before.
    pub has_kept_key: bool,
    /// Whether it ends with the authority, before the days that were asked for.
    pub ends_with_authority: bool,
}

/// Whose keys are whose: the server runs as the owner of the folder, and reads its own key and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyReader {
    Server,
    WhoRunsThis,
}

/// An authority, and the right to change its folder, which others wait for.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    files: CertificateFiles,
    facts: CertificateFacts,
    issuer: Issuer<'static, KeyPair>,
    now: Timestamp,
    is_new: bool,
    _lock: File,
}

impl Authority {
    /// Opens the authority of a folder; makes the folder and the authority if they do not exist.
    ///
    /// # Errors
    /// Above all when there is an authority that is broken or has ended: making another one would leave every
    /// device that trusts it without a server that it trusts.
    pub fn open_or_make(folder: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let now = moment(now)?;
        make_folder(folder)?;
        match Self::open_at(folder, now) {
            Err(AuthorityError::None(_)) => Self::make(folder, now),
            opened => opened,
        }
    }

    /// Opens the authority of a folder.
    ///
    /// # Errors
    /// When there is none as well.
    pub fn open(folder: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::open_at(folder, moment(now)?)
    }

    /// The files of the authority itself.
    #[must_use]
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// What stands in its certificate.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    fn open_at(folder: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let lock = lock(folder)?;
        let files = CertificateFiles::named(folder, AUTHORITY);
        let CertificateFiles { certificate, key } = &files;
        match (certificate.exists(), key.exists()) {
            (true, true) => {}
            (false, false) => return Err(AuthorityError::None(folder.to_owned())),
            (true, false) => return Err(half(certificate, key)),
            (false, true) => return Err(half(key, certificate)),
        }
        let der = read_certificate(certificate)?;
        let wrong = wrong(certificate);
        let facts = CertificateFacts::from_der(&der).map_err(&wrong)?;
        let pair = read_key(key)?;
        if parse(&der).map_err(&wrong)?.public_key().raw != pair.subject_public_key_info() {
            return Err(AuthorityError::Mismatch {
                certificate: certificate.clone(),
                key: key.clone(),
            });
        }
        if !facts.is_authority {
            return Err(AuthorityError::NoAuthority(certificate.clone()));
        }
        if facts.not_after <= now {
            return Err(AuthorityError::Ended {
                file: certificate.clone(),
                ended: facts.not_after,
            });
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der, pair)?,
            folder: folder.to_owned(),
            files,
            facts,
            now,
            is_new: false,
            _lock: lock,
        })
    }

    fn make(folder: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let lock = lock(folder)?;
        let server = CertificateFiles::named(folder, SERVER).certificate;
        if server.exists() {
            let facts = read_certificate(&server)?;
            let facts = CertificateFacts::from_der(&facts).map_err(wrong(&server))?;
            return Err(foreign(&server, facts));
        }
        let files = CertificateFiles::named(folder, AUTHORITY);
        // Somebody else may have made one between the look and the lock.
        if files.certificate.exists() || files.key.exists() {
            drop(lock);
            return Self::open_at(folder, now);
        }
        let pair = KeyPair::generate()?;
        let mut params = params(now, AUTHORITY_DAYS, None)?;
        params.distinguished_name = common_name(&authority_name()?);
        // It signs servers and clients, and no other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key_pem = pair.serialize_pem();
        let made = CertifiedIssuer::self_signed(params, pair)?;
        let facts = CertificateFacts::from_der(made.der()).map_err(wrong(&files.certificate))?;
        // The service needs neither to sign nor to read this: whoever takes it over shall not be able to either.
        write(&files.key, &key_pem, KeyReader::WhoRunsThis)?;
        write_certificate(&files.certificate, &made.pem())?;
        drop(lock);
        Ok(Self {
            is_new: true,
            facts,
            ..Self::open_at(folder, now)?
        })
    }

    /// The names of the server's certificate as it is; none where there is no certificate.
    ///
    /// # Errors
    /// When what is there is no certificate, or that of another authority.
    pub fn certified_names(&self) -> Result<Vec<ServerName>, AuthorityError> {
        let file = CertificateFiles::named(&self.folder, SERVER).certificate;
        let names = self.own(&file)?.map(|facts| facts.names);
        let names = names.iter().flatten();
        // Of somebody else's making, it may have names that are none here.
        Ok(names
            .filter_map(|name| ServerName::parse(name).ok())
            .collect())
    }

    /// What stands in a certificate that this authority has made before.
    fn own(&self, file: &Path) -> Result<Option<CertificateFacts>, AuthorityError> {
        if !file.exists() {
            return Ok(None);
        }
        let facts = CertificateFacts::from_der(&read_certificate(file)?).map_err(wrong(file))?;
        if facts.issuer != self.facts.subject {
            return Err(foreign(file, facts));
        }
        Ok(Some(facts))
    }

    /// Makes the certificate of the server, or makes it anew.
    ///
    /// # Errors
    /// See [`AuthorityError`]; then the files are as they were.
    pub fn certify_server(
        &self,
        names: &[ServerName],
        days: u32,
    ) -> Result<MadeCertificate, AuthorityError> {
        let days = days.min(LONGEST_SERVER_DAYS);
        let mut params = params(self.now, days, Some(self.facts.not_after))?;
        let first = names.first().map(ServerName::to_string);
        // Names are read out of the list below; this one is for people. It holds 64 characters at most.
        let short = first.filter(|name| name.len() <= 64);
        params.distinguished_name = common_name(&short.unwrap_or_else(|| SERVER.to_owned()));
        for name in names {
            params.subject_alt_names.push(match name {
                ServerName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                ServerName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let files = CertificateFiles::named(&self.folder, SERVER);
        self.certify(params, files, days, KeyReader::Server)
    }

    /// Makes the certificate of a client, or makes it anew.
    ///
    /// # Errors
    /// See [`AuthorityError`]; then the files are as they were.
    pub fn certify_client(&self, name: &str, days: u32) -> Result<MadeCertificate, AuthorityError> {
        let days = days.min(LONGEST_CLIENT_DAYS);
        let mut params = params(self.now, days, Some(self.facts.not_after))?;
        params.distinguished_name = common_name(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let files = CertificateFiles::named(&self.folder, name);
        self.certify(params, files, days, KeyReader::WhoRunsThis)
    }

    fn certify(
        &self,
        mut params: CertificateParams,
        files: CertificateFiles,
        days: u32,
        reader: KeyReader,
    ) -> Result<MadeCertificate, AuthorityError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        self.own(&files.certificate)?;
        let has_kept_key = files.key.exists();
        let pair = if has_kept_key {
            read_key(&files.key)?
        } else {
            KeyPair::generate()?
        };
        let made = params.signed_by(&pair, &self.issuer)?;
        let facts = CertificateFacts::from_der(made.der()).map_err(wrong(&files.certificate))?;
        if !has_kept_key {
            write(&files.key, &pair.serialize_pem(), reader)?;
        }
        write_certificate(&files.certificate, &made.pem())?;
        Ok(MadeCertificate {
            ends_with_authority: facts.not_after < end(self.now, days),
            files,
            facts,
            has_kept_key,
        })
    }
}

const AUTHORITY: &str = "ca";
const SERVER: &str = "server";

fn half(present: &Path, missing: &Path) -> AuthorityError {
    AuthorityError::Half {
        present: present.to_owned(),
        missing: missing.to_owned(),
    }
}

fn foreign(file: &Path, facts: CertificateFacts) -> AuthorityError {
    AuthorityError::Foreign {
        file: file.to_owned(),
        issuer: facts.issuer,
    }
}

fn wrong(file: &Path) -> impl Fn(CertificateError) -> AuthorityError + use<> {
    let file = file.to_owned();
    move |source| AuthorityError::Certificate {
        file: file.clone(),
        source,
    }
}

/// The time by the clock of this machine, if that can be right.
fn moment(now: SystemTime) -> Result<Timestamp, AuthorityError> {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::MAX);
    let [from, until] = CLOCK.map(|moment| moment.parse::<Timestamp>().unwrap_or(now));
    if (from..until).contains(&now) {
        Ok(now)
    } else {
        Err(AuthorityError::Clock(now))
    }
}

/// Devices tell two authorities apart by their names, so no two have the same one.
fn authority_name() -> Result<String, AuthorityError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)?;
    let number = u32::from_be_bytes(bytes);
    let host = super::default_server_names().into_iter().next();
    let host = host
        .map(|host| host.to_string())
        .filter(|host| host.len() <= 32);
    let host = host.unwrap_or_else(|| "gateway".to_owned());
    Ok(format!("edgellm {host} {number:08x}"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// The last second of so many days, of which a little has passed already.
fn end(now: Timestamp, days: u32) -> Timestamp {
    let end = now - BEFORE_NOW + DAY * days - Duration::from_secs(1);
    Timestamp::from_second(end.as_second()).unwrap_or(end)
}

fn params(
    now: Timestamp,
    days: u32,
    latest: Option<Timestamp>,
) -> Result<CertificateParams, AuthorityError> {
    let end = end(now, days);
    let end = latest.map_or(end, |latest| latest.min(end));
    let date = |moment: Timestamp| {
        let seconds = u64::try_from(moment.as_second()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date(now - BEFORE_NOW), date(end));
    // Of the key, as rcgen would make it, it would be the same after each renewal, and browsers refuse that.
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn read_certificate(file: &Path) -> Result<CertificateDer<'static>, AuthorityError> {
    let text = read(file)?;
    let first = CertificateDer::pem_slice_iter(text.as_bytes()).next();
    let error = match first {
        Some(Ok(der)) => return Ok(der),
        Some(Err(error)) => CertificateError::Pem(error.to_string()),
        None => CertificateError::NoPem,
    };
    Err(wrong(file)(error))
}

fn read_key(file: &Path) -> Result<KeyPair, AuthorityError> {
    KeyPair::from_pem(&read(file)?).map_err(|_| AuthorityError::Key(file.to_owned()))
}

fn read(file: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(file).map_err(|source| AuthorityError::Unreadable {
        file: file.to_owned(),
        source,
    })
}

fn unwritable(file: &Path) -> impl FnOnce(io::Error) -> AuthorityError + use<> {
    let file = file.to_owned();
    move |source| AuthorityError::Unwritable { file, source }
}

fn write_certificate(file: &Path, pem: &str) -> Result<(), AuthorityError> {
    replace_file(file, pem, READABLE_BY_ALL).map_err(unwritable(file))
}

fn write(file: &Path, pem: &str, reader: KeyReader) -> Result<(), AuthorityError> {
    let written = match reader {
        KeyReader::Server => replace_file(file, pem, OWNER_ONLY),
        KeyReader::WhoRunsThis => replace_own_file(file, pem, OWNER_ONLY),
    };
    written.map_err(unwritable(file))
}

/// A new folder is its parent's owner's, as a new file is.
fn make_folder(folder: &Path) -> Result<(), AuthorityError> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => {
            if let Ok(parent) = std::fs::metadata(parent(folder)) {
                // Only root can, and for others there is nothing to give away.
                let _ = lchown(folder, Some(parent.uid()), Some(parent.gid()));
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unwritable(folder)(error)),
    }
}

/// Waits for the right to change a folder.
fn lock(folder: &Path) -> Result<File, AuthorityError> {
    let unreadable = |source| AuthorityError::Unreadable {
        file: folder.to_owned(),
        source,
    };
    let lock = File::open(folder).map_err(unreadable)?;
    lock.lock().map_err(unreadable)?;
    Ok(lock)
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
