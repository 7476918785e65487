//! Processor time of the workers' threads, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// By worker.
pub(super) fn worker_cpu_times(workers: usize) -> Vec<Duration> {
    let mut times = vec![Duration::ZERO; workers];
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        if let Some((worker, time)) = worker_time(&task.path())
            && let Some(slot) = times.get_mut(worker)
        {
            *slot = time;
        }
    }
    times
}

/// A thread's worker number and time; `None` for other threads.
fn worker_time(task: &Path) -> Option<(usize, Duration)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    let worker = name.trim().strip_prefix("worker-")?.parse().ok()?;
    // The first number: nanoseconds on a core.
    let times = fs::read_to_string(task.join("schedstat")).ok()?;
    Some((worker, Duration::from_nanos(times.split_whitespace().next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_worker_grows_and_other_threads_are_not_counted() {
        let spin = || {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(20) {}
            worker_cpu_times(9)
        };
        let worker = std::thread::Builder::new().name("worker-7".to_owned()).spawn(spin).unwrap();
        let times = worker.join().unwrap();
        assert!(times[7] > Duration::ZERO, "{times:?}");
        assert!(times[..7].iter().all(Duration::is_zero), "{times:?}");
    }
}
