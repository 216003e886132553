//! The DMM daemon: owns ports, runs stacks on pinned cores, serves clients.
//!
//! ```text
//!   control thread                      workers, one a core
//!   ┌──────────────────────────┐        ┌──────────────────────────────────────┐
//!   │ unix socket: hello,      │ attach │ instance: rx ▶ stack ▶ tx            │
//!   │ requests, reports        ├───────▶│    ▲ submissions   ▼ completions     │
//!   │ signals, dead clients    │◀───────┤    └───── channels of clients ───┘   │
//!   └──────────────────────────┘ breach └──────────────────────────────────────┘
//! ```
//!
//! Reading order: [`control`] for what happens seldom, [`worker`] and [`instance`] for what happens
//! all the time, [`assembly`] for how a configuration becomes both.

pub mod assembly;
pub mod capture;
pub mod control;
pub mod counters;
pub mod descriptor;
pub mod fault;
pub mod instance;
pub mod orphans;
pub mod session;
pub mod worker;
