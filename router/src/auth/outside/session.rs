//! The session store: Redis, where the business server keeps its sessions.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client};
use roomring_control::daemon::Invalid;
use roomring_proto::close::ErrorCode;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{NotKnown, SessionCookie, info};
use crate::auth::ConnectionToken;
use crate::session::User;

/// Longest id of a session, in bytes.
const ID_BYTES: usize = 512;

/// Answers that are remembered.
const REMEMBERED: usize = 10_000;

/// Largest session that is read, in bytes.
const SESSION_BYTES: usize = 256 << 10;

/// Sessions in Redis.
pub(super) struct Sessions {
    config: SessionCookie,
    client: Client,
    connection: OnceCell<ConnectionManager>,
    remembered: Mutex<HashMap<String, (Instant, Who)>>,
}

/// Whose a session is; `None` = there is no such session, or it is nobody's.
type Who = Option<(User, Bytes)>;

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.config)
    }
}

impl Sessions {
    pub(super) fn new(config: &SessionCookie) -> Result<Self, Invalid> {
        config.check()?;
        let client = Client::open(config.redis.as_str())
            .map_err(|_| Invalid::new("session_cookie.redis", "expected a URL such as redis://127.0.0.1:6379/0"))?;
        Ok(Self { config: config.clone(), client, connection: OnceCell::new(), remembered: Mutex::default() })
    }

    pub(super) fn cookie(&self) -> &str {
        &self.config.name
    }

    /// Whose session the cookie names.
    pub(super) async fn identify(&self, cookie: &str) -> Result<ConnectionToken, NotKnown> {
        let decoded = percent_encoding::percent_decode_str(cookie).decode_utf8();
        let id = decoded.ok().filter(|id| {
            (1..=ID_BYTES).contains(&id.len()) && !id.contains(|c: char| c.is_control() || c.is_whitespace())
        });
        let id = id.ok_or(NotKnown::Nobody)?;
        let who = match self.recall(&id) {
            Some(who) => who,
            None => self.ask(&id).await?,
        };
        let (user, info) = who.ok_or(NotKnown::Nobody)?;
        Ok(ConnectionToken { info, ..ConnectionToken::unsigned(user) })
    }

    async fn ask(&self, id: &str) -> Result<Who, NotKnown> {
        let away = |why: &str| {
            tracing::warn!(error = why, "the session store does not answer: nobody new gets in by a cookie");
            NotKnown::Told(ErrorCode::INTERNAL)
        };
        let key = self.config.key.replace("{id}", id);
        let answer = async {
            let connection = self.connection.get_or_try_init(|| {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_connection_timeout(Some(self.config.timeout.0))
                    .set_response_timeout(Some(self.config.timeout.0));
                ConnectionManager::new_with_config(self.client.clone(), config)
            });
            connection.await?.clone().get::<_, Option<Vec<u8>>>(key).await
        };
        let session = match timeout(self.config.timeout.0, answer).await {
            Ok(Ok(session)) => session,
            Ok(Err(e)) => return Err(away(&e.to_string())),
            Err(_) => return Err(away("no answer in time")),
        };
        let who = session.and_then(|session| self.read(&session));
        self.remember(id, &who);
        Ok(who)
    }

    /// Whose session this is.
    fn read(&self, session: &[u8]) -> Who {
        if session.len() > SESSION_BYTES {
            tracing::warn!(bytes = session.len(), "a session is too large to be read");
            return None;
        }
        let Some(path) = &self.config.user else {
            let name = std::str::from_utf8(session).ok()?;
            return named(name.trim()).map(|user| (user, Bytes::new()));
        };
        let session: Value = match serde_json::from_slice(session) {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(%error, "a session is not JSON");
                return None;
            }
        };
        let user = match at(&session, path)? {
            Value::String(name) => named(name),
            Value::Number(number) => named(&number.to_string()),
            _ => None,
        };
        let info = self.config.info.as_ref().and_then(|path| at(&session, path)).map(|value| {
            info(value.to_string().as_bytes()).unwrap_or_else(|error| {
                tracing::warn!(error, "what a session says of its user is left out");
                Bytes::new()
            })
        });
        user.map(|user| (user, info.unwrap_or_default()))
    }

    fn recall(&self, id: &str) -> Option<Who> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, who) = remembered.get(id)?;
        (*until > Instant::now()).then(|| who.clone())
    }

    fn remember(&self, id: &str, who: &Who) {
        if self.config.cache.0.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, (until, _)| *until > now);
        }
        // Made-up ids must not push out real ones.
        if remembered.len() < REMEMBERED {
            remembered.insert(id.to_owned(), (now + self.config.cache.0, who.clone()));
        }
    }
}

fn named(name: &str) -> Option<User> {
    User::new(name.to_owned()).ok().filter(|user| !user.as_str().is_empty())
}

/// The value at a path of names.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(more: &str) -> Sessions {
        let toml = format!("name = \"sid\"\nredis = \"redis://:secret@127.0.0.1:1/0\"\nkey = \"s:{{id}}\"\n{more}");
        Sessions::new(&toml::from_str(&toml).unwrap()).unwrap()
    }

    #[test]
    fn sessions_name_their_user() {
        let plain = sessions("");
        let user = |who: Who| who.map(|(user, info)| (user.into_string(), String::from_utf8(info.to_vec()).unwrap()));
        assert_eq!(user(plain.read(b"ann\n")), Some(("ann".into(), String::new())));
        assert!(plain.read(b"").is_none() && plain.read(b"\xff").is_none() && plain.read(b"a\tb").is_none());
        let json = sessions("user = \"passport.user\"\ninfo = \"profile\"");
        let read = |text: &str| user(json.read(text.as_bytes()));
        assert_eq!(read(r#"{"passport":{"user":"ann"},"profile":{"n":1}}"#), Some(("ann".into(), r#"{"n":1}"#.into())));
        assert_eq!(read(r#"{"passport":{"user":7}}"#), Some(("7".into(), String::new())));
        for nobody in
            ["", "{}", "ann", r#"{"passport":{"user":""}}"#, r#"{"passport":{"user":null}}"#, r#"{"passport":[]}"#]
        {
            assert_eq!(read(nobody), None, "{nobody}");
        }
        assert!(!format!("{plain:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_is_no_id_is_not_asked_for() {
        let sessions = sessions("");
        for id in ["", "a b", "a%0a", "%ff", &"x".repeat(ID_BYTES + 1)] {
            assert_eq!(sessions.identify(id).await, Err(NotKnown::Nobody), "{id}");
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let sessions = sessions("");
        for n in 0..=REMEMBERED {
            sessions.remember(&n.to_string(), &None);
        }
        assert_eq!(sessions.recall("0"), Some(None));
        assert_eq!(sessions.recall(&REMEMBERED.to_string()), None);
    }
}
