//! Six recorded sessions of the reference, byte for byte, seen from both sides.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use super::super::vectors;
use super::*;
use crate::hypercore::merkle::TreeNode;
use hypermount_swarm::crypto::{KeyPair, derive_seed};

const TRANSCRIPTS: [&str; 6] = [
    "ack-extensions",
    "drive-sparse-read",
    "full-sync-6",
    "sparse-live",
    "unknown-core",
    "update-hash",
];

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// A binary field of a logged message.
fn binary(value: &Value) -> Option<Bytes> {
    value.get("hex").map(|digits| bytes(digits).into())
}

struct Recording {
    name: &'static str,
    transcript: Value,
    us: &'static str,
    them: &'static str,
}

impl Recording {
    /// Every transcript from both sides.
    fn all() -> impl Iterator<Item = Self> {
        let sides = [("a", "b"), ("b", "a")];
        TRANSCRIPTS.into_iter().flat_map(move |name| {
            sides.into_iter().map(move |(us, them)| {
                let transcript = vectors::load(&format!("transcripts/{name}.json"));
                Self { name, transcript, us, them }
            })
        })
    }

    fn chunks(&self, side: &str) -> Vec<Vec<u8>> {
        self.transcript["raw"][side].as_array().unwrap().iter().map(bytes).collect()
    }

    fn session(&self) -> Session {
        let recorded = &self.transcript["staticKeys"][self.us];
        let keys = StaticKeyPair::from_seed(&array(&recorded["seed"]));
        assert_eq!(keys.public(), &array(&recorded["publicKey"]));
        let nonce = array(&self.transcript["payloadNonces"][self.us]);
        let ephemeral = array(&self.transcript["ephemerals"][self.us]["secretKey"]);
        let role = if self.us == "a" { Role::Initiator } else { Role::Responder };
        Session::with_fixed_ephemeral(role, &keys, nonce, &ephemeral).unwrap()
    }

    /// The keys of the recorded cores.
    fn cores(&self) -> HashMap<DiscoveryKey, PublicKey> {
        let mut keys = Vec::new();
        if let Some(core) = self.transcript.get("core") {
            keys.push(PublicKey::new(array(&core["publicKey"])));
        }
        if let Some(drive) = self.transcript.get("drive") {
            let master = array(&drive["masterKey"]);
            let derived = |name: &str| {
                let seed = derive_seed(&master, "corestore", name.as_bytes());
                KeyPair::from_seed(&seed).public_key()
            };
            let metadata = derived("default");
            keys.push(metadata);
            keys.push(derived(&format!("{}-content", metadata.to_hex())));
        }
        keys.into_iter().map(|key| (key.discovery_key(), key)).collect()
    }

    fn log(&self, side: &str) -> Vec<Value> {
        let log = self.transcript["log"].as_array().unwrap();
        log.iter().filter(|entry| entry["from"] == side).cloned().collect()
    }

    /// How many messages of the handshake a side sends.
    fn handshake_messages(side: &str) -> usize {
        if side == "a" { 2 } else { 1 }
    }
}

/// Every byte of both sides decrypts, with the recorded keys, to the logged frames; each message
/// about a core decodes to what the log says and encodes to the same bytes again.
#[test]
fn recorded_bytes_decode_to_the_log_and_encode_to_the_same_bytes() {
    for recording in Recording::all() {
        let side = recording.us;
        let key = array(&recording.transcript["splits"][side]["tx"]);
        let nonce = array(&recording.transcript["payloadNonces"][side]);
        let cipher = Some(StreamCipher::new(&key, &nonce));
        let mut inbound = Inbound { cipher, ..Inbound::default() };
        let chunks = recording.chunks(side);
        for chunk in &chunks[Recording::handshake_messages(side)..] {
            inbound.append(&mut BytesMut::from(chunk.as_slice()));
        }
        for entry in recording.log(side) {
            let (header, payload) = inbound.next_frame(MAX_PAYLOAD).unwrap().unwrap();
            assert_eq!(u64::from(header.channel), entry["channel"].as_u64().unwrap());
            let mut frame = BytesMut::new();
            framing::put_header(header.channel, header.kind, payload.len(), &mut frame);
            match legacy::decode_message(header.kind, payload.clone()).unwrap() {
                Some(message) => {
                    assert_eq!(message, logged_message(&entry, &[]), "{}", recording.name);
                    let (kind, wire) = legacy::encode_message(message).unwrap();
                    assert_eq!(kind, header.kind);
                    wire.encode(&mut frame);
                }
                None => frame.extend_from_slice(&payload),
            }
            assert_eq!(frame, bytes(&entry["plain"]), "{}", recording.name);
        }
        assert!(inbound.next_frame(MAX_PAYLOAD).unwrap().is_none());
        assert!(inbound.bytes.is_empty());
    }
}

