//! Places for connections, shared fairly among the addresses that clients come from.
//!
//! What holds: every new connection gets a place at once, whoever holds the others. While all are taken, or all that an
//! address may hold, the connection of the busiest address that has been idle for longest gives way. If none is idle,
//! the new connection gets one of a few reserved places, where only questions about the host's health are answered. A
//! connection is not idle until the system has taken all of its answer.

use std::{
    cmp::Reverse,
    fmt,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tracing::warn;

use tickhound_core::config::CONNECTIONS_MAX;

/// Places beside the general ones, for health and metrics: a supervisor's probe, a load balancer and Prometheus each open
/// one for an instant.
const RESERVED_MAX: usize = 8;

/// Reserved places that one address may hold, so that it can't displace the probes of all others.
const RESERVED_PER_ADDRESS: usize = 4;

/// A warning that places were short is logged at most this often: an attacker must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How many displaced connections the system may go on serving from its buffers in any [`UNREAD_PERIOD`]. The rest are reset.
/// Each may leave up to 256 KiB that its client has not read, which counts as memory of a container.
const UNREAD_MAX: usize = 64;

/// The system keeps what a client does not read for no longer than this.
const UNREAD_PERIOD: Duration = super::UNACKNOWLEDGED_TIMEOUT;

/// Where a client comes from, as far as it can be told apart from others: an IPv4 address, or the first half of an IPv6
/// address, since the holder of one has all of the second half to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAddress {
    V4(Ipv4Addr),
    V6Network([u8; 8]),
}

impl ClientAddress {
    pub(super) fn new(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6Network([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// What a connection is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Everything.
    General,
    /// Health and metrics only, because of this limit.
    Reserved(ConnectionLimit),
}

/// The limit that a new connection has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionLimit {
    /// What one address may hold.
    OfAddress(usize),
    /// What all addresses together may hold.
    OfAll,
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfAddress(limit) => {
                write!(f, "this address uses all {limit} connections that it may (server.connections_per_address)")
            }
            Self::OfAll => write!(f, "all {CONNECTIONS_MAX} connections of this server are in use"),
        }
    }
}

/// The sender of a request, as its handlers see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) address: ClientAddress,
    pub(super) lane: Lane,
}

/// All places.
pub(super) struct Connections {
    table: Mutex<ConnectionTable>,
    /// The most general places that one address may hold; 0 = no limit.
    per_address: usize,
}

#[derive(Default)]
struct ConnectionTable {
    connections: Vec<Connection>,
    last_number: u64,
    warned: Option<Instant>,
    /// When this period began, and how many connections were displaced in it.
    displaced: Option<(Instant, usize)>,
}

struct Connection {
    number: u64,
    client: Client,
    activity: Activity,
    /// Tells the connection to give way.
    displaces: oneshot::Sender<Parting>,
}

/// How a displaced connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// The system sends what it has taken, and then closes the connection.
    Sent,
    /// The connection is reset, and what the client has not read is lost.
    Reset,
}

#[derive(Clone, Copy)]
enum Activity {
    /// It has no request since then, or an incomplete one.
    Idle(Instant),
    /// A request is being answered.
    Busy,
    /// The answer is complete, and the system has not taken all of it yet.
    Sending,
}

