//! The examples of `docs/clients.md`, as they stand there.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use roomring_tests::{
    Cluster, Options, Process, eventually, evidence, go_is_missing, post, run, sdk_dir, within, write,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const KEY: &str = "a key of sufficient length";
const LIMIT: Duration = Duration::from_secs(60);

/// The blocks of JSON, in order.
fn examples() -> Vec<Value> {
    let page = include_str!("../../docs/clients.md");
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| serde_json::from_str(block).unwrap_or_else(|e| panic!("{e}: {block}"))).collect()
}

/// Whether `said` is what the page shows, where `"..."` stands for any text.
fn as_shown(shown: &Value, said: &Value) -> bool {
    match (shown, said) {
        (Value::String(text), Value::String(_)) if text == "..." => true,
        (Value::Object(shown), Value::Object(said)) => {
            shown.len() == said.len() && shown.iter().all(|(k, v)| said.get(k).is_some_and(|said| as_shown(v, said)))
        }
        _ => shown == said,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_for_client_writers_is_true() {
    let dir = tempfile::tempdir().expect("a directory");
    write(&dir.path().join("key"), KEY);
    let flag = &*Box::leak(format!("--api-key-file={}", dir.path().join("key").display()).into_boxed_str());
    let options = Options { nodes: 1, routers: 1, router_flags: vec![flag], ..Options::default() };
    let cluster = Cluster::start(options).await;
    let url = format!("ws://{}/connection/websocket", cluster.http()[0]);
    let (mut ws, _) = within("a handshake", LIMIT, tokio_tungstenite::connect_async(url)).await.expect("a socket");
    let mut examples = examples().into_iter();
    let mut next = || examples.next().expect("an example");
    let (first, answer, again, duplicate, push) = (next(), next(), next(), next(), next());
    let commands = [
        json!({"id": 1, "connect": {"data": {"user": "ann"}}}),
        json!({"id": 2, "subscribe": {"channel": "lobby"}}),
        first,
        again,
    ];
    for command in commands {
        ws.send(Message::text(command.to_string())).await.expect("an open socket");
    }
    let mut expected = vec![answer, duplicate, push];
    hears(&mut ws, &mut expected).await;
    // What was deleted.
    for (method, arguments, asks) in [
        ("delete", r#"{"channel": "lobby", "offset": 1}"#, None),
        ("", "", Some(json!({"id": 5, "history": {"channel": "lobby", "limit": 1}}))),
        ("history_remove", r#"{"channel": "lobby"}"#, None),
    ] {
        match asks {
            Some(command) => ws.send(Message::text(command.to_string())).await.expect("an open socket"),
            None => {
                let key = format!("X-API-Key: {KEY}\r\n");
                post(cluster.http()[0], &format!("/api/{method}"), &key, arguments).await;
            }
        }
        hears(&mut ws, &mut vec![next()]).await;
    }
    assert!(examples.next().is_none(), "an example that nothing checks");
}

/// The program of the page that begins with this comment, for a router at `http`.
fn program(begins: &str, http: std::net::SocketAddr) -> String {
    let page = include_str!("../../docs/clients.md");
    let (_, rest) = page.split_once(begins).unwrap_or_else(|| panic!("{begins} is on the page"));
    let (program, _) = rest.split_once("```").expect("its end");
    assert!(program.contains("ws://127.0.0.1:8000/"), "{program}");
    program.replace("127.0.0.1:8000", &http.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sdks_program_joins_and_hears_itself() {
    let cluster = Cluster::start(Options { nodes: 1, routers: 1, ..Options::default() }).await;
    let (http, installed) = (cluster.http()[0], sdk_dir());
    let dir = cluster.path("programs");
    std::fs::create_dir(&dir).expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        write(&path, text);
        path
    };
    std::os::unix::fs::symlink(installed.join("node_modules"), dir.join("node_modules")).expect("a link");
    let mut programs = vec![
        ("node".into(), vec![file("lobby.mjs", &program("// lobby.mjs\n", http))]),
        (installed.join("venv/bin/python"), vec![file("lobby.py", &program("# lobby.py\n", http))]),
    ];
    // Where the Go client could not be built `make test-deps` said why.
    if go_is_missing().is_none() {
        file("main.go", &program("// main.go\n", http));
        let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/go");
        for name in ["go.mod", "go.sum"] {
            std::fs::copy(client.join(name), dir.join(name)).expect("a copy");
        }
        let build = format!("cd '{}' && go build -o lobby .", dir.display());
        let built = run(Path::new("/bin/sh"), &["-c", &build], LIMIT * 3).await;
        assert_eq!(built.code, Some(0), "{}", built.stderr);
        programs.push((dir.join("lobby"), Vec::new()));
    }
    for (program, args) in programs {
        let name = program.file_name().expect("a name").to_string_lossy().into_owned();
        let running = Process::start(&name, &program, &args, &cluster.log(&name));
        eventually(&format!("{name} to hear itself"), LIMIT, async || {
            let log = running.log();
            assert!(!log.contains("Error"), "{log}");
            log.lines().any(|l| l.contains(" ann ") && l.contains("hello")).then_some(())
        })
        .await;
        evidence(format!("{name} ran the page's program"));
    }
}

/// Waits until all of `expected` was said, and nothing else but what is not of the page.
async fn hears<S>(ws: &mut S, expected: &mut Vec<Value>)
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    while !expected.is_empty() {
        let message = within("an answer", LIMIT, ws.next()).await.expect("an open socket").expect("a frame");
        for line in message.to_text().expect("text").lines() {
            let said: Value = serde_json::from_str(line).expect("JSON");
            if said["id"] == 1 || said["id"] == 2 || said == json!({}) {
                continue;
            }
            let at = expected.iter().position(|shown| as_shown(shown, &said));
            expected.remove(at.unwrap_or_else(|| panic!("{said} is none of {expected:?}")));
        }
    }
}
