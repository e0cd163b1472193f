//! Compiles the protocol's messages and services, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["streams.proto", "server_features.proto", "gossip.proto"], ["proto"])?;
    tonic_build::configure().bytes(["."]).compile_fds(files)?;
    Ok(())
}
