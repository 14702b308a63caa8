//! The symbols of a recording by number. A number is passed between threads at no cost; a shared name is not.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Numbered names, shared by all readers of one recording.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<NameTable>>);

#[derive(Debug, Default)]
struct NameTable {
    numbers: FxHashMap<Arc<str>, u32>,
    /// The names since the last call of [`Names::take_new`].
    new: Vec<(u32, Arc<str>)>,
}

impl Names {
    /// The number of a name, which is assigned if the name is new.
    pub fn number(&self, name: &str) -> u32 {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(table.numbers.len()).expect("fewer symbols than numbers");
        let name: Arc<str> = name.into();
        table.new.push((number, name.clone()));
        table.numbers.insert(name, number);
        number
    }

    /// Takes the names that were added since the last call, each with its number.
    pub fn take_new(&self) -> Vec<(u32, Arc<str>)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}
