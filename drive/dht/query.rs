//! One walk through the DHT: from the nodes known to ever nearer ones, until the nearest have
//! answered; an announcement then goes to those.
//!
//! Pure bookkeeping. Every node on the way may lie about the next ones: what is kept and who is
//! asked is bounded, and so is the time.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::id::{Id, distance};
use super::message::Contact;
use super::routing::BUCKET;

/// Nodes of one query that are remembered.
pub const MAX_CONTACTS: usize = 128;
/// Nodes that one query asks at most.
pub const MAX_ASKED: usize = 256;
/// Requests of one query that wait for an answer at the same time.
pub const IN_FLIGHT: usize = 16;
/// A query ends by then, whatever it has found.
pub const QUERY_WITHIN: Duration = Duration::from_secs(30);

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The nodes near an id.
    Nodes,
    /// The peers of a topic.
    Lookup,
    /// The same, and to be one of them, reachable at this port of ours.
    Announce { port: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Answered { token: Option<[u8; 32]> },
    Failed,
}

struct Candidate {
    contact: Contact,
    /// Who named it.
    referrer: Option<SocketAddrV4>,
    state: State,
}

/// See the module's description.
pub struct Query {
    pub target: Id,
    pub goal: Goal,
    pub deadline: Instant,
    /// Asked first, because their ids are not known.
    pub bootstrap: Vec<SocketAddrV4>,
    candidates: BTreeMap<Id, Candidate>,
    pub in_flight: usize,
    asked: usize,
    /// How many nodes answered.
    pub answered: usize,
    /// How many took the announcement; `None` before it is sent.
    pub updated: Option<usize>,
}

impl Query {
    pub fn new(target: Id, goal: Goal, bootstrap: Vec<SocketAddrV4>, now: Instant) -> Self {
        Self {
            target,
            goal,
            deadline: now + QUERY_WITHIN,
            bootstrap,
            candidates: BTreeMap::new(),
            in_flight: 0,
            asked: 0,
            answered: 0,
            updated: None,
        }
    }

    /// Somebody named a node. The farthest gives way if there are too many.
    pub fn add(&mut self, contact: Contact, referrer: Option<SocketAddrV4>) {
        let at = distance(&contact.id, &self.target);
        let candidate = Candidate { contact, referrer, state: State::New };
        self.candidates.entry(at).or_insert(candidate);
        if self.candidates.len() > MAX_CONTACTS {
            self.candidates.pop_last();
        }
    }

    fn nearest(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.values().filter(|one| one.state != State::Failed).take(BUCKET)
    }

    /// Whom to ask next, and who named it.
    pub fn next(&mut self) -> Option<(SocketAddrV4, Option<Id>, Option<SocketAddrV4>)> {
        if self.in_flight >= IN_FLIGHT || self.asked >= MAX_ASKED || self.updated.is_some() {
            return None;
        }
        let next = match self.bootstrap.pop() {
            Some(address) => (address, None, None),
            None => {
                let new = self.nearest().find(|one| one.state == State::New)?;
                let (contact, referrer) = (new.contact, new.referrer);
                self.set(&contact.id, State::Asked);
                (contact.address, Some(contact.id), referrer)
            }
        };
        self.in_flight += 1;
        self.asked += 1;
        Some(next)
    }

    fn set(&mut self, id: &Id, state: State) {
        if let Some(one) = self.candidates.get_mut(&distance(id, &self.target)) {
            one.state = state;
        }
    }

    /// A node that was asked as `asked` answered as `contact`, if it has an id.
    pub fn answer(&mut self, asked: Option<Id>, contact: Option<Contact>, token: Option<[u8; 32]>) {
        self.in_flight -= 1;
        self.answered += 1;
        if let Some(asked) = asked
            && contact.map(|contact| contact.id) != Some(asked)
        {
            self.set(&asked, State::Failed);
        }
        if let Some(contact) = contact {
            self.add(contact, None);
            self.set(&contact.id, State::Answered { token });
        }
    }

    pub fn failed(&mut self, asked: Option<Id>) {
        self.in_flight -= 1;
        if let Some(asked) = asked {
            self.set(&asked, State::Failed);
        }
    }

    /// Whether everybody worth asking has been.
    pub fn is_done(&self) -> bool {
        let more = self.asked < MAX_ASKED
            && (!self.bootstrap.is_empty() || self.nearest().any(|one| one.state == State::New));
        self.in_flight == 0 && (!more || self.updated.is_some())
    }

    /// The nearest nodes that answered, with the token that each gave.
    pub fn closest(&self) -> Vec<(SocketAddrV4, [u8; 32])> {
        let answered = |one: &Candidate| match one.state {
            State::Answered { token: Some(token) } => Some((one.contact.address, token)),
            _ => None,
        };
        self.nearest().filter_map(answered).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn contact(n: u16) -> Contact {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        Contact { id, address: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), n + 1) }
    }

    fn query() -> Query {
        Query::new([0; 32], Goal::Lookup, Vec::new(), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_are_asked_first_and_so_many_at_once() {
        let mut query = query();
        for n in (0..40).rev() {
            query.add(contact(n), None);
        }
        for n in 0..IN_FLIGHT as u16 {
            assert_eq!(query.next().unwrap().1, Some(contact(n).id));
        }
        assert_eq!(query.next(), None, "so many wait");
        query.failed(Some(contact(0).id));
        for n in 1..=20 {
            if n >= IN_FLIGHT as u16 {
                assert_eq!(query.next().unwrap().1, Some(contact(n).id));
            }
            query.answer(Some(contact(n).id), Some(contact(n)), Some([n as u8; 32]));
        }
        assert!(query.is_done(), "the twenty nearest that live have answered");
        assert_eq!(query.next(), None);
        let closest = query.closest();
        assert_eq!(closest.len(), BUCKET);
        assert_eq!(closest[0], (contact(1).address, [1; 32]));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_contacts_are_remembered() {
        let mut query = query();
        for n in 0..=MAX_CONTACTS as u16 {
            query.add(contact(n + 1), None);
        }
        assert_eq!(query.candidates.len(), MAX_CONTACTS);
        query.add(contact(0), None);
        assert_eq!(query.next().unwrap().1, Some(contact(0).id), "a nearer one has a place");
        assert_eq!(query.candidates.len(), MAX_CONTACTS);
    }

    /// A node that names ever nearer nodes keeps a query going; not for ever.
    #[tokio::test(start_paused = true)]
    async fn so_many_are_asked() {
        let mut query = query();
        query.add(contact(u16::MAX - 1), None);
        for n in 0..MAX_ASKED as u16 {
            let (_, asked, _) = query.next().unwrap_or_else(|| panic!("{n} asked"));
            query.add(contact(u16::MAX - 2 - n), None);
            query.answer(asked, asked.map(|id| Contact { id, ..contact(1) }), None);
        }
        assert_eq!(query.next(), None);
        assert!(query.is_done());
    }

    #[tokio::test(start_paused = true)]
    async fn bootstrap_nodes_are_asked_without_an_id_and_who_changes_its_id_is_not_trusted() {
        let mut query = query();
        query.bootstrap = vec![contact(5).address];
        assert!(!query.is_done());
        assert_eq!(query.next(), Some((contact(5).address, None, None)));
        query.answer(None, Some(contact(5)), Some([5; 32]));
        query.add(contact(6), Some(contact(5).address));
        assert_eq!(query.next().unwrap().2, Some(contact(5).address));
        query.answer(Some(contact(6).id), Some(contact(7)), None);
        assert!(query.is_done());
        assert_eq!(query.closest(), [(contact(5).address, [5; 32])]);
    }
}
