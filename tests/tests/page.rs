//! The chat page in headless Chromium. With `ROOMRING_SCREENSHOTS=DIR` pictures of every state are left there.

use roomring_tests::{Chrome, Cluster, Options, Page, evidence, holder, post, write};
use serde_json::json;

const KEY: &str = "a key of sufficient length";

/// Keeps every state that the page shows, however short.
const WATCH: &str = "(() => {
    const status = document.getElementById('status');
    window.states = [status.dataset.state];
    const note = () => window.states.push(status.dataset.state);
    new MutationObserver(note).observe(status, { attributes: true, attributeFilter: ['data-state'] });
})()";

async fn say(page: &Page<'_>, text: &str) {
    page.type_into("message", text).await;
    page.click("send").await;
}

/// Waits until `state` was shown since [`WATCH`] began or this was last asked.
async fn showed(page: &Page<'_>, state: &str) {
    page.wait(&format!("window.states.includes({state:?})")).await;
    page.eval("window.states.length = 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_on_two_routers_talk_and_see_what_happens() {
    let dir = tempfile::tempdir().expect("a directory");
    write(&dir.path().join("key"), KEY);
    let flag = &*Box::leak(format!("--api-key-file={}", dir.path().join("key").display()).into_boxed_str());
    let mut cluster = Cluster::start(Options { router_flags: vec![flag], ..Options::default() }).await;
    let [first, second] = cluster.http()[..] else { panic!("two routers") };
    let chrome = Chrome::start(&cluster.path(".")).await;

    // Ann comes by a link, on a wide screen; Bob fills in the form, on a phone.
    let ann = chrome.open("wide", &format!("http://{first}/?name=ann&room=lobby"), 1440, 900).await;
    ann.wait_state("connected").await;
    let bob = chrome.open("phone", &format!("http://{second}/"), 390, 844).await;
    bob.wait("!!document.getElementById('join')").await;
    bob.screenshot("1-form").await;
    bob.type_into("name", "bob").await;
    bob.type_into("room", "lobby").await;
    bob.click("join").await;
    bob.wait_state("connected").await;
    for page in [&ann, &bob] {
        page.eval(WATCH).await;
        page.wait_text("people", "ann").await;
        page.wait_text("people", "bob").await;
    }
    let before = cluster.placement().await.expect("a placement");
    let node = holder(&before, "lobby").to_owned();
    ann.wait_text("node", &node).await;

    say(&ann, "hello from the first router").await;
    bob.wait_text("messages", "hello from the first router").await;
    say(&bob, "<img src=x onerror=\"window.pwned = 1\"> & hello back").await;
    ann.wait_text("messages", "<img src=x onerror=\"window.pwned = 1\"> & hello back").await;
    assert_eq!(ann.eval("document.querySelectorAll('#messages img').length + (window.pwned || 0)").await, 0);
    let fits = "document.documentElement.scrollWidth <= 390";
    assert_eq!(bob.eval(fits).await, true, "nothing sticks out on a phone");
    let delete = json!({"channel": "lobby", "offset": 1}).to_string();
    let deleted = post(second, "/api/delete", &format!("X-API-Key: {KEY}\r\n"), &delete).await;
    assert_eq!(deleted.body, r#"{"result":{"deleted":true}}"#);
    for page in [&ann, &bob] {
        page.wait("!document.getElementById('messages').innerText.includes('first router')").await;
    }
    assert_eq!(ann.eval("document.querySelectorAll('#messages [data-offset]').length").await, 1, "and nothing else");
    ann.screenshot("2-talk").await;
    bob.screenshot("2-talk").await;

    // Ann's router goes and comes back; she missed nothing.
    cluster.kill_router("router-1");
    showed(&ann, "reconnecting").await;
    ann.screenshot("3-reconnecting").await;
    say(&bob, "can you hear me?").await;
    bob.wait_text("messages", "can you hear me?").await;
    cluster.start_router_at("router-1", &first.to_string()).await;
    showed(&ann, "recovered").await;
    ann.screenshot("4-recovered").await;
    ann.wait_text("messages", "can you hear me?").await;
    evidence("the page showed reconnecting, then recovered");

    // The room's node goes: both are told that the history is lost, and talk on.
    cluster.kill_node(&node);
    cluster.recreated(&before, &node).await;
    for page in [&ann, &bob] {
        showed(page, "not-recovered").await;
        page.screenshot("5-not-recovered").await;
    }
    evidence(format!("after the loss of {node} both pages showed not-recovered"));
    say(&ann, "still here").await;
    bob.wait_text("messages", "still here").await;
    let now = cluster.placement().await.expect("a placement");
    ann.wait_text("node", holder(&now, "lobby")).await;
    bob.screenshot("6-after").await;
}
