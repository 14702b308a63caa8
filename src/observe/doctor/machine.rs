//! This machine: cores, memory, disks, limits, permissions; and the kernel settings that Redis needs, if it runs here.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access, statvfs},
    process::{Resource, getrlimit},
};

use super::{
    finding::{Finding, Level},
    fix::{Remedy, holds_only_compiled},
    text::size,
};
use crate::service::lets_all_replace_files;
use tickhound_core::config::{Config, LoadedConfig, Watch, is_unset};
use tickhound_engine::plugin::{CacheLocation, watch::can_watch};
use tickhound_redis::inspect::{ServerInspection, ServerLocation};

/// The most files that a host has open: connections, watches, plugins, the JSON lines file, with room to spare.
const OPEN_FILES_MIN: u64 = 256;

/// Less free space than this is a warning: it holds a day of alerts, and the compiled plugins.
const DISK_WARNING: u64 = 1 << 30;

/// Less free space than this is a problem.
const DISK_PROBLEM: u64 = 100 << 20;

/// What the inspection of this machine has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    cores: usize,
    /// The soft limit of open files; `None` if there is no limit.
    open_files_max: Option<u64>,
    inotify: InotifyLimits,
    /// Whether the plugins folder can be watched; `None` if the configuration does not ask for it.
    watch: Option<Result<(), String>>,
    /// The memory that is available, bytes.
    available: Option<u64>,
    disks: Vec<DiskUse>,
    /// Folders that do not exist.
    missing: Vec<(Purpose, PathBuf)>,
    permissions: Vec<Permissions>,
}

/// What a folder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Plugins,
    CompiledPlugins,
    JsonLines,
    /// The log and the pid file.
    Service,
}

/// The kernel's limits of watches on files, by user.
#[derive(Clone, Copy, Debug, Default)]
struct InotifyLimits {
    watches: Option<u64>,
    instances: Option<u64>,
}

/// A folder that a host writes to.
#[derive(Clone, Debug)]
struct DiskUse {
    purpose: Purpose,
    dir: PathBuf,
    free: Option<u64>,
    writable: bool,
}

/// Who may write to a folder of plugins, or of files that a host owns.
#[derive(Clone, Debug)]
struct Permissions {
    purpose: Purpose,
    dir: PathBuf,
    mode: u32,
    /// Whether we own the folder and it holds nothing but compiled plugins, so that it may be cleared.
    clearable: bool,
}

pub(super) fn inspect(loaded: &LoadedConfig) -> Machine {
    let config = &loaded.config;
    let plugins = loaded.resolve(&config.plugins.dir);
    let cache = CacheLocation::of(loaded).map(|location| location.dir);
    let jsonl = (!is_unset(&config.alerts.jsonl)).then(|| loaded.resolve(&config.alerts.jsonl));
    let mut machine = Machine {
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        open_files_max: getrlimit(Resource::Nofile).current,
        inotify: InotifyLimits {
            watches: number("/proc/sys/fs/inotify/max_user_watches"),
            instances: number("/proc/sys/fs/inotify/max_user_instances"),
        },
        available: available_memory(),
        ..Machine::default()
    };
    if config.plugins.watch == Watch::Auto && plugins.is_dir() {
        machine.watch = Some(can_watch(&plugins).map_err(|error| error.to_string()));
    }
    let mut folders = vec![(Purpose::Plugins, plugins.clone())];
    if let Some(cache) = &cache {
        folders.push((Purpose::CompiledPlugins, cache.clone()));
    }
    if let Some(file) = &jsonl {
        folders.push((Purpose::JsonLines, file.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)));
    }
    for (purpose, dir) in folders {
        if !dir.is_dir() {
            machine.missing.push((purpose, dir));
        } else if purpose != Purpose::Plugins {
            // A host only reads the plugins folder. Of a JSON lines file that exists, its own permissions count.
            let file = jsonl.as_ref().filter(|file| purpose == Purpose::JsonLines && file.exists());
            let writable = access(file.unwrap_or(&dir), Access::WRITE_OK).is_ok();
            let free = statvfs(&dir).ok().map(|disk| disk.f_bavail * disk.f_frsize);
            machine.disks.push(DiskUse { purpose, dir, free, writable });
        }
    }
    machine.permissions.extend(permissions(Purpose::Plugins, plugins));
    machine.permissions.extend(cache.and_then(|cache| permissions(Purpose::CompiledPlugins, cache)));
    let own_files = [&config.service.log_file, &config.service.pid_file];
    let own_folders: BTreeSet<PathBuf> =
        own_files.iter().filter_map(|file| Some(loaded.resolve(file).parent()?.to_path_buf())).collect();
    machine.permissions.extend(own_folders.into_iter().filter_map(|dir| permissions(Purpose::Service, dir)));
    machine
}

