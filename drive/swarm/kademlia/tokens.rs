//! Tokens that show that a request's source address is real: its sender has received an answer
//! there.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use crate::crypto::blake2b;

/// A token is valid for one to two of these periods.
const TOKEN_EVERY: Duration = Duration::from_secs(300);

/// The tokens of one node.
pub(crate) struct Tokens {
    secrets: [[u8; 32]; 2],
    since: Instant,
}

impl Tokens {
    pub(crate) fn new(secrets: [[u8; 32]; 2], now: Instant) -> Self {
        Self { secrets, since: now }
    }

    /// Replaces the secret by `fresh` if it is old.
    pub(crate) fn rotate(&mut self, now: Instant, fresh: impl FnOnce() -> Option<[u8; 32]>) {
        if now >= self.since + TOKEN_EVERY
            && let Some(fresh) = fresh()
        {
            self.secrets = [fresh, self.secrets[0]];
            self.since = now;
        }
    }

    pub(crate) fn token(&self, host: Ipv4Addr) -> [u8; 32] {
        token(&self.secrets[0], host)
    }

    pub(crate) fn accepts(&self, claimed: &[u8; 32], host: Ipv4Addr) -> bool {
        self.secrets.iter().any(|secret| token(secret, host) == *claimed)
    }
}

fn token(secret: &[u8; 32], host: Ipv4Addr) -> [u8; 32] {
    blake2b(&[secret, host.to_string().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_for_one_host_and_two_periods() {
        let start = Instant::now();
        let mut tokens = Tokens::new([[1; 32], [2; 32]], start);
        let host = Ipv4Addr::new(10, 1, 2, 3);
        let token = tokens.token(host);
        assert!(tokens.accepts(&token, host));
        assert!(!tokens.accepts(&token, Ipv4Addr::new(10, 1, 2, 4)));
        let mut at = start;
        for (n, good) in [(3, true), (4, false)] {
            at += TOKEN_EVERY;
            tokens.rotate(at, || Some([n; 32]));
            assert_eq!(tokens.accepts(&token, host), good);
        }
        assert_ne!(tokens.token(host), token);
        assert_eq!(blake2b(&[&[1; 32], b"10.1.2.3"]), token);
    }
}
