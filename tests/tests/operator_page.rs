//! The operator's page in headless Chromium. With `ROOMRING_SCREENSHOTS=DIR` pictures of every state are left there.

use std::time::Duration;

use roomring_tests::{Chrome, Client, Cluster, Options, Page, Traffic, evidence, get, holder, post, write};

/// The page as it should be on any screen.
async fn fits(page: &Page<'_>) {
    let fits = "document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(page.eval(fits).await, true, "nothing sticks out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_cluster_finds_a_room_and_sees_a_node_go() {
    let options = Options { replication: 2, node_flags: vec!["--zone=north"], ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    let ann = Client::connect(cluster.http()[0], "ann").await;
    ann.subscribe("lobby").await;
    ann.publish("lobby", "hello").await.expect("taken");
    let admin = cluster.routers["router-1"].admin;
    let node = holder(&cluster.placement().await.expect("a placement"), "lobby").to_owned();

    // What it shows comes from two addresses.
    let state: serde_json::Value = serde_json::from_str(&get(admin, "/api/cluster").await.body).expect("JSON");
    assert_eq!(state["slots"]["states"].as_str().map(|s| s.matches('o').count()), Some(64), "{state}");
    assert_eq!(state["nodes"].as_array().map(Vec::len), Some(3));
    let led: u64 = state["nodes"].as_array().into_iter().flatten().filter_map(|n| n["primaries"].as_u64()).sum();
    assert_eq!(led, 64);
    assert!(state["nodes"][0]["status"]["rss_bytes"].as_u64() > Some(1 << 20), "{state}");
    for (path, status) in [("/api/room", 400), ("/api/room?room=", 400), ("/nothing", 404), ("/metrics", 200)] {
        assert_eq!(get(admin, path).await.status, status, "{path}");
    }

    let traffic = Traffic::start([(std::sync::Arc::new(ann), "lobby".to_owned())], Duration::from_millis(20), None);
    let chrome = Chrome::start(&cluster.path(".")).await;
    let wide = chrome.open("operator-wide", &format!("http://{admin}/"), 1440, 900).await;
    let phone = chrome.open("operator-phone", &format!("http://{admin}/"), 390, 844).await;
    for page in [&wide, &phone] {
        page.wait_text("status", "all is well").await;
        page.wait_text("nodes", "node-3").await;
        page.wait_text("nodes", "north").await;
        page.wait_text("routers", "router-2").await;
        page.wait_text("legend", "64 ok").await;
        page.wait("kept.publishes.length > 3 && kept.publishes.at(-1) > 0").await;
        page.wait("kept.commit.at(-1)[0] > 0 && kept.publish.at(-1)[0] > 0").await;
        fits(page).await;
    }
    // The ring is drawn: its canvas has many colours.
    let colours = "(() => { const c = document.getElementById('ring'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const seen = new Map(); for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) { const k = d[i] + ',' + d[i + 1] + ',' + d[i + 2]; seen.set(k, (seen.get(k) || 0) + 1); }
        return [...seen.values()].filter(n => n > 500).length; })()";
    let colours = wide.eval(colours).await;
    assert!(colours.as_u64() >= Some(3), "three nodes have a colour each: {colours}");
    wide.screenshot_whole("1-well").await;
    phone.screenshot_whole("1-well").await;

    for page in [&wide, &phone] {
        page.type_into("room", "lobby").await;
        page.click("look").await;
        page.wait_text("found", &node).await;
        page.wait_text("found", "members").await;
        fits(page).await;
    }
    wide.type_into("room", "<img src=x onerror=window.pwned=1>").await;
    wide.click("look").await;
    wide.wait_text("found", "nobody is in it").await;
    assert_eq!(wide.eval("window.pwned || document.querySelectorAll('#found img').length").await, 0);
    phone.screenshot_whole("2-found").await;

    cluster.kill_node(&node);
    for page in [&wide, &phone] {
        page.wait_text("recent", &format!("evict {node}")).await;
        page.wait("!document.getElementById('legend').textContent.startsWith('64 ok') || document.getElementById('status').dataset.state !== 'ok'").await;
    }
    wide.screenshot_whole("3-evicted").await;
    // The room that was looked for before is shown where it is now.
    phone.wait(&format!("document.querySelectorAll('#found dd')[1].textContent !== '{node}'")).await;
    evidence(format!("the page showed that {node} was evicted"));
    wide.wait_text("status", "all is well").await;
    wide.wait_text("legend", "64 ok").await;
    dark(&wide).await;
    dark(&phone).await;
    traffic.stop().await;
}

