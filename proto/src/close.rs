//! Codes of the client protocol: errors in replies, unsubscribe pushes, and WebSocket closes.
//! Values are those of the Centrifuge client protocol, whose SDKs act on them.

/// An error in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The number SDKs act on.
    pub code: u32,
    /// For people.
    pub message: &'static str,
    /// The SDK may try again by itself.
    pub temporary: bool,
}

/// A WebSocket close, or the reason of an unsubscribe push. The reason is never empty, under 124 bytes, never JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseCode {
    /// 3000-3499 and 4000-4499 let the client reconnect; 3500-3999 and 4500-4999 end it.
    pub code: u16,
    /// For people.
    pub reason: &'static str,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal $message:literal $temporary:literal;)*) => {
        impl ErrorCode { $($(#[$doc])* pub const $name: Self = Self { code: $code, message: $message, temporary: $temporary };)* }
    };
}

macro_rules! closes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal;)*) => {
        impl CloseCode { $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: $reason };)* }
    };
}

errors! {
    /// A passing trouble of the server: the command was not carried out.
    INTERNAL = 100 "internal server error" true;
    /// No such namespace.
    UNKNOWN_CHANNEL = 102 "unknown channel" false;
    /// Not allowed.
    PERMISSION_DENIED = 103 "permission denied" false;
    /// Unknown RPC method.
    METHOD_NOT_FOUND = 104 "method not found" false;
    /// This connection has the channel already.
    ALREADY_SUBSCRIBED = 105 "already subscribed" false;
    /// A limit was met.
    LIMIT_EXCEEDED = 106 "limit exceeded" false;
    /// Well-formed frame, bad content.
    BAD_REQUEST = 107 "bad request" false;
    /// Not enabled here.
    NOT_AVAILABLE = 108 "not available" false;
    /// The token was good once: the application has to make another.
    TOKEN_EXPIRED = 109 "token expired" false;
    /// The time of a connection or membership is over.
    EXPIRED = 110 "expired" false;
    /// Too fast.
    TOO_MANY_REQUESTS = 111 "too many requests" true;
    /// History since an unknown epoch.
    UNRECOVERABLE_POSITION = 112 "unrecoverable position" false;
    /// A publish may or may not have happened; it is not sent again. Ours, in the range for applications.
    OUTCOME_UNKNOWN = 1000 "outcome unknown" false;
}

closes! {
    /// The server goes away: reconnect.
    SHUTDOWN = 3001 "shutdown";
    /// A fault of the server: reconnect.
    INTERNAL_SERVER_ERROR = 3004 "internal server error";
    /// Its token was not renewed in time: reconnect with another.
    CONNECTION_EXPIRED = 3005 "connection expired";
    /// The client did not read fast enough: reconnect and recover.
    SLOW = 3008 "slow";
    /// Position lost on a server-side subscription: reconnect.
    INSUFFICIENT_STATE = 3010 "insufficient state";
    /// Told to reconnect.
    FORCE_RECONNECT = 3011 "force reconnect";
    /// No pong in time: reconnect.
    NO_PONG = 3012 "no pong";
    /// Too fast, and it does not heed that it was told: reconnect later.
    TOO_MANY_REQUESTS = 3013 "too many requests";
    /// A token that never was good, or is another's.
    INVALID_TOKEN = 3500 "invalid token";
    /// A frame that breaks the protocol.
    BAD_REQUEST = 3501 "bad request";
    /// No connect command in time.
    STALE = 3502 "stale";
    /// Told to go, for good.
    FORCE_DISCONNECT = 3503 "force disconnect";
    /// Too many connections.
    CONNECTION_LIMIT = 3504 "connection limit";
    /// Its token names too many rooms.
    CHANNEL_LIMIT = 3505 "channel limit";
    /// JSON asked for, but a payload is not JSON.
    INAPPROPRIATE_PROTOCOL = 3506 "inappropriate protocol";
    /// The user may not connect here.
    PERMISSION_DENIED = 3507 "permission denied";
    /// `send` is not enabled here.
    NOT_AVAILABLE = 3508 "not available";
    /// Unsubscribed by the server, for good.
    UNSUBSCRIBED = 2000 "server unsubscribe";
    /// The position of a subscription was lost: subscribe again and recover.
    UNSUBSCRIBED_INSUFFICIENT_STATE = 2500 "insufficient state";
    /// A membership was not refreshed in time: subscribe again with another token.
    UNSUBSCRIBED_EXPIRED = 2501 "subscription expired";
}
