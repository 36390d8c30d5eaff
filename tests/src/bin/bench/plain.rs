//! The plain server: what one writes with tokio-tungstenite in an afternoon. Rooms in memory, a task per connection, a
//! broadcast channel per room; one process, no second hop, no copy, no history.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Messages of a room that wait for its slowest member; who is further behind loses some.
const WAITING: usize = 128;

type Rooms = Arc<Mutex<HashMap<String, broadcast::Sender<Utf8Bytes>>>>;

/// Serves until it is killed.
pub(crate) fn run() -> std::io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready addr={}", listener.local_addr()?);
    let rooms = Rooms::default();
    loop {
        let (socket, _) = listener.accept().await?;
        let rooms = rooms.clone();
        tokio::spawn(async move {
            if let Err(error) = client(socket, rooms).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn client(socket: TcpStream, rooms: Rooms) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    let mut joined = None;
    // The member is in before it is told so.
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let join = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let room = request.uri().query().unwrap_or_default().to_owned();
        let mut rooms = rooms.lock().expect("nobody panics with it");
        let tx = rooms.entry(room).or_insert_with(|| broadcast::channel(WAITING).0).clone();
        joined = Some((tx.subscribe(), tx));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(socket, join).await?;
    let (mut rx, tx) = joined.ok_or("no handshake")?;
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => _ = tx.send(text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            heard = rx.recv() => match heard {
                Ok(text) => socket.send(Message::Text(text)).await?,
                Err(RecvError::Lagged(missed)) => eprintln!("a member missed {missed} messages"),
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