impl Connections {
    pub(super) fn new(per_address: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), per_address })
    }

    /// Gives a new connection a place, which it holds until the place is dropped.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Place {
        let address = ClientAddress::new(ip);
        let mut table = self.lock();
        let limit = if self.per_address > 0 && table.held(address, Lane::is_general) >= self.per_address {
            Some(ConnectionLimit::OfAddress(self.per_address))
        } else {
            (table.count(Lane::is_general) >= CONNECTIONS_MAX).then_some(ConnectionLimit::OfAll)
        };
        let lane = limit.map_or(Lane::General, |limit| table.make_room(address, limit));
        if let Some(limit) = limit {
            table.warn(ip, limit);
        }
        let (displaces, displaced) = oneshot::channel();
        table.last_number += 1;
        let (number, client) = (table.last_number, Client { address, lane });
        let activity = Activity::Idle(Instant::now());
        table.connections.push(Connection { number, client, activity, displaces });
        Place { client, number, connections: self.clone(), displaced }
    }

    /// Sets what a connection does, by what it has done until now.
    fn change_activity(&self, number: u64, change: impl FnOnce(Activity) -> Activity) {
        if let Some(connection) = self.lock().connections.iter_mut().find(|connection| connection.number == number) {
            connection.activity = change(connection.activity);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn is_general(self) -> bool {
        self == Self::General
    }

    fn is_reserved(self) -> bool {
        !self.is_general()
    }
}

impl ConnectionTable {
    fn count(&self, fits: impl Fn(Lane) -> bool) -> usize {
        self.connections.iter().filter(|connection| fits(connection.client.lane)).count()
    }

    fn held(&self, address: ClientAddress, fits: impl Fn(Lane) -> bool) -> usize {
        let of_address = self.connections.iter().filter(|connection| connection.client.address == address);
        of_address.filter(|connection| fits(connection.client.lane)).count()
    }

    /// Makes room for a connection that has met this limit; returns the lane in which there is room now.
    fn make_room(&mut self, address: ClientAddress, limit: ConnectionLimit) -> Lane {
        let idle_since = |connection: &Connection| match connection.activity {
            Activity::Idle(since) if connection.client.lane.is_general() => Some(since),
            _ => None,
        };
        let gives_way = |connection: &Connection| match limit {
            ConnectionLimit::OfAddress(_) => connection.client.address == address,
            ConnectionLimit::OfAll => true,
        };
        let idle = self.connections.iter().enumerate().filter(|(_, connection)| gives_way(connection));
        let idle = idle.filter_map(|(index, connection)| Some((index, connection, idle_since(connection)?)));
        let longest = idle.max_by_key(|(_, connection, since)| {
            let held = self.held(connection.client.address, Lane::is_general);
            (held, Reverse(*since), Reverse(connection.number))
        });
        if let Some(index) = longest.map(|(index, ..)| index) {
            self.displace(index);
            return Lane::General;
        }
        // Here each new connection displaces an old one, idle or not: an answer takes an instant. They are in the order
        // in which they came.
        let reserved = |connection: &Connection| connection.client.lane.is_reserved();
        let oldest = if self.held(address, Lane::is_reserved) >= RESERVED_PER_ADDRESS {
            self.connections.iter().position(|other| reserved(other) && other.client.address == address)
        } else if self.count(Lane::is_reserved) >= RESERVED_MAX {
            self.connections.iter().position(reserved)
        } else {
            None
        };
        if let Some(index) = oldest {
            self.displace(index);
        }
        Lane::Reserved(limit)
    }

    fn displace(&mut self, index: usize) {
        let now = Instant::now();
        let (began, count) = match self.displaced {
            Some((began, count)) if now.duration_since(began) < UNREAD_PERIOD => (began, count + 1),
            _ => (now, 1),
        };
        self.displaced = Some((began, count));
        let parting = if count <= UNREAD_MAX { Parting::Sent } else { Parting::Reset };
        // If it has ended in the meantime, nobody is there to give way.
        let _ = self.connections.remove(index).displaces.send(parting);
    }

    fn warn(&mut self, ip: IpAddr, limit: ConnectionLimit) {
        if self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        self.warned = Some(Instant::now());
        warn!(
            event = "http_connections_exhausted",
            address = %ip,
            "a client has connected to the page, the API or the metrics, but {limit}; idle connections are closed to make \
             room, and health and metrics are answered"
        );
    }
}

/// The place of one connection.
pub(super) struct Place {
    pub(super) client: Client,
    number: u64,
    connections: Arc<Connections>,
    displaced: oneshot::Receiver<Parting>,
}

impl Place {
    /// Waits until the connection must give way to another one. Cancel-safe.
    pub(super) async fn displaced(&mut self) -> Parting {
        (&mut self.displaced).await.unwrap_or(Parting::Reset)
    }

    /// Returns what marks a request of this connection for the time in which it is being answered.
    pub(super) fn marker(&self) -> BusyMarker {
        BusyMarker { number: self.number, connections: self.connections.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().connections.retain(|connection| connection.number != self.number);
    }
}

/// Marks a connection as busy.
#[derive(Clone)]
pub(super) struct BusyMarker {
    number: u64,
    connections: Arc<Connections>,
}

impl BusyMarker {
    /// The connection counts as busy until the returned value is dropped, and what was written after that is flushed.
    pub(super) fn begin(&self) -> Busy {
        self.connections.change_activity(self.number, |_| Activity::Busy);
        Busy(self.clone())
    }

    /// The system has taken all that was written, so a connection whose answer is complete is idle from now on.
    pub(super) fn flushed(&self) {
        self.connections.change_activity(self.number, |activity| match activity {
            Activity::Sending => Activity::Idle(Instant::now()),
            Activity::Idle(_) | Activity::Busy => activity,
        });
    }
}

/// A request that is being answered.
pub(super) struct Busy(BusyMarker);

impl Busy {
    /// Wraps the body of the answer, which is a part of it.
    pub(super) fn until_sent(self, body: Body) -> Body {
        Body::new(BusyBody { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.connections.change_activity(self.0.number, |_| Activity::Sending);
    }
}

/// A body during which its connection counts as busy. The server drops it when it has taken the last frame, which it has
/// yet to write.
struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_displaced(place: &mut Place) -> bool {
        place.displaced.try_recv().is_ok()
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let address = |text| ClientAddress::new(ip(text));
        assert_eq!(address("10.0.0.1"), address("::ffff:10.0.0.1"));
        assert_ne!(address("10.0.0.1"), address("10.0.0.2"));
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
    }

    #[test]
    fn idle_connections_of_the_greediest_address_give_way() {
        let connections = Connections::new(0);
        let mut greedy: Vec<Place> = (0..CONNECTIONS_MAX - 1).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        let mut modest = connections.admit(ip("10.0.0.2"));
        let marker = greedy[0].marker();
        let busy = marker.begin();
        let mut newcomers: Vec<Place> = (3..13).map(|last| connections.admit(ip(&format!("10.0.0.{last}")))).collect();
        assert!(newcomers.iter().all(|place| place.client.lane == Lane::General));
        let displaced: Vec<usize> = (0..greedy.len()).filter(|index| is_displaced(&mut greedy[*index])).collect();
        assert_eq!(displaced, (1..=10).collect::<Vec<_>>(), "the busy one stays, and then the longest idle goes first");
        assert!(!is_displaced(&mut modest) && !newcomers.iter_mut().any(is_displaced));
        drop(busy);
        marker.flushed();
        let _last = connections.admit(ip("10.0.0.99"));
        assert!(!is_displaced(&mut greedy[0]), "it was busy until now, so others have been idle for longer");
        assert!(is_displaced(&mut greedy[11]));
    }

    /// A connection counted as idle while its answer was still being sent, and its client got the beginning only.
    #[test]
    fn a_connection_is_busy_until_its_answer_is_sent() {
        let connections = Connections::new(1);
        let mut held = connections.admit(ip("10.0.0.1"));
        let marker = held.marker();
        let busy = marker.begin();
        marker.flushed();
        let newcomer = || connections.admit(ip("10.0.0.1")).client.lane;
        assert!(newcomer().is_reserved(), "a part of the answer was sent, and the rest follows");
        drop(busy);
        assert!(newcomer().is_reserved() && !is_displaced(&mut held), "the answer is complete, and not sent");
        marker.flushed();
        assert!(newcomer().is_general() && is_displaced(&mut held));
    }

    #[test]
    fn only_so_many_displaced_connections_leave_data_to_the_system() {
        let connections = Connections::new(1);
        let mut places: Vec<Place> = (0..UNREAD_MAX + 3).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        let partings: Vec<Parting> = places.iter_mut().filter_map(|place| place.displaced.try_recv().ok()).collect();
        assert_eq!(partings, [[Parting::Sent; UNREAD_MAX].as_slice(), &[Parting::Reset; 2]].concat());
    }

    #[test]
    fn an_address_at_its_limit_displaces_only_its_own() {
        let connections = Connections::new(2);
        let mut other = connections.admit(ip("10.0.0.2"));
        let mut own: Vec<Place> = (0..3).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        assert_eq!(own.iter_mut().map(is_displaced).collect::<Vec<_>>(), [true, false, false]);
        assert!(own.iter().all(|place| place.client.lane == Lane::General) && !is_displaced(&mut other));
    }

    #[test]
    fn where_none_is_idle_health_has_a_place_even_in_a_flood() {
        let connections = Connections::new(2);
        let held: Vec<Place> = (0..2).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        let _busy: Vec<Busy> = held.iter().map(|place| place.marker().begin()).collect();
        let mut reserved: Vec<Place> = (0..RESERVED_PER_ADDRESS).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        assert!(reserved.iter().all(|place| place.client.lane == Lane::Reserved(ConnectionLimit::OfAddress(2))));
        let flood: Vec<Place> = (0..100).map(|_| connections.admit(ip("10.0.0.1"))).collect();
        assert!(reserved.iter_mut().all(is_displaced), "each new one displaces the oldest of its address");
        assert_eq!(connections.lock().count(Lane::is_reserved), RESERVED_PER_ADDRESS);
        assert_eq!(connections.admit(ip("10.0.0.2")).client.lane, Lane::General, "others notice nothing");
        drop((flood, reserved, held));
        assert_eq!(connections.lock().connections.len(), 0, "places are given back");
    }

    #[test]
    fn any_number_of_busy_addresses_leaves_a_place_for_health() {
        let connections = Connections::new(1);
        let addresses = |from: usize, count| (from..from + count).map(|n| ip(&format!("10.1.{}.{}", n / 250, n % 250)));
        let held: Vec<Place> = addresses(0, CONNECTIONS_MAX).map(|ip| connections.admit(ip)).collect();
        let _busy: Vec<Busy> = held.iter().map(|place| place.marker().begin()).collect();
        let reserved: Vec<Place> = addresses(1000, 50).map(|ip| connections.admit(ip)).collect();
        assert!(reserved.iter().all(|place| place.client.lane == Lane::Reserved(ConnectionLimit::OfAll)));
        assert_eq!(connections.lock().connections.len(), CONNECTIONS_MAX + RESERVED_MAX);
    }
}
