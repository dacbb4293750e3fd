//! One walk through a hash table: from known nodes to ever nearer ones, until the nearest have
//! answered. The commit may follow (dht-rpc): one more request to each of those.
//!
//! Every node on the way may lie about nearer ones. So the nodes kept, the nodes queried and the time
//! are limited.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::id::{Id, distance};
use super::routing::{BUCKET, Contact};

/// Nodes of one query that are remembered.
pub(crate) const MAX_CONTACTS: usize = 128;
/// Nodes that one query asks at most.
pub(crate) const MAX_ASKED: usize = 256;
/// The walk of a query ends after this time, whatever it has found.
pub(crate) const QUERY_WITHIN: Duration = Duration::from_secs(30);
/// A query ends when it has this many answers for each late one.
const ANSWERS_PER_LATE: usize = 3;

pub(crate) type QueryId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeState<Reply> {
    New,
    Asked,
    /// It may still answer, but the query continues without it.
    Late,
    Answered(Reply),
    Failed,
}

struct QueryNode<Reply> {
    contact: Contact,
    /// The node that named it.
    referrer: Option<SocketAddrV4>,
    state: NodeState<Reply>,
}

impl<Reply> QueryNode<Reply> {
    fn counts(&self) -> bool {
        !matches!(self.state, NodeState::Late | NodeState::Failed)
    }
}

/// The next node to query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueryStep {
    pub to: SocketAddrV4,
    /// Its id, if it is known.
    pub asked: Option<Id>,
    /// The node that named it.
    pub referrer: Option<SocketAddrV4>,
}

/// The state of the commit.
#[derive(Clone, Copy)]
struct CommitPhase {
    waiting: usize,
    accepted: usize,
}

/// One walk. `Goal` is its purpose, `Reply` what is kept of each answer.
pub(crate) struct Query<Goal, Reply> {
    pub target: Id,
    pub goal: Goal,
    pub deadline: Instant,
    /// Requests that wait for an answer at the same time, late ones aside.
    at_once: usize,
    /// Asked first, because their ids are not known.
    bootstrap: Vec<SocketAddrV4>,
    candidates: BTreeMap<Id, QueryNode<Reply>>,
    in_flight: usize,
    late: usize,
    asked: usize,
    answered: usize,
    commit: Option<CommitPhase>,
}

impl<Goal, Reply: Clone> Query<Goal, Reply> {
    pub(crate) fn new(target: Id, goal: Goal, at_once: usize, now: Instant) -> Self {
        Self {
            target,
            goal,
            deadline: now + QUERY_WITHIN,
            at_once,
            bootstrap: Vec::new(),
            candidates: BTreeMap::new(),
            in_flight: 0,
            late: 0,
            asked: 0,
            answered: 0,
            commit: None,
        }
    }

    /// Begins with nodes whose ids are not known.
    pub(crate) fn begin_with(&mut self, bootstrap: Vec<SocketAddrV4>) {
        self.bootstrap = bootstrap;
    }

    /// Adds a node that another node named. If there are too many, the farthest is dropped.
    pub(crate) fn add(&mut self, contact: Contact, referrer: Option<SocketAddrV4>) {
        let at = distance(&contact.id, &self.target);
        let candidate = QueryNode { contact, referrer, state: NodeState::New };
        self.candidates.entry(at).or_insert(candidate);
        if self.candidates.len() > MAX_CONTACTS
            && let Some((_, farthest)) = self.candidates.pop_last()
        {
            self.late -= usize::from(matches!(farthest.state, NodeState::Late));
        }
    }

    fn nearest(&self) -> impl Iterator<Item = &QueryNode<Reply>> {
        self.candidates.values().filter(|one| one.counts()).take(BUCKET)
    }

    fn nearest_new(&self) -> Option<&QueryNode<Reply>> {
        self.nearest().find(|one| matches!(one.state, NodeState::New))
    }

    /// The next node to query, if one may be queried now.
    pub(crate) fn next_step(&mut self) -> Option<QueryStep> {
        let waiting = self.in_flight.saturating_sub(self.late);
        if waiting >= self.at_once || self.asked >= MAX_ASKED || self.commit.is_some() {
            return None;
        }
        let next = match self.bootstrap.pop() {
            Some(to) => QueryStep { to, asked: None, referrer: None },
            None => {
                let new = self.nearest_new()?;
                let (contact, referrer) = (new.contact, new.referrer);
                self.set(&contact.id, NodeState::Asked);
                QueryStep { to: contact.address, asked: Some(contact.id), referrer }
            }
        };
        self.in_flight += 1;
        self.asked += 1;
        Some(next)
    }

