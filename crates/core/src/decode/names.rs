//! Symbols of a recording by number: a number is handed from thread to thread for nothing, a shared name is not.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Names, each with a number, for all that read one recording.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Numbered>>);

#[derive(Debug, Default)]
struct Numbered {
    numbers: FxHashMap<Arc<str>, u32>,
    new: Vec<(u32, Arc<str>)>,
}

impl Names {
    /// The number of this name.
    pub fn number(&self, name: &str) -> u32 {
        let mut numbered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbered.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(numbered.numbers.len()).expect("fewer symbols than numbers");
        let name: Arc<str> = name.into();
        numbered.new.push((number, name.clone()));
        numbered.numbers.insert(name, number);
        number
    }

    /// Those that have come since this was asked the last time.
    pub fn take_new(&self) -> Vec<(u32, Arc<str>)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}
