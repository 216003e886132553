//! The dmm command.
