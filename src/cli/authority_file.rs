//! The flag that says whose certificates are believed.

use std::path::PathBuf;

use clap::Args;

use crate::bench::http::TlsTrust;

#[derive(Debug, Args)]
pub(super) struct AuthorityFile {
    /// Certificate of the authority that signed that of a server at https://, in PEM: the ca.pem of `edgellm tls self-signed`
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl AuthorityFile {
    /// Reads it, where there is one.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(super) fn read(&self) -> Result<Option<TlsTrust>, String> {
        let Some(file) = &self.ca else {
            return Ok(None);
        };
        let wrong = |fault: String| format!("--ca {}: {fault}", file.display());
        let pem = std::fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        TlsTrust::authorities(&pem).map(Some).map_err(wrong)
    }
}
