//! `rate_in`, `rate_out` and their bursts: how much a tunnel of a child, or all of a device, may carry in time. IKE knows nothing of it.

use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use portcullis_ipsec::{RateLimit, RateLimits};

use super::reader::Section;

const SLOWEST: u64 = 8_000;
const FASTEST: u64 = 1_000_000_000_000;
/// As many octets as the largest packet has, or it would never pass.
const LEAST_BURST: u32 = 4_096;
/// What a burst is where none is said: as much as passes in a tenth of a second, but as many packets as TCP sends at once.
const BURST_FRACTION: u64 = 10;
const LEAST_DEFAULT: u32 = 16_384;

const RATE: &str =
    "bits per second from 8000 to 1T, as a number or with k, M, G or T for powers of 1000, e.g. \"100M\"";

/// Of a child with SAs, or of a device.
pub(super) fn of_section(section: &Section<'_>) -> RateLimits {
    RateLimits {
        inbound: direction(section, "rate_in", "burst_in"),
        outbound: direction(section, "rate_out", "burst_out"),
    }
}

fn direction(section: &Section<'_>, rate: &'static str, burst: &'static str) -> Option<RateLimit> {
    let bits = section.parsed::<Bits>(rate, RATE).map(|bits| bits.value.0);
    let octets = section.integer(burst, LEAST_BURST.into()..=u32::MAX.into());
    let octets = octets.and_then(|octets| u32::try_from(octets.value).ok()).and_then(NonZeroU32::new);
    if octets.is_some() && !section.has(rate) {
        section.error(section.span(), burst, format!("limits nothing without `{rate}` beside it"));
    }
    let bits_per_second = bits?;
    let burst = octets.unwrap_or_else(|| {
        let octets = u32::try_from(bits_per_second.get() / 8 / BURST_FRACTION).unwrap_or(u32::MAX);
        NonZeroU32::new(octets.max(LEAST_DEFAULT)).unwrap_or(NonZeroU32::MAX)
    });
    Some(RateLimit { bits_per_second, burst })
}

/// Bits per second.
struct Bits(NonZeroU64);

impl FromStr for Bits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: Option<u64> = match unit.trim_start() {
            "" => Some(1),
            "k" | "K" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            "T" => Some(1_000_000_000_000),
            _ => None,
        };
        let bits =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        let bits = bits.filter(|bits| (SLOWEST..=FASTEST).contains(bits)).and_then(NonZeroU64::new);
        bits.map(Self).ok_or_else(|| format!("`{text}` is no such rate"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units_and_bounds() {
        let bits = |text: &str| text.parse::<Bits>().map(|bits| bits.0.get()).ok();
        for (text, expected) in
            [("100M", 100_000_000), ("1G", 1_000_000_000), ("64 k", 64_000), ("8000", 8_000), ("1T", FASTEST)]
        {
            assert_eq!(bits(text), Some(expected), "{text}");
        }
        for text in
            ["", "M", "1.5M", "7999", "1001G", "1Mi", "1m", "-1k", "99999999999999999999", "20000000T"]
        {
            assert_eq!(bits(text), None, "{text}");
        }
    }
}
