//! Where the configuration comes from: the same answer for `dmmd`, which runs it, and for
//! `dmm doctor`, which judges it.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Config, ConfigError};
use crate::DEFAULT_CONFIG;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This file.
    File(PathBuf),
    /// The program itself: see [`Config::embedded`].
    Embedded,
}

impl Origin {
    /// The file that a flag or [`crate::CONFIG_ENV`] names, else [`DEFAULT_CONFIG`] if it is there,
    /// else the embedded default.
    #[must_use]
    pub fn choose(named: Option<PathBuf>) -> Self {
        Self::choose_else(named, Path::new(DEFAULT_CONFIG))
    }

    fn choose_else(named: Option<PathBuf>, usual: &Path) -> Self {
        match (named, usual.try_exists()) {
            (Some(path), _) => Self::File(path),
            (None, Ok(false)) => Self::Embedded,
            // One that cannot be looked at is refused by name rather than passed over.
            (None, _) => Self::File(usual.to_owned()),
        }
    }

    /// Reads, parses and validates it.
    ///
    /// # Errors
    /// As [`Config::load`] and [`Config::validate`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        match self {
            Self::File(path) => Config::load(path),
            Self::Embedded => {
                let config = Config::embedded();
                config.validate()?;
                Ok(config)
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Embedded => write!(f, "the embedded default (there is no {DEFAULT_CONFIG})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_is_taken_whether_or_not_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (named, usual) = (folder.path().join("named"), folder.path().join("usual"));
        let choose = |named: Option<&Path>| Origin::choose_else(named.map(Into::into), &usual);
        assert_eq!(choose(None), Origin::Embedded);
        assert_eq!(choose(None).load().unwrap(), Config::embedded());
        assert_eq!(choose(Some(&named)), Origin::File(named.clone()));
        assert!(choose(Some(&named)).load().unwrap_err().to_string().contains("named"));
        std::fs::write(&usual, "[]").unwrap();
        assert_eq!(choose(None), Origin::File(usual.clone()));
        assert_eq!(choose(Some(&named)), Origin::File(named));
    }
}
