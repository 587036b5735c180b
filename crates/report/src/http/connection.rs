//! The connections of the server: one request each, within time limits.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::ServerEvent;
use super::arrivals::Arrival;
use super::socket::Socket;
use super::tls::{Renewed, Tls, refusal};
use usernsd_domain::chain::chain;
use usernsd_domain::places::Place;

/// Time limit of the TLS handshake, and then of a request's head: a client has it ready when it connects.
const MAX_HEAD_TIME: Duration = Duration::from_secs(3);
/// Time limit of the answer, until the client has acknowledged all of it.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Size limit of a request's head, in bytes. hyper's minimum is 8 KiB.
const MAX_HEAD: usize = 16 << 10;
/// Time for answers in progress when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// Shared by all connections of a listener.
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) tls: Option<Tls>,
    pub(super) report: Arc<Box<dyn Fn(ServerEvent) + Send + Sync>>,
}

/// The two ends of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: IpAddr,
    /// The client has connected to a loopback address, as browsers and "kubectl port-forward" do.
    pub(super) is_local: bool,
}

/// Serves connections until no more can arrive.
pub(super) async fn converse(mut arrivals: mpsc::Receiver<Arrival>, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            Some(_) = connections.join_next() => continue,
        };
        let Some(arrival) = arrival else { break };
        let Some(stream) = arrival.stream() else { continue };
        let Arrival { place, evicted, .. } = arrival;
        let service = Arc::clone(&service);
        connections.spawn(async move {
            let place = Arc::new(place);
            let served = tokio::select! {
                served = service.converse(stream, &place) => served,
                () = evicted.notified() => Err(io::Error::other("another client took its place")),
            };
            if let Err(error) = served {
                tracing::debug!(error = %chain(&error), "an HTTP connection broke");
            }
        });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, finish).await.is_err() {
        tracing::debug!("cutting off HTTP connections");
    }
}

// === impl Ends ===

impl Ends {
    fn of(stream: &std::net::TcpStream) -> io::Result<Ends> {
        // The same addresses as over IPv4, in the form of an IPv6 socket.
        let (client, own) =
            (stream.peer_addr()?.ip().to_canonical(), stream.local_addr()?.ip().to_canonical());
        Ok(Ends { client, is_local: own.is_loopback() })
    }
}

// === impl Service ===

impl Service {
    /// Serves a connection to its end.
    async fn converse(&self, stream: std::net::TcpStream, place: &Arc<Place<IpAddr>>) -> io::Result<()> {
        let ends = Ends::of(&stream)?;
        let mut socket = Socket::new(TcpStream::from_std(stream)?);
        // The place becomes free once the kernel holds no unsent bytes of the connection.
        let asked = Arc::clone(place);
        let Some(tls) = &self.tls else {
            return in_time(async {
                let answered = self.answer(&mut socket, ends, asked).await;
                answered.and(socket.settle().await)
            })
            .await;
        };
        let (acceptor, renewed) = tls.acceptor();
        match renewed {
            Renewed::No => {}
            Renewed::Yes => (self.report)(ServerEvent::CertificateRenewed),
            Renewed::Broken(error) => (self.report)(ServerEvent::CertificateBroken(error)),
        }
        if let Some(in_use) = tls.change_of_validity(SystemTime::now()) {
            (self.report)(ServerEvent::Certificate(in_use));
        }
        let served = async {
            let mut stream = timeout(MAX_HEAD_TIME, acceptor.accept(socket)).await.map_err(too_slow)??;
            in_time(async {
                let answered = self.answer(&mut stream, ends, asked).await;
                answered.and(stream.get_mut().0.settle().await)
            })
            .await
        };
        served.await.inspect_err(|error| {
            if let Some(alert) = refusal(error) {
                let (file, certificate) = tls.certificate();
                let why = format!("{alert:?}");
                (self.report)(ServerEvent::CertificateRefused { file, certificate, why });
            }
        })
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        ends: Ends,
        place: Arc<Place<IpAddr>>,
    ) -> io::Result<()> {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            place.has_asked();
            request.extensions_mut().insert(ends);
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_HEAD_TIME)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        connection.await.map_err(io::Error::other)
    }
}

async fn in_time(served: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(MAX_HEAD_TIME + MAX_TIME, served).await.map_err(too_slow)?
}

fn too_slow(_: tokio::time::error::Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client was too slow")
}
