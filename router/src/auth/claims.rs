//! What stands in tokens.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use roomring_proto::client::json;
use roomring_proto::{RoomId, limits};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ConnectionToken, Overrides, Rejected, SubscriptionToken, Unix};
use crate::session::User;

/// A claim that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{claim}: {problem}")]
pub struct BadClaim {
    claim: &'static str,
    problem: String,
}

fn bad(claim: &'static str, problem: impl ToString) -> BadClaim {
    BadClaim { claim, problem: problem.to_string() }
}

impl From<BadClaim> for Rejected {
    fn from(e: BadClaim) -> Self {
        Self::Invalid(e.to_string())
    }
}

/// The claims of both kinds of tokens. Others are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    sub: String,
    /// Seconds, as NumericDate: fractions are allowed.
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    /// Replaces `exp` for the life of what it grants; 0 = never ends.
    expire_at: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    channels: Vec<String>,
    subs: BTreeMap<String, Sub>,
    channel: Option<String>,
    client: Option<String>,
    #[serde(rename = "override")]
    overrides: Override,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sub {
    #[serde(rename = "override")]
    overrides: Override,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Override {
    join_leave: Option<Flag>,
    force_push_join_leave: Option<Flag>,
    force_recovery: Option<Flag>,
}

#[derive(Debug, Deserialize)]
struct Flag {
    value: bool,
}

impl From<&Override> for Overrides {
    fn from(o: &Override) -> Self {
        let value = |flag: &Option<Flag>| flag.as_ref().map(|f| f.value);
        Self {
            join_leave: value(&o.join_leave),
            force_join_leave: value(&o.force_push_join_leave),
            force_recovery: value(&o.force_recovery),
        }
    }
}

impl Claims {
    /// Checks whom it is by and for, and then whether this is its time.
    pub(super) fn check(&self, issuer: Option<&str>, audience: Option<&str>, now: Unix) -> Result<(), Rejected> {
        if issuer.is_some() && self.iss.as_deref() != issuer {
            return Err(bad("iss", "not the one expected").into());
        }
        let for_us = |wanted: &str| match &self.aud {
            Some(Audience::One(one)) => one == wanted,
            Some(Audience::Several(all)) => all.iter().any(|a| a == wanted),
            None => false,
        };
        if audience.is_some_and(|wanted| !for_us(wanted)) {
            return Err(bad("aud", "not the one expected").into());
        }
        if self.exp.is_some_and(|exp| seconds(exp) <= now) {
            return Err(Rejected::Expired);
        }
        if self.nbf.is_some_and(|nbf| seconds(nbf) > now) {
            return Err(bad("nbf", "the token is not valid yet").into());
        }
        Ok(())
    }

    pub(super) fn connection(&self) -> Result<ConnectionToken, BadClaim> {
        if self.channel.is_some() {
            return Err(bad("channel", "belongs to subscription tokens"));
        }
        let listed = self.channels.iter().map(|name| (name, Overrides::default()));
        let detailed = self.subs.iter().map(|(name, sub)| (name, Overrides::from(&sub.overrides)));
        let room = |(name, overrides): (&String, Overrides)| Ok((RoomId::new(name)?, overrides));
        let rooms: Result<_, roomring_proto::InvalidId> = listed.chain(detailed).map(room).collect();
        Ok(ConnectionToken {
            signed: true,
            issued: self.iat.map(seconds),
            user: self.user()?,
            info: self.info()?,
            expires: self.expires(),
            rooms: rooms.map_err(|e| bad("channels", e))?,
        })
    }

    pub(super) fn subscription(&self) -> Result<SubscriptionToken, BadClaim> {
        let channel = self.channel.as_deref().ok_or_else(|| bad("channel", "missing"))?;
        Ok(SubscriptionToken {
            issued: self.iat.map(seconds),
            user: self.user()?,
            room: RoomId::new(channel).map_err(|e| bad("channel", e))?,
            client: self.client.clone().filter(|client| !client.is_empty()),
            expires: self.expires(),
            overrides: (&self.overrides).into(),
        })
    }

    fn user(&self) -> Result<User, BadClaim> {
        User::new(self.sub.clone()).map_err(|e| bad("sub", e))
    }

    fn expires(&self) -> Option<Unix> {
        match self.expire_at {
            Some(at) => (at > 0.0).then(|| seconds(at)),
            None => self.exp.map(seconds),
        }
    }

    /// JSON, also where it comes as base64: it is shown to clients of either encoding.
    fn info(&self) -> Result<Bytes, BadClaim> {
        let info = match (&self.b64info, &self.info) {
            (Some(text), _) => {
                let decoded = STANDARD.decode(text).map_err(|e| bad("b64info", e))?;
                json::embeddable(&decoded).map_err(|e| bad("b64info", e))?
            }
            (None, Some(info)) => json::embeddable(info.get().as_bytes()).map_err(|e| bad("info", e))?,
            (None, None) => Bytes::new(),
        };
        if info.len() > limits::INFO_BYTES {
            return Err(bad("info", format!("has {} bytes, the limit is {}", info.len(), limits::INFO_BYTES)));
        }
        Ok(info)
    }
}

fn seconds(number: f64) -> Unix {
    // Negative and absurd ones become the nearest that there is.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Unix(number as u64)
}
