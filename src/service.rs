//! What a host in the background needs: a pid file that can be trusted, a log that neither grows for
//! ever, nor loses a line in silence, nor holds anything up, and word to whoever started it.

mod log_file;
mod log_queue;
mod notify;
mod pid_file;

pub(crate) use self::{
    log_file::LogFile,
    log_queue::{LogQueue, LogTarget},
    notify::{FAILED, Supervisor},
    pid_file::{Found, PidFile, Record},
};
