//! Who asks: finds the key that a request carries, and refuses requests that need one and have none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Span;

use crate::admission::{Principal, QuotaStanding};
use crate::config::MetricsAccess;
use crate::http::access::Asker;
use crate::http::error::ApiError;
use crate::http::peer::Audience;
use crate::keys::{KeyRejection, KeyRing};
use crate::tls::ClientCertificate;

/// What a route needs of who asks, where there are keys. Without keys, everybody may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteAccess {
    /// No key: it tells nothing that a stranger may not know.
    Open,
    /// No key, but it is for operators.
    Page,
    /// Any key.
    Key,
    /// What `auth.metrics` says.
    Metrics,
    /// The key of an administrator.
    Admin,
}

impl RouteAccess {
    /// Whether it is served where operators listen, if they have a listener of their own.
    fn is_for_operators(self) -> bool {
        match self {
            Self::Page | Self::Metrics | Self::Admin => true,
            Self::Open | Self::Key => false,
        }
    }
}

/// Finds out who asks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    /// `None` where there are no keys.
    ring: Option<Arc<KeyRing>>,
    metrics: MetricsAccess,
    /// Who asks where there are no keys.
    anyone: Arc<Principal>,
    /// Who asks without one for what is open, where there are keys.
    stranger: Arc<Principal>,
    /// By the pattern of a path; others need a key.
    routes: Arc<HashMap<String, RouteAccess>>,
}

impl Authenticator {
    /// Asks for the keys of `ring`; without one nobody needs any.
    #[must_use]
    pub fn new(ring: Option<Arc<KeyRing>>, metrics: MetricsAccess) -> Self {
        Self {
            ring,
            metrics,
            anyone: Arc::new(Principal::anyone()),
            stranger: Arc::new(Principal {
                is_admin: false,
                ..Principal::anyone()
            }),
            routes: Arc::default(),
        }
    }

    /// Tells it what each route needs.
    pub(crate) fn guarding(self, routes: HashMap<String, RouteAccess>) -> Self {
        Self {
            routes: Arc::new(routes),
            ..self
        }
    }

    fn access(&self, route: &str) -> RouteAccess {
        self.routes.get(route).copied().unwrap_or(RouteAccess::Key)
    }

