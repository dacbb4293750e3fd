//! Connections of Hyperswarm 4 over TCP with the reference: npm secret-stream and protomux, as client and as
//! server.

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::living::{Running, reference};
use hypermount_swarm::{
    ChannelEvent, ChannelId, Channels, ConnectionEnd, ConnectionSlot, FoundBy, Protocol, Stream,
    Swarm, Transport,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

const NAME: &str = "hypermount-test/echo";
/// As in the reference's program.
const COUNT: u64 = 1000;
const LONG: usize = 8 * 1024 * 1024;
/// Messages that we send to be sent back: some that share a frame, and long ones.
const SENT: [usize; 8] = [0, 1, 100, 5000, 70_000, 3, 4, LONG];
const PATIENCE: Duration = Duration::from_secs(60);

/// What was learnt of a peer.
struct Learnt {
    hash: [u8; 64],
    remote: [u8; 32],
    handshake: Bytes,
    initiator: bool,
}

/// Talks to the reference on every connection with channels.
struct Talks(mpsc::Sender<Learnt>);

impl Talks {
    async fn talk(&self, channels: &mut Channels) -> Result<(), String> {
        channels.trust();
        let ours = channels.open(NAME, b"one", b"\x04ours").ok_or("no channel")?;
        let (mut asked, mut not_carried) = (Vec::new(), false);
        let (mut batch, mut long, mut back) = (0, false, Vec::new());
        let mut opened = None;
        while !(not_carried && long && back.len() == SENT.len() && !asked.is_empty()) {
            match channels.next(true).await.map_err(|error| error.to_string())? {
                ChannelEvent::Asked { remote, protocol, id } => {
                    asked.push((protocol, id));
                    channels.refuse(remote);
                }
                ChannelEvent::NotCarried => not_carried = true,
                ChannelEvent::Opened { channel, handshake } => {
                    assert_eq!(channel, ours);
                    opened = Some(handshake);
                    send_all(channels, ours);
                }
                ChannelEvent::Message { kind: 1, payload, .. } => {
                    let expected = SENT[back.len()];
                    assert!(payload == vec![back.len() as u8; expected], "{}", payload.len());
                    back.push(payload);
                }
                ChannelEvent::Message { kind: 2, .. } => batch += 1,
                ChannelEvent::Message { kind: 3, payload, .. } => {
                    assert!(payload == vec![7; LONG] && batch == COUNT);
                    long = true;
                }
                ChannelEvent::Drained => {}
                other => return Err(format!("unexpected: {other:?}")),
            }
        }
        // Whether the remote asks for the channel that we open too before we do is a matter of time.
        asked.retain(|(protocol, _)| protocol != "hypermount-test/echo");
        assert_eq!(asked, [("hypermount-test/unknown".to_owned(), Bytes::new())]);
        let learnt = Learnt {
            hash: *channels.handshake_hash(),
            remote: channels.remote_key(),
            handshake: opened.ok_or("not opened")?,
            initiator: channels.is_initiator(),
        };
        self.0.send(learnt).await.map_err(|error| error.to_string())
    }
}

fn send_all(channels: &mut Channels, to: ChannelId) {
    for (n, length) in SENT.into_iter().enumerate() {
        assert!(channels.send(to, 0, &vec![n as u8; length]));
    }
}

impl Protocol for Talks {
    fn run(
        &self,
        slot: ConnectionSlot,
        stream: Stream,
    ) -> Pin<Box<dyn Future<Output = ConnectionEnd> + Send + '_>> {
        Box::pin(async move {
            let mut ending = slot.ending();
            let Stream::Channels(mut channels) = stream else { return ending.ended().await };
            if let Err(reason) = self.talk(&mut channels).await {
                return ConnectionEnd { reason, lied: false };
            }
            // Kept alive until the test is over.
            loop {
                tokio::select! {
                    ended = ending.ended() => {
                        channels.end().await;
                        return ended;
                    }
                    event = channels.next(true) => if let Err(error) = event {
                        return ConnectionEnd { reason: error.to_string(), lied: false };
                    },
                }
            }
        })
    }

    fn unreachable(&self, _trouble: &str) {}
}

fn swarm() -> (Swarm, mpsc::Receiver<Learnt>) {
    let (sender, receiver) = mpsc::channel(4);
    (Swarm::new([7; 32], Arc::new(Talks(sender))), receiver)
}

/// What both sides say of a connection agrees.
async fn agreed(learnt: &mut mpsc::Receiver<Learnt>, peer: &mut Running, initiator: bool) {
    let learnt = timeout(PATIENCE, learnt.recv()).await.expect("in time").expect("it talks");
    assert_eq!(learnt.initiator, initiator);
    assert_eq!(learnt.handshake, b"\x09reference"[..]);
    assert_ne!(learnt.remote, [0; 32]);
    let (mut open, mut refused) = (None, false);
    while open.is_none() || !refused {
        let said = peer.json();
        refused |= said["refused"] == true;
        open = said.get("open").cloned().or(open);
    }
    let open = open.expect("it is open");
    assert_eq!(open["handshake"], "ours");
    assert_eq!(open["hash"], hex::encode(learnt.hash));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_connects_to_us_over_tcp() {
    let (swarm, mut learnt) = swarm();
    let at = swarm.listen("127.0.0.1:0").await.expect("it listens");
    let mut peer = reference("tcp-channels.js", &["dial", &at.port().to_string()]);
    agreed(&mut learnt, &mut peer, false).await;
    let peers = swarm.peers();
    assert!(peers.len() == 1 && peers[0].incoming && peers[0].transport == Transport::Tcp);
    swarm.close();
    assert_eq!(peer.json()["closed"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_connect_to_the_reference_over_tcp() {
    let (swarm, mut learnt) = swarm();
    let mut peer = reference("tcp-channels.js", &["serve"]);
    let port = peer.json()["port"].as_u64().expect("a port");
    let dialling = swarm.dial_while(&format!("127.0.0.1:{port}"));
    agreed(&mut learnt, &mut peer, true).await;
    assert!(swarm.peers().iter().all(|peer| peer.found_by == FoundBy::Given));
    assert_eq!(swarm.troubles(), Vec::<String>::new());
    drop(dialling);
    assert_eq!(peer.json()["closed"], true);
}
