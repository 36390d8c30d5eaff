//! Keys: put, range, delete, transactions.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use tonic::Code;

use crate::code;

pub(crate) async fn put_get_delete(mut etcd: Client) {
    let first = etcd.put("pgd/a", "1", None).await.unwrap();
    assert!(first.prev_key().is_none());
    let revision = first.header().unwrap().revision();
    let second = etcd.put("pgd/a", "2", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(second.prev_key().unwrap().value(), b"1");
    assert_eq!(second.header().unwrap().revision(), revision + 1);

    let got = etcd.get("pgd/a", None).await.unwrap();
    let kv = &got.kvs()[0];
    assert_eq!((kv.value(), kv.version(), kv.lease()), (&b"2"[..], 2, 0));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (revision, revision + 1));
    assert_eq!(got.header().unwrap().revision(), revision + 1);
    let past = etcd.get("pgd/a", Some(GetOptions::new().with_revision(revision))).await.unwrap();
    assert_eq!(past.kvs()[0].value(), b"1");

    let gone = etcd.delete("pgd/a", Some(DeleteOptions::new().with_prev_key())).await.unwrap();
    assert_eq!((gone.deleted(), gone.prev_kvs()[0].value()), (1, &b"2"[..]));
    let nothing = etcd.delete("pgd/a", None).await.unwrap();
    assert_eq!(nothing.deleted(), 0);
    assert_eq!(nothing.header().unwrap().revision(), revision + 2, "a delete of nothing makes no revision");
    assert!(etcd.get("pgd/a", None).await.unwrap().kvs().is_empty());

    etcd.put("pgd/a", "3", None).await.unwrap();
    let kv = etcd.get("pgd/a", None).await.unwrap().take_kvs().remove(0);
    assert_eq!((kv.version(), kv.create_revision()), (1, revision + 3), "a new life of the key");
}

pub(crate) async fn ranges(mut etcd: Client) {
    for (key, value) in [("rng/a", "3"), ("rng/b", "1"), ("rng/c", "2"), ("rnh", "x")] {
        etcd.put(key, value, None).await.unwrap();
    }
    let prefix = || GetOptions::new().with_prefix();
    let all = etcd.get("rng/", Some(prefix())).await.unwrap();
    let keys: Vec<_> = all.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    assert_eq!((keys, all.count(), all.more()), (vec!["rng/a", "rng/b", "rng/c"], 3, false));

    let some = etcd.get("rng/", Some(prefix().with_limit(2))).await.unwrap();
    assert_eq!((some.kvs().len(), some.count(), some.more()), (2, 3, true));
    let counted = etcd.get("rng/", Some(prefix().with_count_only())).await.unwrap();
    assert_eq!((counted.kvs().len(), counted.count()), (0, 3));
    let bare = etcd.get("rng/", Some(prefix().with_keys_only())).await.unwrap();
    assert!(bare.kvs().iter().all(|kv| kv.value().is_empty() && kv.mod_revision() > 0));
    let sorted = etcd.get("rng/", Some(prefix().with_sort(SortTarget::Value, SortOrder::Descend))).await.unwrap();
    assert_eq!(sorted.kvs()[0].key(), b"rng/a");
    let between = etcd.get("rng/b", Some(GetOptions::new().with_range("rng/c"))).await.unwrap();
    assert_eq!(between.count(), 1);
    let onwards = etcd.get("rng/c", Some(GetOptions::new().with_from_key())).await.unwrap();
    assert!(onwards.count() >= 2);
    assert_eq!(etcd.delete("rng/", Some(DeleteOptions::new().with_prefix())).await.unwrap().deleted(), 3);
    assert_eq!(etcd.get("rnh", None).await.unwrap().count(), 1);
}

