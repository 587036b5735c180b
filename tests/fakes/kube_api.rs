//! A fake API server for one node: pods with list and watch, namespaces, a Node, and Events, over HTTP or
//! within the process. It refuses what a real API server refuses, and records its requests. It answers 404 to
//! anything that it does not implement, and records that as unexpected.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, Response, StatusCode};
use axum::response::IntoResponse;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Approximate interval of a real API server's bookmarks.
const BOOKMARK: Duration = Duration::from_secs(60);

/// A received request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Verb and resource as in RBAC: `list pods`, `watch pods`, `patch nodes/status`.
    pub what: String,
    pub query: HashMap<String, String>,
    pub accept: String,
    pub token: String,
    pub body: Value,
}

/// A failure of one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A status, with a `Retry-After` in seconds unless that is 0.
    Status(u16, u64),
    /// An answer with invalid content.
    Garbage(&'static str),
    /// A watch that ends at once.
    Empty,
    /// A watch with these bytes, after which the connection is cut.
    Cut(&'static str),
    /// A watch without any event.
    Silent,
    /// This many bytes of an endless line, and then nothing.
    Endless(usize),
}

#[derive(Default)]
pub struct Inner {
    pub version: u64,
    /// Resource versions up to this one are no longer available.
    pub compacted: u64,
    pub pods: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, Value)>,
    pub namespaces: BTreeMap<String, Value>,
    pub conditions: BTreeMap<String, Value>,
    pub events: BTreeMap<String, Value>,
    pub requests: Vec<Seen>,
    pub unexpected: Vec<String>,
    /// The accepted tokens; empty accepts everyone.
    pub tokens: Vec<String>,
    pub faults: VecDeque<(&'static str, Fault)>,
}

#[derive(Clone)]
pub struct Api {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Default for Api {
    fn default() -> Api {
        let inner = Inner { version: 100, ..Inner::default() };
        Api { inner: Arc::new(Mutex::new(inner)), changed: Arc::new(watch::channel(100).0) }
    }
}

impl Api {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Creates or changes a pod.
    pub fn put_pod(&self, mut pod: Value) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let kind = if inner.pods.insert(uid, pod.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        inner.log.push((version, kind, pod));
        drop(inner);
        self.changed.send_replace(version);
    }

    pub fn delete_pod(&self, uid: &str) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let mut pod = inner.pods.remove(uid).unwrap();
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        inner.log.push((version, "DELETED", pod));
        drop(inner);
        self.changed.send_replace(version);
    }

    /// Makes the next request of this kind fail.
    pub fn fail(&self, what: &'static str, fault: Fault) {
        self.lock().faults.push_back((what, fault));
    }

    pub fn count(&self, what: &str) -> usize {
        self.lock().requests.iter().filter(|seen| seen.what == what).count()
    }

    /// The number of requests of each kind.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in &self.lock().requests {
            *counts.entry(seen.what.clone()).or_default() += 1;
        }
        counts
    }

    /// Serves on a port of the loopback address; returns the URL.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = self.clone();
        let router = axum::Router::new().fallback(move |request: Request| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// A client in this process, without a socket.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: axum::http::Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request.map(Body::new)).await) }
        });
        kube::Client::new(service, "default")
    }

    pub async fn answer(&self, request: Request) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let query: HashMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decoded(value)))
            .collect();
        let header = |name: &str| {
            head.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        let what = what(&head.method, &path, &query);
        let token = header("authorization").trim_start_matches("Bearer ").to_owned();
        let seen = Seen {
            what: what.clone(),
            query: query.clone(),
            accept: header("accept"),
            token: token.clone(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let fault = {
            let mut inner = self.lock();
            inner.requests.push(seen.clone());
            if !inner.tokens.is_empty() && !inner.tokens.contains(&token) {
                return status(401, "Unauthorized", 0);
            }
            let at = inner.faults.iter().position(|(on, _)| *on == what);
            at.and_then(|at| inner.faults.remove(at)).map(|(_, fault)| fault)
        };
        match fault {
            None => {}
            Some(Fault::Status(code, after)) => return status(code, "on purpose", after),
            Some(Fault::Garbage(text)) => return text.into_response(),
            Some(Fault::Empty) => return Body::empty().into_response(),
            Some(Fault::Cut(text)) => {
                let parts = stream::unfold(Some(text), |text| async move {
                    if let Some(text) = text {
                        return Some((Ok(Bytes::from(text)), None));
                    }
                    // The sent bytes must have left before the connection is cut.
                    sleep(Duration::from_millis(50)).await;
                    Some((Err(std::io::Error::other("cut")), None))
                });
                return Body::from_stream(parts).into_response();
            }
            Some(Fault::Endless(bytes)) => {
                let part = Bytes::from(vec![b'y'; 1 << 20]);
                let parts = stream::iter((0..bytes >> 20).map(move |_| Ok(part.clone())));
                let silence = stream::pending::<std::io::Result<Bytes>>();
                return Body::from_stream(futures_util::StreamExt::chain(parts, silence)).into_response();
            }
            Some(Fault::Silent) => {
                return Body::from_stream(stream::pending::<std::io::Result<Bytes>>()).into_response();
            }
        }
        let metadata_only = seen.accept.contains("as=PartialObjectMetadata");
        let content = header("content-type");
        match (what.as_str(), path.as_slice()) {
            ("list pods", _) => self.list(&query),
            ("watch pods", _) => self.watch(&query),
            ("get namespaces", [.., name]) if metadata_only => match self.lock().namespaces.get(*name) {
                Some(annotations) => object(&json!({"kind": "PartialObjectMetadata", "apiVersion":
                    "meta.k8s.io/v1", "metadata": {"name": name, "annotations": annotations}})),
                None => status(404, "no such namespace", 0),
            },
            ("get nodes", [.., name]) => {
                let conditions: Vec<Value> = self.lock().conditions.values().cloned().collect();
                object(&json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name},
                    "status": {"conditions": conditions}}))
            }
            ("patch nodes/status", _) if content == "application/apply-patch+yaml" => self.apply(&seen),
            ("patch nodes/status", _) if content == "application/strategic-merge-patch+json" => {
                self.remove(&seen)
            }
            ("create tokenreviews", _) => {
                let mut review = seen.body.clone();
                review["status"] = json!({"authenticated": true, "user": {"username": "prometheus"}});
                object(&review)
            }
            ("create subjectaccessreviews", _) => {
                let mut review = seen.body.clone();
                review["status"] = json!({"allowed": true});
                object(&review)
            }
            ("create events", [.., namespace, _]) => self.create_event(namespace, &seen.body),
            ("patch events", [.., name]) if content == "application/merge-patch+json" => {
                self.patch_event(name, &seen.body)
            }
            _ => {
                self.lock().unexpected.push(format!("{what}: {} {content} {}", head.uri, seen.accept));
                status(404, "the fake does not know it", 0)
            }
        }
    }

    fn list(&self, query: &HashMap<String, String>) -> Response<Body> {
        let inner = self.lock();
        let items: Vec<&Value> = inner.pods.values().filter(|pod| is_selected(pod, query)).collect();
        object(&json!({"kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": inner.version.to_string()}, "items": items}))
    }

    fn watch(&self, query: &HashMap<String, String>) -> Response<Body> {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        let seconds = query.get("timeoutSeconds").map_or(1800, |seconds| seconds.parse().unwrap());
        let bookmarks = query.get("allowWatchBookmarks").is_some_and(|value| value == "true");
        if from < self.lock().compacted {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410}});
            return format!("{gone}\n").into_response();
        }
        let state = Watching {
            api: self.clone(),
            changes: self.changed.subscribe(),
            at: from,
            until: Instant::now() + Duration::from_secs(seconds),
            bookmarks,
            query: query.clone(),
            matching: self
                .lock()
                .pods
                .iter()
                .filter(|(_, pod)| is_selected(pod, query))
                .map(|(uid, _)| uid.clone())
                .collect(),
        };
        let lines = stream::unfold(state, |mut state| async move {
            let line = state.next().await?;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(written(&line) + "\n")), state))
        });
        Body::from_stream(lines).into_response()
    }

    fn apply(&self, seen: &Seen) -> Response<Body> {
        if seen.query.get("fieldManager").is_none_or(String::is_empty) {
            return status(400, "fieldManager is required for apply patch", 0);
        }
        let mut inner = self.lock();
        // The kubelet has created the Node with its conditions, so no manager owns them: an apply that leaves
        // the manager's own out takes them along.
        if seen.body["status"]["conditions"].as_array().is_none_or(Vec::is_empty) {
            inner.conditions.clear();
        }
        for condition in seen.body["status"]["conditions"].as_array().into_iter().flatten() {
            inner.conditions.insert(condition["type"].as_str().unwrap().to_owned(), condition.clone());
        }
        object(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {}}))
    }

    fn remove(&self, seen: &Seen) -> Response<Body> {
        for condition in seen.body["status"]["conditions"].as_array().unwrap() {
            assert_eq!(condition["$patch"], "delete", "{condition}");
            self.lock().conditions.remove(condition["type"].as_str().unwrap());
        }
        object(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {}}))
    }

    fn create_event(&self, namespace: &str, event: &Value) -> Response<Body> {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let regarding = event["regarding"]["namespace"].as_str().unwrap_or("default");
        // Rules from Kubernetes, pkg/apis/core/validation/events.go.
        let complaints = [
            (event["metadata"]["namespace"] != namespace, "metadata.namespace"),
            (regarding != namespace, "involvedObject.namespace"),
            (!text("eventTime").ends_with('Z') || text("eventTime").len() != 27, "eventTime"),
            (text("reportingController").is_empty(), "reportingController"),
            (!(1..=128).contains(&text("reportingInstance").len()), "reportingInstance"),
            (!(1..=128).contains(&text("action").len()), "action"),
            (!(1..=128).contains(&text("reason").len()), "reason"),
            (text("note").len() > 1024, "note"),
            (!["Normal", "Warning"].contains(&text("type")), "type"),
            (event.get("series").is_some(), "series"),
        ];
        if let Some((_, field)) = complaints.iter().find(|(wrong, _)| *wrong) {
            return status(422, &format!("{field}: invalid value"), 0);
        }
        let name = event["metadata"]["name"].as_str().unwrap().to_owned();
        if self.lock().events.contains_key(&name) {
            return status(409, "already exists", 0);
        }
        self.lock().events.insert(name, event.clone());
        object(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {}}))
    }

    fn patch_event(&self, name: &str, patch: &Value) -> Response<Body> {
        let only_series = patch.as_object().unwrap().keys().all(|key| key == "series");
        if !only_series || patch["series"]["count"].as_u64().is_none_or(|count| count < 2) {
            return status(422, "field is immutable", 0);
        }
        match self.lock().events.get_mut(name) {
            None => return status(404, "not found", 0),
            Some(event) => event["series"] = patch["series"].clone(),
        }
        object(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {}}))
    }
}

