//! What a host in the background needs: a pid file that can be trusted, a log that neither grows for
//! ever nor loses a line in silence, and word to whoever started it.

mod log_file;
mod notify;
mod pid_file;

pub use self::{
    log_file::LogFile,
    notify::{FAILED, Supervisor},
    pid_file::{Found, PidFile, Record},
};
