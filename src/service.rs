//! What a background host needs: a pid file that can be trusted, a log that is bounded, never blocks and counts lost
//! lines, and reports to its supervisor.

mod log_file;
mod log_format;
mod log_queue;
mod own_file;
mod pid_file;
mod supervisor;

pub(crate) use self::{
    log_file::LogFile,
    log_format::{PrintableFields, PrintableJson},
    log_queue::{LogHealth, LogQueue, LogTarget},
    own_file::{OwnFileUse, is_trusted, lets_all_replace_files, open_own},
    pid_file::{Holder, PidFile, Record},
    supervisor::{FAILED, Supervisor},
};
