//! What the programs have to know about the node: whether it forwards packets, the addresses that it
//! holds, the devices at which frames are received, and listeners bound to a device.
//!
//! A thread of its own follows the notifications of the kernel and writes each change into shared maps
//! at once, so that no change waits for the daemon's loop or for a policy. The maps belong to no
//! generation. The thread reads netlink sockets with poll(2) and without a runtime: a queue of tasks
//! would hide lost notifications.
//!
//! `watcher.rs` is the thread, `known.rs` holds what the kernel has said, `facts.rs` derives what
//! counts, `device_map.rs` follows frames through stacked devices, and `writer.rs` changes the maps.
//!
//! Nothing counts as forwarded as long as a part is not known, or while there may be rules that deliver
//! packets for other addresses to this node. When the daemon ends, the last state stays in the maps, as
//! the guard stays attached.
//!
//! Decision: `docs/decisions/0056-services-are-about-packets-for-this-node.md`.
//! Decision: `docs/decisions/0060-own-addresses-are-the-kernels.md`.

mod device_map;
mod facts;
mod known;
mod legacy_tables;
mod shared;
mod watcher;
mod writer;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

pub use self::{
    facts::{NftPlace, NodeFacts, Obstacle},
    shared::State,
};
use self::{
    shared::{Shared, lock},
    watcher::Follower,
    writer::Writer,
};
use crate::{bpf::pinned_maps::node::NodeMaps, system_error::SystemError};

/// The thread that follows the node. Dropping it ends the thread; the maps keep the last state.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    /// Wakes the thread; closed to end it.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Writes the state of the node into the maps, then starts the thread, which follows the network
/// namespace of the caller.
///
/// # Errors
/// The maps cannot be read or written, or the thread cannot be started. That the kernel does not
/// answer is no error: the state says so, and nothing counts as forwarded.
pub fn start(maps: NodeMaps) -> Result<Watcher, SystemError> {
    let failed =
        |error: io::Error| SystemError::of("starting the thread that follows the node", error);
    let shared = Arc::new(Shared::default());
    let mut follower = Follower::start(Writer::new(maps)?, Arc::clone(&shared))?;
    let (wake, woken) = UnixStream::pair().map_err(failed)?;
    wake.set_nonblocking(true).map_err(failed)?;
    woken.set_nonblocking(true).map_err(failed)?;
    let work = move || {
        if catch_unwind(AssertUnwindSafe(|| follower.run(&woken))).is_err() {
            follower.give_up("the thread that follows the node has panicked");
        }
    };
    let thread =
        thread::Builder::new().name("node-state".to_owned()).spawn(work).map_err(failed)?;
    Ok(Watcher { shared, wake: Some(wake), thread: Some(thread) })
}

impl Watcher {
    /// Returns the facts as last written.
    pub fn facts(&self) -> Arc<NodeFacts> {
        self.shared.facts()
    }

    /// Returns whether the maps follow the node.
    pub fn state(&self) -> State {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let State::Failed(why) = lock(&self.shared.state).clone() else {
                return State::Failed("the thread that follows the node has ended".to_owned());
            };
            return State::Failed(why);
        }
        lock(&self.shared.state).clone()
    }

    /// Sets the indices of the guarded interfaces. Listeners bound to them are found by the programs,
    /// and their frames come first if there are too many devices.
    pub fn set_guarded(&self, guarded: &BTreeSet<u32>) {
        let mut shared = lock(&self.shared.guarded);
        if *shared == *guarded {
            return;
        }
        shared.clone_from(guarded);
        drop(shared);
        if let Some(mut wake) = self.wake.as_ref() {
            // If the stream is full, the thread is about to read it.
            let _ = wake.write(&[1]);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Ends the thread, which then writes to the maps no more.
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
