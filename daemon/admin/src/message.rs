//! An error as `dmmd` and `dmm` print it: the whole chain of causes, in one line.

#![forbid(unsafe_code)]

use std::error::Error;

/// The error and its causes in one line, so that scripts and logs keep them together. A cause whose
/// text was said already, as part of an outer one, is not said again.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn chain(texts: &[&'static str]) -> Link {
        let (text, rest) = texts.split_first().unwrap();
        Link { text, source: (!rest.is_empty()).then(|| Box::new(chain(rest))) }
    }

    #[test]
    fn every_cause_is_told_and_none_twice() {
        let told = |texts: &[&'static str]| in_one_line(&chain(texts));
        assert_eq!(told(&["cannot connect", "refused\n(111)"]), "cannot connect: refused (111)");
        assert_eq!(told(&["a (b)", "b"]), "a (b)");
        assert_eq!(told(&["a", "b", "b", "c"]), "a: b: c");
    }
}
