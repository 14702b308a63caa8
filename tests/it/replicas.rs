//! A Redis server and its replica behind one address: the server dies, and the replica takes its place.

use std::net::TcpListener;

use crate::{
    proxy::Proxy,
    support::{Redis, wait_for},
};

/// Two servers; the second replicates the first until it is cut off.
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

    /// Ends the replication: the second server keeps what it has.
    pub fn cut_off(&self) {
        let () = self.second.ask("REPLICAOF 127.0.0.1 1");
    }

    /// Kills the first server, and gives its address to the second one.
    pub fn promote(&mut self) {
        self.first.kill();
        let () = self.second.ask("REPLICAOF NO ONE");
        self.proxy.switch(&self.second);
    }
}

/// A server that listens on a port, as replication needs it.
pub fn on_a_port() -> (Redis, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    (Redis::start_with(&["--port", &port, "--repl-diskless-sync-delay", "0"]), port)
}

/// Makes one server the replica of the server on `port`, and waits until it is in step.
pub fn replicate(replica: &Redis, port: &str) {
    let () = replica.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    wait_for("the replica is in step", || {
        replica.ask::<String>("INFO replication").contains("master_link_status:up").then_some(())
    });
}
