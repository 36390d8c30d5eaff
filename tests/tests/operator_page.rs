//! The operator's page in headless Chromium. With `ROOMRING_SCREENSHOTS=DIR` pictures of every state are left there.

use std::time::Duration;

use roomring_tests::{Chrome, Client, Cluster, Options, Page, Traffic, evidence, get, holder};

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
        page.wait("kept.commit.at(-1)[0] > 0").await;
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
    evidence(format!("the page showed that {node} was evicted"));
    wide.wait_text("status", "all is well").await;
    wide.wait_text("legend", "64 ok").await;
    dark(&wide).await;
    dark(&phone).await;
    traffic.stop().await;
}

/// The same in the dark.
async fn dark(page: &Page<'_>) {
    page.prefer_dark().await;
    page.wait("getComputedStyle(document.body).backgroundColor !== 'rgb(246, 247, 249)'").await;
    page.eval("dispatchEvent(new Event('resize'))").await;
    fits(page).await;
    page.screenshot_whole("4-dark").await;
}
