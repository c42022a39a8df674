//! TLS: what the server speaks it with, reading what stands in certificates, and making certificates for a box without an
//! authority of its own.

mod authority;
mod certificate;
mod issued_names;
mod keeper;
mod server_config;
mod subject;

pub use authority::{
    Authority, AuthorityError, CertificateFiles, LONGEST_CLIENT_DAYS, LONGEST_SERVER_DAYS,
    MadeCertificate,
};
pub use certificate::{CertificateError, CertificateFacts, ClientCertificate};
pub use issued_names::{ServerName, default_server_names, is_client_name};
pub use keeper::{Handshake, TlsKeeper, TlsMetrics, watch};
pub use server_config::{TlsFiles, TlsFilesError};
pub use subject::SubjectPattern;
