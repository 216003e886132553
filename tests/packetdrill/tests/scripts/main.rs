//! Plays the scripts of `tests/packetdrill/scripts` through the shared object, as packetdrill would: segments
//! in, segments out, at virtual times. Each is named after what it shows, in a folder of its RFC.
//!
//! Scripts are in packetdrill's language, as far as [`script`] knows it, so that packetdrill can play them too.

mod packet;
mod player;
mod script;
mod stack;

use std::fs;
use std::path::{Path, PathBuf};

/// All scripts below `folder`, in order.
fn scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            scripts(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "pkt") {
            found.push(entry);
        }
    }
}

/// `DMM_TEST_SCRIPT` plays those alone whose path holds it.
#[test]
fn every_script_is_played_without_a_difference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let wanted = std::env::var("DMM_TEST_SCRIPT").unwrap_or_default();
    let mut found = Vec::new();
    scripts(&folder, &mut found);
    found.retain(|path| path.to_string_lossy().contains(&wanted));
    assert!(!found.is_empty(), "no script's path holds {wanted:?}");
    let mut failed = Vec::new();
    for path in &found {
        let name = path.strip_prefix(&folder).expect("below it").display();
        let text = fs::read_to_string(path).expect("a script");
        if let Err(error) = script::parse(&text).and_then(|events| player::play(&events)) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), found.len(), failed.join("\n"));
    println!("{} scripts", found.len());
}
