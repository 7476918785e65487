//! What AF_XDP can be expected of a driver, as of Linux 6.18; an older kernel may do less. A driver that is
//! not listed here runs the generic mode.

/// What a driver does for XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XdpSupport {
    /// Runs the program itself, and lends its buffers to AF_XDP.
    ZeroCopy,
    /// Runs the program itself; packets are copied once.
    Native,
    /// The kernel runs the program after it has made a socket buffer: several times slower.
    Generic,
}

impl XdpSupport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "native, zero-copy",
            Self::Native => "native, copy",
            Self::Generic => "generic",
        }
    }
}

const ZERO_COPY: &[&str] = &[
    "fsl_dpaa2_eth",
    "gve",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "nfp",
    "st_gmac",
    "stmmac",
    "tsnep",
    "virtio_net",
];

const NATIVE: &[&str] = &[
    "am65-cpsw-nuss",
    "atlantic",
    "bnxt_en",
    "bonding",
    "cpsw",
    "ena",
    "enetc",
    "fec",
    "fsl_dpa",
    "fsl_enetc",
    "fun",
    "hv_netvsc",
    "idpf",
    "ixgbevf",
    "lan966x",
    "mana",
    "mlx4_en",
    "mtk_eth_soc",
    "mvneta",
    "mvpp2",
    "netdevsim",
    "netsec",
    "octeontx2-nicpf",
    "qede",
    "rvu_nicpf",
    "rvu_nicvf",
    "sfc",
    "sfc_ef100",
    "thunder-nicvf",
    "tun",
    "veth",
    "vmxnet3",
    "xen-netfront",
    "xen_netfront",
];

pub(super) fn support(driver: &str) -> XdpSupport {
    if ZERO_COPY.contains(&driver) {
        XdpSupport::ZeroCopy
    } else if NATIVE.contains(&driver) {
        XdpSupport::Native
    } else {
        XdpSupport::Generic
    }
}