const KEY: &str = "a key of sufficient length";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_with_a_key_drains_pins_and_disconnects() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("key");
    write(&file, KEY);
    let flag = &*Box::leak(format!("--api-key-file={}", file.display()).into_boxed_str());
    let cluster = Cluster::start(Options { replication: 2, router_flags: vec![flag], ..Options::default() }).await;
    let ann = Client::connect(cluster.http()[1], "ann").await;
    ann.subscribe("lobby").await;
    let admin = cluster.routers["router-1"].admin;

    // Without a key nothing is done, and what can't be read is named.
    let drain = r#"{"order":{"drain":{"node":"node-1"}}}"#;
    let with = |key: &str| format!("X-API-Key: {key}\r\n");
    for (headers, body, status, says) in [
        (String::new(), drain, 401, "not a key"),
        (with("another key of that length"), drain, 401, "not a key"),
        (with(KEY), "{}", 400, "order"),
        (with(KEY), r#"{"order":{"drain":{"node":"node-9"}}}"#, 422, "no node is called node-9"),
        (with(KEY), &"x".repeat(20_000), 400, "whole"),
    ] {
        let answer = post(admin, "/api/order", &headers, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
    }
    assert_eq!(get(admin, "/api/order").await.status, 405);

    let chrome = Chrome::start(&cluster.path(".")).await;
    let wide = chrome.open("orders-wide", &format!("http://{admin}/"), 1440, 900).await;
    let phone = chrome.open("orders-phone", &format!("http://{admin}/"), 390, 844).await;
    for page in [&wide, &phone] {
        page.wait_text("status", "all is well").await;
        assert_eq!(page.eval("document.getElementById('drain').checkVisibility()").await, false, "no key, no button");
        page.type_into("key", KEY).await;
        page.click("use-key").await;
        page.wait("document.getElementById('drain').checkVisibility()").await;
        fits(page).await;
    }
    wide.eval("document.getElementById('drained').value = 'node-1'").await;
    wide.click("drain").await;
    wide.wait_text("sure-what", "Drain node-1?").await;
    wide.screenshot("1-sure").await;
    wide.click("go").await;
    wide.wait_text("said", "drain node-1").await;
    wide.wait_text("placement", "drained node-1").await;
    // The second of three leaves fewer nodes than copies: said, and asked again.
    phone.eval("document.getElementById('drained').value = 'node-2'").await;
    phone.click("drain").await;
    phone.wait_text("sure-what", "Drain node-2?").await;
    phone.click("go").await;
    phone.wait_text("sure-what", "Be careful").await;
    phone.screenshot("2-careful").await;
    phone.click("leave").await;
    wide.wait("Number(document.getElementById('nodes').rows[0].cells[4].innerText.split(' ')[0]) === 0").await;
    evidence("node-1 was emptied from the page");
    wide.click("undrain").await;
    wide.wait_text("sure-what", "Let node-1 have slots again?").await;
    wide.click("go").await;
    wide.wait("!document.getElementById('placement').innerText.includes('drained')").await;

    wide.type_into("room", "lobby").await;
    wide.click("look").await;
    wide.wait("document.getElementById('pin').checkVisibility()").await;
    wide.eval("document.getElementById('pin-to').value = 'node-3'").await;
    wide.click("pin").await;
    wide.wait_text("sure-what", "to node-3?").await;
    wide.click("go").await;
    wide.wait_text("said", "pin").await;
    wide.wait_text("placement", "1 pinned").await;
    wide.wait_text("found", "pinned to").await;
    wide.screenshot_whole("3-pinned").await;
    wide.type_into("user", "ann").await;
    wide.click("disconnect").await;
    wide.wait_text("sure-what", "connections of ann").await;
    wide.click("go").await;
    wide.wait_text("said", "1 connection(s) of ann were ended").await;
    fits(&wide).await;
    phone.screenshot_whole("4-phone").await;
    assert_eq!(ann.closed().await.code, Some(3503), "its SDK does not come back");
}

/// The same in the dark.
async fn dark(page: &Page<'_>) {
    page.prefer_dark().await;
    page.wait("getComputedStyle(document.body).backgroundColor !== 'rgb(246, 247, 249)'").await;
    page.eval("dispatchEvent(new Event('resize'))").await;
    fits(page).await;
    page.screenshot_whole("4-dark").await;
}
