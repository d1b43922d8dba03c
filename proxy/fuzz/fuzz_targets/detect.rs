//! What a connection speaks, from its first bytes, under libFuzzer. What must hold is said in `mesh_proxy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_proxy::fuzzing::detect(data));
