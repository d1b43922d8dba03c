//! Heads of HTTP/1 requests, under libFuzzer. What must hold is said in `mesh_proxy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_proxy::fuzzing::h1_request(data));
