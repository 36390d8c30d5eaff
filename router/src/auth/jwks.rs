//! Public keys that a server gives (JWKS), kept for as long as it does not answer.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::fetch::{self, Failed};
use super::jwt::Family;

/// How often the keys are fetched when nobody asks for one that is not there.
const EVERY: Duration = Duration::from_secs(600);

/// Between two fetches, however many unknown keys are asked for.
const LEAST: Duration = Duration::from_secs(5);

/// What the server does not have so soon after it was asked, it does not have.
const FRESH: Duration = Duration::from_secs(10);

/// Time for one fetch.
const WITHIN: Duration = Duration::from_secs(5);

/// Largest answer, in bytes: a key has less than a thousand.
const ANSWER_BYTES: usize = 256 << 10;

/// Keys of a server. They are fetched by [`Jwks::follow`]; tokens are checked against those that were fetched last.
pub struct Jwks {
    url: String,
    client: reqwest::Client,
    known: RwLock<Arc<Known>>,
    wanted: Notify,
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwks({} keys of {})", self.known().keys.len(), self.url)
    }
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    /// When the server last gave them.
    fetched: Option<Instant>,
}

struct Key {
    id: Option<String>,
    family: Family,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// What there is to check a token with.
pub(super) enum Found {
    /// Any of these.
    Keys(Vec<DecodingKey>),
    /// Nothing yet: the server is asked.
    Later,
    /// The server has no such key.
    None,
}

impl Jwks {
    /// Keys at `url`; none before the first fetch.
    pub fn new(url: String, client: reqwest::Client) -> Self {
        Self { url, client, known: RwLock::default(), wanted: Notify::new() }
    }

    /// Fetches the keys, and again every now and then and when an unknown one is asked for. Never returns.
    pub async fn follow(&self) {
        loop {
            match self.fetch().await {
                Ok(keys) => {
                    tracing::debug!(url = self.url, keys = keys.len(), "public keys fetched");
                    self.set(keys);
                }
                // What is there stays: a server that is gone is no reason to let nobody in.
                Err(error) => tracing::warn!(url = self.url, %error, "public keys can't be fetched"),
            }
            sleep(LEAST).await;
            tokio::select! {
                () = sleep(EVERY) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, Failed> {
        let answer = fetch::body(self.client.get(&self.url), ANSWER_BYTES, WITHIN).await?;
        let set: JwkSet = serde_json::from_slice(&answer).map_err(|e| Failed::Unreadable(e.to_string()))?;
        Ok(set.keys.iter().filter_map(Key::of).collect())
    }

    /// The keys for a token with this id of a key in its header.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found {
        let known = self.known();
        let fitting = known.keys.iter().filter(|key| key.fits(id, algorithm));
        let keys: Vec<DecodingKey> = fitting.map(|key| key.key.clone()).collect();
        if !keys.is_empty() {
            return Found::Keys(keys);
        }
        // If the server was asked just now there is no such key.
        if known.fetched.is_some_and(|at| at.elapsed() < FRESH) {
            return Found::None;
        }
        self.wanted.notify_one();
        Found::Later
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, keys: Vec<Key>) {
        let known = Known { keys, fetched: Some(Instant::now()) };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

impl Key {
    /// A key that tokens can be checked with; `None` for others, such as secrets and keys to encrypt with.
    fn of(jwk: &Jwk) -> Option<Self> {
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Family::Rsa,
            AlgorithmParameters::EllipticCurve(_) => Family::Ec,
            _ => return None,
        };
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse().ok());
        Some(Self { id: jwk.common.key_id.clone(), family, algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
    }

    fn fits(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        // Without an id every key is tried.
        let named = id.is_none() || self.id.as_deref() == id;
        named && Family::of(algorithm) == Some(self.family) && self.algorithm.is_none_or(|own| own == algorithm)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(jwk: serde_json::Value) -> Option<Key> {
        Key::of(&serde_json::from_value(jwk).unwrap())
    }

    #[test]
    fn only_keys_that_check_signatures_are_taken() {
        let (n, e) = ("u1SU1LfVLPHCozMxH2Mo", "AQAB");
        let rsa = key(json!({"kty": "RSA", "kid": "a", "alg": "RS256", "n": n, "e": e})).unwrap();
        assert!(rsa.fits(Some("a"), Algorithm::RS256) && rsa.fits(None, Algorithm::RS256));
        assert!(!rsa.fits(Some("b"), Algorithm::RS256) && !rsa.fits(Some("a"), Algorithm::PS256));
        assert!(!rsa.fits(Some("a"), Algorithm::HS256));
        let any = key(json!({"kty": "RSA", "use": "sig", "n": n, "e": e})).unwrap();
        assert!(any.fits(None, Algorithm::PS512) && !any.fits(Some("a"), Algorithm::PS512));
        assert!(key(json!({"kty": "oct", "k": "c2VjcmV0"})).is_none());
        assert!(key(json!({"kty": "RSA", "use": "enc", "n": n, "e": e})).is_none());
    }

    #[test]
    fn an_unknown_key_is_asked_for_unless_it_was_just_now() {
        let jwks = Jwks::new("http://127.0.0.1:1".into(), reqwest::Client::new());
        assert!(matches!(jwks.find(Some("a"), Algorithm::RS256), Found::Later));
        jwks.set(Vec::new());
        assert!(matches!(jwks.find(Some("a"), Algorithm::RS256), Found::None));
    }
}