/// The era-neutral message of a log entry.
fn logged_message(entry: &Value, extensions: &[String]) -> Message {
    let fields = &entry["message"];
    let number = |name: &str| fields[name].as_u64().unwrap();
    let length = |default| fields["length"].as_u64().unwrap_or(default);
    let flag = |name: &str| fields[name].as_bool().unwrap_or(false);
    match entry["type"].as_str().unwrap() {
        "Status" => {
            Message::Status { uploading: flag("uploading"), downloading: flag("downloading") }
        }
        "Have" => Message::Have {
            start: number("start"),
            length: length(1),
            bitfield: binary(&fields["bitfield"]),
            ack: flag("ack"),
        },
        "Unhave" => Message::Unhave { start: number("start"), length: length(1) },
        "Want" => Message::Want { start: number("start"), length: length(0) },
        "Request" => Message::Request {
            index: number("index"),
            bytes: number("bytes"),
            hash: flag("hash"),
            nodes: number("nodes"),
        },
        "Data" => Message::Data {
            index: number("index"),
            value: binary(&fields["value"]),
            nodes: fields["nodes"].as_array().unwrap().iter().map(logged_node).collect(),
            signature: binary(&fields["signature"])
                .map(|bytes| <[u8; 64]>::try_from(bytes.as_ref()).unwrap().into()),
        },
        "Extension" => {
            let payload = binary(fields).unwrap();
            let name = extensions[usize::from(payload[0])].clone();
            Message::Extension { name, payload: payload.slice(1..) }
        }
        other => panic!("no message about a core: {other}"),
    }
}

fn logged_node(node: &Value) -> TreeNode {
    TreeNode {
        index: node["index"].as_u64().unwrap(),
        hash: binary(&node["hash"]).unwrap().as_ref().try_into().unwrap(),
        size: node["size"].as_u64().unwrap(),
    }
}

/// A session that is given what the recorded remote sent reports what the log says, and, asked to
/// do what the log says we did, sends the recorded bytes from the first to the last.
#[test]
fn recorded_sessions_replay_from_both_sides() {
    for recording in Recording::all() {
        let mut replay = Replay::new(recording);
        replay.shake_hands();
        replay.run();
    }
}

struct Replay {
    session: Session,
    cores: HashMap<DiscoveryKey, PublicKey>,
    /// Which core each channel number stands for, ours and theirs.
    our_channels: HashMap<u64, DiscoveryKey>,
    their_channels: HashMap<u64, DiscoveryKey>,
    /// What each side has announced for each core.
    our_extensions: HashMap<DiscoveryKey, Vec<String>>,
    their_extensions: HashMap<DiscoveryKey, Vec<String>>,
    sent: BytesMut,
    /// What the remote sent after its handshake messages.
    incoming: BytesMut,
    recording: Recording,
}

impl Replay {
    fn new(recording: Recording) -> Self {
        let skipped = Recording::handshake_messages(recording.them);
        let chunks = recording.chunks(recording.them);
        Self {
            session: recording.session(),
            cores: recording.cores(),
            our_channels: HashMap::new(),
            their_channels: HashMap::new(),
            our_extensions: HashMap::new(),
            their_extensions: HashMap::new(),
            sent: BytesMut::new(),
            incoming: chunks[skipped..].concat().as_slice().into(),
            recording,
        }
    }

    fn collect(&mut self) {
        self.sent.extend_from_slice(&self.session.take_output().unwrap_or_default());
    }

    fn shake_hands(&mut self) {
        self.collect();
        let them = self.recording.them;
        let messages = Recording::handshake_messages(them);
        let mut events = Vec::new();
        for message in self.recording.chunks(them).into_iter().take(messages) {
            events.extend(self.session.receive(&mut message.as_slice().into()).unwrap());
            self.collect();
        }
        let splits = &self.recording.transcript["splits"][self.recording.us];
        let remote = array(&splits["remotePublicKey"]);
        assert_eq!(events, [SessionEvent::Handshaken { remote }]);
        let established = self.session.established().unwrap();
        assert_eq!(established.transmit, array(&splits["tx"]));
        assert_eq!(established.receive, array(&splits["rx"]));
    }

    /// Follows the log. It is in the order of sending, so what the remote sent may have reached
    /// us later than it stands there: a Close that we answered reached us just before the answer.
    fn run(&mut self) {
        let us = self.recording.us;
        let log = self.recording.transcript["log"].as_array().unwrap().clone();
        let mut under_way = VecDeque::new();
        for (position, entry) in log.iter().enumerate() {
            if entry["from"] != us {
                under_way.push_back(entry);
                continue;
            }
            let is_our_close = |entry: &Value| entry["from"] == us && entry["type"] == "Close";
            let answers = !is_our_close(entry) && log[position..].iter().any(is_our_close);
            while let Some(arrived) =
                under_way.pop_front_if(|arrived| !answers || arrived["type"] != "Close")
            {
                self.hear(arrived);
            }
            self.do_as_we_did(entry);
            self.collect();
        }
        under_way.into_iter().for_each(|arrived| self.hear(arrived));
        let expected = self.recording.chunks(us).concat();
        if self.recording.chunks(us).last().unwrap().len() == 1 {
            // The log does not mention keep-alives.
            self.session.keepalive();
            self.collect();
        }
        assert_eq!(hex::encode(&self.sent), hex::encode(expected), "{}", self.recording.name);
        assert_eq!(self.session.receive(&mut self.incoming).unwrap(), []);
    }

