//! Explicit congestion notification through the tunnel (RFC 6040). On the way in the field is copied (normal mode);
//! this is the way out.

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The inner packet's ECN field after decapsulation (RFC 6040 §4.2, figure 4), or `None` where the packet must be
/// dropped: congestion was signalled on a packet whose sender will never hear of it.
pub(super) fn combine(inner: u8, outer: u8) -> Option<u8> {
    match (inner & CE, outer & CE) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (ECT_0, ECT_1) => Some(ECT_1),
        (_, CE) => Some(CE),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rfc_6040_figure_4_holds() {
        let outer = [NOT_ECT, ECT_0, ECT_1, CE];
        let row = |inner| outer.map(|outer| combine(inner, outer));
        assert_eq!(row(NOT_ECT), [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]);
        assert_eq!(row(ECT_0), [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]);
        assert_eq!(row(ECT_1), [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]);
        assert_eq!(row(CE), [Some(CE), Some(CE), Some(CE), Some(CE)]);
    }

    #[test]
    fn a_field_that_was_combined_stays_as_it_is() {
        for (inner, outer) in (0..4).flat_map(|inner| (0..4).map(move |outer| (inner, outer))) {
            let once = combine(inner, outer);
            assert_eq!(once.and_then(|once| combine(once, outer)), once, "{inner} in {outer}");
        }
    }
}
