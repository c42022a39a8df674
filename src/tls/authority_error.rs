//! Why a certificate was not made, and what to do about it.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::certificate::CertificateError;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or the folder cannot be read.
    #[error("{}: cannot be read: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or the folder cannot be written.
    #[error("{}: cannot be written: {source}", .file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no authority.
    #[error("{} has no authority (ca.pem, ca-key.pem): make one with `edgellm tls self-signed --output {}`", .0.display(), .0.display())]
    None(PathBuf),
    /// There is one half of an authority.
    #[error(
        "{} is there without {}: put that back, or move {} away for a new authority, which every device has to trust anew",
        .present.display(), .missing.display(), .present.display()
    )]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A certificate is none.
    #[error("{}: {source}; put the right file back from a copy, or move it away", .file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// A private key is none.
    #[error("{}: is no private key in PEM; put the right file back from a copy, or move it away for a new one", .0.display())]
    Key(PathBuf),
    /// A certificate and a key do not belong together.
    #[error("{} is not the key of {}: put the right one back from a copy", .key.display(), .certificate.display())]
    Mismatch {
        /// The authority's certificate.
        certificate: PathBuf,
        /// The key that is not its own.
        key: PathBuf,
    },
    /// The certificate of the authority may not sign.
    #[error(
        "{}: may not sign certificates (it is no authority's); give another --output", .0.display()
    )]
    NoAuthority(PathBuf),
    /// The authority has ended.
    #[error(
        "{}: the authority ended on {ended}, or the clock of this machine is wrong; for a new authority, which every \
         device has to trust anew, move ca.pem and ca-key.pem away and run this again", .file.display()
    )]
    Ended {
        /// Its certificate.
        file: PathBuf,
        /// When it ended.
        ended: Timestamp,
    },
    /// A certificate of somebody else stands where one would be written.
    #[error(
        "{} is there already, and not from the authority of this folder (its issuer is {issuer}): give another --output",
        .file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Who signed it.
        issuer: String,
    },
    /// The clock of this machine cannot be right.
    #[error(
        "the clock of this machine says {0}: set it first, because certificates are good for days that are counted by it"
    )]
    Clock(Timestamp),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// A certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Making(#[from] rcgen::Error),
}
