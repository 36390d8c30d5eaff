//! Checks the signatures of tokens: by a shared secret, by public keys from files, by keys that a server gives.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode_header};

use super::claims::Claims;
use super::jwks::{Found, Jwks};
use super::{ConnectionToken, Rejected, SubscriptionToken, Unix};

/// Least length of a secret, in bytes: shorter ones can be guessed.
const SECRET_BYTES: usize = 16;

/// A key that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Shorter than that can be guessed.
    #[error("has {0} bytes, it must have at least {SECRET_BYTES}")]
    Short(usize),
    /// It signs: it has no business here.
    #[error("has a private key: give the public one")]
    Private,
    /// It is something else.
    #[error("has no RSA or EC public key in PEM")]
    Unknown,
}

/// What a key is good for: a token chooses its algorithm, but not the kind of key that it is checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Hmac,
    Rsa,
    Ec,
}

impl Family {
    pub(super) fn of(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Some(Self::Hmac),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Some(Self::Rsa),
            Algorithm::ES256 | Algorithm::ES384 => Some(Self::Ec),
            _ => None,
        }
    }
}

/// Checks tokens with every key it was given. Where an issuer or an audience is given a token must have it.
#[derive(Default)]
pub struct Tokens {
    keys: Vec<(Family, DecodingKey)>,
    jwks: Option<Arc<Jwks>>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<Family> = self.keys.iter().map(|(family, _)| *family).collect();
        f.debug_struct("Tokens").field("keys", &families).field("jwks", &self.jwks).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Without any key yet.
    pub fn new(issuer: Option<String>, audience: Option<String>) -> Self {
        Self { issuer, audience, ..Self::default() }
    }

    /// Takes HS256, HS384 and HS512 with `secret`.
    ///
    /// # Errors
    /// If the secret is too short.
    pub fn with_secret(mut self, secret: &[u8]) -> Result<Self, BadKey> {
        if secret.len() < SECRET_BYTES {
            return Err(BadKey::Short(secret.len()));
        }
        self.keys.push((Family::Hmac, DecodingKey::from_secret(secret)));
        Ok(self)
    }

    /// Takes what the public keys in `pem` fit: RS256 to RS512, PS256 to PS512, ES256, ES384.
    ///
    /// # Errors
    /// If there is anything else in it, or nothing.
    pub fn with_pem(mut self, pem: &str) -> Result<Self, BadKey> {
        if pem.contains("PRIVATE KEY") {
            return Err(BadKey::Private);
        }
        let mut blocks = pem.split_inclusive("-----BEGIN ").skip(1).peekable();
        if blocks.peek().is_none() {
            return Err(BadKey::Unknown);
        }
        for block in blocks {
            let block = format!("-----BEGIN {}", block.trim_end_matches("-----BEGIN "));
            let rsa = DecodingKey::from_rsa_pem(block.as_bytes()).map(|key| (Family::Rsa, key));
            let key = rsa.or_else(|_| DecodingKey::from_ec_pem(block.as_bytes()).map(|key| (Family::Ec, key)));
            self.keys.push(key.map_err(|_| BadKey::Unknown)?);
        }
        Ok(self)
    }

    /// Takes what the keys of a server fit.
    pub fn with_jwks(mut self, jwks: Arc<Jwks>) -> Self {
        self.jwks = Some(jwks);
        self
    }

    /// The keys of a server, to be kept up to date.
    pub fn jwks(&self) -> Option<&Arc<Jwks>> {
        self.jwks.as_ref()
    }

    /// What a connection token grants.
    ///
    /// # Errors
    /// Why it grants nothing.
    pub fn connection(&self, token: &str, now: Unix) -> Result<ConnectionToken, Rejected> {
        Ok(self.claims(token, now)?.connection()?)
    }

    /// What a subscription token grants.
    ///
    /// # Errors
    /// Why it grants nothing.
    pub fn subscription(&self, token: &str, now: Unix) -> Result<SubscriptionToken, Rejected> {
        Ok(self.claims(token, now)?.subscription()?)
    }