struct Watching {
    api: Api,
    changes: watch::Receiver<u64>,
    at: u64,
    until: Instant,
    bookmarks: bool,
    query: HashMap<String, String>,
    /// UIDs of the pods that this watch has sent.
    matching: BTreeSet<String>,
}

impl Watching {
    async fn next(&mut self) -> Option<Value> {
        loop {
            let next = self.api.lock().log.iter().find(|(version, ..)| *version > self.at).cloned();
            if let Some((version, kind, pod)) = next {
                self.at = version;
                let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
                if is_selected(&pod, &self.query) {
                    self.matching.insert(uid);
                    return Some(json!({"type": kind, "object": pod}));
                }
                // For this watch, a pod that no longer matches is deleted.
                if self.matching.remove(&uid) {
                    return Some(json!({"type": "DELETED", "object": pod}));
                }
                continue;
            }
            tokio::select! {
                () = sleep_until(self.until) => return None,
                () = sleep(BOOKMARK), if self.bookmarks => {
                    return Some(json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1",
                        "metadata": {"resourceVersion": self.at.to_string(), "creationTimestamp": null}}}));
                }
                changed = self.changes.changed() => changed.unwrap(),
            }
        }
    }
}

fn decoded(value: &str) -> String {
    [("%3D", "="), ("%2F", "/"), ("%2C", ","), ("%21", "!")]
        .into_iter()
        .fold(value.to_owned(), |value, (from, to)| value.replace(from, to))
}

