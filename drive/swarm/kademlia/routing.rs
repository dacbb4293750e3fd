//! The routing table: known nodes, at most [`BUCKET`] of each distance from our id.

use std::net::SocketAddrV4;

use tokio::time::Instant;

use super::id::{Id, common_bits, distance};

/// Nodes kept per distance, which is the number of leading bits shared with our id.
pub(crate) const BUCKET: usize = 20;
/// Number of distances; nearer nodes share the last bucket. Only a deliberately chosen id is that
/// near.
pub(crate) const BUCKETS: usize = 64;

/// The id and the address of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub id: Id,
    pub address: SocketAddrV4,
}

struct Known {
    contact: Contact,
    heard: Instant,
}

/// At most [`BUCKET`] times [`BUCKETS`] nodes.
pub(crate) struct RoutingTable {
    own: Id,
    buckets: Vec<Vec<Known>>,
}

impl RoutingTable {
    pub(crate) fn new(own: Id) -> Self {
        Self { own, buckets: (0..BUCKETS).map(|_| Vec::new()).collect() }
    }

    /// Notes that a node answered. A new one is added only if its bucket has room: a node that has stayed
    /// long is likelier to stay. A known id keeps its address until it fails to answer.
    pub(crate) fn heard(&mut self, contact: Contact, now: Instant) {
        if contact.id == self.own {
            return;
        }
        let index = self.index(&contact.id);
        let Some(bucket) = self.buckets.get_mut(index) else { return };
        if let Some(known) = bucket.iter_mut().find(|known| known.contact.id == contact.id) {
            if known.contact.address == contact.address {
                known.heard = now;
            }
        } else if bucket.len() < BUCKET {
            bucket.push(Known { contact, heard: now });
        }
    }

    /// Removes a node that did not answer.
    pub(crate) fn failed(&mut self, address: SocketAddrV4) {
        for bucket in &mut self.buckets {
            bucket.retain(|known| known.contact.address != address);
        }
    }

    /// The index of the bucket of an id.
    fn index(&self, id: &Id) -> usize {
        common_bits(&self.own, id).min(BUCKETS - 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.iter().all(Vec::is_empty)
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Known> {
        self.buckets.iter().flatten()
    }

    /// The nodes nearest to `target`, at most [`BUCKET`].
    pub(crate) fn closest(&self, target: &Id) -> Vec<Contact> {
        let mut all: Vec<Contact> = self.all().map(|known| known.contact).collect();
        let far = |contact: &Contact| distance(&contact.id, target);
        if all.len() > BUCKET {
            // Any request causes this work, so not all nodes are sorted.
            all.select_nth_unstable_by_key(BUCKET, far);
            all.truncate(BUCKET);
        }
        all.sort_unstable_by_key(far);
        all
    }

    /// The `count` nodes that have been silent longest.
    pub(crate) fn oldest(&self, count: usize) -> Vec<Contact> {
        let mut all: Vec<&Known> = self.all().collect();
        all.sort_unstable_by_key(|known| known.heard);
        all.iter().take(count).map(|known| known.contact).collect()
    }

    /// The `count` nodes that answered last, the newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<Contact> {
        let mut all: Vec<&Known> = self.all().collect();
        all.sort_unstable_by_key(|known| std::cmp::Reverse(known.heard));
        all.iter().take(count).map(|known| known.contact).collect()
    }

    /// The node of that id, if it is known.
    pub(crate) fn get(&self, id: &Id) -> Option<Contact> {
        let known = self.buckets.get(self.index(id))?;
        known.iter().find(|known| known.contact.id == *id).map(|known| known.contact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn node(first: u8, last: u8) -> Contact {
        let mut id = [0; 32];
        (id[0], id[31]) = (first, last);
        Contact { id, address: SocketAddrV4::new(Ipv4Addr::new(10, 0, first, last), 1) }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_of_one_distance_are_limited() {
        let (mut table, now) = (RoutingTable::new([0; 32]), Instant::now());
        for n in 0..BUCKET as u8 {
            table.heard(node(0x80, n), now);
        }
        table.heard(node(0x81, 200), now);
        assert_eq!(table.len(), BUCKET, "one more of that distance has no place");
        table.heard(node(0x40, 1), now);
        assert_eq!(table.len(), BUCKET + 1);
        table.failed(node(0x80, 3).address);
        table.heard(node(0x81, 200), now);
        assert!(table.closest(&node(0x81, 200).id)[0] == node(0x81, 200));
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_in_total_are_limited() {
        let (mut table, now) = (RoutingTable::new([0; 32]), Instant::now());
        for bit in 0..256 {
            for n in 0..=BUCKET {
                let mut id = [0; 32];
                id[bit / 8] = 0x80 >> (bit % 8);
                id[31] ^= n as u8;
                table.heard(Contact { id, address: node(1, 1).address }, now);
            }
        }
        assert_eq!(table.len(), BUCKET * BUCKETS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_node_does_not_replace_a_known_one() {
        let (mut table, now) = (RoutingTable::new([0; 32]), Instant::now());
        table.heard(node(0x80, 1), now);
        let liar = Contact { id: node(0x80, 1).id, ..node(0x80, 2) };
        table.heard(liar, now);
        assert_eq!(table.closest(&liar.id), [node(0x80, 1)]);
        table.heard(Contact { id: [0; 32], ..node(1, 1) }, now);
        assert_eq!(table.len(), 1, "not ourselves");
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_and_the_longest_silent_nodes_are_selected() {
        let (mut table, now) = (RoutingTable::new([0xff; 32]), Instant::now());
        for n in 0..40 {
            table.heard(node(n * 6, n), now + std::time::Duration::from_secs(n.into()));
        }
        let closest = table.closest(&[0; 32]);
        assert_eq!(closest.len(), BUCKET);
        assert!(closest.is_sorted_by_key(|contact| contact.id));
        assert_eq!(table.oldest(2), [node(0, 0), node(6, 1)]);
        assert_eq!(table.newest(2), [node(234, 39), node(228, 38)]);
        assert_eq!((table.get(&node(6, 1).id), table.get(&[7; 32])), (Some(node(6, 1)), None));
    }
}
