//! A TCP connection's halves, each with its own end of the FIFOs.
#![forbid(unsafe_code)]

mod position;
mod receiver;
mod rtt;
mod scoreboard;
mod sender;
#[cfg(test)]
mod tests;
