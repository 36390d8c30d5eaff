//! Generates the gRPC types and the client protocol's Protobuf messages. Needs `protoc`, as building etcd-client does.

/// Messages that a slot's state holds, or that are on their way between slots: states are compared as wholes by the tests.
/// Those without a list of messages in them are comparable anyway.
const COMPARED: [&str; 17] = [
    "RouterMessage",
    "NodeMessage",
    "Attach",
    "RoomAttach",
    "Attached",
    "RoomAttached",
    "Deliver",
    "Presence",
    "HistoryReply",
    "PresenceReply",
    "Replication",
    "ProbeReply",
    "Append",
    "Snapshot",
    "SlotState",
    "RoomState",
    "RouterState",
];

fn main() -> std::io::Result<()> {
    let files = ["registry", "common", "link", "peer", "admin", "watch", "edge"];
    let files = files.map(|f| format!("proto/roomring/v1/{f}.proto"));
    let descriptors =
        std::path::PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("roomring.bin");
    let mut config = tonic_prost_build::configure().bytes(".").btree_map(".");
    for message in COMPARED {
        config = config.type_attribute(format!(".roomring.v1.{message}"), "#[derive(Eq, Hash)]");
    }
    // Seldom there, and publishes are many.
    config = config.boxed(".roomring.v1.Publish.keeps");
    for retraction in ["RouterMessage.kind.retract", "Entry.body.retract"] {
        config = config.boxed(format!(".roomring.v1.{retraction}"));
    }
    config.file_descriptor_set_path(descriptors).compile_protos(&files, &["proto".to_string()])?;
    // Not part of what gRPC reflection shows.
    let client = tonic_prost_build::configure().bytes(".").btree_map(".").build_server(false).build_client(false);
    client.compile_protos(&["proto/centrifuge/client.proto"], &["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
