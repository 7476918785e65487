//! The binary `portcullis`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A gateway's memory is very many small things of tunnels that come and go. This allocator takes memory from the kernel in large
/// pieces, where the C library's asks for each further page, and packs what it gives out closely. Without huge pages (`no_thp`):
/// they would have memory cleared that no tunnel needs yet (`bench/where-the-time-goes.md`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    portcullis_control::cli::main()
}
