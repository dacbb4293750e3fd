//! Moments as files have them: nanoseconds, also before 1970.
//!
//! Both formats have a field with whole milliseconds from 1970 on, which other programs read and write: the
//! *coarse* value. The exact one is stored beside it, and counts while the two agree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Latest coarse value: the latest time of the reference (ECMAScript: 10^8 days after 1970).
const MAX_COARSE: i64 = 8_640_000_000_000_000;
const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;
const NANOSECONDS_PER_MILLISECOND: u32 = 1_000_000;

/// A moment, in nanoseconds before or after 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    seconds: i64,
    nanoseconds: u32,
}

impl Time {
    /// `nanoseconds` after `seconds`, as in `timespec`: the former count forward also before 1970.
    /// `None` for a whole second of nanoseconds or more.
    pub fn new(seconds: i64, nanoseconds: u32) -> Option<Self> {
        (nanoseconds < NANOSECONDS_PER_SECOND).then_some(Self { seconds, nanoseconds })
    }

    /// Now, by the clock of this machine.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// What is added to them.
    pub fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// From milliseconds since 1970.
    pub fn from_milliseconds(milliseconds: u64) -> Self {
        // Both fit: a thousandth of 2^64, and less than a second.
        let seconds = (milliseconds / 1000) as i64;
        Self { seconds, nanoseconds: (milliseconds % 1000) as u32 * NANOSECONDS_PER_MILLISECOND }
    }

    /// Whole milliseconds since 1970, rounded down; the nearest that the number can hold.
    pub fn milliseconds(self) -> i64 {
        let rest = i64::from(self.nanoseconds / NANOSECONDS_PER_MILLISECOND);
        self.seconds.saturating_mul(1000).saturating_add(rest)
    }

    /// What other programs read: milliseconds from 1970 to the latest time that they have.
    pub(crate) fn coarse(self) -> u64 {
        self.milliseconds().clamp(0, MAX_COARSE).unsigned_abs()
    }

    /// Whether the coarse value says everything.
    pub(crate) fn is_coarse(self) -> bool {
        Self::from_milliseconds(self.coarse()) == self
    }

    /// The moment of an entry with this coarse value: `exact` while it agrees, for another program may have
    /// changed the former.
    pub(crate) fn of_coarse(coarse: u64, exact: Option<Self>) -> Self {
        let exact = exact.filter(|exact| exact.coarse() == coarse);
        exact.unwrap_or_else(|| Self::from_milliseconds(coarse))
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let (before, distance) = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (false, after),
            Err(before) => (true, before.duration()),
        };
        let seconds = i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
        match (before, distance.subsec_nanos()) {
            (false, nanoseconds) => Self { seconds, nanoseconds },
            (true, 0) => Self { seconds: -seconds, nanoseconds: 0 },
            (true, back) => {
                let nanoseconds = NANOSECONDS_PER_SECOND - back;
                Self { seconds: (-seconds).saturating_sub(1), nanoseconds }
            }
        }
    }
}

impl From<Time> for SystemTime {
    /// 1970 for a moment that the system cannot express.
    fn from(time: Time) -> Self {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let second = match time.seconds < 0 {
            true => UNIX_EPOCH.checked_sub(whole),
            false => UNIX_EPOCH.checked_add(whole),
        };
        let rest = Duration::from_nanos(time.nanoseconds.into());
        second.and_then(|second| second.checked_add(rest)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(seconds: i64, nanoseconds: u32) -> Time {
        Time::new(seconds, nanoseconds).unwrap()
    }

    #[test]
    fn coarse_values_are_those_that_other_programs_have() {
        for (time, milliseconds, coarse, exact) in [
            (time(0, 0), 0, 0, true),
            (time(1, 999_999_999), 1999, 1999, false),
            (time(1_700_000_000, 123_000_000), 1_700_000_000_123, 1_700_000_000_123, true),
            (time(-1, 999_000_000), -1, 0, false),
            (time(-2, 500_000_000), -1500, 0, false),
            (time(8_640_000_000_000, 0), 8_640_000_000_000_000, 8_640_000_000_000_000, true),
            (time(8_640_000_000_001, 0), 8_640_000_000_001_000, 8_640_000_000_000_000, false),
            (time(i64::MIN, 0), i64::MIN, 0, false),
        ] {
            assert_eq!(time.milliseconds(), milliseconds, "{time:?}");
            assert_eq!((time.coarse(), time.is_coarse()), (coarse, exact), "{time:?}");
        }
        assert_eq!(Time::new(0, 1_000_000_000), None);
    }

    #[test]
    fn an_exact_value_counts_while_it_agrees_with_the_coarse_one() {
        let exact = time(7, 1_000_001);
        assert_eq!(Time::of_coarse(7001, Some(exact)), exact);
        assert_eq!(Time::of_coarse(7002, Some(exact)), time(7, 2_000_000));
        assert_eq!(Time::of_coarse(7001, None), time(7, 1_000_000));
        let early = time(-9, 1);
        assert_eq!(Time::of_coarse(0, Some(early)), early);
        assert_eq!(Time::of_coarse(1, Some(early)), time(0, 1_000_000));
    }

    proptest! {
        #[test]
        fn times_of_the_system_are_kept(seconds: i64, nanoseconds in 0u32..1_000_000_000) {
            let seconds = seconds / 2;
            let time = time(seconds, nanoseconds);
            prop_assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
