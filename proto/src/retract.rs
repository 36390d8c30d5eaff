//! Publications that take back others.

use bytes::Bytes;

use crate::v1::publication::Mark;
use crate::v1::{Deleted, Publication};

impl Publication {
    /// Whether this one, which came later, takes back `other`.
    pub fn retracts(&self, other: &Self) -> bool {
        match self.mark {
            Some(Mark::Deletes(seq)) => other.seq == seq,
            Some(Mark::Clears(seq)) => other.seq <= seq,
            Some(Mark::Deleted(_)) | None => false,
        }
    }

    /// Leaves its place, and `data`. One that takes back others stays: who has seen those has to know.
    pub fn blank(&mut self, data: &Bytes) {
        if self.mark.is_none() {
            self.data = data.clone();
            self.info = None;
            self.id = String::new();
            self.mark = Some(Mark::Deleted(Deleted {}));
        }
    }
}
