//! The Lion optimizer over named tensors.
