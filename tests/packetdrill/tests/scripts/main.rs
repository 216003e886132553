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

/// Plays all scripts whose path holds `wanted`, without a part of TCP. Returns those that found a difference,
/// and which, and how many were played.
fn play_all(wanted: &str, without: &str) -> (Vec<(String, String)>, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut found = Vec::new();
    scripts(&folder, &mut found);
    found.retain(|path| path.to_string_lossy().contains(wanted));
    assert!(!found.is_empty(), "no script's path holds {wanted:?}");
    let mut failed = Vec::new();
    for path in &found {
        let name = path.strip_prefix(&folder).expect("below it").display().to_string();
        let text = fs::read_to_string(path).expect("a script");
        // What a script needs beside the usual, it says in its first line.
        let needs = text.lines().next().and_then(|line| line.split_once("--so_flags="));
        let flags = needs.map_or(without, |(_, flags)| flags.trim());
        let played = script::parse(&text).and_then(|events| player::play(&events, flags));
        if let Err(error) = played {
            failed.push((name, format!("{error:#}")));
        }
    }
    (failed, found.len())
}

/// `DMM_TEST_SCRIPT` plays those alone whose path holds it.
#[test]
fn every_script_is_played_without_a_difference() {
    let wanted = std::env::var("DMM_TEST_SCRIPT").unwrap_or_default();
    let (failed, count) = play_all(&wanted, "");
    let failed: Vec<_> = failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert!(failed.is_empty(), "{} of {count}:\n{}", failed.len(), failed.join("\n"));
    println!("{count} scripts");
}

/// What each part of TCP is good for: these scripts, at least, need it.
#[test]
fn without_a_part_the_scripts_that_need_it_find_differences() {
    for (part, needing) in [
        ("sack", &["rfc2018/what-came-last-is-told-first.pkt"][..]),
        (
            "rack",
            &[
                "rfc8985/one-sacked-segment-shows-a-loss-after-a-quarter-round-trip.pkt",
                "rfc8985/the-tail-is-probed-with-the-last-segment.pkt",
            ],
        ),
        ("prr", &["rfc6937/each-acknowledgement-lets-out-what-it-reports.pkt"]),
        ("frto", &["rfc5682/a-pause-is-not-taken-for-loss.pkt"]),
        ("paws", &["rfc7323/an-old-timestamp-is-dropped.pkt"]),
    ] {
        let (failed, _) = play_all("", part);
        for script in needing {
            assert!(failed.iter().any(|(name, _)| name == script), "{script} does without {part}");
        }
    }
}
