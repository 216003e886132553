//! Waiting for events. A test never waits for a time: it waits for what should happen, and fails
//! only when that has not come after long enough to be sure.

use std::time::{Duration, Instant};

/// How long an event may take that needs no data to be moved.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a program may take to move its data, hundreds of MiB perhaps on a loaded machine.
pub const TRANSFER: Duration = Duration::from_secs(600);

/// Between two looks at something that gives no notice.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, for [`PATIENCE`] at most.
///
/// # Panics
/// After that, with the last thing that `look` had to say.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < give_up, "{what} did not happen: {why}"),
        }
        std::thread::sleep(LOOK);
    }
}
