//! Unit and property tests of head parsing.
