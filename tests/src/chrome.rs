//! Headless Chromium, driven over the DevTools protocol.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::expect::{eventually, within};
use crate::process::Process;

/// A browser's start on a busy machine.
const START: Duration = Duration::from_secs(60);
/// One DevTools command.
const COMMAND: Duration = Duration::from_secs(30);

/// A browser with a profile of its own. Ends when dropped.
#[derive(Debug)]
pub struct Chrome {
    connection: Mutex<Connection>,
    process: Process,
    screenshots: PathBuf,
}

#[derive(Debug)]
struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
}

/// One tab.
#[derive(Debug)]
pub struct Page<'a> {
    chrome: &'a Chrome,
    session: String,
    name: String,
}

impl Chrome {
    /// Starts a browser; its profile, its log and, unless `ROOMRING_SCREENSHOTS` names a directory, its screenshots are
    /// kept under `dir`.
    pub async fn start(dir: &Path) -> Self {
        let program = Path::new("/usr/bin/chromium");
        assert!(program.is_file(), "/usr/bin/chromium is missing: run `make test`, which installs it");
        let profile = dir.join("chromium");
        let screenshots =
            std::env::var_os("ROOMRING_SCREENSHOTS").map_or_else(|| dir.join("screenshots"), PathBuf::from);
        std::fs::create_dir_all(&screenshots).expect("a directory for screenshots");
        let profile_flag = format!("--user-data-dir={}", profile.display());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            &profile_flag,
            "about:blank",
        ];
        let process = Process::start("chromium", program, &args, &dir.join("chromium.log"));
        let url = eventually("chromium's debugging address", START, async || debugging_url(&profile)).await;
        let connecting = tokio_tungstenite::connect_async(&url);
        let (socket, _) = within("chromium to answer", START, connecting).await.expect("a DevTools connection");
        Self { connection: Mutex::new(Connection { socket, last_id: 0 }), process, screenshots }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Opens a tab of this width, in CSS pixels, on `url`. `name` begins the names of its screenshots.
    pub async fn open(&self, name: &str, url: &str, width: u32, height: u32) -> Page<'_> {
        // A context each: no shared storage between people.
        let context = self.command(None, "Target.createBrowserContext", json!({})).await;
        let target = json!({"url": "about:blank", "browserContextId": context["browserContextId"]});
        let target = self.command(None, "Target.createTarget", target).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.command(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().expect("a session").to_owned();
        let page = Page { chrome: self, session, name: name.to_owned() };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        page.command("Emulation.setDeviceMetricsOverride", metrics).await;
        page.command("Page.navigate", json!({"url": url})).await;
        page
    }

    async fn command(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut connection = self.connection.lock().await;
        within(&format!("chromium's answer to {method}"), COMMAND, connection.command(session, method, params)).await
    }
}

impl Connection {
    async fn command(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.socket.send(Message::text(command.to_string())).await.expect("send to chromium");
        loop {
            let frame = self.socket.next().await.expect("chromium is there").expect("receive from chromium");
            let Message::Text(text) = frame else { continue };
            let mut reply: Value = serde_json::from_str(&text).expect("JSON from chromium");
            // Events of tabs come in between; nothing here waits for one.
            if reply["id"] == self.last_id {
                assert!(reply["error"].is_null(), "{method}: {}", reply["error"]);
                return reply["result"].take();
            }
        }
    }
}

impl Page<'_> {
    async fn command(&self, method: &str, params: Value) -> Value {
        self.chrome.command(Some(&self.session), method, params).await
    }

    /// The value of a JavaScript expression.
    pub async fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.command("Runtime.evaluate", params).await;
        let exception = &result["exceptionDetails"];
        assert!(exception.is_null(), "{}: {expression}: {exception}", self.name);
        result["result"]["value"].take()
    }

    /// The text of the element `id`; `None` while there is none.
    pub async fn text(&self, id: &str) -> Option<String> {
        let expression = format!("document.getElementById({id:?})?.innerText ?? null");
        self.eval(&expression).await.as_str().map(str::to_owned)
    }

    /// Types `text` into the field `id`, key by key as far as the page can tell.
    pub async fn type_into(&self, id: &str, text: &str) {
        self.wait(&format!("!!document.getElementById({id:?})")).await;
        self.eval(&format!("(e => {{ e.focus(); e.select(); }})(document.getElementById({id:?}))")).await;
        self.command("Input.insertText", json!({"text": text})).await;
    }

    /// Clicks the element `id` with the mouse.
    pub async fn click(&self, id: &str) {
        self.eval(&format!("document.getElementById({id:?}).scrollIntoView({{ block: 'center' }})")).await;
        let middle = "(r => [r.x + r.width / 2, r.y + r.height / 2])";
        let expression = format!("{middle}(document.getElementById({id:?}).getBoundingClientRect())");
        let at = self.eval(&expression).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.command("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Waits until a JavaScript condition holds.
    pub async fn wait(&self, condition: &str) {
        let what = format!("{}: {condition}", self.name);
        eventually(&what, START, async || (self.eval(condition).await == true).then_some(())).await;
    }

    /// Waits until the element `id` shows `text` somewhere.
    pub async fn wait_text(&self, id: &str, text: &str) {
        self.wait(&format!("!!document.getElementById({id:?})?.innerText.includes({text:?})")).await;
    }

    /// Waits until the status shows this state.
    pub async fn wait_state(&self, state: &str) {
        self.wait(&format!("document.getElementById('status')?.dataset.state === {state:?}")).await;
    }

    /// From now on its user prefers dark pages.
    pub async fn prefer_dark(&self) {
        let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
        self.command("Emulation.setEmulatedMedia", dark).await;
    }

    /// Saves what it looks like as `NAME-WHAT.png`, for a person to look at.
    pub async fn screenshot(&self, what: &str) -> PathBuf {
        self.capture(what, json!({"format": "png"})).await
    }

    /// As [`Page::screenshot`], with what is below the window.
    pub async fn screenshot_whole(&self, what: &str) -> PathBuf {
        let size = "[document.documentElement.clientWidth, document.documentElement.scrollHeight]";
        let size = self.eval(size).await;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        self.capture(what, json!({"format": "png", "captureBeyondViewport": true, "clip": clip})).await
    }

    async fn capture(&self, what: &str, how: Value) -> PathBuf {
        let shot = self.command("Page.captureScreenshot", how).await;
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        let path = self.chrome.screenshots.join(format!("{}-{what}.png", self.name));
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }
}

/// Chromium writes its port and path there once it listens.
fn debugging_url(profile: &Path) -> Option<String> {
    let text = std::fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
    let (port, path) = text.split_once('\n')?;
    Some(format!("ws://127.0.0.1:{port}{}", path.trim_end()))
}
