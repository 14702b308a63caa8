//! The symbols of a recording by number. A number is passed between threads at no cost; a shared name is not.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Numbered names, shared by all readers of one recording.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<NameTable>>);

#[derive(Debug, Default)]
struct NameTable {
    /// By name, the number of each venue that it comes from; an empty venue is none.
    numbers: FxHashMap<Arc<str>, Vec<(Box<str>, u32)>>,
    count: u32,
    /// The names since the last call of [`Names::take_new`].
    new: NewNames,
}

/// Names that no earlier read contained.
#[derive(Clone, Debug, Default)]
pub struct NewNames {
    /// Each name with its number.
    pub names: Vec<(u32, Arc<str>)>,
    /// The venues of those that come from a venue which is not a part of the name.
    pub venues: Vec<(u32, Arc<str>)>,
}

impl Names {
    /// The number of a name from a venue, or from none if that is empty. It is assigned if the two are new.
    pub fn number(&self, name: &str, venue: &str) -> u32 {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_venue = |numbers: &Vec<(Box<str>, u32)>| {
            numbers.iter().find(|(known, _)| **known == *venue).map(|(_, number)| *number)
        };
        if let Some(number) = table.numbers.get(name).and_then(of_venue) {
            return number;
        }
        let number = table.count;
        table.count = number.checked_add(1).expect("fewer symbols than numbers");
        let name: Arc<str> = name.into();
        table.new.names.push((number, name.clone()));
        if !venue.is_empty() {
            table.new.venues.push((number, venue.into()));
        }
        table.numbers.entry(name).or_default().push((venue.into(), number));
        number
    }

    /// Takes the names that were added since the last call.
    pub fn take_new(&self) -> NewNames {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}
