//! How many connections there are from where.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The part of an IPv6 address that is one customer's, in bits: whoever has one has all below it.
const CUSTOMER_BITS: u32 = 64;

/// Connections by address.
#[derive(Debug, Default)]
pub struct Addresses {
    most: Option<u32>,
    count: Mutex<HashMap<IpAddr, u32>>,
}

impl Addresses {
    /// At most so many from each; `None` = any number, and none is counted.
    pub fn new(most: Option<u32>) -> Self {
        Self { most, count: Mutex::default() }
    }

    /// A connection from `address`, which counts while the result lives; `None` if there are too many.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let Some(most) = self.most else { return Some(Place(None)) };
        let address = customer(address);
        let mut count = self.count();
        let of_address = count.entry(address).or_default();
        if *of_address >= most {
            return None;
        }
        *of_address += 1;
        Some(Place(Some((self.clone(), address))))
    }

    fn count(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // Whole between any two statements.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let mask = u128::MAX << (128 - CUSTOMER_BITS);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// A connection's place among those from its address.
#[derive(Debug)]
pub struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, address)) = &self.0 else { return };
        let mut count = addresses.count();
        if let Some(of_address) = count.get_mut(address) {
            *of_address -= 1;
            if *of_address == 0 {
                count.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_address() {
        let addresses = Arc::new(Addresses::new(Some(2)));
        let enter = |text: &str| addresses.enter(text.parse().unwrap());
        let first = enter("10.0.0.1");
        let _second = enter("::ffff:10.0.0.1");
        assert!(first.is_some() && enter("10.0.0.1").is_none() && enter("10.0.0.2").is_some());
        drop(first);
        assert!(enter("10.0.0.1").is_some());
        let _both = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        assert_eq!(addresses.count().len(), 2, "what is gone is forgotten");
        assert!((0..9).all(|_| Arc::new(Addresses::default()).enter([10, 0, 0, 1].into()).is_some()));
    }
}