    /// Returns who sent these headers to the route with this pattern, over a connection with this certificate.
    fn principal(
        &self,
        route: &str,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Principal>, ApiError> {
        let access = self.access(route);
        let is_open = matches!(access, RouteAccess::Open | RouteAccess::Page);
        let Some(ring) = &self.ring else {
            return match certificate {
                Some(certificate) if !is_open => still_good(certificate),
                _ => Ok(()),
            }
            .map(|()| Arc::clone(&self.anyone));
        };
        let sent = sent_keys(headers);
        let found = find(ring, &sent, certificate);
        let needed = match access {
            RouteAccess::Open | RouteAccess::Page => MetricsAccess::Open,
            RouteAccess::Key => MetricsAccess::Key,
            RouteAccess::Metrics => self.metrics,
            RouteAccess::Admin => MetricsAccess::Admin,
        };
        if needed == MetricsAccess::Open {
            return Ok(found.unwrap_or_else(|_| Arc::clone(&self.stranger)));
        }
        let principal = found?;
        if needed == MetricsAccess::Admin && !principal.is_admin {
            tracing::warn!(
                key = principal.name,
                route,
                "refused what is for administrators"
            );
            return Err(ApiError::AdminOnly);
        }
        Ok(principal)
    }
}

/// Who sends more keys at once tries them out.
const MOST_SENT: usize = 2;

/// The keys that a request carries: `Authorization: Bearer` is where OpenAI's clients send theirs, `x-api-key`
/// where Anthropic's do.
pub(super) fn sent_keys(headers: &HeaderMap) -> Vec<&str> {
    let authorization = headers.get_all(header::AUTHORIZATION).iter();
    let bearers = authorization.filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let plain = headers.get_all("x-api-key").iter();
    let plain = plain.filter_map(|value| Some(value.to_str().ok()?.trim()));
    let sent = bearers.chain(plain).filter(|key| !key.is_empty());
    sent.take(MOST_SENT).collect()
}

/// Finds the first that is good: of the keys, and then of the certificate. Many clients send a key of no meaning
/// because their library wants one, so a wrong key does not spoil a good certificate.
fn find(
    ring: &KeyRing,
    sent: &[&str],
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<Principal>, ApiError> {
    let now = SystemTime::now();
    let mut refusal = ApiError::KeyMissing;
    for key in sent {
        match ring.find(key, now) {
            Ok(principal) => return Ok(principal),
            Err(KeyRejection::Expired) => refusal = ApiError::KeyExpired,
            Err(KeyRejection::Unknown) if refusal == ApiError::KeyMissing => {
                refusal = ApiError::KeyUnknown;
            }
            Err(KeyRejection::Unknown) => {}
        }
    }
    let Some(certificate) = certificate else {
        return Err(refusal);
    };
    still_good(certificate)?;
    match ring.find_certificate(certificate, now) {
        Ok(principal) => Ok(principal),
        Err(KeyRejection::Unknown) if refusal != ApiError::KeyExpired => {
            Err(ApiError::CertificateUnknown(certificate.subject.clone()))
        }
        Err(_) => Err(ApiError::KeyExpired),
    }
}

/// It was good when the connection began, which may be long ago.
fn still_good(certificate: &ClientCertificate) -> Result<(), ApiError> {
    if certificate.has_ended(jiff::Timestamp::now()) {
        return Err(ApiError::CertificateExpired(certificate.subject.clone()));
    }
    Ok(())
}

/// Lets in whoever may, and tells every answer to a key with limits what is left of them.
pub(crate) async fn authenticate(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("", MatchedPath::as_str);
    let audience = request.extensions().get::<Audience>();
    if audience == Some(&Audience::Clients) && authenticator.access(route).is_for_operators() {
        return ApiError::ForOperators.into_response();
    }
    let certificate = request.extensions().get::<Arc<ClientCertificate>>();
    let certificate = certificate.map(AsRef::as_ref);
    let principal = match authenticator.principal(route, request.headers(), certificate) {
        Ok(principal) => principal,
        Err(error) => return error.into_response(),
    };
    if let Some(name) = &principal.name {
        Span::current().record("key", name);
    }
    request.extensions_mut().insert(Arc::clone(&principal));
    let mut response = next.run(request).await;
    tell_limits(response.headers_mut(), principal.quota.standing());
    response.extensions_mut().insert(Asker(principal));
    response
}

/// Sets OpenAI's headers of what is left.
fn tell_limits(headers: &mut HeaderMap, standing: [Option<QuotaStanding>; 2]) {
    let [requests, tokens] = standing;
    let names: [(Option<QuotaStanding>, [&'static str; 3]); 2] = [
        (
            requests,
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
        ),
        (
            tokens,
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
        ),
    ];
    for (standing, [limit, remaining, reset]) in names {
        let Some(standing) = standing else { continue };
        headers.insert(HeaderName::from_static(limit), standing.limit.into());
        headers.insert(
            HeaderName::from_static(remaining),
            standing.remaining.into(),
        );
        if let Ok(value) = HeaderValue::from_str(&written(standing.reset)) {
            headers.insert(HeaderName::from_static(reset), value);
        }
    }
}

/// Writes a time as OpenAI does: `1m12s`, `3s`, `120ms`.
fn written(time: Duration) -> String {
    let (minutes, seconds, ms) = (time.as_secs() / 60, time.as_secs() % 60, time.as_millis());
    match (minutes, seconds) {
        (0, 0) => format!("{ms}ms"),
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ApiKey;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a header"));
        }
        headers
    }

    #[test]
    fn a_key_is_read_where_openais_and_anthropics_clients_send_it() {
        for (pairs, expected) in [
            (vec![("authorization", "Bearer k1")], vec!["k1"]),
            (vec![("authorization", "bearer  k1 ")], vec!["k1"]),
            (vec![("x-api-key", "k2")], vec!["k2"]),
            (
                vec![("x-api-key", "k2"), ("authorization", "Bearer k1")],
                vec!["k1", "k2"],
            ),
            (vec![("authorization", "Basic azE6")], vec![]),
            (vec![("authorization", "Bearer")], vec![]),
            (vec![("authorization", "Bearer ")], vec![]),
            (vec![("authorization", "k1")], vec![]),
            (vec![("authorization", "Bearer \u{e9}")], vec![]),
            (vec![("x-api-key", "a"); 9], vec!["a", "a"]),
        ] {
            assert_eq!(sent_keys(&headers(&pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_each_route_needs() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let (till, admin) = (ApiKey::generate(), ApiKey::generate());
        let (till, admin) = (till.expect("random"), admin.expect("random"));
        let text = format!(
            "[[keys]]\nname = \"till\"\nsha256 = \"{}\"\n[[keys]]\nname = \"admin\"\nadmin = true\nsha256 = \"{}\"\n",
            till.sha256(),
            admin.sha256()
        );
        std::fs::write(&file, text).expect("written");
        let ring = Arc::new(KeyRing::open(&file, false).expect("sound"));
        let routes = HashMap::from([
            ("/health".to_owned(), RouteAccess::Open),
            ("/metrics".to_owned(), RouteAccess::Metrics),
        ]);
        let with = |key: &str| headers(&[("x-api-key", key)]);
        let none = HeaderMap::new();
        for (setting, of_nobody, of_till) in [
            (
                MetricsAccess::Admin,
                Some(ApiError::KeyMissing),
                Some(ApiError::AdminOnly),
            ),
            (MetricsAccess::Key, Some(ApiError::KeyMissing), None),
            (MetricsAccess::Open, None, None),
        ] {
            let ring = Some(Arc::clone(&ring));
            let auth = Authenticator::new(ring, setting).guarding(routes.clone());
            let refused =
                |route: &str, headers: &HeaderMap| auth.principal(route, headers, None).err();
            assert_eq!(refused("/health", &none), None);
            assert_eq!(refused("/health", &with("wrong")), None);
            assert_eq!(refused("/v1/models", &none), Some(ApiError::KeyMissing));
            assert_eq!(refused("", &none), Some(ApiError::KeyMissing));
            assert_eq!(
                refused("/v1/models", &with("wrong")),
                Some(ApiError::KeyUnknown)
            );
            assert_eq!(refused("/v1/models", &with(till.reveal())), None);
            assert_eq!(refused("/metrics", &none), of_nobody);
            assert_eq!(refused("/metrics", &with(till.reveal())), of_till);
            assert_eq!(refused("/metrics", &with(admin.reveal())), None);
        }
        let open = Authenticator::new(None, MetricsAccess::Admin).guarding(routes);
        assert!(
            open.principal("/v1/models", &with("anything"), None)
                .is_ok()
        );
        assert!(open.principal("/metrics", &none, None).is_ok());
    }

    #[test]
    fn a_certificate_is_its_entrys_where_no_key_is_good() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.toml");
        let (office, ended) = (ApiKey::generate(), ApiKey::generate());
        let (office, ended) = (office.expect("random"), ended.expect("random"));
        let text = format!(
            "[[keys]]\nname = \"till\"\nsubject = \"till-1\"\n[[keys]]\nname = \"office\"\nsha256 = \"{}\"\n\
             [[keys]]\nname = \"ended\"\nsubject = \"till-0\"\nsha256 = \"{}\"\nexpires = 2020-01-31\n\
             [[keys]]\nname = \"chief\"\nsubject = \"CN=chief,O=Harbour\"\nadmin = true\n",
            office.sha256(),
            ended.sha256()
        );
        std::fs::write(&file, text).expect("written");
        let ring = Arc::new(KeyRing::open(&file, false).expect("sound"));
        let routes = HashMap::from([("/models".to_owned(), RouteAccess::Admin)]);
        let auth = Authenticator::new(Some(ring), MetricsAccess::Admin).guarding(routes.clone());
        let of = |subject: &str| {
            let name = subject.trim_start_matches("CN=").split(',').next();
            ClientCertificate {
                subject: subject.to_owned(),
                common_name: name.map(str::to_owned),
                not_after: jiff::Timestamp::MAX,
            }
        };
        let asked = |route: &str, key: &str, subject: &str| {
            let headers = match key {
                "" => HeaderMap::new(),
                key => headers(&[("x-api-key", key)]),
            };
            let found = auth.principal(route, &headers, Some(&of(subject)));
            found.map(|found| found.name.clone().unwrap_or_default())
        };
        let models = "/v1/models";
        let late = ClientCertificate {
            not_after: jiff::Timestamp::UNIX_EPOCH,
            ..of("CN=till-1")
        };
        let refused = Err(ApiError::CertificateExpired("CN=till-1".to_owned()));
        let nobody = Authenticator::new(None, MetricsAccess::Admin).guarding(routes.clone());
        for auth in [&auth, &nobody] {
            let found = auth.principal(models, &HeaderMap::new(), Some(&late));
            assert_eq!(found.map(drop), refused);
        }
        let by_key = auth.principal(
            models,
            &headers(&[("x-api-key", office.reveal())]),
            Some(&late),
        );
        assert_eq!(
            by_key.map(|found| found.name.clone()),
            Ok(Some("office".to_owned()))
        );
        for (key, subject, expected) in [
            ("", "CN=till-1", Ok("till")),
            ("unused", "CN=till-1", Ok("till")),
            (office.reveal(), "CN=till-1", Ok("office")),
            (office.reveal(), "CN=stranger", Ok("office")),
            (ended.reveal(), "CN=till-1", Ok("till")),
            (ended.reveal(), "CN=stranger", Err(ApiError::KeyExpired)),
            ("", "CN=till-0", Err(ApiError::KeyExpired)),
            (
                "unused",
                "CN=stranger,O=Harbour",
                Err(ApiError::CertificateUnknown(
                    "CN=stranger,O=Harbour".to_owned(),
                )),
            ),
        ] {
            assert_eq!(
                asked(models, key, subject),
                expected.map(str::to_owned),
                "{subject}"
            );
        }
        assert_eq!(asked("/models", "", "CN=till-1"), Err(ApiError::AdminOnly));
        assert_eq!(
            asked("/models", "", "CN=chief,O=Harbour"),
            Ok("chief".to_owned())
        );
        let open = Authenticator::new(None, MetricsAccess::Admin).guarding(routes);
        let found = open.principal("/models", &HeaderMap::new(), Some(&of("CN=stranger")));
        assert_eq!(
            found.map(|found| found.name.clone()),
            Ok(None),
            "without keys it changes nothing"
        );
    }

    #[test]
    fn limits_are_told_in_openais_words() {
        let mut headers = HeaderMap::new();
        let requests = QuotaStanding {
            limit: 60,
            remaining: 59,
            reset: Duration::from_secs(1),
        };
        tell_limits(&mut headers, [Some(requests), None]);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
        assert_eq!(headers["x-ratelimit-reset-requests"], "1s");
        assert!(!headers.contains_key("x-ratelimit-limit-tokens"));
        for (ms, text) in [(0, "0ms"), (120, "120ms"), (3_900, "3s"), (72_000, "1m12s")] {
            assert_eq!(written(Duration::from_millis(ms)), text);
        }
    }
}
