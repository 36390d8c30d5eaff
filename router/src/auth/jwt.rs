//! Tokens signed with a shared secret.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use super::claims::Claims;
use super::{ConnectionToken, Rejected, SubscriptionToken, Unix};

/// Least length of a secret, in bytes: shorter ones can be guessed.
const SECRET_BYTES: usize = 16;

/// A secret that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has {0} bytes, it must have at least {SECRET_BYTES}")]
pub struct ShortSecret(usize);

/// Checks tokens signed with HS256, HS384 or HS512.
pub struct Hmac {
    key: DecodingKey,
    rules: Validation,
    issuer: Option<String>,
    audience: Option<String>,
}

impl fmt::Debug for Hmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hmac").field("issuer", &self.issuer).field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl Hmac {
    /// Checks with `secret`. Where an issuer or an audience is given a token must have it.
    ///
    /// # Errors
    /// If the secret is too short.
    pub fn new(secret: &[u8], issuer: Option<String>, audience: Option<String>) -> Result<Self, ShortSecret> {
        if secret.len() < SECRET_BYTES {
            return Err(ShortSecret(secret.len()));
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // Claims are checked here, against a time that is handed in.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        Ok(Self { key: DecodingKey::from_secret(secret), rules, issuer, audience })
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
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.rules);
        let claims = decoded.map_err(|e| Rejected::Invalid(e.to_string()))?.claims;
        claims.check(self.issuer.as_deref(), self.audience.as_deref(), now)?;
        Ok(claims)
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

    fn hmac() -> Hmac {
        Hmac::new(SECRET, None, None).unwrap()
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
        assert_eq!(Hmac::new(b"short", None, None).unwrap_err(), ShortSecret(5));
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
        let strict = Hmac::new(SECRET, Some("us".into()), Some("chat".into())).unwrap();
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
}
