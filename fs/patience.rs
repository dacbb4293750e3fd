//! How long the operations of a mount wait for peers, and when the current request began.
//!
//! One request of the kernel has one deadline, however many blocks and names it needs. `serve.rs`
//! notes when it began.

use std::time::Duration;

use hypermount_drive::Wait;
use tokio::time::Instant;

tokio::task_local! {
    static BEGAN: Instant;
}

/// Runs `request` as one request of the kernel, which begins now.
pub(crate) fn as_request<F: Future>(request: F) -> impl Future<Output = F::Output> {
    BEGAN.scope(Instant::now(), request)
}

/// When the current request began; now, if there is none.
fn began() -> Instant {
    BEGAN.try_with(|began| *began).unwrap_or_else(|_| Instant::now())
}

/// How long operations wait for peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: data that is not in the store fails at once.
    Offline,
    /// Up to a limit, for `--wait`; the default is 10 s and 30 s.
    Limited {
        /// The limit of a request about names.
        names: Duration,
        /// The limit of a request that reads data; of each block, if it reads a whole file.
        data: Duration,
    },
    /// Without a limit.
    Forever,
}

impl Default for Patience {
    fn default() -> Self {
        Patience::Limited { names: Duration::from_secs(10), data: Duration::from_secs(30) }
    }
}

impl Patience {
    pub(crate) fn names(self) -> Wait {
        match self {
            Patience::Offline => Wait::Local,
            Patience::Limited { names, .. } => Wait::Until(began() + names),
            Patience::Forever => Wait::Forever,
        }
    }

    /// The wait of a read: all of its blocks are requested when it begins.
    pub(crate) fn read(self) -> Wait {
        match self {
            Patience::Offline => Wait::Local,
            Patience::Limited { data, .. } => Wait::Until(began() + data),
            Patience::Forever => Wait::Forever,
        }
    }

    /// The wait of an operation on a whole file: each block may take the full time.
    pub(crate) fn each_block(self) -> Wait {
        match self {
            Patience::Offline => Wait::Local,
            Patience::Limited { data, .. } => Wait::Each(data),
            Patience::Forever => Wait::Forever,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_request_has_one_deadline() {
        let patience = Patience::default();
        let until = |wait: Wait| wait.deadline().expect("it is limited");
        let start = Instant::now();
        as_request(async {
            tokio::time::advance(Duration::from_secs(4)).await;
            assert_eq!(until(patience.names()), start + Duration::from_secs(10));
            assert_eq!(until(patience.read()), start + Duration::from_secs(30));
            assert_eq!(until(patience.each_block()), Instant::now() + Duration::from_secs(30));
        })
        .await;
        assert_eq!(until(patience.names()), Instant::now() + Duration::from_secs(10));
        assert!(
            Patience::Offline.read().is_local() && Patience::Forever.read().deadline().is_none()
        );
    }
}
