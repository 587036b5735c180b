//! A fake container runtime that serves CRI on a unix socket, as a scenario describes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use usernsd_peers::cri::v1;
use usernsd_peers::cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// The end of the event stream after the scenario's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AfterEvents {
    /// Ends with OK, like CRI-O without `enable_pod_events`, or a runtime that stops.
    #[default]
    End,
    /// Stays open and silent.
    Stall,
    /// Fails with an error of the runtime.
    Fail,
    /// Events are not implemented (CRI-O 1.24).
    Unimplemented,
}

/// The contents and the behaviour of the runtime.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// Name and version of the runtime.
    pub version: (String, String),
    /// Sandboxes by ID, each with its verbose `info["info"]`; `None` leaves the key out.
    pub sandboxes: BTreeMap<String, (v1::PodSandboxStatus, Option<String>)>,
    /// Containers by ID, each with its sandbox and its verbose `info["info"]`.
    pub containers: BTreeMap<String, (String, v1::ContainerStatus, Option<String>)>,
    /// Sent to each subscriber.
    pub events: Vec<v1::ContainerEventResponse>,
    pub after_events: AfterEvents,
    /// Accepts calls but answers none while this is set.
    pub hang: bool,
    pub list_fails: bool,
    /// The methods that fail.
    pub refuses: BTreeSet<&'static str>,
    pub list_pods_fails: bool,
    /// The number, from 1, of a list of pods that is made and not sent until this changes; it is recorded as the call
    /// "list held". 0 for none.
    pub held_list_of_pods: usize,
}