    fn claims(&self, token: &str, now: Unix) -> Result<Claims, Rejected> {
        let invalid = |e: jsonwebtoken::errors::Error| Rejected::Invalid(e.to_string());
        let header = decode_header(token).map_err(invalid)?;
        let no_key = || Rejected::Invalid(format!("no key for {:?}", header.alg));
        let family = Family::of(header.alg).ok_or_else(no_key)?;
        let own = self.keys.iter().filter(|(f, _)| *f == family).map(|(_, key)| key.clone());
        let mut keys: Vec<DecodingKey> = own.collect();
        let mut later = false;
        if let Some(jwks) = self.jwks.as_ref().filter(|_| family != Family::Hmac) {
            match jwks.find(header.kid.as_deref(), header.alg) {
                Found::Keys(found) => keys.extend(found),
                Found::Later => later = true,
                Found::None => {}
            }
        }
        let mut rules = Validation::new(header.alg);
        // Claims are checked here, against a time that is handed in.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        let mut problem = if later { Rejected::Later } else { no_key() };
        for key in &keys {
            match jsonwebtoken::decode::<Claims>(token, key, &rules) {
                Ok(decoded) => {
                    decoded.claims.check(self.issuer.as_deref(), self.audience.as_deref(), now)?;
                    return Ok(decoded.claims);
                }
                Err(e) if later => {
                    tracing::debug!(error = %e, "a token fits no key of ours: the server's are asked for")
                }
                Err(e) => problem = invalid(e),
            }
        }
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::Overrides;

    const SECRET: &[u8] = b"a secret of sufficient length";
    const NOW: Unix = Unix(1_000_000);

    fn hmac() -> Tokens {
        Tokens::default().with_secret(SECRET).unwrap()
    }

    fn signed(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    fn connection(claims: &Value) -> Result<ConnectionToken, Rejected> {
        hmac().connection(&signed(Algorithm::HS256, SECRET, claims), NOW)
    }

    fn subscription(claims: &Value) -> Result<SubscriptionToken, Rejected> {
        hmac().subscription(&signed(Algorithm::HS256, SECRET, claims), NOW)
    }

    #[test]
    fn signatures_are_checked() {
        let claims = json!({"sub": "ann"});
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = signed(algorithm, SECRET, &claims);
            assert_eq!(hmac().connection(&token, NOW).unwrap().user.as_str(), "ann");
            let other = signed(algorithm, b"another secret of that length", &claims);
            assert!(matches!(hmac().connection(&other, NOW), Err(Rejected::Invalid(_))));
        }
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ.";
        let good = signed(Algorithm::HS256, SECRET, &claims);
        for bad in ["", "a", "a.b.c", unsigned, &good[..good.len() - 2], &format!("{good}.x")] {
            assert!(matches!(hmac().connection(bad, NOW), Err(Rejected::Invalid(_))), "{bad}");
        }
        assert_eq!(Tokens::default().with_secret(b"short").unwrap_err(), BadKey::Short(5));
        assert!(!format!("{:?}", hmac()).contains("secret"));
    }

    #[test]
    fn a_token_has_its_time() {
        let rejected = |claims: Value| connection(&claims).err();
        assert_eq!(rejected(json!({"exp": NOW.0 + 1})), None);
        assert_eq!(rejected(json!({"exp": NOW.0})), Some(Rejected::Expired));
        assert_eq!(rejected(json!({"exp": -1})), Some(Rejected::Expired));
        assert_eq!(rejected(json!({"exp": 1.5, "expire_at": 0})), Some(Rejected::Expired));
        assert_eq!(rejected(json!({"nbf": NOW.0})), None);
        assert!(matches!(rejected(json!({"nbf": NOW.0 + 1})), Some(Rejected::Invalid(_))));
        let expires = |claims: Value| connection(&claims).unwrap().expires;
        assert_eq!(expires(json!({})), None);
        assert_eq!(expires(json!({"exp": 1_000_009.5})), Some(Unix(NOW.0 + 9)));
        assert_eq!(expires(json!({"exp": NOW.0 + 9, "expire_at": 0})), None);
        assert_eq!(expires(json!({"exp": NOW.0 + 9, "expire_at": NOW.0 + 99})), Some(Unix(NOW.0 + 99)));
    }

    #[test]
    fn issuer_and_audience_are_checked_where_configured() {
        let strict = Tokens::new(Some("us".into()), Some("chat".into())).with_secret(SECRET).unwrap();
        let mut rows =
            vec![(json!({"iss": "us", "aud": "chat"}), true), (json!({"iss": "us", "aud": ["x", "chat"]}), true)];
        rows.extend(
            [
                json!({}),
                json!({"iss": "us"}),
                json!({"aud": "chat"}),
                json!({"iss": "x", "aud": "chat"}),
                json!({"iss": "us", "aud": ["x"]}),
            ]
            .map(|claims| (claims, false)),
        );
        for (claims, good) in rows {
            let token = signed(Algorithm::HS256, SECRET, &claims);
            assert_eq!(strict.connection(&token, NOW).is_ok(), good, "{claims}");
            assert!(hmac().connection(&token, NOW).is_ok());
        }
    }

    #[test]
    fn connection_tokens_say_who_and_where() {
        let token = connection(&json!({
            "sub": "ann", "info": {"name": "Ann"}, "caps": [1], "meta": {}, "channels": ["a", "b"],
            "subs": {"b": {"override": {"force_recovery": {"value": false}}}, "c": {"info": {}}},
        }))
        .unwrap();
        assert_eq!((token.user.as_str(), &token.info[..]), ("ann", &br#"{"name":"Ann"}"#[..]));
        let rooms: Vec<_> = token.rooms.iter().map(|(room, o)| (room.as_str(), o.force_recovery)).collect();
        assert_eq!(rooms, [("a", None), ("b", Some(false)), ("c", None)], "subs win over channels");
        let info = STANDARD.encode("{\"a\":\n1}");
        assert_eq!(&connection(&json!({"b64info": info})).unwrap().info[..], b"{\"a\": 1}");
        for bad in [
            json!({"sub": 7}),
            json!({"sub": "x".repeat(300)}),
            json!({"channel": "a"}),
            json!({"channels": [""]}),
            json!({"subs": {"a\u{7}": {}}}),
            json!({"b64info": "%"}),
            json!({"b64info": STANDARD.encode([0xff])}),
            json!({"info": "x".repeat(5_000)}),
            json!({"exp": "tomorrow"}),
        ] {
            assert!(matches!(connection(&bad), Err(Rejected::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn subscription_tokens_name_one_room() {
        let overrides = json!({"join_leave": {"value": true}, "force_push_join_leave": {"value": true}});
        let claims = json!({"sub": "ann", "channel": "a", "client": "c1", "exp": NOW.0 + 5, "override": overrides});
        let token = subscription(&claims).unwrap();
        assert_eq!((token.room.as_str(), token.client.as_deref()), ("a", Some("c1")));
        assert_eq!((token.user.as_str(), token.expires), ("ann", Some(Unix(NOW.0 + 5))));
        let overrides = Overrides { join_leave: Some(true), force_join_leave: Some(true), force_recovery: None };
        assert_eq!(token.overrides, overrides);
        assert_eq!(subscription(&json!({"channel": "a", "exp": 5})), Err(Rejected::Expired));
        assert!(matches!(subscription(&json!({"sub": "ann"})), Err(Rejected::Invalid(_))));
        assert!(matches!(subscription(&json!({"channel": ""})), Err(Rejected::Invalid(_))));
    }

    const RSA: &str = include_str!("testdata/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
    const EC: &str = include_str!("testdata/ec.pem");
    const EC_PUBLIC: &str = include_str!("testdata/ec.pub.pem");

    #[test]
    fn public_keys_from_files() {
        let tokens = Tokens::default().with_pem(RSA_PUBLIC).unwrap().with_pem(EC_PUBLIC).unwrap();
        let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
        let ec = EncodingKey::from_ec_pem(EC.as_bytes()).unwrap();
        let claims = json!({"sub": "ann"});
        for (algorithm, key) in
            [(Algorithm::RS256, &rsa), (Algorithm::RS512, &rsa), (Algorithm::PS384, &rsa), (Algorithm::ES256, &ec)]
        {
            let token = encode(&Header::new(algorithm), &claims, key).unwrap();
            assert_eq!(tokens.connection(&token, NOW).unwrap().user.as_str(), "ann", "{algorithm:?}");
            assert!(matches!(hmac().connection(&token, NOW), Err(Rejected::Invalid(_))));
            let cut = format!("{}AAAA", &token[..token.len() - 4]);
            assert!(matches!(tokens.connection(&cut, NOW), Err(Rejected::Invalid(_))));
        }
        // Whoever has the public key must not be able to sign with it.
        for secret in [RSA_PUBLIC, EC_PUBLIC, RSA_PUBLIC.trim_end()] {
            let forged = signed(Algorithm::HS256, secret.as_bytes(), &claims);
            assert!(matches!(tokens.connection(&forged, NOW), Err(Rejected::Invalid(_))));
        }
        let both = Tokens::default().with_pem(&format!("{RSA_PUBLIC}{EC_PUBLIC}")).unwrap();
        let token = encode(&Header::new(Algorithm::ES256), &claims, &ec).unwrap();
        assert!(both.connection(&token, NOW).is_ok());
    }

    #[test]
    fn files_that_are_no_public_keys_are_refused() {
        let problem = |pem: &str| Tokens::default().with_pem(pem).unwrap_err();
        assert_eq!(problem(RSA), BadKey::Private);
        assert_eq!(problem(""), BadKey::Unknown);
        assert_eq!(problem("secret"), BadKey::Unknown);
        assert_eq!(problem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), BadKey::Unknown);
    }
}