    fn set(&mut self, id: &Id, state: NodeState<Reply>) {
        if let Some(one) = self.candidates.get_mut(&distance(id, &self.target)) {
            self.late -= usize::from(matches!(one.state, NodeState::Late));
            one.state = state;
        }
    }

    /// A node that was asked has not answered yet.
    pub(crate) fn late(&mut self, asked: &Id) {
        if let Some(one) = self.candidates.get_mut(&distance(asked, &self.target))
            && matches!(one.state, NodeState::Asked)
        {
            one.state = NodeState::Late;
            self.late += 1;
        }
    }

    /// A node that was asked as `asked` answered as `contact`, if it has an id.
    pub(crate) fn answer(&mut self, asked: Option<Id>, contact: Option<Contact>, reply: Reply) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.answered += 1;
        if let Some(asked) = asked
            && contact.map(|contact| contact.id) != Some(asked)
        {
            self.set(&asked, NodeState::Failed);
        }
        if let Some(contact) = contact {
            self.add(contact, None);
            self.set(&contact.id, NodeState::Answered(reply));
        }
    }

    pub(crate) fn failed(&mut self, asked: Option<Id>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(asked) = asked {
            self.set(&asked, NodeState::Failed);
        }
    }

    /// How many nodes answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered
    }

    /// Whether all relevant nodes were queried, and all requests of the commit answered. The query
    /// waits for late nodes only while few others have answered.
    pub(crate) fn is_done(&self) -> bool {
        if let Some(commit) = self.commit {
            return commit.waiting == 0;
        }
        let more =
            self.asked < MAX_ASKED && (!self.bootstrap.is_empty() || self.nearest_new().is_some());
        if more || self.in_flight > self.late {
            return false;
        }
        let answered = |one: &&QueryNode<Reply>| matches!(one.state, NodeState::Answered(_));
        self.late * ANSWERS_PER_LATE <= self.answered
            || self.nearest().filter(answered).count() >= BUCKET
    }

    /// The nearest nodes that answered, with what was kept of each answer.
    pub(crate) fn closest(&self) -> Vec<(Contact, Reply)> {
        let answered = |one: &QueryNode<Reply>| match &one.state {
            NodeState::Answered(reply) => Some((one.contact, reply.clone())),
            _ => None,
        };
        self.nearest().filter_map(answered).collect()
    }

    /// Begins the commit: `count` requests, answered by `deadline`.
    pub(crate) fn commit(&mut self, count: usize, deadline: Instant) {
        self.commit = Some(CommitPhase { waiting: count, accepted: 0 });
        self.deadline = deadline;
    }

    /// Notes the result of one request of the commit.
    pub(crate) fn commit_answered(&mut self, accepted: bool) {
        if let Some(commit) = &mut self.commit {
            commit.waiting = commit.waiting.saturating_sub(1);
            commit.accepted += usize::from(accepted);
        }
    }

    /// How many nodes accepted the commit; `None` before it.
    pub(crate) fn accepted(&self) -> Option<usize> {
        self.commit.map(|commit| commit.accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const AT_ONCE: usize = 16;

    fn contact(n: u16) -> Contact {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        Contact { id, address: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), n + 1) }
    }

    fn query() -> Query<(), u16> {
        Query::new([0; 32], (), AT_ONCE, Instant::now())
    }

    fn asked(query: &mut Query<(), u16>) -> Option<Id> {
        query.next_step().unwrap().asked
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_are_queried_first_and_concurrent_requests_are_limited() {
        let mut query = query();
        for n in (0..40).rev() {
            query.add(contact(n), None);
        }
        for n in 0..AT_ONCE as u16 {
            assert_eq!(asked(&mut query), Some(contact(n).id));
        }
        assert_eq!(query.next_step(), None, "all queries wait");
        query.failed(Some(contact(0).id));
        for n in 1..=20 {
            if n >= AT_ONCE as u16 {
                assert_eq!(asked(&mut query), Some(contact(n).id));
            }
            query.answer(Some(contact(n).id), Some(contact(n)), n);
        }
        assert!(query.is_done(), "the twenty nearest that live have answered");
        assert_eq!(query.next_step(), None);
        let closest = query.closest();
        assert_eq!(closest.len(), BUCKET);
        assert_eq!(closest[0], (contact(1), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_of_a_query_are_limited() {
        let mut query = query();
        for n in 0..=MAX_CONTACTS as u16 {
            query.add(contact(n + 1), None);
        }
        assert_eq!(query.candidates.len(), MAX_CONTACTS);
        query.add(contact(0), None);
        assert_eq!(asked(&mut query), Some(contact(0).id), "a nearer one has a place");
        assert_eq!(query.candidates.len(), MAX_CONTACTS);
    }

    /// A node that keeps naming nearer nodes prolongs a query only up to its limits.
    #[tokio::test(start_paused = true)]
    async fn requests_of_a_query_are_limited() {
        let mut query = query();
        query.add(contact(u16::MAX - 1), None);
        for n in 0..MAX_ASKED as u16 {
            let asked = query.next_step().unwrap_or_else(|| panic!("{n} asked")).asked;
            query.add(contact(u16::MAX - 2 - n), None);
            query.answer(asked, asked.map(|id| Contact { id, ..contact(1) }), 0);
        }
        assert_eq!(query.next_step(), None);
        assert!(query.is_done());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_under_another_id_is_another_node() {
        let mut query = query();
        let (five, six) = (contact(5), contact(6));
        query.begin_with(vec![five.address]);
        assert!(!query.is_done());
        assert_eq!(
            query.next_step(),
            Some(QueryStep { to: five.address, asked: None, referrer: None })
        );
        query.answer(None, Some(five), 5);
        query.add(six, Some(five.address));
        assert_eq!(query.next_step().unwrap().referrer, Some(five.address));
        query.answer(Some(six.id), Some(contact(7)), 0);
        assert!(query.is_done());
        let closest: Vec<Contact> = query.closest().iter().map(|(contact, _)| *contact).collect();
        assert_eq!(closest, [five, contact(7)]);
    }

    /// A user would wait for it.
    #[tokio::test(start_paused = true)]
    async fn a_late_node_does_not_delay_a_query_when_most_have_answered() {
        let mut query = query();
        (0..30).for_each(|n| query.add(contact(n), None));
        (0..AT_ONCE).for_each(|_| {
            query.next_step();
        });
        assert_eq!(query.next_step(), None);
        query.late(&contact(0).id);
        query.late(&contact(0).id);
        assert_eq!(asked(&mut query), Some(contact(16).id), "another in its place");
        assert_eq!(query.next_step(), None);
        for n in 1..=20 {
            if n > 16 {
                assert_eq!(asked(&mut query), Some(contact(n).id));
            }
            assert!(!query.is_done());
            query.answer(Some(contact(n).id), Some(contact(n)), n);
        }
        assert!(query.is_done(), "twenty without it");
        query.answer(Some(contact(0).id), Some(contact(0)), 0);
        assert_eq!(query.closest()[0], (contact(0), 0), "but it is in time for what follows");
        assert!(query.is_done());
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_with_few_nodes_waits_for_late_ones() {
        let mut query = query();
        (0..4).for_each(|n| query.add(contact(n), None));
        (0..4).for_each(|_| {
            query.next_step();
        });
        for n in [0, 1] {
            query.late(&contact(n).id);
            query.answer(Some(contact(n + 2).id), Some(contact(n + 2)), 0);
        }
        assert!(!query.is_done(), "half of them");
        query.answer(Some(contact(0).id), Some(contact(0)), 0);
        assert!(query.is_done(), "three of four");
        query.failed(Some(contact(1).id));
        assert!(query.is_done());
    }

    proptest! {
        /// Unrequested answers, late ones, and nodes that no longer fit.
        #[test]
        fn counters_are_right_after_any_order_of_events(
            happened in prop::collection::vec((0..5_u8, 0..300_u16), 0..2000),
        ) {
            let mut query = query();
            for (what, n) in happened {
                let contact = contact(n);
                match what {
                    0 => query.add(contact, None),
                    1 => drop(query.next_step()),
                    2 => query.late(&contact.id),
                    3 => query.answer(Some(contact.id), Some(contact), n),
                    _ => query.failed(Some(contact.id)),
                }
                let late = |one: &&QueryNode<u16>| matches!(one.state, NodeState::Late);
                prop_assert_eq!(query.candidates.values().filter(late).count(), query.late);
                prop_assert!(query.candidates.len() <= MAX_CONTACTS);
                let _ = (query.is_done(), query.closest());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_the_commit_are_counted_apart_from_late_answers() {
        let (mut query, now) = (query(), Instant::now());
        (0..3).for_each(|n| query.add(contact(n), None));
        (0..3).for_each(|_| {
            query.next_step();
        });
        query.answer(Some(contact(0).id), Some(contact(0)), 0);
        query.commit(1, now);
        assert_eq!((query.accepted(), query.next_step()), (Some(0), None));
        query.answer(Some(contact(1).id), Some(contact(1)), 0);
        query.failed(Some(contact(2).id));
        assert!(!query.is_done());
        query.commit_answered(true);
        assert!(query.is_done());
        query.commit_answered(false);
        assert_eq!(query.accepted(), Some(1));
    }
}
