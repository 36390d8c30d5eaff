//! What holds in which rooms: options by namespace, the part of a room's name before its first `:`.

use std::collections::{BTreeMap, BTreeSet};

use roomring_control::daemon::{ByteSize, Invalid, Span};
use roomring_proto::close::ErrorCode;
use roomring_proto::{RoomId, v1};
use serde::Deserialize;

use crate::auth::Act;
use crate::webhook::Happening;

/// Separates a namespace from the rest of a room's name.
const NAMESPACE_END: char = ':';

/// Separates a room's name from the users whom it is limited to.
const USERS_BEGIN: char = '#';

/// Longest name of a namespace, in bytes.
const NAME_BYTES: usize = 32;

/// Longest history that a namespace may ask for: a recovery of so many small messages is still one answer.
const HISTORY_SIZE: u32 = 10_000;

/// Oldest message that a namespace may ask to be kept.
const HISTORY_AGE: Span = Span::secs(30 * 24 * 3_600);

/// Whether something that a client may ask for is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Never, whoever asks.
    Never,
    /// For those who ask.
    Asked,
    /// For everybody.
    Always,
}

impl When {
    /// Whether it is done for a client that did, or did not, ask.
    pub fn holds(self, asked: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Asked => asked,
            Self::Always => true,
        }
    }
}

/// Who may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// Everybody.
    Anyone,
    /// Everybody with a name.
    Users,
    /// Only with a subscription token.
    Token,
}

/// Who may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Everybody.
    Anyone,
    /// Those who have joined.
    Members,
    /// No client.
    Nobody,
}

/// What payloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// JSON, for clients of either encoding.
    Json,
    /// Bytes of any kind, for Protobuf clients only.
    Binary,
}

/// What holds in the rooms of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Most messages that a new room's history keeps; 0 = it has none. `None`: as the cluster has it.
    pub history_size: Option<u32>,
    /// How long a new room's history keeps a message. `None`: as the cluster has it.
    pub history_age: Option<Span>,
    /// Members may ask who is there.
    pub presence: bool,
    /// Members are told who comes and goes.
    pub join_leave: When,
    /// Members are to remember their position and to recover from it.
    pub recovery: When,
    /// Who may join.
    pub join: Join,
    /// Who may publish.
    pub publish: Publish,
    /// Largest payload. `None`: what fits a message.
    pub max_payload: Option<ByteSize>,
    /// What payloads are.
    pub payload: Payload,
    /// What the business server is asked.
    pub ask: BTreeSet<Act>,
    /// What the business server is told of.
    pub webhook: BTreeSet<Happening>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_size: None,
            history_age: None,
            presence: true,
            join_leave: When::Asked,
            recovery: When::Always,
            join: Join::Anyone,
            publish: Publish::Members,
            max_payload: None,
            payload: Payload::Json,
            ask: BTreeSet::new(),
            webhook: BTreeSet::new(),
        }
    }
}

impl Options {
    /// Rooms keep messages.
    pub fn has_history(&self) -> bool {
        self.history_size != Some(0) && self.history_age != Some(Span::secs(0))
    }

    fn check(&self, field: &str) -> Result<(), Invalid> {
        let rule = |holds: bool, option: &str, problem: String| match holds {
            true => Ok(()),
            false => Err(Invalid::new(&format!("{field}.{option}"), problem)),
        };
        let size = self.history_size.unwrap_or(0);
        rule(size <= HISTORY_SIZE, "history_size", format!("must be at most {HISTORY_SIZE}"))?;
        let age = self.history_age.unwrap_or(Span::secs(0));
        rule(age <= HISTORY_AGE, "history_age", format!("must be at most {HISTORY_AGE}"))?;
        rule(self.max_payload != Some(ByteSize(0)), "max_payload", "must be over 0".to_owned())
    }
}

/// The options of all rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Namespaces {
    /// Of rooms outside of any namespace.
    default: Options,
    named: BTreeMap<String, Options>,
    /// The business server is told of publishes in some rooms.
    tells_of_publishes: bool,
    /// The business server is asked in some rooms.
    asks: bool,
}

impl Namespaces {
    /// `default` for rooms outside of any namespace, and others by name.
    pub fn new(default: Options, named: BTreeMap<String, Options>) -> Self {
        let all = || named.values().chain([&default]);
        let tells_of_publishes = all().any(|options| options.webhook.contains(&Happening::Published));
        let asks = all().any(|options| !options.ask.is_empty());
        Self { default, named, tells_of_publishes, asks }
    }

    /// The business server is asked in some rooms.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The business server is told of something that is so.
    pub fn tells(&self, so: impl Fn(Happening) -> bool) -> bool {
        self.named.values().chain([&self.default]).flat_map(|options| &options.webhook).any(|happening| so(*happening))
    }

    /// The business server is told of publishes in `room`.
    pub fn tells_of_publishes(&self, room: &RoomId) -> bool {
        // This is asked for each of them.
        self.tells_of_publishes && self.of(room).is_ok_and(|options| options.webhook.contains(&Happening::Published))
    }

