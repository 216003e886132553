//! What an operator gives to the daemon and gets from it: configuration and reports.
