//! The same random requests to a real etcd and to the embedded one: equal answers, down to the revisions.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, PutOptions, SortOrder, SortTarget,
    Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::soon;

/// Enough for every kind to meet every other on the few keys.
const REQUESTS: usize = 600;

/// One seed, so that a failure repeats.
const SEED: u64 = 20;

const KEYS: [&str; 6] = ["a", "a/1", "a/2", "b", "b/1", "c"];
const LEASES: [i64; 3] = [11, 12, 13];

/// A request that both get. Cloneable, unlike most of etcd-client's own.
#[derive(Debug, Clone)]
enum Request {
    Put(String, String, PutOptions),
    Get(String, GetOptions),
    Delete(String, DeleteOptions),
    Txn(Txn),
    Grant(i64),
    Revoke(i64),
    Leases,
    Compact(i64),
}

pub(crate) async fn run(mut real: Client, mut embedded: Client) {
    let mut random = StdRng::seed_from_u64(SEED);
    let everything = || Some(WatchOptions::new().with_all_keys().with_prev_key().with_start_revision(2));
    let mut watches = [real.watch("", everything()).await.unwrap(), embedded.watch("", everything()).await.unwrap()];
    let mut revision = 1;
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for i in 0..REQUESTS {
        let request = random_request(&mut random, revision);
        let [want, got] = [
            soon("real etcd", answer(&mut real, request.clone())).await,
            soon("embedded etcd", answer(&mut embedded, request.clone())).await,
        ];
        assert_eq!(got, want, "request {i} of seed {SEED}: {request:?}");
        if let Some(now) = want.strip_prefix('@').and_then(|w| w.split(' ').next()) {
            revision = now.parse().unwrap();
        }
        *kinds.entry(if want.starts_with('@') { "answered" } else { "refused" }).or_default() += 1;
    }
    println!("{REQUESTS} requests, revision {revision}, {kinds:?}");
    assert!(kinds["answered"] > REQUESTS / 2 && kinds["refused"] > 5, "a mix that says something: {kinds:?}");

    // What was watched meanwhile is the same too, event by event.
    let mut seen = [Vec::new(), Vec::new()];
    for (watch, seen) in watches.iter_mut().zip(&mut seen) {
        soon("every event", async {
            let mut last = 1;
            while last < revision {
                let message = watch.message().await.unwrap().unwrap();
                assert!(!message.canceled(), "{}", message.cancel_reason());
                for event in message.events() {
                    last = event.kv().unwrap().mod_revision();
                    seen.push(format!("{event:?}"));
                }
            }
        })
        .await;
    }
    assert_eq!(seen[1], seen[0]);
}

fn random_request(random: &mut StdRng, revision: i64) -> Request {
    let key = |random: &mut StdRng| KEYS[random.random_range(0..KEYS.len())].to_owned();
    let lease = |random: &mut StdRng| LEASES[random.random_range(0..LEASES.len())];
    match random.random_range(0..100) {
        0..30 => {
            let (value, options) = put(random);
            Request::Put(key(random), value, options)
        }
        30..50 => Request::Get(key(random), get_options(random, revision)),
        50..58 => Request::Delete(key(random), delete_options(random)),
        58..82 => {
            let mut ops = || (0..random.random_range(0..4)).map(|_| txn_op(random, revision)).collect::<Vec<_>>();
            let (success, failure) = (ops(), ops());
            let compares = (0..random.random_range(1..3)).map(|_| compare(random, revision)).collect::<Vec<_>>();
            Request::Txn(Txn::new().when(compares).and_then(success).or_else(failure))
        }
        82..90 => Request::Grant(lease(random)),
        90..94 => Request::Revoke(lease(random)),
        94..97 => Request::Leases,
        // Seldom and far back, so that the watch keeps up.
        _ => Request::Compact(random.random_range(revision - 60..revision - 40)),
    }
}

fn put(random: &mut StdRng) -> (String, PutOptions) {
    let mut value = random.random_range(0..5).to_string();
    let mut options = PutOptions::new();
    match random.random_range(0..10) {
        0..4 => options = options.with_lease(LEASES[random.random_range(0..LEASES.len())]),
        4 => options = options.with_ignore_lease(),
        5 => {
            options = options.with_ignore_value();
            // With a value it is refused: that too, now and then.
            if random.random_bool(0.8) {
                value.clear();
            }
        }
        _ => {}
    }
    (value, if random.random_bool(0.5) { options.with_prev_key() } else { options })
}

