//! The tests of the project, in one binary.

mod kernel;
