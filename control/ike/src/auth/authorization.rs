//! What an authentication brings with it besides the identity. Configured secrets and certificates bring nothing; an
//! AAA server may bring all of it.

use std::net::IpAddr;
use std::time::Duration;

/// What the peer of an IKE SA may have, from whoever authenticated it. It is complete before the first CHILD SA and the
/// configuration payload that goes with it are answered, and stays with the IKE SA when that is rekeyed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorization {
    /// Who the peer is within EAP, if that is how it was authenticated: a user's name, where `remote_id` is often only
    /// the address of a device.
    pub eap_id: Option<String>,
    /// Inner addresses that are the peer's (Framed-IP-Address, RFC 2865 §5.8; Framed-IPv6-Address, RFC 6911 §3.1). Of a
    /// family that is not among them it gets one from a pool.
    pub addresses: Vec<IpAddr>,
    /// DNS servers for the peer (DNS-Server-IPv6-Address, RFC 6911 §3.2); they come before those of a pool.
    pub dns: Vec<IpAddr>,
    /// Names of groups that it belongs to.
    pub groups: Vec<String>,
    /// The IKE SA ends at this age of its authentication (Session-Timeout, RFC 2865 §5.27).
    pub session_timeout: Option<Duration>,
    /// The IKE SA ends after so long without traffic in any CHILD SA (Idle-Timeout, RFC 2865 §5.28).
    pub idle_timeout: Option<Duration>,
    /// What the AAA server wants to be told with every report about the session, in its order (Class, RFC 2865 §5.25).
    pub class: Vec<Vec<u8>>,
    /// How often the AAA server wants to hear of the session (Acct-Interim-Interval, RFC 2869 §5.16).
    pub interim: Option<Duration>,
    /// Whether it is a session of an AAA server, which is told of its beginning and its end.
    pub accounted: bool,
}
