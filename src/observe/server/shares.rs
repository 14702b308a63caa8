//! A number of permits, of which one address gets a part at most.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clients::ClientAddress;

/// The permits.
pub(super) struct Shares {
    total: usize,
    /// The most permits of one address.
    per_address: usize,
    holders: Mutex<Vec<ClientAddress>>,
}

/// Why there is no permit: this many are in use already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    ByAddress(usize),
    ByAll(usize),
}

impl Shares {
    pub(super) fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, holders: Mutex::default() })
    }

    /// Takes a permit, which is given back when it is dropped.
    ///
    /// # Errors
    /// When the address, or all addresses together, hold as many as they may.
    pub(super) fn take(self: &Arc<Self>, address: ClientAddress) -> Result<Share, Exhausted> {
        let mut holders = self.lock();
        if holders.len() >= self.total {
            return Err(Exhausted::ByAll(self.total));
        }
        if holders.iter().filter(|holder| **holder == address).count() >= self.per_address {
            return Err(Exhausted::ByAddress(self.per_address));
        }
        holders.push(address);
        Ok(Share { address, shares: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ClientAddress>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit.
pub(super) struct Share {
    address: ClientAddress,
    shares: Arc<Shares>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut holders = self.shares.lock();
        if let Some(index) = holders.iter().position(|holder| *holder == self.address) {
            holders.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_never_gets_all() {
        let address = |last| ClientAddress::new([10, 0, 0, last].into());
        let shares = Shares::new(4, 3);
        let mut held: Vec<Share> = (0..3).map(|_| shares.take(address(1)).ok().unwrap()).collect();
        assert_eq!(shares.take(address(1)).err(), Some(Exhausted::ByAddress(3)));
        let other = shares.take(address(2)).ok().unwrap();
        assert_eq!(shares.take(address(3)).err(), Some(Exhausted::ByAll(4)));
        held.pop();
        assert!(shares.take(address(1)).is_ok(), "it was given back");
        drop((held, other));
        assert!(shares.lock().is_empty());
    }
}
