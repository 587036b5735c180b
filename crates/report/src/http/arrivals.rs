//! Accepts connections on a thread of its own. The kernel's queue is first come, first served, so a client
//! that fills it would delay all others by the time that it takes to serve the client's connections.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};

use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::places::{Place, Places};

/// The most open connections. A further one takes the place of another.
const MAX_CONNECTIONS: usize = 64;
/// The most connections that wait for the serving thread, including those that have lost their place.
/// Further ones wait in the kernel.
pub(super) const MAX_WAITING: usize = 1024;

/// A connection that has a place.
pub(super) struct Arrival {
    /// Empty once another connection has the place.
    stream: Arc<Mutex<Option<TcpStream>>>,
    /// The connection's place, which is freed on drop.
    pub(super) place: Place<IpAddr>,
    /// Notified when another connection takes the place.
    pub(super) evicted: Arc<Notify>,
}

/// Accepts connections until it is stopped, or until there is no task to serve them.
pub(super) async fn take(
    listener: TcpListener,
    arrivals: mpsc::Sender<Arrival>,
    mut stopped: oneshot::Receiver<()>,
) {
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = &mut stopped => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let arrival = Arrival::new(stream, client, &places);
                if arrivals.send(arrival).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Probably there are no free descriptors: pause until some are free again.
                tracing::debug!(error = %chain(&error), "could not accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = listener.accept().await?;
    // The same client as over IPv4, in the form of an IPv6 socket.
    Ok((stream.into_std()?, peer.ip().to_canonical()))
}

// === impl Arrival ===

impl Arrival {
    fn new(stream: TcpStream, client: IpAddr, places: &Places<IpAddr>) -> Arrival {
        let stream = Arc::new(Mutex::new(Some(stream)));
        let evicted = Arc::new(Notify::new());
        let (waiting, evict) = (Arc::clone(&stream), Arc::clone(&evicted));
        let place = places.take(client, move || {
            // A connection that is not being served yet is closed here.
            drop(lock(&waiting).take());
            evict.notify_one();
        });
        Arrival { stream, place, evicted }
    }

    /// The connection; `None` if it lost its place while it waited.
    pub(super) fn stream(&self) -> Option<TcpStream> {
        lock(&self.stream).take()
    }
}
