//! TCP sockets: connections and listeners.
//!
//! Both are thin handles over a core in the slot table. Called by programs.

mod connect;
mod in_place;
mod listener;
mod options;
mod stream;

pub use connect::ConnectOptions;
pub use in_place::{Received, Reserved};
pub use listener::{Incoming, ListenOptions, TcpListener};
pub(crate) use options::{check_hops, hops_of};
pub use stream::TcpStream;
