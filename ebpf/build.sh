#!/usr/bin/env bash
# Builds portcullis.bpf.o, the XDP program and the egress guard, and sink.bpf.o, which `bench forward` receives with, from
# source into their places beside this script.
# With --check, fails if a committed object is stale (exit 1): if its source is not the one recorded beside them,
# or if building it anew, to a temporary place, gives another. Without the very toolchain that they were built with
# the second cannot be told (exit 3).
#
# Needs a rustc with its standard library's source and bpf-linker built for the same LLVM. Debian's rustc-web and
# rust-web-src are used where they are (the committed object is theirs), else the toolchain `nightly` of rustup.
# PORTCULLIS_EBPF_RUSTC and PORTCULLIS_EBPF_CARGO override both.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
objects=(portcullis sink)
record=$here/portcullis.bpf.o.built-from

# What the objects are made of.
sources() {
    cd "$here"
    find build.sh Cargo.toml Cargo.lock src common/src -type f | LC_ALL=C sort | xargs sha256sum
}

stale() {
    echo "error: ebpf/$1.bpf.o is stale ($2): run ./dev ebpf and commit the result" >&2
    exit 1
}

case "${1:-}" in
    "") check= ;;
    --check) check=1 ;;
    *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

if [[ -n $check ]] && ! changed=$(diff <(sources) <(grep -v '^#' "$record")); then
    stale portcullis "changed since: $(awk '/^[<>]/ { print $3 }' <<<"$changed" | sort -u | paste -sd' ')"
fi

if [[ -n ${PORTCULLIS_EBPF_RUSTC:-} ]]; then
    rustc=$PORTCULLIS_EBPF_RUSTC cargo=${PORTCULLIS_EBPF_CARGO:?set it too}
elif [[ -e $(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core/Cargo.toml ]]; then
    rustc=/usr/bin/rustc cargo=/usr/bin/cargo
elif command -v rustup >/dev/null && rustup which --toolchain nightly rustc >/dev/null 2>&1; then
    rustc=$(rustup which --toolchain nightly rustc) cargo=$(rustup which --toolchain nightly cargo)
else
    echo "error: no rustc with rust-src: install rustc-web, cargo-web and rust-web-src," >&2
    echo "       or run: rustup toolchain install nightly --component rust-src" >&2
    exit 3
fi
export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if ! command -v bpf-linker >/dev/null; then
    echo "error: bpf-linker is not installed: cargo install bpf-linker --locked" >&2
    exit 3
fi

strip=
for candidate in llvm-strip /usr/lib/llvm-*/bin/llvm-strip; do
    if command -v "$candidate" >/dev/null; then strip=$candidate; fi
done
if [[ -z $strip ]]; then
    echo "error: llvm-strip is not installed: install llvm" >&2
    exit 3
fi

toolchain="# $("$rustc" --version), $(bpf-linker --version | head -1)"
if [[ -n $check ]] && ! grep -qxF "$toolchain" "$record"; then
    echo "error: cannot tell whether ebpf/portcullis.bpf.o is stale: it was built with" >&2
    grep '^#' "$record" >&2
    echo "but here is" >&2
    echo "$toolchain" >&2
    exit 3
fi

source=$("$rustc" --print sysroot)/lib/rustlib/src/rust
# Neither where the repository lies nor whose machine it is shows in the object.
flags=(
    -C link-arg=--btf
    -C target-cpu=v3
    -C debuginfo=2
    --remap-path-prefix="$here=ebpf"
    --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}=cargo"
    --remap-path-prefix="$(readlink -f "$source")=rust"
    --remap-path-prefix="$source=rust"
)
encoded=$(printf '%s\x1f' "${flags[@]}")

cd "$here"
env -u RUSTFLAGS -u RUSTUP_TOOLCHAIN \
    RUSTC="$rustc" RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS="${encoded%$'\x1f'}" CARGO_TARGET_DIR="$here/target" \
    "$cargo" build --quiet --release --locked -Z build-std=core --target bpfel-unknown-none
for name in "${objects[@]}"; do
    # The kernel wants BTF, and has no use for DWARF.
    "$strip" --strip-debug -o "target/$name.bpf.o" "target/bpfel-unknown-none/release/$name"
    if [[ -n $check ]]; then
        cmp --silent "target/$name.bpf.o" "$name.bpf.o" || stale "$name" "its source builds another"
        echo "ebpf/$name.bpf.o is up to date"
    else
        install -m 644 "target/$name.bpf.o" "$name.bpf.o"
        echo "built ebpf/$name.bpf.o ($(stat -c %s "$name.bpf.o") octets)"
    fi
done
if [[ -z $check ]]; then
    { echo "$toolchain"; sources; } >"$record"
fi
