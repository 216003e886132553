//! The DMM daemon.
