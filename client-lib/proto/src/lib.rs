//! The contract between a DMM client and the daemon.
