//! Keeps the kernel in step with the files.
