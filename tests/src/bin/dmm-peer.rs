//! `dmm-peer`: one end of a test's connections, over the kernel's sockets or the library's.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dmm_tests::peer::{Arguments, run};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmm-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
