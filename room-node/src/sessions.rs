//! Who is connected: one connection per process on the other side, the newest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roomring_proto::Incarnation;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How long a newer connection waits for the one it replaces to be wound up: that takes a few hand-overs to workers.
const REPLACE_DEADLINE: Duration = Duration::from_secs(1);

/// The open connections of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    open: Arc<Mutex<BTreeMap<Incarnation, Open>>>,
}

#[derive(Debug)]
struct Open {
    session: u64,
    /// Tells the connection to end.
    replaced: CancellationToken,
    /// Cancelled when it has.
    ended: CancellationToken,
}

/// A place among the open connections, given up when dropped.
#[derive(Debug)]
pub(crate) struct Session {
    sessions: Sessions,
    process: Incarnation,
    number: u64,
    replaced: CancellationToken,
    ended: CancellationToken,
}

impl Sessions {
    /// Admits a connection of `process` whose `session` number is greater than that of the one open before, which is told
    /// to end and waited for: so workers see the end of one before the start of the next.
    pub(crate) async fn admit(&self, process: Incarnation, session: u64) -> Result<Session, Status> {
        let admit = async {
            loop {
                let older = match self.enter(process, session)? {
                    Ok(admitted) => return Ok(admitted),
                    Err(older) => older,
                };
                older.cancelled().await;
            }
        };
        tokio::time::timeout(REPLACE_DEADLINE, admit)
            .await
            .map_err(|_| Status::unavailable("an older connection of this process is still being closed"))?
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// `Ok(Err(ended))` if an older connection must end first.
    fn enter(&self, process: Incarnation, session: u64) -> Result<Result<Session, CancellationToken>, Status> {
        let mut open = self.lock();
        if let Some(present) = open.get(&process) {
            if present.session >= session {
                let (ours, theirs) = (present.session, session);
                return Err(Status::already_exists(format!("session {theirs} is not newer than session {ours}")));
            }
            present.replaced.cancel();
            return Ok(Err(present.ended.clone()));
        }
        let (replaced, ended) = (CancellationToken::new(), CancellationToken::new());
        open.insert(process, Open { session, replaced: replaced.clone(), ended: ended.clone() });
        Ok(Ok(Session { sessions: self.clone(), process, number: session, replaced, ended }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Incarnation, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Waits until a newer connection of the same process wants this place.
    pub(crate) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        if open.get(&self.process).is_some_and(|o| o.session == self.number) {
            open.remove(&self.process);
        }
        drop(open);
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_session_waits_for_the_older_to_end() {
        let sessions = Sessions::default();
        let first = sessions.admit(Incarnation(7), 1).await.unwrap();
        let newer = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.admit(Incarnation(7), 2).await }
        });
        first.replaced().await;
        assert!(!newer.is_finished());
        drop(first);
        let second = newer.await.unwrap().unwrap();
        assert_eq!(sessions.len(), 1);
        let refused = sessions.admit(Incarnation(7), 1).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::AlreadyExists);
        sessions.admit(Incarnation(8), 1).await.unwrap();
        drop(second);
        assert_eq!(sessions.len(), 0);
    }

    #[tokio::test]
    async fn one_that_never_ends_is_not_waited_for_for_ever() {
        let sessions = Sessions::default();
        let _stuck = sessions.admit(Incarnation(7), 1).await.unwrap();
        let refused = sessions.admit(Incarnation(7), 2).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
    }
}
