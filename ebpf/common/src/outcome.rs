//! The outcomes that the programs count, one counter each.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $disposition:ident;)+) => {
        /// What became of a packet. The number is the index of its counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Outcome {
            /// All of them, by number.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// A stable name, for metrics and for people.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What is done with such a packet.
            pub const fn disposition(self) -> Disposition {
                match self { $(Self::$variant => Disposition::$disposition,)+ }
            }
        }
    };
}

/// What is done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Left to the kernel.
    Pass,
    /// Handed to the socket of its queue.
    Redirect,
    /// Dropped.
    Drop,
}

outcomes! {
    /// In: the interface has no role.
    UnknownInterface = "unknown_interface", Pass;
    /// In: neither IPv4 nor IPv6.
    NonIp = "non_ip", Pass;
    /// In: IKE to an address of ours, and fragments of it, which the kernel reassembles.
    Ike = "ike", Pass;
    /// In: from or to addresses that never leave the link, or Neighbour Discovery.
    LinkScope = "link_scope", Pass;
    /// In: to an address of ours.
    Own = "own", Pass;
    /// In: anything else that policy does not protect.
    Transit = "transit", Pass;
    /// In: ESP to a tunnel address.
    Esp = "esp", Redirect;
    /// In: ESP in UDP to a tunnel address.
    UdpEsp = "udp_esp", Redirect;
    /// In: from an inside interface, between protected prefixes.
    Protected = "protected", Redirect;
    /// In: from an inside interface, between protected prefixes, where the host's firewall comes first.
    Firewalled = "firewalled", Pass;
    /// In: clear text on an outside interface between prefixes that a policy bypasses; a worker looks closer.
    Bypassed = "bypassed", Redirect;
    /// In: NAT keepalive (RFC 3948 §2.3), or too short to be anything.
    Keepalive = "keepalive", Drop;
    /// In: for a worker, but no socket serves the queue.
    NoSocket = "no_socket", Drop;
    /// In: clear text on an outside interface that should have come through a tunnel.
    ClearInbound = "clear_inbound", Drop;
    /// In: IPv4 or IPv6 with an impossible header.
    Malformed = "malformed", Drop;
    /// Out: not an outside interface, or neither IPv4 nor IPv6.
    OutUnguarded = "out_unguarded", Pass;
    /// Out: ESP from a tunnel address.
    OutEsp = "out_esp", Pass;
    /// Out: IKE, or ESP in UDP, from an address of ours.
    OutIke = "out_ike", Pass;
    /// Out: from or to addresses that never leave the link, or Neighbour Discovery.
    OutLinkScope = "out_link_scope", Pass;
    /// Out: anything else that policy does not protect.
    OutClear = "out_clear", Pass;
    /// Out: clear text that should have gone through a tunnel.
    ClearOutbound = "clear_outbound", Drop;
    /// Out: IPv4 or IPv6 with an impossible header.
    OutMalformed = "out_malformed", Drop;
}
