//! What needs the machine for itself: floods, figures that other work would change, limits of the
//! whole process. The runner starts nothing beside one of these.

mod chaos;
mod concurrency;
mod flood;
mod generation_switch;
mod load_failure_cleanup;
