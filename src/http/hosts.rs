//! Under which names clients may ask: the guard against DNS rebinding.
//!
//! A stranger's page can have its own name, such as `evil.example`, lead to the address of this server once it is open
//! in a browser of the shop. For the browser the page and this server are then one origin: the page may ask anything and
//! read the answers, and no rule about origins applies. But the browser sends the name in `Host`. So requests are
//! refused under names that a stranger could have: those with a dot that are not known to be this server's.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::sync::{Mutex, RwLock};

use super::authority::{Authority, Host};
use super::error::ApiError;
use super::forwarded::ForwardedHosts;

/// How old what is known of this machine's names may be when a name is not among them: its network, and so the domain
/// that it is in, may come up after this process.
const OLDEST_NAMES: Duration = Duration::from_secs(10);

/// The names under which this server may be asked. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct AllowedHosts(Arc<HostNames>);

#[derive(Debug)]
struct HostNames {
    /// `server.allowed_hosts`.
    configured: Vec<HostPattern>,
    /// The names in the certificate for TLS.
    certified: RwLock<Vec<HostPattern>>,
    machine: Mutex<MachineNames>,
}

impl AllowedHosts {
    /// Allows the names of `server.allowed_hosts` and those of this machine.
    pub(crate) fn new(configured: &[String]) -> Self {
        Self::of_machine(configured, Path::new("/"))
    }

    /// The same for a machine whose files are below `root`.
    fn of_machine(configured: &[String], root: &Path) -> Self {
        let configured = configured.iter().map(|name| match name.as_str() {
            "*" => HostPattern::All,
            name => HostPattern::new(name),
        });
        Self(Arc::new(HostNames {
            configured: configured.collect(),
            certified: RwLock::default(),
            machine: Mutex::new(MachineNames::read(root, Instant::now())),
        }))
    }

    /// Allows the names of the certificate for TLS, instead of those of an earlier one. `*.` before a name means those
    /// below it.
    pub fn set_certificate_names(&self, names: Vec<String>) {
        let patterns = names.into_iter().map(|name| HostPattern::new(&name));
        *self.0.certified.write() = patterns.collect();
    }

    fn allow(&self, host: &Host, now: Instant) -> bool {
        let name = match host {
            // To ask for an address no name is needed that could lead elsewhere.
            Host::Address(_) => return true,
            Host::Name(name) => name,
        };
        // Nobody can register a name without a dot: it is one of the shop's network, or of containers.
        !name.contains('.')
            || name.ends_with(".localhost")
            || (self.0.configured.iter()).any(|pattern| pattern.fits(name))
            || (self.0.certified.read().iter()).any(|pattern| pattern.fits(name))
            || self.0.machine.lock().include(name, now)
    }

    /// Refuses a request for a host that is not allowed, whether it is asked for itself or a trusted proxy was.
    pub(super) fn check(&self, request: &Request, now: Instant) -> Result<(), ApiError> {
        let refused = |host: &str| Err(ApiError::HostNotAllowed(host.to_owned()));
        let asked = Authority::of(request).map_err(|_| ApiError::improper_host())?;
        if let Some(Authority { host, .. }) = asked
            && !self.allow(&host, now)
            && let Host::Name(name) = host
        {
            return refused(&name);
        }
        let forwarded = request.extensions().get::<ForwardedHosts>();
        // All of them: some proxies append theirs to what the client wrote itself.
        for entry in forwarded.into_iter().flat_map(ForwardedHosts::iter) {
            let text = entry.ok_or_else(ApiError::improper_host)?;
            let authority = Authority::parse(text).ok_or_else(ApiError::improper_host)?;
            if !self.allow(&authority.host, now) {
                return refused(text);
            }
        }
        Ok(())
    }
}

/// Answers only requests for hosts that are allowed.
pub(crate) async fn check_host(
    State(hosts): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.check(&request, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Names of hosts, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    All,
    /// All that end with this, which begins with a dot.
    Below(String),
    One(String),
}

impl HostPattern {
    fn new(name: &str) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some(domain) if domain.starts_with('.') => Self::Below(domain.to_owned()),
            _ => Self::One(name),
        }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(domain) => name.len() > domain.len() && name.ends_with(domain),
            Self::One(one) => name == one,
        }
    }
}

/// The names of this machine.
#[derive(Debug)]
struct MachineNames {
    root: PathBuf,
    names: HashSet<String>,
    read_at: Instant,
    /// Whether it was told that they cannot be read any more.
    is_told: bool,
}

