#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgd_fuzz::nginx_report(data));
