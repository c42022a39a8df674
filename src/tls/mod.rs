//! TLS: what the server speaks it with.

mod certificate;
mod keeper;
mod server_config;
mod subject;

pub use certificate::{CertificateError, CertificateFacts, ClientCertificate};
pub use keeper::{Handshake, TlsKeeper, TlsMetrics, watch};
pub use server_config::{TlsFiles, TlsFilesError};
pub use subject::SubjectPattern;
