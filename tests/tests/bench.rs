//! The benchmark at its smallest: every delivery is counted, and every figure is there. None is judged.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn benchmark_counts_every_delivery_and_gives_every_figure() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--slice", "--quick", "--peers", "ours,plain", "--out"])
        .arg(dir.path())
        .output()
        .expect("the benchmark starts");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));

    for line in lines(dir.path(), "few-deliveries") {
        assert_eq!(wrong(&line), Vec::<&str>::new(), "{line}");
        for figure in ["times_floor", "cpu", "cpu_floor", "rate", "gathered"] {
            assert!(line["median"][figure].as_f64().is_some_and(|f| f > 0.0), "{figure} of {line}");
        }
        for times in ["latency", "half"] {
            let times = line["median"][times].as_array().expect("three percentiles");
            assert!(times.iter().all(|t| t.as_f64().is_some_and(|t| t > 0.0)), "{line}");
        }
    }
    for line in lines(dir.path(), "few-connections") {
        assert_eq!(wrong(&line), Vec::<&str>::new(), "{line}");
        for figure in ["connects", "connect_ms"] {
            assert!(line["median"][figure].as_f64().is_some_and(|f| f > 0.0), "{figure} of {line}");
        }
        assert!(line["median"]["edge_kib"].is_number(), "{line}");
        assert_eq!(line["median"]["subscribe_ms"].is_number(), line["peer"] == "roomring", "{line}");
    }
    for line in lines(dir.path(), "few-rush") {
        others(&line, 3);
    }
    for (row, figures) in [("few-rooms", 6), ("few-empty-rooms", 2), ("few-slots", 1)] {
        let line = &kept(dir.path(), row)[0];
        assert_eq!(line["peer"], "roomring", "{line}");
        others(line, figures);
    }
    assert!(said.contains("this proves nothing"), "one other server is not enough: {said}");
}

/// What is kept is of `make bench-instructions ARGS=--keep`.
#[test]
fn a_message_takes_no_more_allocations_than_it_did_and_a_delivery_none() {
    let ran = Command::new(env!("CARGO_BIN_EXE_bench-hot-path")).output().expect("the program starts");
    let said = String::from_utf8_lossy(&ran.stdout);
    let figures = said.trim().strip_prefix("allocations: ").and_then(|said| said.split_once(" a message, "));
    let (message, delivery) = figures.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&ran.stderr)));
    let delivery: f64 = delivery.trim_end_matches(" a delivery").parse().expect("a number");
    let message: f64 = message.parse().expect("a number");
    let kept: Value = serde_json::from_str(include_str!("../hot-path.json")).expect("JSON");
    let kept = kept["allocations"].as_f64().expect("a number");
    assert!(delivery < 0.001, "{said}");
    assert!(message < kept * 1.02, "{message} allocations a message, {kept} before");
}

/// Whether a line has so many figures of its own.
fn others(line: &Value, figures: usize) {
    assert_eq!(wrong(line), Vec::<&str>::new(), "{line}");
    let others = line["median"]["others"].as_object().expect("figures by name");
    assert!(others.len() == figures && others.values().all(Value::is_number), "{line}");
}

/// What went wrong. That a busy machine did not keep up with a rate is no fault of anybody.
fn wrong(line: &Value) -> Vec<&str> {
    let faults = line["faults"].as_array().into_iter().flatten().filter_map(Value::as_str);
    faults.filter(|fault| !fault.contains("could not keep up")).collect()
}

/// The lines of a row: of ours and of the plain server.
fn lines(dir: &Path, row: &str) -> Vec<Value> {
    let lines = kept(dir, row);
    let peers: Vec<&str> = lines.iter().filter_map(|l| l["peer"].as_str()).collect();
    assert_eq!(peers, ["roomring", "plain"]);
    lines
}

fn kept(dir: &Path, row: &str) -> Vec<Value> {
    let text = std::fs::read(dir.join(format!("{row}.json"))).expect("the row was kept");
    let mut kept: Value = serde_json::from_slice(&text).expect("JSON");
    serde_json::from_value(kept["lines"].take()).expect("lines")
}
