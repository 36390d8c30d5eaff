//! What `dev` says once all is ready.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::child::Info;
use super::plan::Role;
use crate::cli::{DevArgs, Target};
use crate::output::{self, Tone, word};

/// The one line of `--json`.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    routers: Vec<RouterLine<'a>>,
    nodes: Vec<NodeLine<'a>>,
    etcd: String,
}

#[derive(Debug, Serialize)]
struct RouterLine<'a> {
    id: &'a str,
    http: &'a str,
    admin: &'a str,
    pid: u32,
}

#[derive(Debug, Serialize)]
struct NodeLine<'a> {
    id: &'a str,
    grpc: &'a str,
    admin: &'a str,
    pid: u32,
}

pub(super) fn ready(
    args: &DevArgs,
    target: &Target,
    embedded: bool,
    dir: &Path,
    children: &[Info],
) -> anyhow::Result<()> {
    let of = |role: Role| children.iter().filter(move |c| c.role == role);
    if args.json {
        let line = Ready {
            routers: of(Role::Router)
                .map(|c| RouterLine { id: &c.id, http: told(c, "http"), admin: told(c, "admin"), pid: c.pid })
                .collect(),
            nodes: of(Role::Node)
                .map(|c| NodeLine { id: &c.id, grpc: told(c, "grpc"), admin: told(c, "admin"), pid: c.pid })
                .collect(),
            etcd: target.etcd.join(","),
        };
        return output::print_text(&(serde_json::to_string(&line)? + "\n"));
    }

    let mut table = output::table(&["PROCESS", "PID", "ADDRESS"]);
    let mut row = |name: &str, pid: u32, address: &str| {
        table.add_row([word(name, Tone::Plain), word(pid, Tone::Plain), word(address, Tone::Plain)]);
    };
    for child in of(Role::Router) {
        row(&child.id, child.pid, &page(told(child, "http")));
    }
    for child in of(Role::Node) {
        row(&child.id, child.pid, told(child, "grpc"));
    }
    let etcd = target.etcd.join(",");
    if embedded {
        row("etcd", std::process::id(), &format!("{etcd} (in memory, within roomctl)"));
    }

    let usual = target.etcd == ["http://127.0.0.1:2379"] && target.cluster.as_str() == "roomring";
    let flags = if usual { String::new() } else { format!(" --etcd {etcd} --cluster {}", target.cluster) };
    let pages: Vec<String> = of(Role::Router).map(|c| page(told(c, "http"))).collect();
    let text = format!(
        "\nThe cluster is up. Chat at {}\n\n{}\nLook at it  roomctl status{flags}, or {}\nLogs        {}\nStop        Ctrl-C\n",
        pages.join("\n                 and at "),
        output::finish(table, &[1]),
        of(Role::Router).next().map(|c| page(told(c, "admin"))).unwrap_or_default(),
        dir.display()
    );
    output::print_text(&text)
}

fn told<'a>(child: &'a Info, what: &str) -> &'a str {
    child.told.get(what).map_or("", String::as_str)
}

/// The page's URL as a browser on this machine takes it.
fn page(http: &str) -> String {
    match http.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => format!("http://localhost:{}/", addr.port()),
        _ => format!("http://{http}/"),
    }
}
