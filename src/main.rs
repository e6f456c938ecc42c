//! The `myelin` command.

use std::process::ExitCode;

/// Gives memory back to the system, which the C library's allocator hardly does.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Everything that speaks TLS takes this one; a second one would only make the binary larger.
    rustls::crypto::ring::default_provider().install_default().ok();
    myelin::run()
}
