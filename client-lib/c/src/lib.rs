//! The C API: `libdmm.so`, declared in `include/dmm.h`.
//!
//! Owns: the numbers by which C programs name this library's sockets, and the translation of each
//! call. What a call does is the business of the crate `dmm`. Called from any thread of any language.
//! Must never: unwind into its caller, or follow a pointer that the call's own documentation does not
//! promise to be good.
//!
//! ```text
//!   calls, options, in_place, poll, epoll   extern "C": pointers and errno
//!            │
//!   handles                       number -> socket
//!            │
//!   socket                        what POSIX makes of a socket before it is one: fresh, bound, ...
//! ```
#![deny(unsafe_code)]

mod address;
mod calls;
mod datagrams;
mod epoll;
mod errors;
mod handles;
mod in_place;
mod messages;
mod options;
mod poll;
mod socket;
