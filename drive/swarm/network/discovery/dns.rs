//! The DNS messages of Hyperswarm 2 on a local network: a query and a response per topic, with a name
//! that has the first 20 bytes of the topic.
//!
//! Not here: sockets, and which topics are queried or answered (`lan`).

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, RData, SRV, TXT};
use simple_dns::{
    CLASS, CharacterString, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE,
};

use crate::crypto::DiscoveryKey;

/// Bytes of a topic in its name.
pub(crate) const PREFIX_LENGTH: usize = 20;
/// Longest message read, in bytes: what RFC 6762 §17 allows.
pub(crate) const MAX_MESSAGE: usize = 9000;
/// Questions, or records, of one message that are decoded; more are ignored.
pub(crate) const MAX_ENTRIES: usize = 64;
const DOMAIN: [&[u8]; 2] = [b"hyperswarm", b"local"];
/// The name of the record that holds the querier's own address.
const REFERRER: &str = "referrer.hyperswarm.local";

pub(crate) type TopicPrefix = [u8; PREFIX_LENGTH];
/// The token by which a process recognises its own announcements.
pub(crate) type Token = [u8; 32];

/// A decoded message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DnsMessage {
    /// A query for peers of these topics.
    Query(Vec<TopicPrefix>),
    Response(Vec<Answer>),
}

/// An announcement of a topic at a port of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub topic: TopicPrefix,
    pub port: u16,
    pub token: Option<Token>,
}

pub(crate) fn topic_prefix(topic: &DiscoveryKey) -> TopicPrefix {
    let mut short = [0; PREFIX_LENGTH];
    short.copy_from_slice(&topic.as_bytes()[..PREFIX_LENGTH]);
    short
}

fn name_of(topic: &TopicPrefix) -> String {
    let hex: String = topic.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.hyperswarm.local")
}

