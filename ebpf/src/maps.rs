//! The maps, under the names and with the layouts of `portcullis-ebpf-common`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, XskMap};
use portcullis_ebpf_common::{
    Config, Interface, MAX_ADDRESSES, MAX_INTERFACES, MAX_PREFIXES, MAX_QUEUES, Outcome,
};

/// An IPv4 address in network byte order, in halves: packets are aligned to two octets.
pub type V4 = [u16; 2];
/// An IPv6 address in network byte order, likewise.
pub type V6 = [u16; 8];

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(MAX_INTERFACES, 0);
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_INTERFACES * MAX_QUEUES, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::ALL.len() as u32, 0);
#[map]
pub static ADDRESSES_V4: HashMap<V4, u32> = HashMap::with_max_entries(MAX_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static ADDRESSES_V6: HashMap<V6, u32> = HashMap::with_max_entries(MAX_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static LOCAL_V4: LpmTrie<V4, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static LOCAL_V6: LpmTrie<V6, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static REMOTE_V4: LpmTrie<V4, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static REMOTE_V6: LpmTrie<V6, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static PASS_LOCAL_V4: LpmTrie<V4, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static PASS_LOCAL_V6: LpmTrie<V6, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static PASS_REMOTE_V4: LpmTrie<V4, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static PASS_REMOTE_V6: LpmTrie<V6, u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);

/// The configuration; not whole if it cannot be read.
#[inline(always)]
pub fn config() -> Config {
    CONFIG.get(0).copied().unwrap_or_default()
}

/// The interface's role and slot, if it has one.
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<Interface> {
    // SAFETY: entries are replaced whole by user space, and an interface keeps its slot while it is attached.
    unsafe { INTERFACES.get(ifindex) }.copied()
}

/// Asks for the packet to be handed to the socket at `index`; whether there is one.
#[inline(always)]
pub fn redirect(index: u32) -> bool {
    const XDP_DROP: u64 = aya_ebpf::bindings::xdp_action::XDP_DROP as u64;
    SOCKETS.redirect(index, XDP_DROP).is_ok()
}

/// Counts the outcome.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: this CPU's own counter, and programs are not preempted by themselves.
        unsafe { *counter += 1 };
    }
}
