//! `docs/configuration.md` has every setting, as the binaries tell it. With `ROOMRING_WRITE_DOCS` set it is written instead.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use roomring_control::daemon::config::parse;
use roomring_tests::{Authority, write};

/// The flags of a binary as a section of the page.
fn section(name: &str, command: &clap::Command) -> String {
    let mut text = format!("## {name}\n");
    let mut heading = None;
    for arg in command.get_arguments().filter(|a| a.get_long().is_some()) {
        let of = arg.get_help_heading().unwrap_or_default();
        if heading != Some(of) {
            let title = if of.is_empty() { String::new() } else { format!("\n{of}:\n") };
            text += &format!("{title}\n| flag | variable | default | what it is |\n|---|---|---|---|\n");
            heading = Some(of);
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
        let (what, default) = match help.rsplit_once(" [default: ") {
            Some((what, default)) => (what.to_owned(), default.trim_end_matches(']').to_owned()),
            None => (help, String::new()),
        };
        let env = arg.get_env().map(|e| format!("`{}`", e.to_string_lossy())).unwrap_or_default();
        let long = arg.get_long().unwrap_or_default();
        assert!(!what.is_empty(), "--{long} says nothing of itself");
        text += &format!("| `--{long}` | {env} | {default} | {} |\n", what.replace('|', "\\|"));
    }
    text
}

/// Settings that one binary takes from its flags in groups come under one heading each.
fn in_groups(command: clap::Command) -> clap::Command {
    let mut args: Vec<clap::Arg> = command.get_arguments().cloned().collect();
    args.sort_by_key(|a| a.get_help_heading().is_some());
    args.into_iter().fold(clap::Command::new("roomring"), clap::Command::arg)
}

#[test]
fn every_setting_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let mut page = std::fs::read_to_string(&path).expect("docs/configuration.md");
    let sections = [
        ("node", section("roomring-node", &in_groups(roomring_node::config::Flags::command()))),
        ("router", section("roomring-router", &in_groups(roomring_router::Flags::command()))),
    ];
    for (mark, text) in sections {
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
        let (head, rest) = page.split_once(&begin).expect("the beginning of the section");
        let (written, tail) = rest.split_once(&end).expect("the end of the section");
        if std::env::var_os("ROOMRING_WRITE_DOCS").is_none() {
            assert_eq!(written, text, "docs/configuration.md is not what roomring-{mark} takes; `make docs` writes it");
        }
        page = format!("{head}{begin}{text}{end}{tail}");
    }
    if std::env::var_os("ROOMRING_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }

    // What can be in the file alone: serde names all fields when one is unknown.
    let error = serde_json::from_str::<roomring_router::namespaces::Options>("{\"?\": 1}").expect_err("no such option");
    let error = error.to_string();
    let (_, expected) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    let options: BTreeSet<&str> = expected.split('`').skip(1).step_by(2).collect();
    assert!(options.len() > 5, "{error}");
    for option in options {
        assert!(
            page.contains(&format!("\n| `{option}` | ")),
            "docs/configuration.md has nothing on {option} of [rooms]"
        );
    }
}

fn packaged(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/packaging").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of the Debian package: as they come nothing runs, since the id is missing; with all that stands there as comments they
/// are right, and the units stop no process before its grace is over.
#[test]
fn packaged_files_and_units_agree_with_the_binaries() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path());
    for name in ["peer", "tls"] {
        authority.issue(name, &["roomring"]);
    }
    std::fs::copy(authority.file("ca.pem"), dir.path().join("peer-ca.pem")).expect("a copy");
    write(&dir.path().join("token-secret"), "a secret of more than thirty-two bytes");
    for role in ["node", "router"] {
        let file = dir.path().join(format!("{role}.toml"));
        let shipped = packaged(&format!("etc/{role}.toml"));
        let all: String = shipped.lines().map(|l| format!("{}\n", l.strip_prefix('#').unwrap_or(l))).collect();
        // Prose stays a comment, its # was followed by a blank.
        let all: String =
            all.lines().map(|l| if l.starts_with(' ') { "\n".to_owned() } else { format!("{l}\n") }).collect();
        let all = all.replace("/etc/roomring", &dir.path().display().to_string());
        let parsed = |text: &str| {
            write(&file, text);
            let args = [role, "--config", &file.display().to_string()].map(str::to_owned);
            match role {
                "node" => {
                    parse::<roomring_node::config::Flags, roomring_node::config::Config>(args).map(|c| c.stop_grace)
                }
                _ => parse::<roomring_router::Flags, roomring_router::Config>(args).map(|c| c.stop_grace),
            }
        };
        let unconfigured = parsed(&shipped).expect_err("no id").to_string();
        assert!(unconfigured.contains("`id`"), "{role}: {unconfigured}");
        let grace = parsed(&all).unwrap_or_else(|e| panic!("{role}: {e}\n{all}")).0.as_secs();

        let unit = packaged(&format!("systemd/roomring-{role}.service"));
        let value = |key: &str| unit.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        assert!(
            value("ExecStart").starts_with(&format!("/usr/bin/roomring-{role} --config /etc/roomring/{role}.toml"))
        );
        assert!(value("TimeoutStopSec").parse::<u64>().expect("seconds") >= grace + 10, "{role}: {grace}");
        assert_eq!((value("User"), value("RestartPreventExitStatus")), ("roomring", "2"));
    }
}
