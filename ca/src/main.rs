//! Runs the certificate authority. Thin: everything is in the library.

fn main() {}
