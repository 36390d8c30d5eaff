//! The client-facing HTTP server: WebSocket handshakes, health, the chat page.

mod app;
mod emulation;
mod handshake;
mod proxy;
pub(crate) mod query;
mod routes;
mod server;
mod tls;

pub use app::{App, AppConfig, Readiness};
pub(crate) use emulation::{Delivered, Emulated};
pub use proxy::{Proxy, ProxyConfig};
use routes::too_many;
pub(crate) use routes::{Answer, JSON, body, not_allowed, reply, unavailable};
pub use server::{bind, serve, serve_tls};
pub use tls::{Files, Tls};
