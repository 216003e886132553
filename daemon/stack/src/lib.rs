//! Sans-IO protocol stacks behind one trait.