impl MachineNames {
    fn read(root: &Path, now: Instant) -> Self {
        let told = |what: &str, error: &io::Error| {
            tracing::warn!(%error, "cannot read {what}: name this machine's names in server.allowed_hosts");
        };
        let hostname = read_hostname(root).inspect_err(|error| told("the host name", error));
        let resolver = read_resolver(root).inspect_err(|error| told("/etc/resolv.conf", error));
        let names = names(&hostname.unwrap_or_default(), &resolver.unwrap_or_default());
        Self {
            root: root.to_owned(),
            names,
            read_at: now,
            is_told: false,
        }
    }

    /// Whether `name` is one of them; they may have changed.
    fn include(&mut self, name: &str, now: Instant) -> bool {
        if self.names.contains(name) {
            return true;
        }
        if now.saturating_duration_since(self.read_at) < OLDEST_NAMES {
            return false;
        }
        self.read_at = now;
        match (read_hostname(&self.root), read_resolver(&self.root)) {
            (Ok(hostname), Ok(resolver)) => self.names = names(&hostname, &resolver),
            // What cannot be read now may be again later.
            (Err(error), _) | (_, Err(error)) => self.tell_once(&error),
        }
        self.names.contains(name)
    }

    /// A sandbox lets the file be read that was there when the process started, and not one in its place.
    fn tell_once(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(
                %error,
                "/etc/resolv.conf is another file than at the start and cannot be read: the domains of this machine are those \
                 of the start until a restart; name what is missing in server.allowed_hosts"
            );
        }
    }
}

fn read_hostname(root: &Path) -> io::Result<String> {
    fs::read_to_string(root.join("proc/sys/kernel/hostname"))
}

/// The settings of the resolver; none are no mistake.
fn read_resolver(root: &Path) -> io::Result<String> {
    match fs::read_to_string(root.join("etc/resolv.conf")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        resolver => resolver,
    }
}

