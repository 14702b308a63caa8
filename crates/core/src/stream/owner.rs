//! The process that holds a lease, and whether it is still running.
//!
//! A killed host can't release its lease. A new host on the same machine can see that the process is gone, and need not
//! wait for the lease to expire. An error here only causes a takeover, which the epoch makes safe.

use std::fs;

/// The identity of a process, unique across machines, boots and containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    host: String,
    pid: u32,
    /// The start time of the process, in clock ticks since boot. It distinguishes processes with the same pid.
    started: String,
    /// The boot and the process namespace. Only within both is a pid unique.
    machine: String,
}

impl Owner {
    /// This process.
    pub fn current() -> Self {
        Self::of(std::process::id())
    }

    /// A process on this machine.
    pub fn of(pid: u32) -> Self {
        Self { host: host_name(), pid, started: started(pid).unwrap_or_default(), machine: machine() }
    }

    /// The pid, which is only meaningful on the process' own machine.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process is, or was, on this machine, in this boot and this process namespace.
    pub fn is_here(&self) -> bool {
        !self.machine.is_empty() && self.machine == machine()
    }

    /// The form that is stored in the lease.
    pub fn to_text(&self) -> String {
        format!("{}/{}/{}/{}", self.host, self.pid, self.started, self.machine)
    }

    /// Parses the form of [`Owner::to_text`]; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '/');
        let mut next = || parts.next().map(str::to_owned);
        Some(Self { host: next()?, pid: next()?.parse().ok()?, started: next()?, machine: next()? })
    }

    /// Whether the process has certainly ended: it was on this machine, and is gone.
    pub fn is_gone(&self) -> bool {
        self.is_here() && started(self.pid).as_ref() != Some(&self.started)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| *c != '/').collect();
    if name.is_empty() { "unknown host".into() } else { name }
}

/// The start time of a process, field 22 of `/proc/PID/stat`. The name in field 2 may contain spaces and parentheses.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    // A zombie counts as gone: it will never renew a lease.
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// The boot and the process namespace of this process; empty if the system does not report them.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
    match (boot.trim(), namespace.as_str()) {
        ("", _) | (_, "") => String::new(),
        (boot, namespace) => format!("{boot}/{namespace}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_gone() {
        let owner = Owner::current();
        assert!(!owner.is_gone());
        assert_eq!(Owner::parse(&owner.to_text()), Some(owner));
    }

    #[test]
    fn a_killed_process_is_gone_and_another_one_of_its_pid_is_not_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let owner = Owner { pid, started: started(pid).unwrap(), ..Owner::current() };
        assert!(!owner.is_gone());
        assert!(Owner { started: "1".into(), ..owner.clone() }.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(owner.is_gone());
    }

    #[test]
    fn a_process_elsewhere_may_live() {
        let owner = Owner { machine: "another boot/pid:[1]".into(), pid: u32::MAX, ..Owner::current() };
        assert!(!owner.is_gone());
        assert!(!Owner { machine: String::new(), ..owner }.is_gone());
    }
}
