//! Whole-process tests of DMM.
