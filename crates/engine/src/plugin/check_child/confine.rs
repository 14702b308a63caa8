//! Takes from the check process everything that a check does not need.
//!
//! What holds: the limits on memory and processor time are always in force. What is left of files, network and other
//! processes depends on the kernel; what it does not support is left out, because a check without it is still better
//! than none.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::plugin::{check_process::ProcessLimits, runtime::BACKGROUND_NICE};

/// The version of Landlock whose rights are asked for. An older kernel grants those that it knows.
const LANDLOCK: ABI = ABI::V5;

/// The maximum size of a file that a check writes: compiled code, which has about ten times the size of the plugin.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// The maximum number of open files. A check has about ten.
const OPEN_FILES_MAX: u64 = 64;

/// The system calls of memory, threads, time and files, which a compilation needs. The files that it can open are limited
/// by Landlock.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // The other filter answers that it does not exist.
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same for calls that only some processors have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Sets the limits on memory, processor time and files, and ends this process when its parent ends.
///
/// # Errors
/// Fails when a limit can't be set: a check without limits must not begin.
pub(super) fn limit(limits: ProcessLimits) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let seconds = limits.processor.as_secs();
    for (resource, current, maximum) in [
        (Resource::Core, 0, 0),
        // Not the address space: each linear memory reserves gigabytes of it.
        (Resource::Data, limits.memory_bytes, limits.memory_bytes),
        // At the first of these, the signal tells the reason.
        (Resource::Cpu, seconds, seconds + 1),
        (Resource::Fsize, FILE_BYTES_MAX, FILE_BYTES_MAX),
        (Resource::Nofile, OPEN_FILES_MAX, OPEN_FILES_MAX),
    ] {
        // The service may have set lower ones already.
        let least = |wanted: u64| Some(getrlimit(resource).maximum.map_or(wanted, |set| set.min(wanted)));
        let limit = Rlimit { current: least(current), maximum: least(maximum) };
        setrlimit(resource, limit).with_context(|| format!("can't limit {resource:?} of the check process"))?;
    }
    // If memory runs out although the limit is not reached, the check ends first. This fails where /proc is not mounted.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // The workers of the host go first.
    let _ = rustix::process::nice(BACKGROUND_NICE);
    Ok(())
}

/// Gives up all files except those in `writable`, the network, and other processes, for the calling thread and those that it
/// starts later. Returns what this kernel does not support.
pub(super) fn isolate(writable: Option<&Path>) -> Option<String> {
    let files = isolate_files(writable).err().map(|error| format!("Landlock ({error:#})"));
    let calls = filter_system_calls().err().map(|error| format!("seccomp ({error:#})"));
    let missing: Vec<String> = files.into_iter().chain(calls).collect();
    (!missing.is_empty()).then(|| missing.join(" and "))
}

fn isolate_files(writable: Option<&Path>) -> Result<()> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(LANDLOCK)))?
        .restrict_self()?;
    ensure!(status.ruleset != RulesetStatus::NotEnforced, "not enforced");
    Ok(())
}

fn filter_system_calls() -> Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    rules.insert(libc::SYS_prctl, vec![only(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    // `abort` sends a signal to its own thread.
    rules.insert(libc::SYS_tgkill, vec![only(0, SeccompCmpOp::Eq, getpid().as_raw_nonzero().get() as u64)?]);
    // A second argument is a new limit.
    let none = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![none])?]);
    // The flags of clone3 are in memory, which a filter can't read. Where it does not exist, the C library uses clone. This
    // filter comes first, because the other one allows no further filter.
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply(missing, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    apply(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn only(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, matched: SeccompAction) -> Result<()> {
    let filter = SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, Permissions},
        net::TcpListener,
        os::unix::fs::PermissionsExt,
        process::Command,
        thread,
    };

    use super::*;

    /// Both apply to a thread, so that a test can lose its rights without the others.
    #[test]
    fn an_isolated_thread_has_no_files_network_and_processes() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let (folder, other) = (dir.path().to_owned(), other.path().to_owned());
        let isolated = thread::spawn(move || {
            let missing = isolate(Some(&folder)).unwrap_or_default();
            assert!(!missing.contains("seccomp"), "{missing}");
            fs::write(folder.join("code"), "code").unwrap();
            assert_eq!(fs::read(folder.join("code")).unwrap(), b"code");
            // Kernels before 5.13, and some containers, have no Landlock.
            if missing.is_empty() {
                assert!(File::open(&other).is_err() && fs::write(&other, "").is_err());
                assert!(fs::read_dir("/").is_err());
            }
            assert!(fs::set_permissions(&other, Permissions::from_mode(0o644)).is_err());
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
            assert!(Command::new("/bin/true").status().is_err());
            thread::spawn(|| ()).join().unwrap();
        });
        isolated.join().unwrap();
    }
}
