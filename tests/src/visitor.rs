//! A client that sends headers of its own, and takes what it is told as it comes: for who gets in, and who does not.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::expect::within;

/// Longer than any of the router's own time-outs.
const LIMIT: Duration = Duration::from_secs(60);

/// One connection.
#[derive(Debug)]
pub struct Visitor(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Visitor {
    /// Opens a WebSocket with these headers; the error is the status of the answer instead.
    ///
    /// # Errors
    /// The answer is another than that of a WebSocket.
    pub async fn open(router: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://{router}{path}").into_client_request().expect("a request");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header's name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header"));
        }
        match within("a handshake", LIMIT, tokio_tungstenite::connect_async(request)).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(e) => panic!("a handshake: {e}"),
        }
    }

    /// Opens one and sends its connect command; gives what that was answered, or the close.
    pub async fn connect(router: SocketAddr, headers: &[(&str, &str)], connect: Value) -> (Self, Value) {
        let opened = Self::open(router, "/connection/websocket", headers).await;
        let mut visitor = opened.unwrap_or_else(|status| panic!("a handshake was answered {status}"));
        let answer = visitor.ask(json!({"id": 1, "connect": connect})).await;
        (visitor, answer)
    }

    /// Sends a frame. A router that has closed already is no error.
    pub async fn send(&mut self, message: Message) {
        let _ = within("a frame to be taken", LIMIT, self.0.send(message)).await;
    }

    /// What comes next: an answer, a push, `{"close": code}`, or `{"close": null}` where the connection just ended. Pings are
    /// answered.
    pub async fn next(&mut self) -> Value {
        loop {
            match within("an answer", LIMIT, self.0.next()).await {
                Some(Ok(Message::Text(text))) if text.as_str() == "{}" => self.send(Message::text("{}")).await,
                Some(Ok(Message::Text(text))) => {
                    // Several may come in one frame; each is a line.
                    let first = text.lines().next().unwrap_or_default();
                    return serde_json::from_str(first).unwrap_or_else(|e| panic!("{e}: {text}"));
                }
                Some(Ok(Message::Close(frame))) => return json!({"close": frame.map(|frame| u16::from(frame.code))}),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return json!({"close": null}),
            }
        }
    }

    /// Sends a command; gives what comes next.
    pub async fn ask(&mut self, command: Value) -> Value {
        self.send(Message::text(command.to_string())).await;
        self.next().await
    }
}
