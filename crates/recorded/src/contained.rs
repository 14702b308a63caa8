//! Panics of the crates that decode files of strangers, as errors.
//!
//! What holds: a panic within [`contained`] reaches neither the caller nor, if the program's panic hook asks
//! [`contains_panics`], the terminal. What was being read is not used again.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Result, anyhow};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread becomes an error, so that a panic hook has nothing to print.
pub fn contains_panics() -> bool {
    CONTAINED.get()
}

/// Runs `read`; a panic in it is an error that says `what` could not be read.
///
/// The Parquet crate panics at some files that are damaged, or made for that: it trusts counts and lengths that they state.
pub(crate) fn contained<T>(what: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let outer = CONTAINED.replace(true);
    // What `read` changes is dropped with the error: the file is not read on.
    let result = catch_unwind(AssertUnwindSafe(read));
    CONTAINED.set(outer);
    result.unwrap_or_else(|panic| Err(anyhow!("{what} is damaged: {}", message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its decoder has panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_what_is_damaged() {
        let error = contained("the page", || -> Result<()> { panic!("{} is too long", 7) }).unwrap_err();
        assert_eq!(error.to_string(), "the page is damaged: 7 is too long");
        assert!(!contains_panics());
        assert!(contained("it", || Ok(contains_panics())).unwrap());
    }
}
