//! The normal form of requests, under libFuzzer. What must hold is said in `mesh_proxy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_proxy::fuzzing::normal(data));
