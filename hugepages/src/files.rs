//! Reading the kernel's one-number files.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::HugepageError;

/// The text of a file; `None` if there is no such file.
pub(crate) fn text(path: &Path) -> Result<Option<String>, HugepageError> {
    match fs::read(path) {
        // What is not UTF-8 cannot be a number: it shows up as garbage where one is read.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HugepageError::Read { path: path.to_owned(), source }),
    }
}

/// The number that a file holds; `None` if there is no such file.
pub(crate) fn number(path: &Path) -> Result<Option<u64>, HugepageError> {
    text(path)?.map(|text| parse(path, &text)).transpose()
}

/// The number in `text`, which came from `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<u64, HugepageError> {
    text.trim().parse().map_err(|_| HugepageError::Garbage {
        path: path.to_owned(),
        text: text.trim().chars().take(40).collect(),
    })
}

/// A number from /proc/meminfo, in its unit; `None` if the line or the file is missing.
pub(crate) fn meminfo(root: &Path, key: &str) -> Result<Option<u64>, HugepageError> {
    let path = root.join("proc/meminfo");
    let Some(text) = text(&path)? else { return Ok(None) };
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(|value| parse(&path, value.trim().trim_end_matches("kB"))).transpose()
}

/// The folders `root/parent/prefix<rest>` with what follows the prefix, in order of their names;
/// none if there is no such parent.
pub(crate) fn folders(
    parent: &Path,
    prefix: &str,
) -> Result<Vec<(String, PathBuf)>, HugepageError> {
    let unreadable = |source| HugepageError::Read { path: parent.to_owned(), source };
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if let Some(rest) = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)) {
            found.push((rest.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
