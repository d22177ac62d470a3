//! What is around the guarded interfaces and matters to them: others that are up and unguarded,
//! devices that unpack tunnels, programs of others in front of ours. Each is told of when it comes.

use std::collections::BTreeSet;

use super::{guard::Guard, interfaces};
use crate::kernel::stacking;

/// What was there at the last look.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    unguarded: BTreeSet<String>,
    tunnels: BTreeSet<String>,
    /// Name of an interface, and what is in front of the guard there.
    in_front: BTreeSet<(String, String)>,
}

impl Guard {
    /// Takes note of what is new around the guarded interfaces.
    pub(super) fn note_surroundings(&mut self) {
        let guarded = self.links.indices();
        let bare = self.devices.iter().filter(|device| {
            let wanted = guarded.contains(&device.index) || self.selection.means(device.index);
            let covered = |index: u32| guarded.contains(&index);
            device.up
                && device.name != "lo"
                && !wanted
                && !stacking::is_covered(device, &self.devices, covered)
        });
        let now = Surroundings {
            unguarded: bare.map(|device| device.name.clone()).collect(),
            tunnels: interfaces::describe_tunnels(&self.devices).into_iter().collect(),
            in_front: self.links.in_front(&self.devices).into_iter().collect(),
        };
        let before = std::mem::replace(&mut self.surroundings, now);
        let now = &self.surroundings;
        let mut notes = Vec::new();
        for name in now.unguarded.difference(&before.unguarded) {
            notes.push(("unguarded", name, "up and unguarded: no pattern means it".to_owned()));
        }
        for tunnel in now.tunnels.difference(&before.tunnels) {
            let text = "unpacks what strangers may send; its kind of packets is judged by source";
            notes.push(("tunnel", tunnel, text.to_owned()));
        }
        for (name, what) in now.in_front.difference(&before.in_front) {
            notes.push(("warning", name, what.clone()));
        }
        for (what, name, text) in notes {
            tracing::warn!(interface = name, "{text}");
            self.journal.interface(what, name, &text);
        }
    }
}
