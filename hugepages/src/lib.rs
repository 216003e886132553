//! Inspects and reserves huge pages per NUMA node.
