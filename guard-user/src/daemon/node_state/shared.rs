//! What the thread that follows the node shares with the daemon.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::facts::NodeFacts;

/// Whether the maps follow the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// The maps follow the notifications of the kernel.
    #[default]
    Following,
    /// They do not, for this reason, and nothing counts as forwarded. The thread tries again each
    /// second, unless it has ended.
    Failed(String),
}

/// What the thread shares with the daemon.
#[derive(Debug, Default)]
pub(super) struct Shared {
    facts: Mutex<Arc<NodeFacts>>,
    pub(super) state: Mutex<State>,
    pub(super) guarded: Mutex<BTreeSet<u32>>,
}

impl Shared {
    pub(super) fn facts(&self) -> Arc<NodeFacts> {
        Arc::clone(&lock(&self.facts))
    }

    pub(super) fn publish(&self, facts: NodeFacts) {
        let mut shared = lock(&self.facts);
        if **shared != facts {
            *shared = Arc::new(facts);
        }
    }

    pub(super) fn set_state(&self, state: State) {
        let mut shared = lock(&self.state);
        if *shared == state {
            return;
        }
        match &state {
            State::Following => tracing::info!("the state of the node is followed again"),
            State::Failed(why) => tracing::error!("no packet counts as forwarded: {why}"),
        }
        *shared = state;
    }

    pub(super) fn guarded(&self) -> BTreeSet<u32> {
        lock(&self.guarded).clone()
    }
}

/// Locks. The values are replaced as a whole, so they are valid even after a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
