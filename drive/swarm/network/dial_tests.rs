//! Addresses that a caller has given, whose servers are of one kind, of both, or of none.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::channels::Channels;
use super::encrypted::Carrier;
use super::greeting::{Kind, greet, kind_of};
use super::{ConnectionEnd, ConnectionSlot, Needs, Protocol, Stream, Swarm};
use crate::crypto::KeyPair;

/// Long enough for the shortest pauses, and shorter than the longest one.
const SOME_PAUSES: Duration = Duration::from_millis(1500);

/// Shows a key and expects one on the stream of the old protocol; runs channels. Counts what it hears of trouble.
#[derive(Clone, Default)]
struct Meets {
    troubles: Arc<AtomicUsize>,
}

impl Meets {
    async fn meet(slot: &ConnectionSlot, stream: Stream) -> Result<(), String> {
        match stream {
            Stream::Tcp(mut stream) => {
                let lost = |error: std::io::Error| format!("connection lost: {error}");
                stream.write_all(&[0x80; 32]).await.map_err(lost)?;
                let mut remote = [0; 32];
                stream.read_exact(&mut remote).await.map_err(lost)?;
                slot.identified(remote)?;
                let _ = stream.read(&mut remote).await.map_err(lost)?;
                Err("closed the connection".into())
            }
            Stream::Channels(mut channels) => {
                slot.identified(channels.remote_key())?;
                loop {
                    channels.next(true).await.map_err(|error| error.to_string())?;
                }
            }
        }
    }
}

impl Protocol for Meets {
    fn run(
        &self,
        slot: ConnectionSlot,
        stream: Stream,
    ) -> Pin<Box<dyn Future<Output = ConnectionEnd> + Send + '_>> {
        Box::pin(async move {
            let mut ending = slot.ending();
            tokio::select! {
                met = Self::meet(&slot, stream) => {
                    ConnectionEnd { reason: met.err().unwrap_or_default(), lied: false }
                }
                ended = ending.ended() => ended,
            }
        })
    }

    fn unreachable(&self, _trouble: &str) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
    }
}

fn swarm(identity: u8) -> (Swarm, Meets) {
    let meets = Meets::default();
    (Swarm::new([identity; 32], Arc::new(meets.clone())), meets)
}

/// A server of one kind: how many connections of each kind it was asked for, and those that it keeps.
struct OneKind {
    address: SocketAddr,
    asked: Arc<[AtomicUsize; 2]>,
    serving: tokio::task::JoinHandle<()>,
}

impl OneKind {
    async fn new(served: Kind) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counts = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            let mut kept = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(kind) = kind_of(&stream).await else { continue };
                counts[kind as usize].fetch_add(1, Ordering::Relaxed);
                if kind == served {
                    kept.spawn(keep(kind, stream));
                }
            }
        });
        Self { address, asked, serving }
    }

    fn asked(&self, kind: Kind) -> usize {
        self.asked[kind as usize].load(Ordering::Relaxed)
    }
}

async fn keep(kind: Kind, mut stream: TcpStream) {
    match kind {
        Kind::Legacy => {
            let mut remote = [0; 33];
            stream.write_all(&[0x90; 32]).await.unwrap();
            let _ = stream.read_exact(&mut remote).await;
        }
        Kind::SecretStream => {
            let secrets = greet(&mut stream, &KeyPair::from_seed(&[5; 32]), false).await.unwrap();
            let carrier = Carrier::Tcp(stream);
            let mut channels = Channels::new(carrier, &secrets, None, Box::new(|_| {}));
            while channels.next(true).await.is_ok() {}
        }
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let holding = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), holding).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_server_of_both_kinds_gets_a_connection_of_each() {
    let (server, _) = swarm(1);
    let address = server.listen(("127.0.0.1", 0)).await.unwrap();
    let (client, meets) = swarm(2);
    client.dial(&address.to_string());
    eventually("both", || client.peers().len() == 2 && server.peers().len() == 2).await;
    assert_eq!(client.troubles(), Vec::<String>::new());
    assert_eq!(meets.troubles.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn that_a_server_is_of_one_kind_only_is_no_trouble() {
    for served in [Kind::Legacy, Kind::SecretStream] {
        let other = if served == Kind::Legacy { Kind::SecretStream } else { Kind::Legacy };
        let server = OneKind::new(served).await;
        let (client, meets) = swarm(2);
        let dialling = client.dial_while(&server.address.to_string());
        eventually("connected", || {
            client.inner.state().connections.values().any(|one| one.identity.get().is_some())
        })
        .await;
        eventually("the other kind was tried", || server.asked(other) == 1).await;
        tokio::time::sleep(SOME_PAUSES).await;
        assert_eq!((server.asked(served), server.asked(other)), (1, 1), "{served}");
        assert_eq!(client.troubles(), Vec::<String>::new(), "{served}");
        assert_eq!(meets.troubles.load(Ordering::Relaxed), 0, "{served}");
        // The server is gone: that is trouble, once.
        server.serving.abort();
        eventually("trouble", || client.troubles().len() == 1).await;
        drop(dialling);
        eventually("none", || client.troubles().is_empty()).await;
    }
}

#[tokio::test]
async fn an_address_is_dialled_for_what_is_needed_and_later_for_more() {
    let server = OneKind::new(Kind::SecretStream).await;
    let (client, meets) = swarm(2);
    client.set_needs(Needs { protocol_8: true, hyperswarm_4: false });
    client.dial(&server.address.to_string());
    eventually("trouble", || meets.troubles.load(Ordering::Relaxed) == 1).await;
    assert_eq!((server.asked(Kind::Legacy), server.asked(Kind::SecretStream)), (1, 0));
    client.set_needs(Needs { protocol_8: false, hyperswarm_4: true });
    eventually("connected", || server.asked(Kind::SecretStream) == 1).await;
    eventually("no trouble", || client.troubles().is_empty()).await;
}

#[tokio::test]
async fn an_address_without_a_server_is_one_trouble_and_is_tried_again() {
    let address = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let (client, meets) = swarm(2);
    client.dial(&address.to_string());
    eventually("a second attempt", || meets.troubles.load(Ordering::Relaxed) == 2).await;
    let troubles = client.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("cannot connect"), "{troubles:?}");
    let server = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = server.accept().await.unwrap();
    assert!(matches!(kind_of(&stream).await, Ok(Kind::Legacy | Kind::SecretStream)));
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_process_does_not_connect_to_itself_as_either_kind() {
    let (swarm, _) = swarm(0x80);
    let address = swarm.listen(("127.0.0.1", 0)).await.unwrap();
    swarm.dial(&address.to_string());
    eventually("it is noticed", || {
        swarm.troubles().iter().any(|trouble| trouble.ends_with("this process itself"))
    })
    .await;
    eventually("nothing is left", || swarm.peers().is_empty()).await;
}
