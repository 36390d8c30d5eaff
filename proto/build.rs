//! Generates the gRPC types. Needs `protoc`, as building etcd-client does.

fn main() -> std::io::Result<()> {
    let files = ["registry", "common", "link", "peer", "admin", "watch"];
    let files = files.map(|f| format!("proto/roomring/v1/{f}.proto"));
    let descriptors =
        std::path::PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("roomring.bin");
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .file_descriptor_set_path(descriptors)
        .compile_protos(&files, &["proto".to_string()])?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
