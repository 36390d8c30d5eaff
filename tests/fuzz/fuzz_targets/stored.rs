#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| roomring_tests::fuzz::stored(data));
