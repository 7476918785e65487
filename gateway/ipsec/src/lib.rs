//! What the control plane and the data plane both speak of: SPIs, traffic selectors, ESP keys, SAs, policies,
//! and the one trait through which SAs are installed.
//!
//! Nothing here does anything: no sockets, no cryptography, no tables. IKE (`portcullis-ike`) produces these
//! values, the gateway (`portcullis-gateway`) consumes them, and neither knows the other. Start at
//! [`SaInstaller`].

mod esp;
mod install;
mod options;
mod rate;
mod sa;
mod selector;

pub use esp::{Cipher, EspAlgorithm, EspKey, Integrity, KeyLengthError};
pub use install::{
    DataplaneEvent, InstallError, PolicyCounters, PolicyId, SaCounters, SaInstaller, UsageLimits,
};
pub use options::{CopyDf, CopyDscp, Fragmentation, Mode, MssClamp, SaOptions, TfcPadding};
pub use rate::{RateLimit, RateLimits};
pub use sa::{
    Encapsulation, InboundSa, OutboundSa, Policy, PolicyAction, PolicyOrigin, Spi, TenantId, TunnelEndpoints,
};
pub use selector::{AddressRange, Flow, PortRange, SelectorError, TrafficSelector};