/// Returns what a machine with this host name and these settings of its resolver is called: its name, and its first
/// label in each domain that the resolver searches and in that of mDNS.
fn names(hostname: &str, resolver: &str) -> HashSet<String> {
    let hostname = hostname.trim().to_ascii_lowercase();
    let Some(label) = hostname.split('.').next().filter(|label| !label.is_empty()) else {
        return HashSet::new();
    };
    let lines = resolver.lines().map(str::split_ascii_whitespace);
    let searched = lines.flat_map(|mut words| {
        let is_list = matches!(words.next(), Some("search" | "domain"));
        words.filter(move |_| is_list)
    });
    let domains = searched.map(|domain| domain.trim_matches('.').to_ascii_lowercase());
    let domains = domains.filter(|domain| !domain.is_empty());
    let in_domains = domains.map(|domain| format!("{label}.{domain}"));
    let mut names: HashSet<String> = in_domains.collect();
    names.insert(format!("{label}.local"));
    names.insert(hostname);
    names
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{HeaderName, header};

    use super::*;

    /// A machine with this name whose resolver searches these domains.
    fn machine(hostname: &str, resolver: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in [
            ("proc/sys/kernel/hostname", hostname),
            ("etc/resolv.conf", resolver),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn allowed(hosts: &AllowedHosts, host: &str) -> bool {
        let authority = Authority::parse(host).expect(host);
        hosts.allow(&authority.host, Instant::now())
    }

    #[test]
    fn addresses_and_this_machines_own_names_are_allowed_and_a_strangers_are_not() {
        let root = machine(
            "Box-17\n",
            "nameserver 10.0.0.1\nsearch shop.lan Example.COM.\n",
        );
        let hosts = AllowedHosts::of_machine(&[], root.path());
        for host in [
            "10.0.0.5:8080",
            "8.8.8.8",
            "[fd00::5]:8080",
            "localhost:8080",
            "LOCALHOST",
            "app.localhost",
            "box-17",
            "edgellm",
            "Box-17.local:8080",
            "box-17.shop.lan",
            "box-17.example.com.",
        ] {
            assert!(allowed(&hosts, host), "{host}");
        }
        for host in [
            "evil.example",
            "box-17.evil.example",
            "evil.shop.lan",
            "shop.lan",
            "notlocalhost.example",
            "other.local",
            "10.0.0.5.evil.example",
            "127.1",
        ] {
            assert!(!allowed(&hosts, host), "{host}");
        }
    }

    #[test]
    fn the_settings_and_the_certificate_add_names() {
        let root = machine("box", "");
        let settings = ["llm.example.com", "*.shop.lan"].map(str::to_owned);
        let hosts = AllowedHosts::of_machine(&settings, root.path());
        for host in [
            "llm.example.com",
            "LLM.example.com.:1",
            "a.shop.lan",
            "b.a.shop.lan",
        ] {
            assert!(allowed(&hosts, host), "{host}");
        }
        for host in [
            "example.com",
            "x.llm.example.com",
            "shop.lan",
            "evilshop.lan",
        ] {
            assert!(!allowed(&hosts, host), "{host}");
        }
        let certified = ["Till.example.org", "*.kiosk.example.org", "*"].map(str::to_owned);
        hosts.clone().set_certificate_names(certified.to_vec());
        assert!(allowed(&hosts, "till.example.org"));
        assert!(allowed(&hosts, "a.kiosk.example.org"));
        // No certificate is for all names.
        assert!(!allowed(&hosts, "evil.example"));
        hosts.set_certificate_names(Vec::new());
        assert!(!allowed(&hosts, "till.example.org"));
        let all = AllowedHosts::of_machine(&["*".to_owned()], root.path());
        assert!(allowed(&all, "evil.example"));
    }

    #[test]
    fn a_domain_that_comes_up_later_is_noticed_and_an_unreadable_file_takes_no_name_away() {
        let root = machine("box", "nameserver 10.0.0.1\n");
        let began = Instant::now();
        let mut names = MachineNames::read(root.path(), began);
        fs::write(root.path().join("etc/resolv.conf"), "search shop.lan\n").expect("written");
        let soon = began + OLDEST_NAMES / 2;
        assert!(!names.include("box.shop.lan", soon));
        let later = began + OLDEST_NAMES;
        assert!(names.include("box.shop.lan", later));
        fs::remove_file(root.path().join("proc/sys/kernel/hostname")).expect("removed");
        let latest = later + OLDEST_NAMES;
        assert!(!names.include("evil.example", latest));
        assert!(names.include("box.shop.lan", latest));
    }

    #[test]
    fn a_machine_is_called_by_its_name_and_by_its_label_in_its_domains() {
        let sorted = |hostname: &str, resolver: &str| {
            let mut names: Vec<_> = names(hostname, resolver).into_iter().collect();
            names.sort();
            names
        };
        assert_eq!(
            sorted(
                "box.shop.lan\n",
                "domain a.example\n# search x\nsearch . b.example c.example\n"
            ),
            [
                "box.a.example",
                "box.b.example",
                "box.c.example",
                "box.local",
                "box.shop.lan"
            ]
        );
        assert_eq!(sorted("", "search a.example"), [""; 0]);
    }

    #[test]
    fn a_request_is_held_against_its_host_and_all_that_a_proxy_tells() {
        let root = machine("box", "");
        let hosts = AllowedHosts::of_machine(&["shop.example".to_owned()], root.path());
        let code = |sent: &[&str], forwarded: Option<&'static str>| {
            let mut request = Request::builder().uri("/v1/models");
            for host in sent {
                request = request.header(header::HOST, *host);
            }
            if let Some(hosts) = forwarded {
                let name = HeaderName::from_static("x-forwarded-host");
                request = request.header(name, hosts);
            }
            let mut request = request.body(Body::empty()).expect("a request");
            ForwardedHosts::believe(&mut request);
            let refused = hosts.check(&request, Instant::now()).err()?;
            Some((refused.status().as_u16(), refused.to_string()))
        };
        assert_eq!(code(&[], None), None);
        assert_eq!(code(&["box:80"], None), None);
        assert_eq!(code(&["127.0.0.1"], Some("shop.example, box")), None);
        let (status, message) = code(&["evil.example:80"], None).expect("refused");
        assert_eq!(status, 403);
        assert!(message.contains("`evil.example`"), "{message}");
        assert!(message.contains("server.allowed_hosts"), "{message}");
        for forwarded in [
            "evil.example",
            "evil.example, shop.example",
            "shop.example,evil.example:8",
        ] {
            let (status, _) = code(&["127.0.0.1"], Some(forwarded)).expect(forwarded);
            assert_eq!(status, 403, "{forwarded}");
        }
        for (sent, forwarded) in [
            (vec!["box", "box"], None),
            (vec!["a b"], None),
            (vec!["box"], Some("a b")),
        ] {
            let (status, message) = code(&sent, forwarded).expect("refused");
            assert_eq!(status, 400);
            assert!(message.contains("Host"), "{message}");
        }
    }
}