pub(crate) async fn transactions(mut etcd: Client) {
    let create = |value: &str| {
        Txn::new()
            .when([Compare::create_revision("txn/a", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("txn/a", value, None), TxnOp::get("txn/a", None)])
            .or_else([TxnOp::get("txn/a", None)])
    };
    let won = etcd.txn(create("mine")).await.unwrap();
    assert!(won.succeeded());
    let revision = won.header().unwrap().revision();
    let TxnOpResponse::Get(read) = &won.op_responses()[1] else { panic!("a get") };
    assert_eq!(read.kvs()[0].mod_revision(), revision, "a transaction reads what it wrote");

    let lost = etcd.txn(create("theirs")).await.unwrap();
    assert!(!lost.succeeded());
    let TxnOpResponse::Get(read) = &lost.op_responses()[0] else { panic!("a get") };
    assert_eq!(read.kvs()[0].value(), b"mine");
    assert_eq!(lost.header().unwrap().revision(), revision, "reading makes no revision");

    let swap = |base: i64| {
        Txn::new()
            .when([Compare::mod_revision("txn/a", CompareOp::Equal, base)])
            .and_then([TxnOp::put("txn/a", "next", None), TxnOp::put("txn/b", "same revision", None)])
    };
    assert!(!etcd.txn(swap(revision - 1)).await.unwrap().succeeded());
    assert!(etcd.txn(swap(revision)).await.unwrap().succeeded());
    let both = etcd.get("txn/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert!(both.kvs().iter().all(|kv| kv.mod_revision() == revision + 1));

    for (holds, compare) in [
        (true, Compare::value("txn/a", CompareOp::Equal, "next")),
        (false, Compare::value("txn/none", CompareOp::NotEqual, "x")),
        (true, Compare::version("txn/a", CompareOp::Greater, 1)),
        (true, Compare::version("txn/none", CompareOp::Less, 1)),
        (true, Compare::lease("txn/a", CompareOp::Equal, 0)),
        (true, Compare::mod_revision("txn/", CompareOp::Equal, revision + 1).with_prefix()),
        (false, Compare::create_revision("txn/", CompareOp::Equal, revision).with_prefix()),
    ] {
        assert_eq!(etcd.txn(Txn::new().when([compare.clone()])).await.unwrap().succeeded(), holds, "{compare:?}");
    }
    let clear = Txn::new().and_then([TxnOp::delete("txn/", Some(DeleteOptions::new().with_prefix()))]);
    let cleared = etcd.txn(clear).await.unwrap();
    let TxnOpResponse::Delete(gone) = &cleared.op_responses()[0] else { panic!("a delete") };
    assert_eq!(gone.deleted(), 2);
}

pub(crate) async fn bad_requests(mut etcd: Client) {
    assert_eq!(code(etcd.put("", "v", None).await.unwrap_err()), Code::InvalidArgument);
    assert_eq!(code(etcd.get("", None).await.unwrap_err()), Code::InvalidArgument);
    let lease = Some(PutOptions::new().with_lease(987_654));
    assert_eq!(code(etcd.put("bad/a", "v", lease.clone()).await.unwrap_err()), Code::NotFound);
    let future = Some(GetOptions::new().with_revision(1 << 40));
    assert_eq!(code(etcd.get("bad/a", future).await.unwrap_err()), Code::OutOfRange);
    let absent = Some(PutOptions::new().with_ignore_value());
    assert_eq!(code(etcd.put("bad/a", "", absent).await.unwrap_err()), Code::InvalidArgument);
    let twice = Txn::new().and_then([TxnOp::put("bad/a", "1", None), TxnOp::put("bad/a", "2", None)]);
    assert_eq!(code(etcd.txn(twice).await.unwrap_err()), Code::InvalidArgument);
    let before = etcd.get("bad/a", None).await.unwrap().header().unwrap().revision();
    let half = Txn::new().and_then([TxnOp::put("bad/a", "1", None), TxnOp::put("bad/b", "2", lease)]);
    assert_eq!(code(etcd.txn(half).await.unwrap_err()), Code::NotFound);
    let after = etcd.get("bad/a", None).await.unwrap();
    assert_eq!((after.count(), after.header().unwrap().revision()), (0, before), "all of it or nothing");
}

pub(crate) async fn status(mut etcd: Client) {
    let status = etcd.status().await.unwrap();
    assert!(!status.version().is_empty());
    assert_ne!(status.leader(), 0);
}
