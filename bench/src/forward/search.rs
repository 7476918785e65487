//! The highest rate without loss (RFC 2544 §26.1): trials at rates that halve the interval between the highest one that
//! passed and the lowest one that did not.

/// When the interval is narrow enough, of its upper end.
const RESOLUTION: f64 = 0.02;
/// Further halvings are pointless: nothing passes.
const MOST: u32 = 16;

/// Looks below `ceiling`, where nothing passes by assumption. `passes` runs a trial. Zero if no rate passed.
pub(crate) fn highest(
    ceiling: f64,
    mut passes: impl FnMut(f64) -> anyhow::Result<bool>,
) -> anyhow::Result<f64> {
    let (mut low, mut high) = (0.0, ceiling);
    // The ceiling is what came through when too much was sent; the answer is rarely far below.
    let mut rate = ceiling * 0.9;
    for _ in 0..MOST {
        if passes(rate)? {
            low = rate;
        } else {
            high = rate;
        }
        if high - low <= high * RESOLUTION {
            break;
        }
        rate = if low == 0.0 { high * 0.75 } else { (low + high) / 2.0 };
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_within_the_resolution_from_below() {
        for limit in [1_000_000.0, 870_123.0, 520_000.0, 100_000.0, 40_000.0] {
            let mut trials = 0;
            let found = highest(1_000_000.0, |rate| {
                trials += 1;
                Ok(rate <= limit)
            })
            .unwrap();
            assert!(found <= limit && found > limit * 0.975, "{found} of {limit}");
            assert!(trials <= MOST, "{trials}");
        }
    }

    #[test]
    fn where_no_rate_passes_the_answer_is_none() {
        assert_eq!(highest(1e6, |_| Ok(false)).unwrap(), 0.0);
        assert!(highest(1e6, |_| Err(anyhow::anyhow!("no sink"))).is_err());
    }
}
