//! Tests of the workspace, in `tests/`.
