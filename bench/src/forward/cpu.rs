//! Cores: who runs on them, with which priority, and what their time went into.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, gettid};

/// Where the kernel counts time, a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Pins the calling thread to a core, if that is urgent with real-time priority: whatever else this machine does would
/// otherwise be measured too.
pub(crate) fn take_core(core: usize, urgent: bool) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    // Refused where a container may not: then it is measured without.
    let _ = urgent && make_real_time(gettid().as_raw());
}

/// Gives a thread real-time priority; whether that was possible.
pub(crate) fn make_real_time(tid: i32) -> bool {
    let status = Command::new("chrt").args(["-f", "-p", "1", &tid.to_string()]).status();
    status.is_ok_and(|status| status.success())
}

/// Gives all threads of a process, and those that they begin, real-time priority, in turns with each other.
pub(crate) fn prefer(pid: u32) {
    // Refused where a container may not: then it is measured without.
    let _ = Command::new("chrt").args(["-a", "-r", "-p", "1", &pid.to_string()]).status();
}

/// The thread of this process with that name.
pub(crate) fn thread_named(name: &str) -> Option<i32> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let mut ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    ids.find(|tid| {
        fs::read_to_string(format!("/proc/self/task/{tid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

/// Ticks since boot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ticks {
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) softirq: u64,
    pub(crate) idle: u64,
    /// Taken by the hypervisor.
    pub(crate) steal: u64,
    all: u64,
}

/// Shares of a core's time, 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shares {
    pub(crate) user: f64,
    pub(crate) system: f64,
    pub(crate) softirq: f64,
    pub(crate) idle: f64,
    pub(crate) steal: f64,
}

/// What a core has done so far.
pub(crate) fn core(number: usize) -> Ticks {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    parse(&text, number).unwrap_or_default()
}

/// Ticks of a thread of this process: in user and in system mode.
pub(crate) fn thread(tid: i32) -> (u64, u64) {
    times(&format!("/proc/self/task/{tid}/stat"))
}

/// Time on a processor that another process has taken, all its threads together; zero if it is gone.
pub(crate) fn time_of(pid: u32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32));
    clock.and_then(clock_gettime).map(Duration::from).unwrap_or_default()
}

fn times(file: &str) -> (u64, u64) {
    let text = fs::read_to_string(file).unwrap_or_default();
    // After the name, which may hold anything: state, then eleven numbers, then the two.
    let mut fields = text.rsplit(") ").next().unwrap_or_default().split_whitespace().skip(11);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
    (number(), number())
}

/// A thread's share of a core over so many seconds.
pub(crate) fn share(before: (u64, u64), after: (u64, u64), seconds: f64) -> f64 {
    let ticks = (after.0 + after.1).saturating_sub(before.0 + before.1);
    ticks as f64 / TICKS_PER_SECOND / seconds.max(1e-9)
}

fn parse(stat: &str, core: usize) -> Option<Ticks> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields.as_slice() else { return None };
    let all = user + nice + system + idle + iowait + irq + softirq + steal;
    Some(Ticks { user: user + nice, system: system + irq, softirq, idle: idle + iowait, steal, all })
}

impl Ticks {
    /// What the time since `before` went into.
    pub(crate) fn since(self, before: Self) -> Shares {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / all;
        Shares {
            user: share(self.user, before.user),
            system: share(self.system, before.system),
            softirq: share(self.softirq, before.softirq),
            idle: share(self.idle, before.idle),
            steal: share(self.steal, before.steal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cores_line_is_read_and_its_time_adds_up() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 1 50 700 9 0 40 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\ncpu10 1 1 1 1 1 1 1 1\n";
        let now = parse(stat, 0).unwrap();
        assert_eq!((now.user, now.system, now.softirq, now.idle), (101, 50, 40, 709));
        let shares = now.since(Ticks { user: 1, idle: 609, all: 700, ..Ticks::default() });
        let sum = shares.user + shares.system + shares.softirq + shares.idle + shares.steal;
        assert!((shares.user, shares.softirq) == (0.5, 0.2) && sum > 0.9, "{shares:?}");
        assert!(parse(stat, 7).is_none());
    }
}
