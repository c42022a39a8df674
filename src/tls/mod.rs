//! TLS: making certificates for a box without an authority of its own, and reading what stands in certificates.

mod authority;
mod authority_error;
mod certificate;
mod issued_names;
mod subject;

pub use authority::{
    Authority, CertificateFiles, LONGEST_CLIENT_DAYS, LONGEST_SERVER_DAYS, MadeCertificate,
};
pub use authority_error::AuthorityError;
pub use certificate::{CertificateError, CertificateFacts, ClientCertificate};
pub use issued_names::{ServerName, default_server_names, is_client_name};
pub use subject::SubjectPattern;
