//! Published SDKs, unmodified, each driven by a small program of its own language: a command a line in, an event a line
//! out. See `tests/clients`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Process, binary_dir};

/// An answer or an event, SDK's own time-outs and back-offs included.
const EVENT: Duration = Duration::from_secs(60);

/// Which SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdkKind {
    /// centrifuge-js.
    JavaScript,
    /// centrifuge-python.
    Python,
    /// centrifuge-go, which the tests use with Protobuf only.
    Go,
}

/// How the SDK encodes the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// JSON in text frames.
    Json,
    /// Protobuf in binary frames.
    Protobuf,
}

/// A running SDK client.
#[derive(Debug)]
pub struct Sdk {
    process: Process,
    stdin: ChildStdin,
    last: u64,
    /// Events that came while another was waited for, in order.
    kept: Vec<Value>,
}

impl Sdk {
    /// Every SDK in every encoding that it is tested in.
    pub const ALL: [(SdkKind, Encoding); 5] = [
        (SdkKind::JavaScript, Encoding::Json),
        (SdkKind::JavaScript, Encoding::Protobuf),
        (SdkKind::Python, Encoding::Json),
        (SdkKind::Python, Encoding::Protobuf),
        (SdkKind::Go, Encoding::Protobuf),
    ];

    /// Starts the program; its log goes under `dir`.
    pub fn start(kind: SdkKind, encoding: Encoding, name: &str, dir: &Path) -> Self {
        let installed = sdk_dir();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let (program, mut args, needed) = match kind {
            SdkKind::JavaScript => {
                (PathBuf::from("node"), vec![source.join("client.cjs"), installed.clone()], "node_modules/centrifuge")
            }
            SdkKind::Python => (installed.join("venv/bin/python"), vec![source.join("client.py")], "venv/bin/python"),
            SdkKind::Go => (installed.join("go-client"), Vec::new(), "go-client"),
        };
        let needed = installed.join(needed);
        assert!(needed.exists(), "{} is missing: run `make test-deps`", needed.display());
        if encoding == Encoding::Protobuf && kind != SdkKind::Go {
            args.push("protobuf".into());
        }
        let log = dir.join(format!("{name}.log"));
        let mut process = Process::start_with(name, &program, &args, &log, Stdio::piped());
        let stdin = process.take_stdin().expect("piped");
        Self { process, stdin, last: 0, kept: Vec::new() }
    }

    /// Carries out a command and gives the SDK's result, or its error as `{"code", "message"}`.
    pub async fn call(&mut self, op: &str, mut args: Value) -> Result<Value, Value> {
        self.last += 1;
        let id = self.last;
        args["op"] = op.into();
        args["id"] = id.into();
        writeln!(self.stdin, "{args}").unwrap_or_else(|e| panic!("{op} to {}: {e}", self.process.name()));
        let mut reply = self.wait(&format!("the answer to {args}"), |event| event["reply"] == id).await;
        match reply["error"].take() {
            Value::Null => Ok(reply["result"].take()),
            error => Err(error),
        }
    }

    /// As [`Sdk::call`], for one that must succeed.
    pub async fn ok(&mut self, op: &str, args: Value) -> Value {
        let text = args.to_string();
        self.call(op, args).await.unwrap_or_else(|e| panic!("{} {op} {text}: {e}", self.process.name()))
    }

    /// Connects as `user`.
    pub async fn connect(&mut self, url: &str, user: &str) {
        self.ok("connect", json!({"url": url, "user": user})).await;
        self.event("connecting").await;
        self.event("connected").await;
    }

    /// Waits for the next event of this name, which is taken; others stay.
    pub async fn event(&mut self, name: &str) -> Value {
        self.wait(&format!("event {name}"), |event| event["event"] == name).await
    }

    /// Waits for the next publication with this payload, which is taken, and others before it too.
    pub async fn publication(&mut self, data: &Value) -> Value {
        loop {
            let event = self.event("publication").await;
            if event["data"] == *data {
                return event;
            }
        }
    }

    /// Everything that was told so far and not taken, in order.
    pub fn kept(&self) -> &[Value] {
        &self.kept
    }

    async fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&fits) {
            return self.kept.remove(at);
        }
        loop {
            let line = self.process.line(what, EVENT).await;
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
            if fits(&event) {
                return event;
            }
            self.kept.push(event);
        }
    }
}

/// Why the Go client could not be built on this machine, if it could not.
pub fn go_is_missing() -> Option<String> {
    std::fs::read_to_string(sdk_dir().join("go-client.missing")).ok()
}

/// Where `make test-deps` put the SDKs: `ROOMRING_TEST_CLIENTS`, or `clients` in cargo's target directory.
pub fn sdk_dir() -> PathBuf {
    std::env::var_os("ROOMRING_TEST_CLIENTS").map_or_else(|| binary_dir().join("../clients"), PathBuf::from)
}
