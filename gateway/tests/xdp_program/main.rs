//! The XDP program and the egress guard as built and committed, loaded by the gateway's own loader and driven with
//! crafted frames. Needs root; everything happens in network and mount namespaces that end with each test.

// `cfg(test)`, though nothing here is anything else: clippy.toml lifts its lints inside it.
#[cfg(test)]
mod bypass;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod host;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod object;
#[cfg(test)]
mod one_armed;