/// A running fake. Dropping it closes all its connections.
pub struct FakeRuntime {
    pub scenario: Arc<Mutex<Scenario>>,
    seen: Seen,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Served(Arc<Mutex<Scenario>>, Seen);

/// The calls of clients.
#[derive(Clone, Default)]
struct Seen {
    calls: Arc<Mutex<Vec<&'static str>>>,
    /// The number of calls that failed because of [`Scenario::refuses`].
    refused: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    subscribers: Arc<()>,
}

// === impl FakeRuntime ===

impl FakeRuntime {
    /// Listens on `path` at once, replacing an existing socket as runtimes do.
    pub fn start(path: &Path, scenario: Scenario) -> FakeRuntime {
        let _ = std::fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let scenario = Arc::new(Mutex::new(scenario));
        let seen = Seen::default();
        let served = Served(scenario.clone(), seen.clone());
        let (stop, stopped) = oneshot::channel();
        // A thread with its own executor: when it ends, no connection of the fake is left.
        let thread = std::thread::spawn(move || {
            let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            executor.block_on(async move {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let service = RuntimeServiceServer::new(served);
                let server = tonic::transport::Server::builder().add_service(service);
                tokio::select! {
                    ended = server.serve_with_incoming(incoming) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        FakeRuntime { scenario, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// How often a method was called, of those that are recorded.
    pub fn calls(&self, method: &str) -> usize {
        self.seen.calls.lock().unwrap().iter().filter(|call| **call == method).count()
    }

    /// How often a method failed because of [`Scenario::refuses`].
    pub fn refused(&self, method: &str) -> usize {
        self.seen.refused.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    /// The number of open event streams.
    pub fn subscribers(&self) -> usize {
        // Two more references are held by this fake and by its service.
        Arc::strong_count(&self.seen.subscribers) - 2
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Scenario ===

impl Scenario {
    pub fn add_sandbox(&mut self, status: v1::PodSandboxStatus, info: Option<String>) {
        self.sandboxes.insert(status.id.clone(), (status, info));
    }

    pub fn add_container(&mut self, sandbox_id: &str, status: v1::ContainerStatus, info: Option<String>) {
        self.containers.insert(status.id.clone(), (sandbox_id.to_owned(), status, info));
    }
}

// === impl Served ===

impl Served {
    async fn look<T>(&self, what: impl Fn(&Scenario) -> T) -> T {
        loop {
            {
                let scenario = self.0.lock().unwrap();
                if !scenario.hang {
                    return what(&scenario);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn refuse(&self, method: &'static str) -> Result<(), Status> {
        if self.0.lock().unwrap().refuses.contains(method) {
            *self.1.refused.lock().unwrap().entry(method).or_default() += 1;
            return Err(Status::internal("boom"));
        }
        Ok(())
    }

    fn called(&self, method: &'static str) {
        self.1.calls.lock().unwrap().push(method);
    }
}

/// `info` is included only in verbose answers, like in those of real runtimes.
fn verbose(asked: bool, info: Option<String>) -> HashMap<String, String> {
    info.filter(|_| asked).map(|info| ("info".to_owned(), info)).into_iter().collect()
}

#[tonic::async_trait]
impl RuntimeService for Served {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        self.called("Version");
        self.refuse("Version")?;
        let (runtime_name, runtime_version) = self.look(|it| it.version.clone()).await;
        let version = request.into_inner().version;
        Ok(Response::new(v1::VersionResponse {
            version,
            runtime_name,
            runtime_version,
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        self.called("ListPodSandbox");
        self.refuse("ListPodSandbox")?;
        let all = |it: &Scenario| it.sandboxes.values().map(|(it, _)| it.clone()).collect::<Vec<_>>();
        let (fails, sandboxes) = self.look(|it| (it.list_pods_fails, all(it))).await;
        let number = self.1.calls.lock().unwrap().iter().filter(|call| **call == "ListPodSandbox").count();
        if self.look(|it| it.held_list_of_pods == number).await {
            self.called("list held");
        }
        while self.look(|it| it.held_list_of_pods == number).await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        if fails {
            return Err(Status::internal("boom"));
        }
        let items = sandboxes.into_iter().map(|status| v1::PodSandbox {
            id: status.id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            runtime_handler: status.runtime_handler,
        });
        Ok(Response::new(v1::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        self.called("PodSandboxStatus");
        self.refuse("PodSandboxStatus")?;
        let request = request.into_inner();
        let known = self.look(|it| it.sandboxes.get(&request.pod_sandbox_id).cloned()).await;
        let (status, info) = known.ok_or_else(|| Status::not_found("no such sandbox"))?;
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(status),
            info: verbose(request.verbose, info),
            ..Default::default()
        }))
    }

    async fn list_containers(
        &self,
        _: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        self.called("ListContainers");
        self.refuse("ListContainers")?;
        let of = |(sandbox, status, _): &(String, v1::ContainerStatus, _)| (sandbox.clone(), status.clone());
        let (fails, all) =
            self.look(|it| (it.list_fails, it.containers.values().map(of).collect::<Vec<_>>())).await;
        if fails {
            return Err(Status::internal("boom"));
        }
        let containers = all.into_iter().map(|(pod_sandbox_id, status)| v1::Container {
            id: status.id,
            pod_sandbox_id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            ..Default::default()
        });
        Ok(Response::new(v1::ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        self.refuse("ContainerStatus")?;
        let request = request.into_inner();
        let known = self.look(|it| it.containers.get(&request.container_id).cloned()).await;
        let (_, status, info) = known.ok_or_else(|| Status::not_found("could not find container"))?;
        Ok(Response::new(v1::ContainerStatusResponse {
            status: Some(status),
            info: verbose(request.verbose, info),
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Result<Response<BoxStream<v1::ContainerEventResponse>>, Status> {
        self.called("GetContainerEvents");
        self.refuse("GetContainerEvents")?;
        let (events, after) = self.look(|it| (it.events.clone(), it.after_events)).await;
        let events = stream::iter(events.into_iter().map(Ok));
        let stream: BoxStream<_> = match after {
            AfterEvents::End => Box::pin(events),
            AfterEvents::Stall => Box::pin(events.chain(stream::pending())),
            AfterEvents::Fail => Box::pin(events.chain(stream::iter([Err(Status::internal("boom"))]))),
            AfterEvents::Unimplemented => return Err(Status::unimplemented("unknown method")),
        };
        // Held by the stream until it ends.
        let subscriber = self.1.subscribers.clone();
        let held = move |event| {
            let _ = &subscriber;
            event
        };
        Ok(Response::new(Box::pin(stream.map(held))))
    }
}
