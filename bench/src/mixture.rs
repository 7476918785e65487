//! What sizes of packets a case is made of.

/// Sizes in octets, in the order in which they come, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Mixture {
    pub(crate) name: String,
    pub(crate) sizes: Vec<usize>,
}

impl Mixture {
    /// All of one size.
    pub(crate) fn single(size: usize) -> Self {
        Self { name: size.to_string(), sizes: vec![size] }
    }

    /// IMIX: seven of 64 octets, four of 576, one of 1424.
    pub(crate) fn imix() -> Self {
        Self { name: "imix".into(), sizes: vec![64, 576, 64, 64, 576, 64, 1424, 64, 576, 64, 64, 576] }
    }
}
