//! This machine: cores, memory, disks, limits, who may write where; and what Redis itself warns of, if it runs here.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, getrlimit},
};

use super::{
    Finding,
    fix::{Remedy, holds_only_compiled},
    size,
};
use tickhound_core::config::{Config, LoadedConfig, Watch};
use tickhound_engine::plugin::watch::can_watch;
use tickhound_redis::look::{Place, ServerLook};

/// Files that a host has open at most: connections, watches, plugins, the JSON lines file, with room to spare.
const FILES: u64 = 256;

/// Room on a disk for a day of alerts, and for compiled plugins.
const DISK: u64 = 1 << 30;
const DISK_LEAST: u64 = 100 << 20;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct MachineLook {
    cores: usize,
    /// Soft limit of open files; `None` = none.
    files: Option<u64>,
    /// `fs.inotify.max_user_watches`, `max_user_instances`.
    inotify: (Option<u64>, Option<u64>),
    /// Whether a watch on the plugins folder can be made.
    watch: Option<Result<(), String>>,
    /// Memory that can be had, bytes.
    available: Option<u64>,
    /// Of each folder that is written to: what for, where, free bytes, whether we may write there.
    disks: Vec<(&'static str, PathBuf, Option<u64>, bool)>,
    /// Folders that do not exist.
    missing: Vec<(&'static str, PathBuf)>,
    /// Of the plugins folder and of the one for compiled plugins: permissions, and whether it is
    /// ours alone and holds nothing but compiled plugins.
    modes: Vec<(&'static str, PathBuf, u32, bool)>,
}

pub(super) fn look(loaded: &LoadedConfig) -> MachineLook {
    let config = &loaded.config;
    let plugins = loaded.resolve(&config.plugins.dir);
    let cache = plugins.join(&config.plugins.cache);
    let cached = !config.plugins.cache.as_os_str().is_empty();
    let mut look = MachineLook {
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        files: getrlimit(Resource::Nofile).current,
        inotify: (number("/proc/sys/fs/inotify/max_user_watches"), number("/proc/sys/fs/inotify/max_user_instances")),
        available: available_memory(),
        ..MachineLook::default()
    };
    if config.plugins.watch == Watch::Auto && plugins.is_dir() {
        look.watch = Some(can_watch(&plugins).map_err(|error| error.to_string()));
    }
    let jsonl = (!config.alerts.jsonl.as_os_str().is_empty()).then(|| loaded.resolve(&config.alerts.jsonl));
    let folder = |file: &Path| file.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let wanted = [
        ("plugins", Some(plugins.clone())),
        ("compiled plugins", cached.then(|| cache.clone()).filter(|_| plugins.is_dir())),
        ("alerts.jsonl", jsonl.as_deref().map(folder)),
    ];
    for (what, dir) in wanted.into_iter().filter_map(|(what, dir)| Some((what, dir?))) {
        if !dir.is_dir() {
            look.missing.push((what, dir));
            continue;
        }
        if what == "plugins" {
            // Read only.
            continue;
        }
        // A file that is there is what counts.
        let file = jsonl.as_ref().filter(|file| what == "alerts.jsonl" && file.exists());
        let writable = access(file.unwrap_or(&dir), Access::WRITE_OK).is_ok();
        let free = statvfs(&dir).ok().map(|disk| disk.f_bavail * disk.f_frsize);
        look.disks.push((what, dir, free, writable));
    }
    for (what, dir) in [("plugins", plugins), ("compiled plugins", cache)].into_iter().take(1 + usize::from(cached)) {
        if let Ok(metadata) = fs::metadata(&dir) {
            let ours = metadata.uid() == rustix::process::geteuid().as_raw() && holds_only_compiled(&dir);
            look.modes.push((what, dir, metadata.mode() & 0o777, ours));
        }
    }
    look
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What the kernel says, or what is left of a control group's limit, whichever is less.
fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024;
    let group = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(group.map_or(machine, |(most, now)| machine.min(most.saturating_sub(now))))
}

pub(super) fn judge(look: &MachineLook, config: &Config) -> Vec<Finding> {
    let mut findings =
        vec![cores(look.cores, config.engine.worker_count()), memory(look.available, config), files(look.files)];
    findings.extend(look.watch.as_ref().map(|watch| watches(watch, look.inotify)));
    for (what, dir) in &look.missing {
        let found = format!("the folder for {what} is not there: {}", dir.display());
        let finding = match *what {
            // With rights of its own.
            "compiled plugins" => Finding::ok("machine.folders", format!("{found}; a host makes it")),
            "plugins" => Finding::problem("machine.folders", found)
                .cure("`tickhound init` makes a folder with the plugins that ship; plugins.dir names it")
                .remedy(Remedy::Folder(dir.clone())),
            _ => Finding::problem("machine.folders", found)
                .cure("make it, or mend alerts.jsonl")
                .remedy(Remedy::Folder(dir.clone())),
        };
        findings.push(finding);
    }
    findings.extend(look.disks.iter().map(|(what, dir, free, writable)| disk(what, dir, *free, *writable)));
    findings.extend(look.modes.iter().map(|(what, dir, mode, ours)| mode_of(what, dir, *mode, *ours)));
    findings
}

fn cores(cores: usize, workers: usize) -> Finding {
    let found = format!("{cores} cores, {workers} workers");
    match workers > cores {
        true => Finding::warning("machine.cores", format!("{found}: more workers than cores only take turns"))
            .cure("engine.workers = 0 (one per core); needs a restart"),
        false => Finding::ok("machine.cores", found),
    }
}

/// The most that detectors may take together. What they take now is told by plugin.
fn memory(available: Option<u64>, config: &Config) -> Finding {
    let detectors = config.detectors.values().filter(|detector| detector.enabled).count() as u64;
    let workers = config.engine.worker_count() as u64;
    let most = detectors * workers * ((config.plugins.memory_max_mib as u64) << 20);
    let limit = format!(
        "detectors may take up to {} ({detectors} × {workers} workers × {} MiB)",
        size(most),
        config.plugins.memory_max_mib
    );
    match available {
        None => Finding::note("machine.memory", format!("{limit}; how much there is can't be looked at")),
        Some(available) if most > available => Finding::warning("machine.memory", format!("{limit}, but {} can be had", size(available)))
            .cure("lower plugins.memory_max_mib (a detector that wants more fails on that tick, and is told), or engine.workers; else the system may kill the host"),
        Some(available) => Finding::ok("machine.memory", format!("{limit}; {} can be had", size(available))),
    }
}

fn files(soft: Option<u64>) -> Finding {
    match soft {
        Some(soft) if soft < FILES => Finding::warning("machine.files", format!("at most {soft} open files"))
            .cure(format!("ulimit -n {FILES} or more, LimitNOFILE= in a systemd unit")),
        Some(soft) => Finding::ok("machine.files", format!("at most {soft} open files")),
        None => Finding::ok("machine.files", "any number of open files"),
    }
}

fn watches(watch: &Result<(), String>, inotify: (Option<u64>, Option<u64>)) -> Finding {
    let limit = |limit: Option<u64>| limit.map_or_else(|| "?".to_owned(), |limit| limit.to_string());
    let limits = format!("fs.inotify.max_user_watches {}, max_user_instances {}", limit(inotify.0), limit(inotify.1));
    match watch {
        Ok(()) => Finding::ok("machine.watch", format!("changes of plugins are told by the system ({limits})")),
        Err(error) => Finding::warning("machine.watch", format!("no watch can be made ({error}); changes are then seen by looking every second ({limits})"))
            .cure("sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=65536, and the same in /etc/sysctl.d; it takes some kernel memory for each watch in use"),
    }
}

fn disk(what: &str, dir: &Path, free: Option<u64>, writable: bool) -> Finding {
    let place = format!("{what} in {}", dir.display());
    let id = "machine.disk";
    if !writable {
        let finding = match what {
            "alerts.jsonl" => Finding::problem(
                id,
                format!("{place}: we may not write there; alerts are then only in Redis and the log"),
            ),
            _ => Finding::warning(id, format!("{place}: we may not write there; plugins are compiled at each start")),
        };
        return finding.cure(format!("chown or chmod {}, for the user that runs Tickhound", dir.display()));
    }
    match free {
        None => Finding::note(id, format!("{place}: free room can't be looked at")),
        Some(free) if free < DISK_LEAST => {
            Finding::problem(id, format!("{place}: {} free", size(free))).cure("free some, or name another place")
        }
        Some(free) if free < DISK => {
            Finding::warning(id, format!("{place}: {} free", size(free))).cure("free some, or name another place")
        }
        Some(free) => Finding::ok(id, format!("{place}: {} free", size(free))),
    }
}

/// Plugins can do nothing but compute, but they decide what is alerted. What is compiled is machine code, and runs
/// as it is.
fn mode_of(what: &str, dir: &Path, mode: u32, ours: bool) -> Finding {
    let (group, world) = (mode & 0o020 != 0, mode & 0o002 != 0);
    let place = format!("{} ({what}) has mode {mode:03o}", dir.display());
    let id = "machine.writable_by";
    let who = if world { "anybody on this machine" } else { "its group" };
    if what == "compiled plugins" && (group || world) {
        let finding = Finding::problem(id, format!("{place}: {who} can put machine code there that the host runs"));
        let cure = format!(
            "rm -r {0} (plugins are compiled anew at the next start), or chmod 700 {0} if you trust all who could write",
            dir.display()
        );
        return match ours {
            true => finding.cure(cure).remedy(Remedy::PrivateCache(dir.to_path_buf())),
            false => finding.cure(cure),
        };
    }
    let cure =
        format!("chmod go-w {}, unless others are to drop plugins there. So `--fix` leaves it to you", dir.display());
    match (world, group) {
        (true, _) => Finding::problem(id, format!("{place}: {who} can change what is alerted")).cure(cure),
        // Where each user has a group of its own, as on Debian, that is nobody else.
        (_, true) => Finding::warning(id, format!("{place}: {who} can change what is alerted")).cure(cure),
        _ => Finding::ok(id, place),
    }
}

/// What Redis writes into its log at each start, where nobody looks.
pub(super) fn judge_redis_here(server: &ServerLook) -> Vec<Finding> {
    if server.place != Place::Here || server.info.is_err() {
        return Vec::new();
    }
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    kernel(huge.contains("[always]"), number("/proc/sys/vm/overcommit_memory"))
}

fn kernel(huge_pages: bool, overcommit: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if huge_pages {
        findings.push(
            Finding::warning("machine.huge_pages", "transparent huge pages are always used: after each fork for a snapshot or rewrite Redis stalls, and takes more memory")
                .cure("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and at each boot; then restart Redis"),
        );
    }
    if overcommit == Some(0) {
        findings.push(
            Finding::note(
                "machine.overcommit",
                "vm.overcommit_memory is 0: with little memory left, Redis can't fork for a snapshot or rewrite",
            )
            .cure(
                "sysctl vm.overcommit_memory=1, and the same in /etc/sysctl.d; it is for every program on this machine",
            ),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;
    use tickhound_core::config::DetectorConfig;

    #[test]
    fn writable_folders_are_judged_by_what_lies_in_them() {
        let dir = Path::new("there");
        let cases = [
            ("plugins", 0o755, true, Level::Ok, false),
            ("plugins", 0o775, true, Level::Warning, false),
            ("plugins", 0o777, true, Level::Problem, false),
            ("compiled plugins", 0o700, true, Level::Ok, false),
            ("compiled plugins", 0o770, true, Level::Problem, true),
            ("compiled plugins", 0o702, true, Level::Problem, true),
            ("compiled plugins", 0o770, false, Level::Problem, false),
        ];
        for (what, mode, ours, level, mendable) in cases {
            let finding = mode_of(what, dir, mode, ours);
            assert_eq!((finding.level, finding.remedy.is_some()), (level, mendable), "{what} {mode:o}");
        }
    }

    #[test]
    fn limits_and_room_are_judged() {
        assert_eq!([cores(2, 2).level, cores(2, 8).level], [Level::Ok, Level::Warning]);
        assert_eq!(
            [files(Some(64)).level, files(Some(1024)).level, files(None).level],
            [Level::Warning, Level::Ok, Level::Ok]
        );
        let there = Path::new("there");
        let level = |what, free: u64, writable| disk(what, there, Some(free), writable).level;
        assert_eq!(level("alerts.jsonl", 10 << 30, true), Level::Ok);
        assert_eq!(level("alerts.jsonl", 200 << 20, true), Level::Warning);
        assert_eq!(level("alerts.jsonl", 1, true), Level::Problem);
        assert_eq!(level("alerts.jsonl", 10 << 30, false), Level::Problem);
        assert_eq!(level("compiled plugins", 10 << 30, false), Level::Warning);
        assert_eq!(watches(&Err("too many".into()), (Some(1), None)).level, Level::Warning);
        assert_eq!((kernel(false, Some(1)).len(), kernel(true, Some(0)).len()), (0, 2));
    }

    #[test]
    fn memory_is_judged_by_the_most_that_detectors_may_take() {
        let mut config = Config::default();
        config.engine.workers = 2;
        config.detectors.insert("a".into(), DetectorConfig::default());
        // One detector in two workers, 64 MiB each.
        assert_eq!(memory(Some(200 << 20), &config).level, Level::Ok);
        assert_eq!(memory(Some(100 << 20), &config).level, Level::Warning);
        assert_eq!(memory(None, &config).level, Level::Note);
    }
}
