//! FIFOs: the byte streams between a client's socket and its stack.
//!
//! A FIFO is a list of arena chunks that never move, addressed by stream positions that count bytes
//! from the socket's opening (64 bits, never wrapping). The daemon keeps the list; a client follows
//! it by two kinds of words that only the daemon writes: an *anchor*, which says which chunk holds
//! a position when the list begins anew, and *links*, one per chunk of the arena, which say which
//! chunk comes next.
//!
//! ```text
//!  anchor ─▶ chunk 7 ──links[7]──▶ chunk 2 ──links[2]──▶ chunk 9
//!            ├───────────────────┼────────────────────┼──────────────────┤
//!                    ▲ head                      ▲ tail          ▲ limit (tx only)
//!                    consumed                    written         granted
//! ```
//!
//! - *rx*: the daemon writes at `rx_tail`, the client reads at `rx_head`.
//! - *tx*: the client writes at `tx_tail` up to `tx_limit`; the daemon sends from there and moves
//!   `tx_head` when bytes are acknowledged, so they need no second copy.
//!
//! Rules that make following the list safe without a lock:
//!
//! 1. A chunk is freed only when the client's cursor is *strictly* beyond its end (it has then
//!    read that chunk's link), or when the FIFO is empty and let go of as a whole.
//! 2. After letting go, the list begins anew with an anchor, stored before the cursor that makes
//!    bytes (or room) visible. A client looks at the anchor whenever it finds new bytes (room) after
//!    it had seen none.
//! 3. Letting go of an empty rx FIFO needs no agreement: a client reads nothing beyond `rx_tail`.
//!    Letting go of a tx FIFO takes the claim word, which a client holds while it writes.
#![deny(unsafe_code)]

mod client;
mod daemon;
pub mod datagram;
mod line;
#[cfg(not(loom))]
mod span;

pub use client::{RxReader, TxWriter};
pub use daemon::{FifoParts, RxFifo, TxFifo};
pub use line::{Anchor, ClientLine, DaemonLine, State, Trouble, claim};
#[cfg(not(loom))]
pub use span::{RxSpan, TxSpan};

#[cfg(all(test, not(loom)))]
mod tests;
