//! The files in `deploy/` confine what they start. Whether they start it is checked by hand, see docs/service.md.

use std::fs;

use crate::support::shipped;

/// What the unit must say, each with the reason in the unit itself.
const UNIT: [&str; 15] = [
    "User=tickhound",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "LimitCORE=0",
    "MemoryMax=4G",
    "OOMPolicy=continue",
    "TasksMax=1024",
    "CacheDirectory=tickhound",
    "CacheDirectoryMode=0700",
    "StateDirectoryMode=0700",
    "UMask=0077",
];

/// What the unit of the recorder must say.
const RECORDERS_UNIT: [&str; 13] = [
    "User=tickhound",
    "Restart=always",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ReadWritePaths=/opt/tickhound/history",
    "MemoryDenyWriteExecute=yes",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "LimitCORE=0",
    "MemoryMax=1G",
    "UMask=0077",
];

/// System calls by which a process that compiles a plugin limits itself. Without them it would not start.
const CHILDS_CALLS: [&str; 6] =
    ["setrlimit", "prlimit64", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"];

#[test]
fn the_unit_confines_the_host_and_lets_its_children_confine_themselves() {
    let unit = fs::read_to_string(shipped("deploy/systemd/tickhound.service")).unwrap();
    let lines: Vec<&str> = unit.lines().collect();
    let missing: Vec<&&str> = UNIT.iter().filter(|line| !lines.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let filters: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
    let removed = filters.iter().position(|filter| *filter == "~@privileged @resources").unwrap();
    let added: Vec<&str> = filters[removed + 1..].iter().flat_map(|filter| filter.split(' ')).collect();
    assert!(CHILDS_CALLS.iter().all(|call| added.contains(call)), "{added:?}");
}

#[test]
fn the_unit_of_the_recorder_lets_it_write_its_folder_only_and_does_not_end_with_the_host() {
    let unit = fs::read_to_string(shipped("deploy/systemd/tickhound-record.service")).unwrap();
    let lines: Vec<&str> = unit.lines().collect();
    let missing: Vec<&&str> = RECORDERS_UNIT.iter().filter(|line| !lines.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let binds = ["BindsTo=", "PartOf=", "Requires="];
    assert!(!lines.iter().any(|line| binds.iter().any(|bind| line.starts_with(bind))));
}

/// `plugins.cache = "auto"` uses `$CACHE_DIRECTORY`, which systemd sets. A variable for the key itself would also override
/// what a user writes into the configuration.
#[test]
fn the_cache_folder_is_named_by_its_variable_and_the_configuration_may_name_another() {
    let image = fs::read_to_string(shipped("deploy/Dockerfile")).unwrap();
    let (_, folder) = image.split_once("\nENV CACHE_DIRECTORY=").unwrap();
    let folder = folder.lines().next().unwrap();
    assert!(image.contains(&format!("install -d -o tickhound -m 0700 {folder}")), "{folder}");
    let compose = fs::read_to_string(shipped("deploy/compose.yml")).unwrap();
    assert!(compose.contains(&format!("\n      - cache:{folder}\n")), "{folder}");
    let config = fs::read_to_string(shipped("config/config.toml")).unwrap();
    assert!(config.contains("\ncache = \"auto\" "));
    for file in ["deploy/Dockerfile", "deploy/compose.yml", "deploy/systemd/tickhound.service"] {
        let text = fs::read_to_string(shipped(file)).unwrap();
        assert!(!text.contains("TICKHOUND_PLUGINS__CACHE"), "{file}");
    }
}

#[test]
fn every_container_is_confined_and_no_password_has_a_default() {
    let compose = fs::read_to_string(shipped("deploy/compose.yml")).unwrap();
    let (head, _) = compose.split_once("\nservices:\n").unwrap();
    for rule in ["read_only: true", "cap_drop:\n    - ALL", "no-new-privileges:true"] {
        assert!(head.contains(rule), "{rule}");
    }
    let names = ["redis", "tickhound", "prometheus", "grafana"];
    for (at, name) in names.iter().enumerate() {
        let begin = compose.find(&format!("\n  {name}:\n    <<: *confined\n")).unwrap_or_else(|| panic!("{name}"));
        let end = names.get(at + 1).map_or(compose.len(), |next| compose.find(&format!("\n  {next}:\n")).unwrap());
        let service = &compose[begin..end];
        assert!(service.contains("\n    mem_limit: ") && service.contains("\n    pids_limit: "), "{name}");
        let (_, ports) = service.split_once("\n    ports:\n").unwrap();
        assert!(ports.starts_with("      - \"127.0.0.1:"), "{name}: only this machine may connect");
    }
    for secret in ["REDIS_PASSWORD", "TICKHOUND_TOKEN", "GRAFANA_PASSWORD"] {
        assert!(
            compose.contains(&format!("${{{secret}:?")) && !compose.contains(&format!("${{{secret}:-")),
            "{secret}"
        );
    }
}
