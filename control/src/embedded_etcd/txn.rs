//! Requests on keys, answered from the store: ranges, writes and transactions. Pure.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use etcd_client::CompareOp;
use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseHeader, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp,
    PbTxnResponse,
};
use etcd_client::{SortOrder, SortTarget};

use super::error::Error;
use super::range::KeyRange;
use super::store::{Store, Write};

/// Most operations in a branch of a transaction; etcd's own default limit.
const MAX_OPS: usize = 128;

/// A response type of etcd_client that carries the protobuf enum `ResponseOp`.
type ResponseOp = etcd_client::proto::PbResponseOp;

impl Store {
    /// Answers a range request.
    pub(super) fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Error> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let mut found = self.at(&KeyRange::new(&request.key, &request.range_end), request.revision)?;
        let count = found.len();
        if request.count_only {
            found.clear();
        }
        found.retain(|kv| {
            let within = |value, min, max| value >= min && (max == 0 || value <= max);
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
        });
        sort(&mut found, request);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let strip = |kv: &PbKeyValue| {
            let value = if request.keys_only { Vec::new() } else { kv.value.clone() };
            PbKeyValue { value, key: kv.key.clone(), ..*kv }
        };
        Ok(PbRangeResponse {
            header: None,
            kvs: found.iter().map(|kv| strip(kv)).collect(),
            more,
            count: i64::try_from(count).unwrap_or(i64::MAX),
        })
    }

    /// Sets a key.
    pub(super) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Error> {
        check_put_form(request)?;
        self.check_put(request)?;
        let mut write = self.write();
        let response = write.put_request(request);
        write.commit();
        Ok(response)
    }

    /// Deletes a range.
    pub(super) fn delete_range(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Error> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let mut write = self.write();
        let response = write.delete_request(request);
        write.commit();
        Ok(response)
    }

    /// Runs one branch of a transaction, whole or not at all.
    pub(super) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Error> {
        if [request.compare.len(), request.success.len(), request.failure.len()].iter().any(|n| *n > MAX_OPS) {
            return Err(Error::TooManyOps);
        }
        if request.compare.iter().any(|compare| compare.key.is_empty()) {
            return Err(Error::EmptyKey);
        }
        for branch in [&request.success, &request.failure] {
            operations(branch).try_for_each(check_form)?;
        }
        check_overlaps(&request.success)?;
        check_overlaps(&request.failure)?;
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &request.success } else { &request.failure };
        // Everything that can fail is checked before anything is written: puts first, as in etcd.
        for op in operations(branch) {
            if let PbTxnOpRequest::RequestPut(put) = op {
                self.check_put(put)?;
            }
        }
        for op in operations(branch) {
            if let PbTxnOpRequest::RequestRange(range) = op {
                self.readable(range.revision)?;
            }
        }
        let mut write = self.write();
        let mut responses = Vec::with_capacity(branch.len());
        for op in operations(branch) {
            let response = match op {
                PbTxnOpRequest::RequestRange(range) => {
                    let mut response = write.store.range(range)?;
                    response.header = header(write.revision());
                    PbTxnOpResponse::ResponseRange(response)
                }
                PbTxnOpRequest::RequestPut(put) => PbTxnOpResponse::ResponsePut(write.put_request(put)),
                PbTxnOpRequest::RequestDeleteRange(delete) => {
                    PbTxnOpResponse::ResponseDeleteRange(write.delete_request(delete))
                }
                PbTxnOpRequest::RequestTxn(_) => return Err(NESTED),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        write.commit();
        Ok(PbTxnResponse { header: None, succeeded, responses })
    }

    /// What a put needs of the store.
    fn check_put(&self, request: &PbPutRequest) -> Result<(), Error> {
        if (request.ignore_value || request.ignore_lease) && self.get(&request.key).is_none() {
            return Err(Error::KeyNotFound);
        }
        if request.lease != 0 && !self.leases.exists(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    fn holds(&self, compare: &PbCompare) -> bool {
        let found = self.at(&KeyRange::new(&compare.key, &compare.range_end), 0).unwrap_or_default();
        if found.is_empty() {
            // An absent key has no value to compare; everything else of it is 0.
            let by_value = matches!(compare.target_union, Some(PbTargetUnion::Value(_)));
            return !by_value && compare_one(compare, &PbKeyValue::default());
        }
        found.iter().all(|kv| compare_one(compare, kv))
    }
}

impl Write<'_> {
    /// A put that was checked.
    fn put_request(&mut self, request: &PbPutRequest) -> PbPutResponse {
        let before = self.store.get(&request.key);
        let value = match before {
            Some(before) if request.ignore_value => before.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match before {
            Some(before) if request.ignore_lease => before.lease,
            _ => request.lease,
        };
        let before = self.put(request.key.clone(), value, lease);
        PbPutResponse {
            header: header(self.revision()),
            prev_kv: before.filter(|_| request.prev_kv).map(|kv| PbKeyValue::clone(&kv)),
        }
    }

    fn delete_request(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let gone = self.delete(&KeyRange::new(&request.key, &request.range_end));
        PbDeleteResponse {
            header: header(self.revision()),
            deleted: i64::try_from(gone.len()).unwrap_or(i64::MAX),
            prev_kvs: gone.iter().filter(|_| request.prev_kv).map(|kv| PbKeyValue::clone(kv)).collect(),
        }
    }
}

const NESTED: Error = Error::NotServed("a transaction inside a transaction");

/// The header of an operation's answer: of it only the revision is told, as in etcd.
#[allow(clippy::unnecessary_wraps)] // The field is an Option.
fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { revision, ..PbResponseHeader::default() })
}

