//! The DMM client library: sockets on user-space stacks.
