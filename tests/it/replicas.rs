//! A server and its replica behind one address, of which the one dies and the other takes its place.

use std::net::TcpListener;

use crate::{
    proxy::Proxy,
    support::{Redis, wait_for},
};

/// Two servers, of which the second copies what the first does until it is cut off.
pub struct Replicas {
    pub first: Redis,
    pub second: Redis,
    /// Leads to the first, and to the second once it is promoted.
    pub proxy: Proxy,
}

impl Replicas {
    pub fn start() -> Self {
        let ((first, port), (second, _)) = (on_a_port(), on_a_port());
        replicate(&second, &port);
        Self { proxy: Proxy::to(&first), first, second }
    }

    /// The second hears no more of the first.
    pub fn cut_off(&self) {
        let () = self.second.ask("REPLICAOF 127.0.0.1 1");
    }

    /// The first dies, and the second has the address.
    pub fn promote(&mut self) {
        self.first.kill();
        let () = self.second.ask("REPLICAOF NO ONE");
        self.proxy.switch(&self.second);
    }
}

/// A server with a port, for replication.
pub fn on_a_port() -> (Redis, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    (Redis::start_with(&["--port", &port, "--repl-diskless-sync-delay", "0"]), port)
}

pub fn replicate(replica: &Redis, port: &str) {
    let () = replica.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    wait_for("the replica is in step", || {
        replica.ask::<String>("INFO replication").contains("master_link_status:up").then_some(())
    });
}
