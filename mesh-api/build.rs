//! Compiles the protobuf contract with a compiler written in Rust: no `protoc` on the machine.

const FILES: [&str; 3] =
    ["proto/mesh/v1/identity.proto", "proto/mesh/v1/discovery.proto", "proto/mesh/v1/policy.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
