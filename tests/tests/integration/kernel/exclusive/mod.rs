//! Tests that need the machine for themselves: floods, measurements that other work would change, limits
//! of the whole process. The runner starts no other test beside one of these.

mod chaos;
mod concurrency;
mod flood;
mod generation_switch;
mod load_failure_cleanup;
mod oracle;