    /// Checks names and options.
    ///
    /// # Errors
    /// The first that breaks its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        self.default.check("rooms")?;
        for (name, options) in &self.named {
            let field = format!("namespaces.{name}");
            let fits = (1..=NAME_BYTES).contains(&name.len());
            if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
                let problem = format!("a name has 1 to {NAME_BYTES} letters, digits, '-' or '_'");
                return Err(Invalid::new(&field, problem));
            }
            options.check(&field)?;
        }
        Ok(())
    }

    /// What `room` keeps if it has to be made; `None`: as the cluster has it.
    pub fn keeps(&self, room: &RoomId) -> Option<v1::RoomKeeps> {
        let options = self.of(room).ok()?;
        let age = options.history_age.map(|age| u64::try_from(age.0.as_millis()).unwrap_or(u64::MAX));
        let keeps = v1::RoomKeeps { history_size: options.history_size.map(u64::from), history_age_ms: age };
        (keeps != v1::RoomKeeps::default()).then_some(keeps)
    }

    /// The options of `room`. As long as no namespace is configured a `:` in a name means nothing.
    ///
    /// # Errors
    /// [`ErrorCode::UNKNOWN_CHANNEL`] if its namespace is not configured.
    pub fn of(&self, room: &RoomId) -> Result<&Options, ErrorCode> {
        match room.as_str().split_once(NAMESPACE_END) {
            Some((name, _)) if !self.named.is_empty() => self.named.get(name).ok_or(ErrorCode::UNKNOWN_CHANNEL),
            _ => Ok(&self.default),
        }
    }
}

/// Whether `user` may see anything of `room`. A name such as `dialog#ann,bob` limits a room to the users after its last `#`;
/// nobody without a name is one of them.
pub fn admits(room: &RoomId, user: &str) -> bool {
    match room.as_str().rsplit_once(USERS_BEGIN) {
        Some((_, users)) => !user.is_empty() && users.split(',').any(|u| u == user),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomId {
        RoomId::new(name).unwrap()
    }

    fn parse(toml: &str) -> Result<Options, String> {
        toml::from_str(toml).map_err(|e| e.to_string())
    }

    #[test]
    fn the_part_before_the_first_colon_is_the_namespace() {
        let chat = Options { presence: false, ..Options::default() };
        let namespaces = Namespaces::new(Options::default(), [("chat".to_owned(), chat.clone())].into());
        assert_eq!(namespaces.of(&room("chat:a")), Ok(&chat));
        assert_eq!(namespaces.of(&room("chat:a:b")), Ok(&chat));
        assert_eq!(namespaces.of(&room("chat")), Ok(&Options::default()));
        assert_eq!(namespaces.of(&room("news:a")), Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(namespaces.of(&room(":a")), Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(Namespaces::default().of(&room("news:a")), Ok(&Options::default()));
    }

    #[test]
    fn rooms_keep_what_their_namespace_says() {
        let named =
            |toml: &str| Namespaces::new(Options::default(), [("chat".to_owned(), parse(toml).unwrap())].into());
        assert_eq!(named("").keeps(&room("chat:a")), None);
        let keeps = named("history_size = 0\nhistory_age = \"2s\"").keeps(&room("chat:a")).unwrap();
        assert_eq!((keeps.history_size, keeps.history_age_ms), (Some(0), Some(2_000)));
        assert_eq!(named("history_size = 0").keeps(&room("other")), None);
    }

    #[test]
    fn rooms_can_be_limited_to_users() {
        for (name, user, may) in [
            ("a", "", true),
            ("a#ann", "ann", true),
            ("a#ann,bob", "bob", true),
            ("a#ann,bob", "bo", false),
            ("a#ann,bob", "ann,bob", false),
            ("a#x#ann", "ann", true),
            ("a#x#ann", "x", false),
            ("a#", "", false),
            ("a#,", "", false),
        ] {
            assert_eq!(admits(&room(name), user), may, "{name} {user}");
        }
    }

    #[test]
    fn options_are_read_and_checked() {
        let options = parse(
            "history_size = 10\nhistory_age = \"1m\"\njoin_leave = \"always\"\npublish = \"nobody\"\njoin = \"token\"\nrecovery = \"asked\"\npayload = \"binary\"\nmax_payload = \"4KiB\"\npresence = false",
        );
        let options = options.unwrap();
        assert_eq!((options.history_size, options.max_payload), (Some(10), Some(ByteSize(4096))));
        assert_eq!((options.join, options.publish, options.payload), (Join::Token, Publish::Nobody, Payload::Binary));
        assert!(options.has_history() && !parse("history_size = 0").unwrap().has_history());
        assert!(parse("history = 1").is_err() && parse("publish = \"all\"").is_err());
        let check = |name: &str, toml: &str| {
            let named = [(name.to_owned(), parse(toml).unwrap())].into();
            Namespaces::new(Options::default(), named).check().map_err(|e| e.to_string())
        };
        assert_eq!(check("chat", "history_size = 10"), Ok(()));
        for (name, toml, says) in [
            ("chat", "history_size = 10001", "`namespaces.chat.history_size`: must be at most 10000"),
            ("chat", "history_age = \"31days\"", "`namespaces.chat.history_age`: must be at most 30d"),
            ("chat", "max_payload = \"0B\"", "`namespaces.chat.max_payload`: must be over 0"),
            ("a b", "", "`namespaces.a b`: a name has 1 to 32"),
        ] {
            let error = check(name, toml).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_asked_for_is_granted_by_policy() {
        let granted = |when: When| (when.holds(false), when.holds(true));
        assert_eq!(
            [When::Never, When::Asked, When::Always].map(granted),
            [(false, false), (false, true), (true, true)]
        );
    }
}
