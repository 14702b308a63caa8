//! How a run is observed: its health, the HTTP server, and the doctor.

pub(crate) mod doctor;
pub(crate) mod health;
pub(crate) mod server;
