//! The XDP program and the egress guard as built and committed, loaded by the gateway's own loader and driven with
//! crafted frames. Needs root; everything happens in network and mount namespaces that end with each test.

mod egress;
mod frames;
mod host;
mod ingress;
mod lifetime;
mod malformed;
mod object;
