//! The DMM client library: sockets on user-space stacks.
//!
//! [`TcpStream`], [`TcpListener`] and [`UdpSocket`] are shaped like their siblings in [`std::net`];
//! [`Poll`] tells which of many are ready. Behind them a [`Client`] shares memory with the daemon
//! `dmmd`: payload is copied once into or out of a FIFO there, and small descriptors in rings say
//! so. A program needs no privilege, no huge pages and no DPDK; it finds the daemon at
//! `DMM_SOCKET`, `/run/dmm/dmmd.sock` unless set.
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! let mut stream = dmm::TcpStream::connect("10.1.0.1:80")?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
//! let mut page = String::new();
//! stream.read_to_string(&mut page)?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Errors are [`std::io::Error`]s with Linux's errno ([`errno`] finds it in those that carry words
//! as well). If the daemon ends, calls on its sockets fail with `ECONNRESET`, those that only send once there is no
//! more room; the next socket opened looks for a daemon anew. Any thread may use any socket; calls that a signal
//! interrupts go on. A forked child opens sockets of its own.
//!
//! Start reading at [`client`], then `context` (how threads wait), `slots` (how completions find
//! their socket) and [`tcp`].
#![forbid(unsafe_code)]

mod channel;
pub mod client;
pub mod config;
mod context;
pub mod error;
pub mod poll;
mod slots;
mod socket;
pub mod tcp;
pub mod udp;
mod waiter;

pub use client::Client;
pub use config::Config;
pub use dmm_proto::congestion::CongestionControl;
pub use dmm_proto::info::TcpInfo;
pub use error::{Error, errno};
pub use poll::{Event, Events, Interest, Poll, Source, Token};
pub use tcp::{
    ConnectOptions, Incoming, ListenOptions, Received, Reserved, TcpListener, TcpStream,
};
pub use udp::{Arrival, UdpSocket};

/// The program in the README, compiled with the crate's other examples.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
