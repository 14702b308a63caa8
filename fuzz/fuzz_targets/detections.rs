//! The fuzz target `detections`; the function that it calls says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickhound_fuzz::detections(bytes));