fn permissions(purpose: Purpose, dir: PathBuf) -> Option<Permissions> {
    let metadata = fs::metadata(&dir).ok()?;
    let clearable = metadata.uid() == rustix::process::geteuid().as_raw() && holds_only_compiled(&dir);
    Some(Permissions { purpose, dir, mode: metadata.mode() & 0o1777, clearable })
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns what the kernel reports, or what is left of a control group's limit, whichever is less.
fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024;
    let group = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(group.map_or(machine, |(most, now)| machine.min(most.saturating_sub(now))))
}

pub(super) fn judge(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        cores(machine.cores, config.engine.worker_count()),
        memory(machine.available, config),
        open_files(machine.open_files_max),
    ];
    findings.extend(machine.watch.as_ref().map(|watch| judge_watch(watch, machine.inotify)));
    findings.extend(machine.missing.iter().map(|(purpose, dir)| missing_folder(*purpose, dir)));
    findings.extend(machine.disks.iter().map(judge_disk));
    findings.extend(machine.permissions.iter().filter_map(judge_permissions));
    findings
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Plugins => "plugins",
            Self::CompiledPlugins => "compiled plugins",
            Self::JsonLines => "alerts.jsonl",
            Self::Service => "log and pid file",
        }
    }
}

fn missing_folder(purpose: Purpose, dir: &Path) -> Finding {
    let observed = format!("the folder for {} does not exist: {}", purpose.name(), dir.display());
    match purpose {
        // A host creates it with permissions of its own.
        Purpose::CompiledPlugins => Finding::ok("machine.folders", format!("{observed}; a host creates it")),
        Purpose::Plugins => Finding::problem("machine.folders", observed)
            .cure("create the folder that plugins.dir names; `tickhound init` creates one with the shipped plugins")
            .remedy(Remedy::Folder(dir.to_path_buf())),
        Purpose::JsonLines => Finding::problem("machine.folders", observed)
            .cure("create the folder, or correct alerts.jsonl")
            .remedy(Remedy::Folder(dir.to_path_buf())),
        Purpose::Service => Finding::ok("machine.folders", format!("{observed}; a host creates it")),
    }
}

fn cores(cores: usize, workers: usize) -> Finding {
    let observed = format!("this machine has {cores} cores for {workers} workers");
    if workers <= cores {
        return Finding::ok("machine.cores", observed);
    }
    Finding::warning("machine.cores", format!("{observed}; more workers than cores make nothing faster"))
        .cure("set engine.workers = 0 for one worker per core, and restart the host")
}

/// Judges the most memory that all detectors together may use. The checks of the plugins say what they use now.
fn memory(available: Option<u64>, config: &Config) -> Finding {
    let detectors = config.detectors.values().filter(|detector| detector.enabled).count() as u64;
    let workers = config.engine.worker_count() as u64;
    let most = detectors * workers * ((config.plugins.memory_max_mib as u64) << 20);
    let limit = format!(
        "detectors may use up to {} ({detectors} × {workers} workers × {} MiB)",
        size(most),
        config.plugins.memory_max_mib
    );
    match available {
        None => Finding::note("machine.memory", format!("{limit}; the available memory can't be read")),
        Some(available) if most > available => Finding::warning("machine.memory", format!("{limit}, but only {} is available", size(available)))
            .cure("lower plugins.memory_max_mib (a detector that needs more fails on that tick and is reported), or engine.workers; otherwise the system may kill the host"),
        Some(available) => Finding::ok("machine.memory", format!("{limit}; {} is available", size(available))),
    }
}

fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES_MIN => {
            Finding::warning("machine.files", format!("this process may open only {limit} files")).cure(format!(
                "raise the limit to {OPEN_FILES_MIN} or more, with ulimit -n or with LimitNOFILE= in a systemd unit"
            ))
        }
        Some(limit) => Finding::ok("machine.files", format!("this process may open {limit} files")),
        None => Finding::ok("machine.files", "this process may open any number of files"),
    }
}

fn judge_watch(watch: &Result<(), String>, inotify: InotifyLimits) -> Finding {
    let limit = |limit: Option<u64>| limit.map_or_else(|| "unknown".to_owned(), |limit| limit.to_string());
    let limits = format!(
        "fs.inotify.max_user_watches {}, max_user_instances {}",
        limit(inotify.watches),
        limit(inotify.instances)
    );
    match watch {
        Ok(()) => Finding::ok("machine.watch", format!("the system reports changes in the plugins folder ({limits})")),
        Err(error) => Finding::warning("machine.watch", format!("the plugins folder can't be watched ({error}), so a host checks it every second ({limits})"))
            .cure("sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=65536, and the same in /etc/sysctl.d; each watch uses some kernel memory"),
    }
}

fn judge_disk(disk: &DiskUse) -> Finding {
    let DiskUse { purpose, dir, free, writable } = disk;
    let folder = format!("{} ({})", dir.display(), purpose.name());
    let id = "machine.disk";
    if !writable {
        let (level, effect) = match purpose {
            Purpose::JsonLines => (Level::Problem, "alerts are only in Redis and the log"),
            Purpose::Plugins | Purpose::CompiledPlugins => (Level::Warning, "plugins are compiled at each start"),
            Purpose::Service => (Level::Warning, "a host does not start in the background"),
        };
        return Finding::new(level, id, format!("this user may not write to {folder}, so {effect}"))
            .cure(format!("chown or chmod {} for the user that runs Tickhound", dir.display()));
    }
    let Some(free) = *free else {
        return Finding::note(id, format!("the free space of {folder} can't be read"));
    };
    let observed = format!("{} are free in {folder}", size(free));
    match free {
        0..DISK_PROBLEM => Finding::problem(id, observed).cure("free some space, or configure another folder"),
        DISK_PROBLEM..DISK_WARNING => {
            Finding::warning(id, observed).cure("free some space, or configure another folder")
        }
        _ => Finding::ok(id, observed),
    }
}

/// Judges who may write to a folder. A plugin is sandboxed, but it decides which alerts are raised. Compiled plugins are
/// authenticated, and a host checks the files that it owns itself, so others can only do lesser harm there.
fn judge_permissions(permissions: &Permissions) -> Option<Finding> {
    let Permissions { purpose, dir, mode, clearable } = permissions;
    let (group, world) = (mode & 0o020 != 0, mode & 0o002 != 0);
    let folder = format!("{} ({}) has mode {mode:03o}", dir.display(), purpose.name());
    let id = "machine.writable_by";
    let who = if world { "any user of this machine" } else { "its group" };
    match purpose {
        Purpose::Service => lets_all_replace_files(*mode).then(|| {
            let observed = format!("{folder}: any user of this machine may replace files in it");
            let cure = format!("chmod o-w {0}, or chmod +t {0} if others are meant to write there", dir.display());
            Finding::warning(id, observed).cure(cure)
        }),
        Purpose::CompiledPlugins if group || world => {
            let observed = format!(
                "{folder}: {who} can add files there; a host does not run them, since compiled plugins are \
                 authenticated, and closes the folder to others when it starts"
            );
            let finding = Finding::note(id, observed).cure(format!("chmod 700 {}", dir.display()));
            Some(if *clearable { finding.remedy(Remedy::PrivateCache(dir.clone())) } else { finding })
        }
        Purpose::Plugins | Purpose::CompiledPlugins | Purpose::JsonLines => {
            let cure = format!(
                "chmod go-w {}, unless others are meant to add plugins; `--fix` leaves this to you",
                dir.display()
            );
            let observed = format!("{folder}: {who} can replace plugins, and so change which alerts are raised");
            Some(if world {
                Finding::problem(id, observed).cure(cure)
            } else if group {
                // On systems such as Debian, each user has a group of its own, and that group has no other members.
                Finding::warning(id, observed).cure(cure)
            } else {
                Finding::ok(id, folder)
            })
        }
    }
}

