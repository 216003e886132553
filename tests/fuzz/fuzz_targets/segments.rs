//! A native stack with clients, and a peer that sends any sequence of segments.
#![no_main]

use dmm_fuzz::{Step, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<Step>| World::new().play(&steps));