/// The topic in a name, in upper or lower case.
fn topic_of(name: &Name) -> Option<TopicPrefix> {
    let [hex, domain @ ..] = name.get_labels() else { return None };
    let same = domain.len() == DOMAIN.len()
        && domain.iter().zip(DOMAIN).all(|(label, word)| label.as_ref().eq_ignore_ascii_case(word));
    let hex = hex.as_ref();
    if !same || hex.len() != 2 * PREFIX_LENGTH {
        return None;
    }
    let mut topic = [0; PREFIX_LENGTH];
    for (byte, digits) in topic.iter_mut().zip(hex.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(topic)
}

/// A query for peers of this topic.
///
/// # Errors
/// Fails with the encoder's error; never for a name that we build.
pub(crate) fn query(topic: &TopicPrefix) -> simple_dns::Result<Vec<u8>> {
    let name = name_of(topic);
    let mut packet = Packet::new_query(0);
    packet.questions.push(Question::new(
        Name::new(&name)?,
        QTYPE::TYPE(TYPE::SRV),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec()
}

/// Announces these topics at `port`, and repeats the querier's address if it answers a query.
///
/// # Errors
/// As [`query`].
pub(crate) fn response(
    topics: &[(TopicPrefix, Token)],
    port: u16,
    asked_by: Option<Ipv4Addr>,
) -> simple_dns::Result<Vec<u8>> {
    let names: Vec<String> = topics.iter().map(|(topic, _)| name_of(topic)).collect();
    let texts: Vec<Vec<u8>> =
        topics.iter().map(|(_, token)| [b"id=".as_slice(), token].concat()).collect();
    let mut packet = Packet::new_reply(0);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let mut put = |name: Name<'_>, data: RData<'_>| {
        packet.answers.push(ResourceRecord::new(
            name.into_owned(),
            CLASS::IN,
            0,
            data.into_owned(),
        ));
    };
    for (name, text) in names.iter().zip(&texts) {
        // This address stands for the source of the packet.
        let target = Name::new("0.0.0.0")?;
        put(Name::new(name)?, RData::SRV(SRV { priority: 0, weight: 0, port, target }));
        let text = TXT::new().with_char_string(CharacterString::new(text)?);
        put(Name::new(name)?, RData::TXT(text));
    }
    if let Some(address) = asked_by {
        put(Name::new(REFERRER)?, RData::A(A { address: address.into() }));
    }
    packet.build_bytes_vec()
}

/// Decodes a message from the network; `None` if it has nothing for us.
pub(crate) fn parse(bytes: &[u8]) -> Option<DnsMessage> {
    if bytes.len() > MAX_MESSAGE {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    if !packet.has_flags(PacketFlag::RESPONSE) {
        let asked = packet
            .questions
            .iter()
            .take(MAX_ENTRIES)
            .filter(|question| matches!(question.qtype, QTYPE::TYPE(TYPE::SRV) | QTYPE::ANY));
        let topics: Vec<TopicPrefix> =
            asked.filter_map(|question| topic_of(&question.qname)).collect();
        return (!topics.is_empty()).then_some(DnsMessage::Query(topics));
    }
    let records = || packet.answers.iter().take(MAX_ENTRIES);
    let token_of = |topic: &TopicPrefix| {
        records().find_map(|record| match &record.rdata {
            RData::TXT(text) if topic_of(&record.name).as_ref() == Some(topic) => {
                text.iter_raw().find_map(|(key, value)| match key {
                    b"id" => value?.try_into().ok(),
                    _ => None,
                })
            }
            _ => None,
        })
    };
    let answers: Vec<Answer> = records()
        .filter_map(|record| match &record.rdata {
            // Another target would name another machine.
            RData::SRV(srv) if srv.port != 0 && srv.target.to_string() == "0.0.0.0" => {
                let topic = topic_of(&record.name)?;
                Some(Answer { topic, port: srv.port, token: token_of(&topic) })
            }
            _ => None,
        })
        .collect();
    (!answers.is_empty()).then_some(DnsMessage::Response(answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        let all = include_str!("../../../../tests/vectors/swarm.json");
        serde_json::from_str::<serde_json::Value>(all).unwrap()["mdns"].clone()
    }

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    const TOPIC: TopicPrefix = [0xab; PREFIX_LENGTH];

    #[test]
    fn queries_are_those_of_the_original() {
        let vectors = vectors();
        assert_eq!(name_of(&TOPIC), vectors["domain"]);
        assert_eq!(query(&TOPIC).unwrap(), bytes(&vectors["query"]));
        assert_eq!(parse(&bytes(&vectors["query"])), Some(DnsMessage::Query(vec![TOPIC])));
    }

    #[test]
    fn responses_are_those_of_the_original() {
        let expected = bytes(&vectors()["response"]);
        let asked_by = Some(Ipv4Addr::new(192, 168, 1, 9));
        assert_eq!(response(&[(TOPIC, [0x42; 32])], 49737, asked_by).unwrap(), expected);
        let answer = Answer { topic: TOPIC, port: 49737, token: Some([0x42; 32]) };
        assert_eq!(parse(&expected), Some(DnsMessage::Response(vec![answer])));
    }

    #[test]
    fn tokens_may_be_any_bytes() {
        let token = std::array::from_fn(|n| [b'=', 0xff, 0, b';'][n % 4]);
        let message = response(&[(TOPIC, token)], 1, None).unwrap();
        let answer = Answer { topic: TOPIC, port: 1, token: Some(token) };
        assert_eq!(parse(&message), Some(DnsMessage::Response(vec![answer])));
    }

    #[test]
    fn other_messages_are_ignored() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[0xff; 300]), None);
        let mut packet = Packet::new_query(0);
        for name in ["example.local", "abab.hyperswarm.local", "hyperswarm.local"] {
            let kind = QTYPE::TYPE(TYPE::SRV);
            let class = QCLASS::CLASS(CLASS::IN);
            packet.questions.push(Question::new(Name::new(name).unwrap(), kind, class, false));
        }
        assert_eq!(parse(&packet.build_bytes_vec().unwrap()), None);
        assert_eq!(parse(&response(&[(TOPIC, [0; 32])], 0, None).unwrap()), None, "no port");
    }

    #[test]
    fn questions_and_records_of_a_message_are_limited() {
        let topics: Vec<(TopicPrefix, Token)> =
            (0..=MAX_ENTRIES as u8).map(|n| ([n; PREFIX_LENGTH], [n; 32])).collect();
        let message = response(&topics[..MAX_ENTRIES / 2], 7, None).unwrap();
        let Some(DnsMessage::Response(answers)) = parse(&message) else { panic!("a response") };
        assert_eq!(answers.len(), MAX_ENTRIES / 2, "two records each");
        let message = response(&topics[..MAX_ENTRIES / 2 + 1], 7, None).unwrap();
        let Some(DnsMessage::Response(answers)) = parse(&message) else { panic!("a response") };
        assert_eq!(answers.len(), MAX_ENTRIES / 2);
        let mut packet = Packet::new_query(0);
        for (topic, _) in &topics {
            let name = Name::new(&name_of(topic)).unwrap().into_owned();
            let kind = QTYPE::TYPE(TYPE::SRV);
            packet.questions.push(Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
        }
        let Some(DnsMessage::Query(asked)) = parse(&packet.build_bytes_vec().unwrap()) else {
            panic!("a query")
        };
        assert_eq!(asked.len(), MAX_ENTRIES);
        assert_eq!(parse(&[0; MAX_MESSAGE + 1]), None);
    }
}
