//! When SAs are replaced, with the defaults and the arithmetic of swanctl.conf.

use std::fmt::Debug;
use std::time::Duration;

use portcullis_ike::config::{ChildLifetime, IkeLifetime, Limit};

use super::reader::Section;

/// `rekey_time` of a connection that says neither that nor `reauth_time`.
const IKE_REKEY: Duration = Duration::from_secs(4 * 3600);
/// `rekey_time` of a child that says neither that nor `life_time`.
const CHILD_REKEY: Duration = Duration::from_secs(3600);

/// `rekey_time`, `reauth_time`, `over_time`, `rand_time`.
pub(super) fn of_connection(section: &Section<'_>) -> IkeLifetime {
    let rekey = section.duration("rekey_time");
    let reauth = section.duration("reauth_time");
    let default = if reauth.is_some() { Duration::ZERO } else { IKE_REKEY };
    let (rekey_time, reauth_time) = (rekey.unwrap_or(default), reauth.unwrap_or_default());
    let longer = rekey_time.max(reauth_time);
    let over_time = section.duration("over_time").unwrap_or(longer / 10);
    // No more than half, so that a large `over_time` does not have SAs replaced at once.
    let rand_time = section.duration("rand_time").unwrap_or(over_time.min(longer / 2));
    for time in [rekey_time, reauth_time] {
        check_rand(section, "rand_time", &rand_time, &time);
    }
    IkeLifetime { rekey_time, reauth_time, over_time, rand_time }
}

/// `rekey_*`, `life_*` and `rand_*` of time, bytes and packets.
pub(super) fn of_child(section: &Section<'_>) -> ChildLifetime {
    let duration = |key| section.duration(key);
    let count = |key| section.integer(key, 0..=i64::MAX).map(|count| count.value.unsigned_abs());
    // 110 %, and back; with counts near the end of 64 bits, the end.
    let longer_time = |time: Duration| time.saturating_add(time / 10);
    let shorter_time = |time: Duration| time * 10 / 11;
    let longer = |n: u64| n.saturating_add(n / 10);
    let shorter = |n: u64| n / 11 * 10 + n % 11 * 10 / 11;
    let counts = |keys| limit(section, keys, count, 0, longer, shorter, u64::saturating_sub);
    let times = ["rekey_time", "life_time", "rand_time"];
    ChildLifetime {
        time: limit(
            section,
            times,
            duration,
            CHILD_REKEY,
            longer_time,
            shorter_time,
            Duration::saturating_sub,
        ),
        bytes: counts(["rekey_bytes", "life_bytes", "rand_bytes"]),
        packets: counts(["rekey_packets", "life_packets", "rand_packets"]),
    }
}

/// One measure; what is left out follows from what is there.
fn limit<T: Copy + Default + Ord + Debug>(
    section: &Section<'_>,
    [rekey_key, life_key, rand_key]: [&'static str; 3],
    read: impl Fn(&'static str) -> Option<T>,
    default: T,
    longer: impl Fn(T) -> T,
    shorter: impl Fn(T) -> T,
    difference: impl Fn(T, T) -> T,
) -> Limit<T> {
    let (rekey, life) = (read(rekey_key), read(life_key));
    let rekey = rekey.unwrap_or_else(|| life.map_or(default, shorter));
    let life = life.unwrap_or_else(|| longer(rekey));
    let off = T::default();
    if life != off && life < rekey {
        let message =
            format!("is {life:?}, but `{rekey_key}` is {rekey:?} (expected more, or 0, which is off)");
        section.error(section.span(), life_key, message);
    }
    let rand = read(rand_key).unwrap_or_else(|| difference(life, rekey).min(rekey));
    check_rand(section, rand_key, &rand, &rekey);
    Limit { rekey, life, rand }
}

/// An SA is not to be replaced as soon as it is up.
fn check_rand<T: Default + Ord + Debug>(section: &Section<'_>, key: &'static str, rand: &T, rekey: &T) {
    if *rekey != T::default() && rand >= rekey {
        let message = format!("is {rand:?} (expected less than the {rekey:?} after which the SA is rekeyed)");
        section.error(section.span(), key, message);
    }
}