/// Judges the kernel settings that Redis warns of in its log at each start.
pub(super) fn judge_kernel_for_redis(server: &ServerInspection) -> Vec<Finding> {
    if server.location != ServerLocation::Here || server.info.is_err() {
        return Vec::new();
    }
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    kernel(huge.contains("[always]"), number("/proc/sys/vm/overcommit_memory"))
}

fn kernel(huge_pages: bool, overcommit: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if huge_pages {
        let observed = "transparent huge pages are always on: after each fork for a snapshot or rewrite, Redis stalls and uses more memory";
        let cure = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, also at each boot; then restart Redis";
        findings.push(Finding::warning("machine.huge_pages", observed).cure(cure));
    }
    if overcommit == Some(0) {
        let observed = "vm.overcommit_memory is 0: when memory is short, Redis can't fork for a snapshot or rewrite";
        let cure =
            "sysctl vm.overcommit_memory=1, and the same in /etc/sysctl.d; it applies to every program on this machine";
        findings.push(Finding::note("machine.overcommit", observed).cure(cure));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::config::DetectorConfig;

    #[test]
    fn writable_folders_are_judged_by_their_purpose() {
        let cases = [
            (Purpose::Plugins, 0o755, true, Level::Ok, false),
            (Purpose::Plugins, 0o775, true, Level::Warning, false),
            (Purpose::Plugins, 0o777, true, Level::Problem, false),
            (Purpose::CompiledPlugins, 0o700, true, Level::Ok, false),
            (Purpose::CompiledPlugins, 0o770, true, Level::Note, true),
            (Purpose::CompiledPlugins, 0o702, true, Level::Note, true),
            (Purpose::CompiledPlugins, 0o770, false, Level::Note, false),
            (Purpose::Service, 0o777, false, Level::Warning, false),
        ];
        for (purpose, mode, clearable, level, fixable) in cases {
            let finding = judge_permissions(&Permissions { purpose, dir: "there".into(), mode, clearable }).unwrap();
            assert_eq!((finding.level, finding.remedy.is_some()), (level, fixable), "{purpose:?} {mode:o}");
        }
        for mode in [0o755, 0o775, 0o1777] {
            let permissions = Permissions { purpose: Purpose::Service, dir: "there".into(), mode, clearable: false };
            assert!(judge_permissions(&permissions).is_none(), "{mode:o}");
        }
    }

    #[test]
    fn limits_and_free_space_are_judged() {
        assert_eq!([cores(2, 2).level, cores(2, 8).level], [Level::Ok, Level::Warning]);
        assert_eq!(
            [open_files(Some(64)).level, open_files(Some(1024)).level, open_files(None).level],
            [Level::Warning, Level::Ok, Level::Ok]
        );
        let level = |purpose, free: u64, writable| {
            judge_disk(&DiskUse { purpose, dir: "there".into(), free: Some(free), writable }).level
        };
        assert_eq!(level(Purpose::JsonLines, 10 << 30, true), Level::Ok);
        assert_eq!(level(Purpose::JsonLines, 200 << 20, true), Level::Warning);
        assert_eq!(level(Purpose::JsonLines, 1, true), Level::Problem);
        assert_eq!(level(Purpose::JsonLines, 10 << 30, false), Level::Problem);
        assert_eq!(level(Purpose::CompiledPlugins, 10 << 30, false), Level::Warning);
        let limits = InotifyLimits { watches: Some(1), instances: None };
        assert_eq!(judge_watch(&Err("too many".into()), limits).level, Level::Warning);
        assert_eq!((kernel(false, Some(1)).len(), kernel(true, Some(0)).len()), (0, 2));
    }

    #[test]
    fn memory_is_judged_by_the_most_that_detectors_may_use() {
        let mut config = Config::default();
        config.engine.workers = 2;
        config.detectors.insert("a".into(), DetectorConfig::default());
        // One detector in two workers, 64 MiB each.
        assert_eq!(memory(Some(200 << 20), &config).level, Level::Ok);
        assert_eq!(memory(Some(100 << 20), &config).level, Level::Warning);
        assert_eq!(memory(None, &config).level, Level::Note);
    }
}