    fn do_as_we_did(&mut self, entry: &Value) {
        let channel = entry["channel"].as_u64().unwrap();
        let named = binary(&entry["message"]["discoveryKey"])
            .map(|bytes| DiscoveryKey::from_slice(&bytes).unwrap());
        match entry["type"].as_str().unwrap() {
            "Open" => {
                let core = named.unwrap();
                self.our_channels.insert(channel, core);
                let _ = self.session.open(&self.cores[&core], &[]);
                self.announce(core, channel);
            }
            // Sent by the session itself, as soon as both sides have opened the core.
            "Options" => {}
            "Close" => match named {
                Some(core) => self.session.refuse(&core),
                None => self.session.close(&self.our_channels[&channel]),
            },
            _ => {
                let core = self.our_channels[&channel];
                let names = self.our_extensions.get(&core).cloned().unwrap_or_default();
                let message = logged_message(entry, &names);
                assert!(self.session.send(&core, message));
            }
        }
    }

    /// Sets the options that the log has us announce on this channel later.
    fn announce(&mut self, core: DiscoveryKey, channel: u64) {
        let log = self.recording.log(self.recording.us);
        let options = log.iter().find(|later| {
            later["type"] == "Options" && later["channel"].as_u64().unwrap() == channel
        });
        let Some(fields) = options.map(|options| &options["message"]) else { return };
        let names = extension_names(fields);
        // The caller's order does not matter.
        let reversed: Vec<&str> = names.iter().rev().map(String::as_str).collect();
        assert!(self.session.set_options(&core, fields["ack"].as_bool().unwrap(), &reversed));
        self.our_extensions.insert(core, names);
    }

    /// Feeds one frame of the remote, byte by byte, and compares what the session makes of it.
    fn hear(&mut self, entry: &Value) {
        let length = entry["plain"].as_str().unwrap().len() / 2;
        let mut events = Vec::new();
        for _ in 0..length {
            let mut byte = self.incoming.split_to(1);
            events.extend(self.session.receive(&mut byte).unwrap());
        }
        assert_eq!(events, self.expected_events(entry), "{}: {entry}", self.recording.name);
        self.collect();
    }

    fn expected_events(&mut self, entry: &Value) -> Vec<SessionEvent> {
        let channel = entry["channel"].as_u64().unwrap();
        let fields = &entry["message"];
        let named =
            binary(&fields["discoveryKey"]).map(|bytes| DiscoveryKey::from_slice(&bytes).unwrap());
        let known = self.their_channels.get(&channel).copied();
        match entry["type"].as_str().unwrap() {
            "Open" => {
                let discovery_key = named.unwrap();
                self.their_channels.insert(channel, discovery_key);
                if self.session.is_open(&discovery_key) {
                    vec![SessionEvent::Opened { discovery_key }]
                } else {
                    vec![SessionEvent::RemoteOpen { discovery_key }]
                }
            }
            // What answers our own refusal or our own Close is no news.
            "Close" if named.is_none() && !self.we_expect_close(channel) => vec![],
            "Close" => vec![SessionEvent::Closed { discovery_key: named.or(known).unwrap() }],
            "Options" => {
                let (discovery_key, extensions) = (known.unwrap(), extension_names(fields));
                self.their_extensions.insert(discovery_key, extensions.clone());
                let ack = fields["ack"].as_bool().unwrap();
                vec![SessionEvent::Options { discovery_key, ack, extensions }]
            }
            _ => {
                let discovery_key = known.unwrap();
                let none = Vec::new();
                let names = self.their_extensions.get(&discovery_key).unwrap_or(&none);
                let message = logged_message(entry, names);
                vec![SessionEvent::Message { discovery_key, message }]
            }
        }
    }

    /// Whether a Close on that channel of theirs is the first of the two.
    fn we_expect_close(&self, channel: u64) -> bool {
        let core = self.their_channels[&channel];
        let log = self.recording.transcript["log"].as_array().unwrap();
        let closes: Vec<_> = log.iter().filter(|entry| entry["type"] == "Close").collect();
        let first = closes.iter().find(|entry| {
            let from_them = entry["from"] == self.recording.them;
            let channels = if from_them { &self.their_channels } else { &self.our_channels };
            let named = binary(&entry["message"]["discoveryKey"])
                .and_then(|bytes| DiscoveryKey::from_slice(&bytes));
            let number = entry["channel"].as_u64().unwrap();
            named.or(channels.get(&number).copied()) == Some(core)
        });
        first.unwrap()["from"] == self.recording.them
    }
}

fn extension_names(options: &Value) -> Vec<String> {
    let names = options["extensions"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}
