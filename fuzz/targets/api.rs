//! The documents of the sockets: requests that clients send, answers that commands read, and lines of events.
#![no_main]

use guard_user::api::{
    control::{Applied, Apply, Detach, ModeChange},
    events::{self, Page},
    stats::Stats,
    status::Status,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<Apply>(data);
    let _ = serde_json::from_slice::<Detach>(data);
    let _ = serde_json::from_slice::<ModeChange>(data);
    let _ = serde_json::from_slice::<Applied>(data);
    let _ = serde_json::from_slice::<Status>(data);
    let _ = serde_json::from_slice::<Stats>(data);
    let _ = serde_json::from_slice::<Page>(data);
    let _ = events::read(data);
});
