//! The whole thing, as its users run it: the built binary, a real Redis, real plugins, real kills.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod acl;
mod alerts;
mod browser;
mod chaos;
mod claims;
mod cli;
mod commands;
mod dashboard;
mod dead;
mod deploy;
mod desk;
mod docs;
mod doctor;
mod entries;
mod faults;
mod flow;
mod gray;
mod hostile;
mod hostile_guest;
mod hygiene;
mod jsonl;
mod kit;
mod late;
mod notify;
mod plugins;
mod printable;
mod probe;
mod promise;
mod proxy;
mod recovery;
mod reload;
mod replay;
mod replicas;
mod saved;
mod server;
mod service;
mod sessions;
mod shadow;
mod states;
mod support;
mod swaps;
mod terminal;
mod tidy;
mod time;
mod tls;
mod top;
mod verdict;
mod walls;
mod why;
