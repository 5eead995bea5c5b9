//! Measurement of kernels.
