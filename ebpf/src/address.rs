//! The two address families behind one trait, so that each rule is written once.

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{
    ADDRESSES_V4, ADDRESSES_V6, LOCAL_V4, LOCAL_V6, PASS_LOCAL_V4, PASS_LOCAL_V6, PASS_REMOTE_V4,
    PASS_REMOTE_V6, REMOTE_V4, REMOTE_V6, V4, V6,
};

/// An address, and what user space has said about it.
pub trait Address: Copy {
    /// Its size.
    const BITS: u32;
    /// Flags of an own address (`portcullis_ebpf_common::address`), 0 for any other.
    fn flags(&self) -> u32;
    /// Length of the longest prefix in the local trie that holds it.
    fn local(&self) -> Option<u32>;
    /// Length of the longest prefix in the remote trie that holds it.
    fn remote(&self) -> Option<u32>;
    /// Whether a policy that bypasses has it on its local side.
    fn passes_locally(&self) -> bool;
    /// Whether a policy that bypasses has it on its remote side.
    fn passes_remotely(&self) -> bool;
    /// Whether no router forwards a packet to it.
    fn is_link_scope_destination(&self) -> bool;
    /// Whether no router forwards a packet from it.
    fn is_link_scope_source(&self) -> bool;
}

impl Address for V4 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn flags(&self) -> u32 {
        // SAFETY: a value is one aligned word.
        unsafe { ADDRESSES_V4.get(self) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn local(&self) -> Option<u32> {
        LOCAL_V4.get(Key::new(Self::BITS, *self)).copied()
    }

    #[inline(always)]
    fn remote(&self) -> Option<u32> {
        REMOTE_V4.get(Key::new(Self::BITS, *self)).copied()
    }

    #[inline(always)]
    fn passes_locally(&self) -> bool {
        PASS_LOCAL_V4.get(Key::new(Self::BITS, *self)).is_some()
    }

    #[inline(always)]
    fn passes_remotely(&self) -> bool {
        PASS_REMOTE_V4.get(Key::new(Self::BITS, *self)).is_some()
    }

    #[inline(always)]
    fn is_link_scope_destination(&self) -> bool {
        let high = u16::from_be(self[0]);
        let low = u16::from_be(self[1]);
        high == 0xa9fe || high & 0xf000 == 0xe000 || (high == 0xffff && low == 0xffff)
    }

    #[inline(always)]
    fn is_link_scope_source(&self) -> bool {
        false
    }
}

impl Address for V6 {
    const BITS: u32 = 128;

    #[inline(always)]
    fn flags(&self) -> u32 {
        // SAFETY: a value is one aligned word.
        unsafe { ADDRESSES_V6.get(self) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn local(&self) -> Option<u32> {
        LOCAL_V6.get(Key::new(Self::BITS, *self)).copied()
    }

    #[inline(always)]
    fn remote(&self) -> Option<u32> {
        REMOTE_V6.get(Key::new(Self::BITS, *self)).copied()
    }

    #[inline(always)]
    fn passes_locally(&self) -> bool {
        PASS_LOCAL_V6.get(Key::new(Self::BITS, *self)).is_some()
    }

    #[inline(always)]
    fn passes_remotely(&self) -> bool {
        PASS_REMOTE_V6.get(Key::new(Self::BITS, *self)).is_some()
    }

    #[inline(always)]
    fn is_link_scope_destination(&self) -> bool {
        let high = u16::from_be(self[0]);
        high & 0xff00 == 0xff00 || high & 0xffc0 == 0xfe80
    }

    #[inline(always)]
    fn is_link_scope_source(&self) -> bool {
        u16::from_be(self[0]) & 0xffc0 == 0xfe80
    }
}
