//! What publications say of their authors, and those that take back others.

use bytes::Bytes;
use prost::Message;

use crate::v1::publication::Mark;
use crate::v1::{ClientInfo, Deleted, Publication};

impl ClientInfo {
    /// As publications carry it.
    pub fn packed(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl Publication {
    /// Who published it; `None` for a server. What can't be read is nobody in particular.
    pub fn author(&self) -> Option<ClientInfo> {
        (!self.info.is_empty()).then(|| ClientInfo::decode(self.info.clone()).unwrap_or_default())
    }

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
            self.info = Bytes::new();
            self.id = String::new();
            self.mark = Some(Mark::Deleted(Deleted {}));
        }
    }
}