fn operations(branch: &[PbTxnRequestOp]) -> impl Iterator<Item = &PbTxnOpRequest> {
    branch.iter().filter_map(|op| op.request.as_ref())
}

/// What can be said of an operation without the store.
fn check_form(op: &PbTxnOpRequest) -> Result<(), Error> {
    match op {
        PbTxnOpRequest::RequestRange(r) if r.key.is_empty() => Err(Error::EmptyKey),
        PbTxnOpRequest::RequestDeleteRange(r) if r.key.is_empty() => Err(Error::EmptyKey),
        PbTxnOpRequest::RequestRange(_) | PbTxnOpRequest::RequestDeleteRange(_) => Ok(()),
        PbTxnOpRequest::RequestPut(r) => check_put_form(r),
        PbTxnOpRequest::RequestTxn(_) => Err(NESTED),
    }
}

fn check_put_form(request: &PbPutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// One key must not be written twice in a transaction: it would get two values in one revision.
fn check_overlaps(branch: &[PbTxnRequestOp]) -> Result<(), Error> {
    let mut puts = BTreeSet::new();
    for op in operations(branch) {
        if let PbTxnOpRequest::RequestPut(put) = op
            && !puts.insert(put.key.as_slice())
        {
            return Err(Error::DuplicateKey);
        }
    }
    let overlaps = |delete: &PbDeleteRequest| {
        let range = KeyRange::new(&delete.key, &delete.range_end);
        puts.iter().any(|key| range.contains(key))
    };
    if operations(branch).any(|op| matches!(op, PbTxnOpRequest::RequestDeleteRange(delete) if overlaps(delete))) {
        return Err(Error::DuplicateKey);
    }
    Ok(())
}

fn compare_one(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let order = match &compare.target_union {
        Some(PbTargetUnion::Version(v)) => kv.version.cmp(v),
        Some(PbTargetUnion::CreateRevision(r)) => kv.create_revision.cmp(r),
        Some(PbTargetUnion::ModRevision(r)) => kv.mod_revision.cmp(r),
        Some(PbTargetUnion::Value(v)) => kv.value.cmp(v),
        Some(PbTargetUnion::Lease(id)) => kv.lease.cmp(id),
        None => return false,
    };
    match compare.result {
        r if r == CompareOp::Equal as i32 => order == Ordering::Equal,
        r if r == CompareOp::Greater as i32 => order == Ordering::Greater,
        r if r == CompareOp::Less as i32 => order == Ordering::Less,
        r if r == CompareOp::NotEqual as i32 => order != Ordering::Equal,
        _ => false,
    }
}

/// `found` is in order of keys; orders it as the request asks.
fn sort(found: &mut [std::sync::Arc<PbKeyValue>], request: &PbRangeRequest) {
    match request.sort_target {
        t if t == SortTarget::Version as i32 => found.sort_by_key(|kv| kv.version),
        t if t == SortTarget::Create as i32 => found.sort_by_key(|kv| kv.create_revision),
        t if t == SortTarget::Mod as i32 => found.sort_by_key(|kv| kv.mod_revision),
        t if t == SortTarget::Value as i32 => found.sort_by(|a, b| a.value.cmp(&b.value)),
        _ => {}
    }
    if request.sort_order == SortOrder::Descend as i32 {
        found.reverse();
    }
}
