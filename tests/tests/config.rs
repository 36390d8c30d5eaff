//! Wrong flags, variables and files: one line that names the field, exit code 2.

use std::path::PathBuf;
use std::time::Duration;

use roomring_tests::{Ran, binary, run, write};

const LIMIT: Duration = Duration::from_secs(30);

fn check(ran: &Ran, names: &str, row: &str) {
    assert_eq!(ran.code, Some(2), "{row}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{row}: one line, got {:?}", ran.stderr);
    assert!(ran.stderr.contains(names), "{row}: names {names}: {:?}", ran.stderr);
    assert_eq!(ran.stdout, "", "{row}");
}

async fn flags(program: &str, row: &[&str], names: &str) {
    check(&run(&binary(program), row, LIMIT).await, names, &format!("{program} {row:?}"));
}

#[tokio::test]
async fn a_wrong_flag_is_named() {
    for program in ["roomring-node", "roomring-router"] {
        flags(program, &["--no-such-flag"], "--no-such-flag").await;
        flags(program, &["--id", "a/b"], "id").await;
        flags(program, &["--id", "x", "--cluster", "no spaces"], "cluster").await;
        flags(program, &["--id", "x", "--lease-ttl", "banana"], "lease-ttl").await;
        flags(program, &["--id", "x", "--etcd", "not a url"], "etcd").await;
        flags(program, &["--id", "x", "--log-format", "xml"], "log-format").await;
        flags(program, &["--id", "x", "--config", "/no/such/file.toml"], "/no/such/file.toml").await;
    }
    flags("roomring-node", &["--id", "x", "--listen", "nowhere"], "listen").await;
    flags("roomring-node", &["--id", "x", "--slots", "0"], "slots").await;
    flags("roomring-node", &["--id", "x", "--slots", "many"], "slots").await;
    flags("roomring-node", &["--id", "x", "--replication", "9"], "replication").await;
    flags("roomring-node", &["--id", "x", "--history-bytes", "1 elephant"], "history-bytes").await;
    flags("roomring-router", &["--id", "x", "--http", "nowhere"], "http").await;
    flags("roomring-router", &["--id", "x", "--rooms-per-connection=-1"], "rooms-per-connection").await;
    flags("roomring-router", &["--id", "x", "--page", "maybe"], "page").await;
}

#[tokio::test]
async fn a_wrong_variable_is_named() {
    let node = binary("roomring-node").display().to_string();
    let row = ["ROOMRING_LEASE_TTL=banana", &node, "--id", "x"];
    let ran = run(&PathBuf::from("/usr/bin/env"), &row, LIMIT).await;
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 1), "{ran:?}");
    let text = ran.stderr.to_lowercase().replace('_', "-");
    assert!(text.contains("lease-ttl"), "{ran:?}");
}

#[tokio::test]
async fn a_wrong_file_is_named_with_its_field() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = [
        ("unknown.toml", "speed = 9\n", "speed"),
        ("type.toml", "lease_ttl = \"banana\"\n", "lease_ttl"),
        ("number.toml", "cluster = 7\n", "cluster"),
        ("syntax.toml", "cluster = \n", "syntax.toml"),
        ("binary.toml", "\u{0}\u{1}", "binary.toml"),
    ];
    for program in ["roomring-node", "roomring-router"] {
        for (name, text, field) in rows {
            let path = dir.path().join(name);
            write(&path, text);
            let path = path.display().to_string();
            let ran = run(&binary(program), &["--id", "x", "--config", &path], LIMIT).await;
            check(&ran, field, &format!("{program} with {name}"));
            assert!(ran.stderr.contains(name), "{program} names the file: {ran:?}");
        }
    }
}

#[tokio::test]
async fn roomctl_names_a_wrong_flag_too() {
    flags("roomctl", &["status", "--no-such-flag"], "--no-such-flag").await;
    flags("roomctl", &["where"], "ROOM").await;
    flags("roomctl", &["where", "a\nb"], "control character").await;
    flags("roomctl", &["dev", "--fence-after", "banana"], "fence-after").await;
}
