//! Finds the eBPF object that the agent carries in itself.

use std::{env, path::PathBuf, process::exit};

/// Names the object; for builds that keep it elsewhere.
const OBJECT: &str = "POSTERN_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let object = env::var_os(OBJECT).map_or_else(
        || {
            // Set by cargo for every build script.
            let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
            package.join("../agent-ebpf/target/bpfel-unknown-none/release/agent-ebpf")
        },
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env={OBJECT}={}", object.display()),
        Err(error) => {
            println!("cargo::error=the kernel side is not built ({}: {error})", object.display());
            println!("cargo::error=build it with `cargo xtask build`, or name it in {OBJECT}");
            exit(1);
        }
    }
}
