//! What another process has is asked for again for a while: a daemon that was just killed, and a child of it that is
//! only being started, keep devices and queues for a moment.

use std::io;
use std::time::Duration;

use nix::libc;

const TRIES: u32 = 150;
const PAUSE: Duration = Duration::from_millis(20);

/// Tries until it is no longer refused as busy, or for three seconds. `source` is the system's error in one of the
/// attempt's, if there is one.
pub(crate) fn until_free<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    source: impl Fn(&E) -> Option<&io::Error>,
) -> Result<T, E> {
    for _ in 0..TRIES {
        match attempt() {
            Err(error) if source(&error).and_then(io::Error::raw_os_error) == Some(libc::EBUSY) => {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
    attempt()
}