fn get_options(random: &mut StdRng, revision: i64) -> GetOptions {
    let mut options = GetOptions::new();
    match random.random_range(0..5) {
        0 => options = options.with_prefix(),
        1 => options = options.with_from_key(),
        2 => options = options.with_all_keys(),
        3 => options = options.with_range("b/"),
        _ => {}
    }
    if random.random_bool(0.3) {
        options = options.with_limit(random.random_range(0..4));
    }
    if random.random_bool(0.3) {
        options = options.with_revision(random.random_range((revision - 50).max(0)..=revision + 1));
    }
    if random.random_bool(0.3) {
        // Only targets that have no ties: etcd leaves the order of equals open.
        let order = if random.random_bool(0.5) { SortOrder::Ascend } else { SortOrder::Descend };
        options = options.with_sort(SortTarget::Key, order);
    }
    if random.random_bool(0.2) {
        options = options.with_min_mod_revision((revision - 10).max(0));
    }
    match random.random_range(0..6) {
        0 => options.with_keys_only(),
        1 => options.with_count_only(),
        _ => options,
    }
}

fn delete_options(random: &mut StdRng) -> DeleteOptions {
    let options = if random.random_bool(0.3) { DeleteOptions::new().with_prefix() } else { DeleteOptions::new() };
    if random.random_bool(0.5) { options.with_prev_key() } else { options }
}

fn txn_op(random: &mut StdRng, revision: i64) -> TxnOp {
    let key = KEYS[random.random_range(0..KEYS.len())];
    match random.random_range(0..10) {
        0..5 => {
            let (value, options) = put(random);
            TxnOp::put(key, value, Some(options))
        }
        5..8 => TxnOp::get(key, Some(get_options(random, revision))),
        _ => TxnOp::delete(key, Some(delete_options(random))),
    }
}

fn compare(random: &mut StdRng, revision: i64) -> Compare {
    let key = KEYS[random.random_range(0..KEYS.len())];
    let op = [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual][random.random_range(0..4)];
    let number = if random.random_bool(0.3) { 0 } else { random.random_range((revision - 20).max(0)..=revision) };
    let compare = match random.random_range(0..5) {
        0 => Compare::version(key, op, random.random_range(0..4)),
        1 => Compare::create_revision(key, op, number),
        2 => Compare::mod_revision(key, op, number),
        3 => Compare::value(key, op, random.random_range(0..5).to_string()),
        _ => Compare::lease(key, op, LEASES[random.random_range(0..LEASES.len())]),
    };
    if random.random_bool(0.2) { compare.with_prefix() } else { compare }
}

/// The answer as text, without what names the server; `@revision ...`, or `refused: CODE`.
async fn answer(etcd: &mut Client, request: Request) -> String {
    let told = match request {
        Request::Put(key, value, options) => {
            etcd.put(key, value, Some(options)).await.map(|r| (revision(r.header()), format!("{:?}", r.prev_key())))
        }
        Request::Get(key, options) => etcd
            .get(key, Some(options))
            .await
            .map(|r| (revision(r.header()), format!("{:?} {} {}", r.kvs(), r.count(), r.more()))),
        Request::Delete(key, options) => etcd
            .delete(key, Some(options))
            .await
            .map(|r| (revision(r.header()), format!("{} {:?}", r.deleted(), r.prev_kvs()))),
        Request::Txn(txn) => etcd.txn(txn).await.map(|r| {
            let ops: Vec<String> = r.op_responses().iter().map(op_answer).collect();
            (revision(r.header()), format!("{} {ops:?}", r.succeeded()))
        }),
        Request::Grant(id) => {
            let options = LeaseGrantOptions::new().with_id(id);
            etcd.lease_grant(600, Some(options))
                .await
                .map(|r| (revision(r.header()), format!("{} {}", r.id(), r.ttl())))
        }
        Request::Revoke(id) => etcd.lease_revoke(id).await.map(|r| (revision(r.header()), String::new())),
        Request::Leases => etcd.leases().await.map(|r| {
            let mut ids: Vec<i64> = r.leases().iter().map(etcd_client::LeaseStatus::id).collect();
            ids.sort_unstable();
            (revision(r.header()), format!("{ids:?}"))
        }),
        Request::Compact(at) => etcd.compact(at, None).await.map(|r| (revision(r.header()), String::new())),
    };
    match told {
        Ok((revision, told)) => format!("@{revision} {told}"),
        Err(Error::GRpcStatus(status)) => format!("refused: {:?} {}", status.code(), status.message()),
        Err(other) => panic!("neither an answer nor a refusal: {other}"),
    }
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision()
}

fn op_answer(op: &TxnOpResponse) -> String {
    match op {
        TxnOpResponse::Put(r) => format!("put @{} {:?}", revision(r.header()), r.prev_key()),
        TxnOpResponse::Get(r) => format!("get @{} {:?} {} {}", revision(r.header()), r.kvs(), r.count(), r.more()),
        TxnOpResponse::Delete(r) => format!("delete @{} {} {:?}", revision(r.header()), r.deleted(), r.prev_kvs()),
        TxnOpResponse::Txn(_) => "txn".to_owned(),
    }
}
