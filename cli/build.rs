//! Has the program built anew where a chart changed, new files included.

fn main() {
    println!("cargo::rerun-if-changed=../charts");
}
