//! A fake API server that runs programs in pods as a real one does for `kubectl exec`: over a websocket each, with the
//! subprotocol `v5.channel.k8s.io`.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::serve::Listener;
use futures_util::SinkExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Programs' outputs come in messages of at most that many bytes, as a kubelet sends them.
const CHUNK: usize = 32 << 10;

/// What becomes of a program.
pub enum Run {
    /// It ends with an exit code, and has written this to its standard output and standard error.
    Ends(i32, Vec<u8>, String),
    /// The API server refuses to run it.
    Refused(u16, String),
    /// The websocket is closed without an end of the program.
    Cut,
}

/// Decides on a program in a pod, by the pod's name and the command line.
type Decide = dyn Fn(&str, &[String]) -> Run + Send + Sync;

/// The API server. It also lists pods.
#[derive(Clone)]
pub struct Api {
    pods: Arc<Vec<Value>>,
    run: Arc<Decide>,
    delay: Duration,
    /// The programs that it was to run: a pod and a command line each.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    pub fn new(pods: Vec<Value>, run: impl Fn(&str, &[String]) -> Run + Send + Sync + 'static) -> Api {
        Api { pods: Arc::new(pods), run: Arc::new(run), delay: Duration::ZERO, asked: Arc::default() }
    }

    /// Lets each program take this long.
    pub fn slowly(self, delay: Duration) -> Api {
        Api { delay, ..self }
    }

    /// Serves in a thread of its own for as long as the process lives. `listen` is called in it.
    pub fn start<L: Listener>(&self, listen: impl FnOnce() -> L + Send + 'static)
    where
        L::Addr: std::fmt::Debug,
    {
        let api = self.clone();
        let (listening, listens) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = listen();
                listening.send(()).unwrap();
                let router = axum::Router::new().fallback(move |request: Request| {
                    let api = api.clone();
                    async move { api.answer(request) }
                });
                axum::serve(listener, router).await.unwrap();
            });
        });
        listens.recv().unwrap();
    }

    fn answer(&self, mut request: Request) -> Response<Body> {
        let path = request.uri().path().to_owned();
        // kubectl asks first for what the API has.
        match path.as_str() {
            "/api" => {
                return json_answer(StatusCode::OK, &json!({"kind": "APIVersions", "versions": ["v1"]}));
            }
            "/apis" => {
                let groups = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []});
                return json_answer(StatusCode::OK, &groups);
            }
            "/api/v1" => {
                let pods = json!({"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                    "verbs": ["get", "list"]});
                let resources = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]});
                return json_answer(StatusCode::OK, &resources);
            }
            _ => {}
        }
        let words: Vec<&str> = path.split('/').collect();
        let ["", "api", "v1", "namespaces", _, "pods", rest @ ..] = &words[..] else {
            return status(404, "the server could not find the requested resource");
        };
        let [pod, "exec"] = rest else {
            let pods = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": *self.pods});
            let name = |pod: &&Value| rest.first().is_some_and(|name| pod["metadata"]["name"] == *name);
            return json_answer(StatusCode::OK, self.pods.iter().find(name).unwrap_or(&pods));
        };
        let query: Vec<(String, String)> = {
            let query = request.uri().query().unwrap_or_default().split('&');
            let plain = |text: &str| text.replace("%3D", "=").replace("%2F", "/").replace('+', " ");
            query
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (plain(key), plain(value)))
                .collect()
        };
        let all = |key: &str| -> Vec<String> {
            query.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
        };
        let command = all("command");
        assert_eq!(all("container"), ["agent"]);
        self.asked.lock().unwrap().push(format!("{pod} {}", command.join(" ")));
        let run = (self.run)(pod, &command);
        if let Run::Refused(code, message) = &run {
            return status(*code, message);
        }
        let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
            return status(400, "no websocket");
        };
        let (upgraded, delay) = (hyper::upgrade::on(&mut request), self.delay);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let stream = TokioIo::new(upgraded.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            // The client may be gone.
            for message in messages(&run) {
                if socket.send(Message::binary(message)).await.is_err() {
                    return;
                }
            }
            // kubectl takes a close without a code for an error.
            let _ = socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await;
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-accept", derive_accept_key(key.as_bytes()).parse().unwrap());
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
        response
    }
}

/// A program's messages, each with its channel first.
fn messages(run: &Run) -> Vec<Vec<u8>> {
    // At first each channel has an empty one.
    let mut messages = vec![vec![1], vec![2], vec![3]];
    let Run::Ends(code, stdout, stderr) = run else { return messages };
    for (channel, text) in [(1, stdout.as_slice()), (2, stderr.as_bytes())] {
        messages.extend(text.chunks(CHUNK).map(|chunk| [&[channel], chunk].concat()));
    }
    let end = if *code == 0 {
        json!({"metadata": {}, "status": "Success"})
    } else {
        json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
    };
    messages.push([&[3], end.to_string().as_bytes()].concat());
    messages
}

fn status(code: u16, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": code});
    json_answer(StatusCode::from_u16(code).unwrap(), &body)
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
