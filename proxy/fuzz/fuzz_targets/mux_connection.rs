//! Both sides of a connection between sidecars, with a peer that says anything, under libFuzzer. What must hold is said in `mesh_proxy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_proxy::fuzzing::mux_connection(data));
