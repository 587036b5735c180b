//! The exporter beside an API server whose clock differs by an hour, with the binary: what the API server accepts counts,
//! and no time in a token is compared with the exporter's own clock. libfaketime shows the exporter another time.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::version::TLS13;

use crate::apiserver::{self, ask};
use crate::clock::{library, set};
use crate::exporter::{Exporter, Room, USER};
use crate::fakes::kube_api::Api;
use crate::protection::{Authority, Secret, get};

/// More than the exporter waits at most before its first list of pods.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a projected token is valid.
const LIFE: u64 = 3600;

/// An exporter with TLS, and with a clock of its own. It asks an API server with the token in `token`.
struct Skewed {
    exporter: Exporter,
    client: Arc<ClientConfig>,
    room: Room,
    _secret: Secret,
}

impl Skewed {
    /// `server` is the API server's URL and its certificate.
    fn start(library: &Path, by: &str, (url, authority): (&str, Option<&Path>), token: &str) -> Skewed {
        let room = Room::new();
        let own = Authority::new();
        let secret = Secret::new(&own.pair("a.test"));
        let files = secret.files();
        let mut cluster = json!({"server": url});
        if let Some(authority) = authority {
            std::fs::copy(authority, room.file("ca.crt")).unwrap();
            cluster["certificate-authority"] = json!(room.file("ca.crt"));
        }
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "a", "user": {"tokenFile": room.file("token")}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        let config = json!({
            "http": {"authorization": "kubernetes", "tlsCertificateFile": files.certificate, "tlsKeyFile": files.key},
            "kubernetes": {"kubeconfig": room.file("kubeconfig")},
        });
        room.write("kubeconfig", &kubeconfig.to_string());
        room.write("config.yaml", &config.to_string());
        room.write("token", token);
        secret.open_to_all();
        set(room.path(), by);
        let mut command = room.command(&["--config", room.file("config.yaml").to_str().unwrap()]);
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", room.file(".clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("NODE_NAME", "worker-1").uid(USER).gid(USER);
        Skewed { exporter: Exporter::of(command), client: own.client(&TLS13), room, _secret: secret }
    }

    /// The status for a client's token, and the text.
    fn get(&self, token: &str) -> (String, String) {
        let answer = get(self.exporter.address(), &self.client, "a.test", "/metrics", token).unwrap();
        (answer.split(' ').nth(1).unwrap().to_owned(), answer)
    }

