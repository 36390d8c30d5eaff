//! The client-facing HTTP server: WebSocket handshakes, health, the chat page.

mod app;
mod handshake;
pub(crate) mod query;
mod routes;
mod server;

pub use app::{App, Readiness};
pub use server::{bind, serve};

use routes::{Answer, reply};
