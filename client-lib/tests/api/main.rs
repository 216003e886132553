//! The library against a daemon whose only network is loopback.

mod attach;
mod common;
mod examples;
mod in_place;
mod like_std;
mod listener;
mod poll;
mod tcp;
mod threads;
mod udp;