/// Whether a pod matches the field selector. Supports the fields for which a real API server has an index or
/// a filter.
fn is_selected(pod: &Value, query: &HashMap<String, String>) -> bool {
    query["fieldSelector"].split(',').all(|term| {
        let (field, value, wanted) = match term.split_once("!=") {
            Some((field, value)) => (field, value, false),
            None => term.split_once('=').map(|(field, value)| (field, value, true)).unwrap(),
        };
        let is = match field {
            "spec.nodeName" => pod["spec"]["nodeName"] == value,
            "status.phase" => pod["status"]["phase"] == value,
            _ => panic!("no such field: {field}"),
        };
        is == wanted
    })
}

/// Verb and resource as in RBAC.
fn what(method: &Method, path: &[&str], query: &HashMap<String, String>) -> String {
    let (resource, named, sub) = match path {
        ["api", "v1", "pods"] => ("pods", false, ""),
        ["api", "v1", kind @ ("namespaces" | "nodes"), _] => (*kind, true, ""),
        ["api", "v1", "nodes", _, "status"] => ("nodes", true, "/status"),
        ["apis", "authentication.k8s.io", "v1", "tokenreviews"] => ("tokenreviews", false, ""),
        ["apis", "authorization.k8s.io", "v1", "subjectaccessreviews"] => ("subjectaccessreviews", false, ""),
        ["apis", "events.k8s.io", "v1", "namespaces", _, "events"] => ("events", false, ""),
        ["apis", "events.k8s.io", "v1", "namespaces", _, "events", _] => ("events", true, ""),
        _ => ("unknown", false, ""),
    };
    let watches = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match (method.as_str(), named) {
        ("GET", _) if watches => "watch",
        ("GET", true) => "get",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        (other, _) => other,
    };
    format!("{verb} {resource}{sub}")
}

fn object(value: &Value) -> Response<Body> {
    axum_json(StatusCode::OK, value)
}

fn axum_json(code: StatusCode, value: &Value) -> Response<Body> {
    (code, [("content-type", "application/json")], written(value)).into_response()
}

/// The form in which Go's `encoding/json` writes a value: safe within HTML. No key has such characters.
fn written(value: &Value) -> String {
    let escapes = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")];
    escapes.into_iter().fold(value.to_string(), |text, (from, to)| text.replace(from, to))
}

fn status(code: u16, message: &str, retry_after: u64) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": code});
    let mut response = axum_json(StatusCode::from_u16(code).unwrap(), &body);
    if retry_after > 0 {
        response.headers_mut().insert("retry-after", retry_after.into());
    }
    response
}
