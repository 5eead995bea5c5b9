//! The `lion` command.

fn main() {}
