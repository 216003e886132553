//! What clients write into rings, and the packets that they attach by.
#![no_main]

use dmm_proto::hello::Hello;
use dmm_proto::op::{Completion, Submission};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u64; 8], &[u8])| {
    let (entry, packet) = input;
    if let Ok(submission) = Submission::decode(&entry) {
        assert_eq!(Submission::decode(&submission.encode()), Ok(submission));
    }
    if let Ok(completion) = Completion::decode(&entry) {
        assert_eq!(Completion::decode(&completion.encode()), Ok(completion));
    }
    let _ = Hello::parse(packet);
});
