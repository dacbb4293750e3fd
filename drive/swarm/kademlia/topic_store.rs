//! Records that a node stores for others, by topic, with limits in total, per topic and in time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How much is kept. At each of the two bounds the oldest gives way to what is new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub in_all: usize,
    pub of_one: usize,
    /// Records expire after this unless they are put again.
    pub age: Duration,
}

/// See the module's description. Of one key there is one value on a shelf.
pub(crate) struct Shelves<Shelf, Key, Value> {
    limits: Limits,
    all: HashMap<Shelf, HashMap<Key, (u64, Value)>>,
    /// In the order in which they were put last.
    order: BTreeMap<u64, (Shelf, Key, Instant)>,
    next: u64,
}

impl<Shelf: Copy + Eq + Hash, Key: Copy + Eq + Hash, Value> Shelves<Shelf, Key, Value> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, all: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn put(&mut self, shelf: Shelf, key: Key, value: Value, now: Instant) {
        self.expire(now);
        self.remove(&shelf, &key);
        let of_shelf = self.all.get(&shelf);
        let oldest = if of_shelf.is_some_and(|all| all.len() >= self.limits.of_one) {
            of_shelf.and_then(|all| all.values().map(|(number, _)| *number).min())
        } else if self.order.len() >= self.limits.in_all {
            self.order.keys().next().copied()
        } else {
            None
        };
        if let Some((shelf, key, _)) = oldest.and_then(|oldest| self.order.get(&oldest)).copied() {
            self.remove(&shelf, &key);
        }
        self.order.insert(self.next, (shelf, key, now));
        self.all.entry(shelf).or_default().insert(key, (self.next, value));
        self.next += 1;
    }

    pub(crate) fn remove(&mut self, shelf: &Shelf, key: &Key) -> Option<Value> {
        let on_shelf = self.all.get_mut(shelf)?;
        let (number, value) = on_shelf.remove(key)?;
        if on_shelf.is_empty() {
            self.all.remove(shelf);
        }
        self.order.remove(&number);
        Some(value)
    }

    /// Lets go of what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((_, &(shelf, key, at))) = self.order.first_key_value()
            && now >= at + self.limits.age
        {
            self.remove(&shelf, &key);
        }
    }

    /// What is on one shelf, in no order; [`Shelves::expire`] comes before.
    pub(crate) fn of(&self, shelf: Shelf) -> impl Iterator<Item = (&Key, &Value)> {
        let on_shelf = self.all.get(&shelf).into_iter().flatten();
        on_shelf.map(|(key, (_, value))| (key, value))
    }

    pub(crate) fn get(&self, shelf: &Shelf, key: &Key) -> Option<&Value> {
        self.all.get(shelf)?.get(key).map(|(_, value)| value)
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

    fn keys(all: &Shelves<u8, u8, u8>, shelf: u8) -> Vec<u8> {
        let mut keys: Vec<u8> = all.of(shelf).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_in_all_and_of_one_and_the_oldest_goes_first() {
        let (mut all, now) = (Shelves::new(LIMITS), Instant::now());
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
        assert!(!all.all.contains_key(&1), "nor is an empty shelf kept");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_long() {
        let (mut all, now) = (Shelves::new(LIMITS), Instant::now());
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
