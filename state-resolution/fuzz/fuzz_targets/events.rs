#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| state_resolution_fuzz::events(data));
