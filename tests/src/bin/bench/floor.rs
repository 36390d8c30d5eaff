//! The floor: what the kernel takes for one write per delivery. A program that writes ready frames to raw sockets and does
//! nothing else: no handshake, no rooms to look up, no queue.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::load::frame;

/// Marks the connection of publishes; the numbers of rooms and of their members follow.
pub(crate) const CONTROL: u32 = u32::MAX;

/// Serves one load process, until it goes.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ready addr={}", listener.local_addr()?);
    let (mut control, _) = listener.accept()?;
    let [mark, rooms, size] = [word(&mut control)?, word(&mut control)?, word(&mut control)?];
    assert_eq!(mark, CONTROL, "the connection of publishes comes first");
    let (rooms, size) = (rooms as usize, size as usize);
    let mut sockets: Vec<Option<TcpStream>> = (0..rooms * size).map(|_| None).collect();
    for _ in 0..sockets.len() {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let number = word(&mut socket)? as usize;
        let mut welcome = Vec::new();
        frame::server_text(&mut welcome, b"in");
        socket.write_all(&welcome)?;
        sockets[number] = Some(socket);
    }
    let sockets: Vec<TcpStream> = sockets.into_iter().flatten().collect();
    drive(&mut control, &sockets, size)
}

fn word(from: &mut TcpStream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Writes each message to all sockets of its room.
fn drive(control: &mut TcpStream, sockets: &[TcpStream], size: usize) -> io::Result<()> {
    let (mut buffer, mut have) = (vec![0; 1 << 18], 0);
    let mut ready = Vec::new();
    loop {
        match control.read(&mut buffer[have..]) {
            Ok(0) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            read => have += read?,
        }
        let mut at = 0;
        while let Some((room, payload)) = message(&buffer[at..have]) {
            ready.clear();
            frame::server_text(&mut ready, payload);
            for mut socket in &sockets[room * size..(room + 1) * size] {
                socket.write_all(&ready)?;
            }
            at += 8 + payload.len();
        }
        buffer.copy_within(at..have, 0);
        have -= at;
    }
}

fn message(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let word =
        |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")) as usize);
    let (room, length) = (word(0)?, word(4)?);
    Some((room, bytes.get(8..8 + length)?))
}
