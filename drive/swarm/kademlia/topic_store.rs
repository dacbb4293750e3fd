//! Records that a node stores for others, by topic, with limits in total, per topic and in time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The limits of a store. At each of the two bounds a new record replaces the oldest one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub in_all: usize,
    pub of_one: usize,
    /// Records expire after this unless they are put again.
    pub age: Duration,
}

/// Records by topic. A topic has one value per key.
pub(crate) struct TopicStore<Topic, Key, Value> {
    limits: Limits,
    all: HashMap<Topic, HashMap<Key, (u64, Value)>>,
    /// In the order in which they were put last.
    order: BTreeMap<u64, (Topic, Key, Instant)>,
    next: u64,
}

impl<Topic: Copy + Eq + Hash, Key: Copy + Eq + Hash, Value> TopicStore<Topic, Key, Value> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, all: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn put(&mut self, topic: Topic, key: Key, value: Value, now: Instant) {
        self.expire(now);
        self.remove(&topic, &key);
        let of_topic = self.all.get(&topic);
        let oldest = if of_topic.is_some_and(|all| all.len() >= self.limits.of_one) {
            of_topic.and_then(|all| all.values().map(|(number, _)| *number).min())
        } else if self.order.len() >= self.limits.in_all {
            self.order.keys().next().copied()
        } else {
            None
        };
        if let Some((topic, key, _)) = oldest.and_then(|oldest| self.order.get(&oldest)).copied() {
            self.remove(&topic, &key);
        }
        self.order.insert(self.next, (topic, key, now));
        self.all.entry(topic).or_default().insert(key, (self.next, value));
        self.next += 1;
    }

    pub(crate) fn remove(&mut self, topic: &Topic, key: &Key) -> Option<Value> {
        let of_topic = self.all.get_mut(topic)?;
        let (number, value) = of_topic.remove(key)?;
        if of_topic.is_empty() {
            self.all.remove(topic);
        }
        self.order.remove(&number);
        Some(value)
    }

    /// Removes expired records.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((_, &(topic, key, at))) = self.order.first_key_value()
            && now >= at + self.limits.age
        {
            self.remove(&topic, &key);
        }
    }

    /// The records of one topic, in no order. Call [`TopicStore::expire`] before.
    pub(crate) fn of(&self, topic: Topic) -> impl Iterator<Item = (&Key, &Value)> {
        let of_topic = self.all.get(&topic).into_iter().flatten();
        of_topic.map(|(key, (_, value))| (key, value))
    }

    pub(crate) fn get(&self, topic: &Topic, key: &Key) -> Option<&Value> {
        self.all.get(topic)?.get(key).map(|(_, value)| value)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { in_all: 5, of_one: 3, age: Duration::from_secs(60) };

    fn keys(all: &TopicStore<u8, u8, u8>, topic: u8) -> Vec<u8> {
        let mut keys: Vec<u8> = all.of(topic).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_limited_in_total_and_per_topic_and_the_oldest_goes_first() {
        let (mut all, now) = (TopicStore::new(LIMITS), Instant::now());
        for key in 0..3 {
            all.put(1, key, key, now);
        }
        all.put(1, 0, 9, now);
        assert_eq!((keys(&all, 1), all.get(&1, &0)), (vec![0, 1, 2], Some(&9)));
        all.put(1, 3, 3, now);
        assert_eq!(keys(&all, 1), [0, 2, 3], "1 was put longest ago");
        for key in 0..2 {
            all.put(2, key, key, now);
        }
        assert_eq!(all.len(), 5);
        all.put(2, 2, 2, now);
        assert_eq!((keys(&all, 1), all.len()), (vec![0, 3], 5));
        assert_eq!(
            (all.remove(&1, &0), all.remove(&1, &3), all.remove(&1, &3)),
            (Some(9), Some(3), None)
        );
        assert!(!all.all.contains_key(&1), "an empty topic is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn records_expire() {
        let (mut all, now) = (TopicStore::new(LIMITS), Instant::now());
        all.put(1, 1, 1, now);
        all.put(1, 2, 2, now + Duration::from_secs(1));
        all.expire(now + LIMITS.age - Duration::from_millis(1));
        assert_eq!(all.len(), 2);
        all.expire(now + LIMITS.age);
        assert_eq!(keys(&all, 1), [2]);
        all.put(2, 2, 2, now + LIMITS.age * 2);
        assert_eq!(all.len(), 1);
    }
}
