//! Many users who come back through other routers, and the verdict on what they were told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checker::{self, Claim, Recording, What};
use crate::expect::evidence;
use crate::roamer::{Addresses, Roamer};
use crate::traffic::{Outcome, Sent};

/// The users and their rooms.
#[derive(Debug)]
pub struct Roamers {
    name: String,
    users: Vec<Arc<Roamer>>,
    addresses: Addresses,
    rooms: usize,
    each: usize,
    stop: watch::Sender<bool>,
    talking: Vec<JoinHandle<Vec<Sent>>>,
}

impl Roamers {
    /// `users` users come in through `routers`, each into `each` of the rooms `NAME-0` ...
    pub async fn gather(name: &str, routers: &[SocketAddr], users: usize, rooms: usize, each: usize) -> Self {
        let addresses: Addresses = Arc::new(Mutex::new(routers.to_vec()));
        let mut roamers = Self {
            name: name.to_owned(),
            users: Vec::new(),
            addresses: addresses.clone(),
            rooms,
            each,
            stop: watch::Sender::new(false),
            talking: Vec::new(),
        };
        let coming = (0..users).map(|n| {
            let (addresses, rooms) = (addresses.clone(), roamers.rooms_of(n));
            async move { Arc::new(Roamer::come(&format!("user-{n}"), &addresses, n, rooms).await) }
        });
        roamers.users = join_all(coming.collect::<Vec<_>>()).await;
        roamers
    }

    /// From now on who comes back does so through one of these.
    pub fn route_to(&self, routers: &[SocketAddr]) {
        *self.addresses.lock().expect("not poisoned") = routers.to_vec();
    }

    /// The users.
    pub fn users(&self) -> &[Arc<Roamer>] {
        &self.users
    }

    /// The rooms of a user, by number; it speaks in the first.
    pub fn rooms_of(&self, user: usize) -> Vec<String> {
        (0..self.each)
            .map(|k| format!("{}-{}", self.name, (user + k * (self.rooms / self.each)) % self.rooms))
            .collect()
    }

    /// All rooms.
    pub fn rooms(&self) -> Vec<String> {
        (0..self.rooms).map(|n| format!("{}-{n}", self.name)).collect()
    }

    /// Fills each room with `messages` messages of `bytes` bytes.
    pub async fn fill(&self, messages: usize, bytes: usize) {
        let text = "x".repeat(bytes);
        let filling = self.users.iter().enumerate().take(self.rooms).map(|(n, user)| {
            let (text, room) = (text.clone(), self.rooms_of(n).swap_remove(0));
            async move {
                let client = user.settled().await;
                for k in 0..messages {
                    client.publish(&room, format!("{n} {k} {text}")).await.expect("a publish");
                }
            }
        });
        join_all(filling).await;
    }

    /// Everybody begins to speak, with `pause` after each answer.
    pub fn talk(&mut self, pause: Duration) {
        for (n, user) in self.users.iter().enumerate() {
            let (user, room, stop) = (user.clone(), self.rooms_of(n).swap_remove(0), self.stop.subscribe());
            self.talking.push(tokio::spawn(async move { user.talk(&room, pause, stop).await }));
        }
    }

    /// Waits until everybody is in all rooms.
    pub async fn settled(&self) {
        for user in &self.users {
            user.settled().await;
        }
    }

    /// Ends the speaking, waits until everybody heard the last word of each room, and judges everything that was told.
    ///
    /// # Panics
    /// If a promise was broken, or somebody could not recover what it missed.
    pub async fn nothing_lost(&mut self) -> Vec<Sent> {
        self.stop.send_replace(true);
        let talked = join_all(std::mem::take(&mut self.talking)).await;
        let sent: Vec<Sent> = talked.into_iter().flat_map(|t| t.expect("no panic")).collect();
        for (n, user) in self.users.iter().enumerate().take(self.rooms) {
            let room = self.rooms_of(n).swap_remove(0);
            user.settled().await.publish(&room, format!("the end of {room}")).await.expect("a last word");
        }
        for (n, user) in self.users.iter().enumerate() {
            let client = user.settled().await;
            for room in self.rooms_of(n) {
                client.wait_message(&room, &format!("the end of {room}")).await;
            }
        }
        let mut recording = Recording::gather(self.users.iter().flat_map(|u| u.connections()).map(|c| c.notes()));
        recording.say(What::Claimed { claim: Claim::NoLoss });
        let violations = checker::violations(&recording);
        assert!(violations.is_empty(), "{} violations, such as {:#?}", violations.len(), violations.first());
        for (n, user) in self.users.iter().enumerate() {
            for (client, room) in
                user.connections().iter().flat_map(|c| self.rooms_of(n).into_iter().map(move |r| (c, r)))
            {
                assert!(
                    client.log(&room).recoveries().iter().all(|r| *r),
                    "{} lost something in {room}",
                    client.name()
                );
                assert_eq!(client.faults(), Vec::<String>::new(), "what {} was told", client.name());
            }
        }
        let of = |outcome: fn(&Outcome) -> bool| sent.iter().filter(|s| outcome(&s.outcome)).count();
        let (acked, unknown) = (of(|o| *o == Outcome::Acked), of(|o| *o == Outcome::Unknown));
        let returns = self.users.iter().map(|u| u.connections().len() - 1).sum::<usize>();
        evidence(format!(
            "{} events checked, no rule broken; {acked} publishes acknowledged, {unknown} of unknown outcome, {} refused; \
             {returns} times a client came back and recovered everything",
            recording.lines.len(),
            sent.len() - acked - unknown,
        ));
        assert!(acked > self.users.len() * 5, "there was load: {acked} publishes");
        sent
    }
}
