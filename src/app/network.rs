//! Opens what the server listens on, and says who may ask there.

use std::sync::Arc;

use crate::config::{ServerSettings, Settings};
use crate::http::{InheritedSockets, Listeners, ServerOptions, affordable_connections};
use crate::telemetry::Metrics;
use crate::tls::{TlsFiles, TlsKeeper, TlsMetrics};

use super::AppError;

/// Reads the files for TLS, if there are any.
pub(super) fn open_tls(
    settings: &ServerSettings,
    metrics: &Metrics,
) -> Result<Option<Arc<TlsKeeper>>, AppError> {
    let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        return Ok(None);
    };
    let files = TlsFiles {
        certificate: certificate.clone(),
        key: key.clone(),
        client_authorities: settings.tls_client_ca.clone(),
        requires_client: settings.tls_require_client,
    };
    let keeper = TlsKeeper::open(files, TlsMetrics::new(metrics)?)?;
    Ok(Some(Arc::new(keeper)))
}

/// Binds the sockets. Those of systemd are looked at here, because no setting says where they listen.
pub(super) async fn open_listeners(
    settings: &Settings,
    inherited: InheritedSockets,
) -> Result<Listeners, AppError> {
    let server = &settings.server;
    let listeners = Listeners::open(server, inherited).await?;
    if server.tls_cert.is_some() && !listeners.has_tls() {
        tracing::warn!(
            "server.tls_cert is set, and no address speaks TLS: each has http:// before it in server.listen, or is a socket"
        );
    }
    if settings.auth.keys_file.is_some() {
        return Ok(listeners);
    }
    let open = listeners.open_addresses(server.tls_require_client);
    match open.first() {
        Some(address) if !settings.auth.open => return Err(AppError::OpenSocket(*address)),
        open => warn_who_may_ask(server, &listeners, open.is_some()),
    }
    Ok(listeners)
}

/// Without keys. That is nothing to find out by accident.
fn warn_who_may_ask(server: &ServerSettings, listeners: &Listeners, is_open: bool) {
    let who = match &server.tls_client_ca {
        _ if is_open => "anybody on the network".to_owned(),
        Some(authorities) if server.tls_require_client && listeners.has_tls() => format!(
            "whoever has a certificate of {}, and whoever is on this machine",
            authorities.display()
        ),
        _ => "whoever is on this machine".to_owned(),
    };
    let foreign = ["*", "null"];
    let pages = if server
        .cors_origins
        .iter()
        .any(|origin| foreign.contains(&&**origin))
    {
        ", and web pages from anywhere in a browser there (server.cors_origins)"
    } else {
        ""
    };
    tracing::warn!(
        "OPEN: there are no API keys, so {who}{pages} may ask anything, also what is for operators; to lock it, set \
         auth.keys_file and make keys with `edgellm keys add NAME` (docs/keys.md)"
    );
}

pub(super) fn server_options(settings: &ServerSettings) -> ServerOptions {
    let max_connections = affordable_connections(settings.max_connections.get() as usize);
    ServerOptions {
        max_connections,
        max_connections_per_address: settings
            .max_connections_per_address
            .map_or((max_connections / 2).max(1), |most| most.get() as usize),
        header_timeout: settings.header_timeout,
        write_timeout: settings.write_timeout,
        trusted_proxies: settings.trusted_proxies.clone(),
    }
}