    /// Waits until this token is admitted, and the text fulfils a condition.
    #[track_caller]
    fn wait(&self, what: &str, token: &str, is_so: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.get(token);
            if status == "200" && is_so(&text) {
                return;
            }
            assert!(Instant::now() < end, "waiting for {what}: {status} {text}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        text.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[bits >> (18 - 6 * at) & 63])));
    }
    text
}

/// A token as the API server issues it, by its clock, which is the test's.
fn token(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let claims = json!({"sub": name, "iat": now, "nbf": now, "exp": now + LIFE});
    format!("{}.{}.c2ln", part(&json!({"alg": "RS256"})), part(&claims))
}

fn faketime() -> Option<PathBuf> {
    let found = library().filter(|_| nix::unistd::geteuid().is_root());
    if found.is_none() {
        // Not with `eprintln!`, which the test harness captures in passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: another time takes root and libfaketime");
    }
    found
}

/// By the exporter's clock, each token is expired or of the future. Tokens are replaced while a watch is open, and the
/// exporter's clock is set in between.
#[tokio::test]
async fn tokens_are_judged_by_the_api_server_alone() {
    let Some(library) = faketime() else { return };
    for (by, then) in [("-5400", "+5400"), ("+5400", "-5400")] {
        let api = Api::default();
        let url = api.serve().await;
        let tokens = ["first", "second", "third"].map(token);
        api.lock().tokens = vec![tokens[0].clone()];
        let (library, seen) = (library.clone(), api.clone());
        let story = move || {
            let skewed = Skewed::start(&library, by, (&url, None), &tokens[0]);
            let is_up = |text: &str| text.contains("\nusernsd_kube_up 1\n");
            let is_watched = |text: &str| is_up(text) && seen.count("watch pods") > 0;
            // The client's token is another one each time, so that each is a question.
            skewed.wait("the list of pods", &token("scraper-0"), is_watched);
            for (number, next) in tokens.iter().enumerate().skip(1) {
                if number == 2 {
                    set(skewed.room.path(), then);
                }
                seen.lock().tokens = vec![next.clone()];
                skewed.room.write("token", next);
                skewed.wait("the new token", &token(&format!("scraper-{number}")), is_up);
                let inner = seen.lock();
                let asked =
                    |what: &str| inner.requests.iter().any(|seen| seen.what == what && seen.token == *next);
                assert!(asked("create tokenreviews") && asked("create subjectaccessreviews"));
            }
        };
        tokio::task::spawn_blocking(story).await.unwrap();
        let inner = api.lock();
        assert_eq!(inner.unexpected, Vec::<String>::new());
        let count = |what| inner.requests.iter().filter(|seen| seen.what == what).count();
        assert_eq!(
            (count("list pods"), count("watch pods")),
            (1, 1),
            "no token and no clock ended the watch"
        );
    }
}

/// The same with the real API server's tokens, which are valid for ten minutes, and its word on one whose account is
/// deleted.
#[tokio::test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
async fn tokens_of_a_real_api_server_are_judged_by_it_alone() {
    let Some(library) = faketime() else { return };
    let Some(server) = apiserver::Server::start_or_skip() else { return };
    let admin = server.admin().await;
    let page = include_str!("../../docs/kubernetes.md");
    let role = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let group = "rbac.authorization.k8s.io";
    let account = |name: &str| json!({"kind": "ServiceAccount", "namespace": "usernsd", "name": name});
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "subjects": [account(name)], "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role}})
    };
    let scrapes = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "scraper"},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]});
    let accounts = "/api/v1/namespaces/usernsd/serviceaccounts";
    let named =
        |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    for (path, object) in [
        ("/api/v1/namespaces".to_owned(), named("Namespace", "usernsd")),
        (accounts.to_owned(), named("ServiceAccount", "usernsd-exporter")),
        (accounts.to_owned(), named("ServiceAccount", "scraper")),
        (format!("{rbac}/clusterroles"), serde_saphyr::from_str(role).unwrap()),
        (format!("{rbac}/clusterroles"), scrapes),
        (format!("{rbac}/clusterrolebindings"), binding("usernsd-exporter", "usernsd-exporter")),
        (format!("{rbac}/clusterrolebindings"), {
            let mut reviews = binding("usernsd-exporter", "system:auth-delegator");
            reviews["metadata"]["name"] = json!("usernsd-reviews");
            reviews
        }),
        (format!("{rbac}/clusterrolebindings"), binding("scraper", "scraper")),
    ] {
        ask(&admin, "POST", &path, Some(object)).await.unwrap();
    }
    let issue = async |name: &str| {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 600}});
        let answer = ask(&admin, "POST", &format!("{accounts}/{name}/token"), Some(request)).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    };
    let is_up = |text: &str| text.contains("\nusernsd_kube_up 1\n");
    for (by, then) in [("-3500", "+5400"), ("+5400", "-3500")] {
        let (own, next) = (issue("usernsd-exporter").await, issue("usernsd-exporter").await);
        let clients = [issue("scraper").await, issue("scraper").await];
        let (library, url, authority) = (library.clone(), server.url(), server.authority());
        let story = move || {
            let skewed = Skewed::start(&library, by, (&url, Some(&authority)), &own);
            skewed.wait("the list of pods", &clients[0], is_up);
            skewed.room.write("token", &next);
            set(skewed.room.path(), then);
            skewed.wait("the new token", &clients[1], is_up);
            skewed
        };
        let skewed = tokio::task::spawn_blocking(story).await.unwrap();
        // Valid by every clock, but of an account that does not exist any more.
        ask(&admin, "POST", accounts, Some(named("ServiceAccount", "gone"))).await.unwrap();
        let gone = issue("gone").await;
        ask(&admin, "DELETE", &format!("{accounts}/gone"), None).await.unwrap();
        // The API server judges accounts by a watch of its own, and remembers a good judgement for ten seconds.
        let review =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": gone}});
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        timeout(Duration::from_secs(60), async {
            loop {
                let answer = ask(&admin, "POST", reviews, Some(review.clone())).await.unwrap();
                let answer: Value = serde_json::from_str(&answer).unwrap();
                if answer["status"]["authenticated"] != true {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await
        .expect("the API server still takes the token for valid");
        let status = tokio::task::spawn_blocking(move || skewed.get(&gone).0).await.unwrap();
        assert_eq!(status, "401");
    }
}
