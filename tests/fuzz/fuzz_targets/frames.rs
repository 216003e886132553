//! The walk through a frame's headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let (traffic, message) = dmm_port::flow::read(frame);
    assert_eq!(traffic, dmm_port::flow::parse(frame));
    if let Some(message) = message {
        let (outer, inner) = (frame.as_ptr_range(), message.bytes.as_ptr_range());
        assert!(outer.start <= inner.start && inner.end <= outer.end, "beyond the frame");
    }
});
