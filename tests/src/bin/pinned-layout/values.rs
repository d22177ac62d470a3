//! Keys and values of the pinned maps, and the meaning of their numbers.
//!
//! Of the workspace, this file uses guard-common alone, so that it can also describe a modified copy of
//! that crate (`xtask/src/layout.rs`).

use std::{any::type_name, mem::offset_of};

use guard_common::{
    Action, Addr, Reason, Verdict,
    bucket::TICKS_PER_NS,
    layout::{
        self, BucketStates, Carried, Counter, LABEL_GENERATION, LABEL_INTERFACES, LABEL_POLICY,
        LAYOUT_VERSION, Label, MemberKey, Sampling,
        counters::{self, INTERFACE_PROBES, INTERFACE_SLOTS, InterfaceRow, MAX_INTERFACES},
        daemon_counters,
        event::{Event, HEAD_LEN},
    },
    limit::{HASHED_BUCKETS, hashed_bucket},
    tables::Unit,
    verdict::{MAX_SERVICES, NODE_REASONS},
};

/// Pairs of name and value, in the order of the output.
type Lines = Vec<(String, String)>;

/// Adds the fields of a struct: the type of each, and its byte offset.
macro_rules! fields {
    ($lines:ident, $type:ident { $($field:ident),+ $(,)? }) => {
        // Does not compile unless every field is named.
        let _ = |$type { $($field: _),+ }: $type| ();
        $lines.push((stringify!($type).to_owned(), format!("{} bytes", size_of::<$type>())));
        $(
            let kind = kind_of(|value: &$type| &value.$field);
            let at = offset_of!($type, $field);
            $lines.push((
                concat!(stringify!($type), ".", stringify!($field)).to_owned(),
                format!("{kind} at byte {at}"),
            ));
        )+
    };
}

/// Adds constants under their names.
macro_rules! numbers {
    ($lines:ident, $($number:path),+ $(,)?) => {
        $($lines.push((stringify!($number).to_owned(), $number.to_string()));)+
    };
}

/// Returns the lines about keys and values.
pub(crate) fn lines() -> Lines {
    let mut lines = vec![("LAYOUT_VERSION".to_owned(), LAYOUT_VERSION.to_string())];
    structs(&mut lines);
    enums(&mut lines);
    counters(&mut lines);
    others(&mut lines);
    lines
}

fn structs(lines: &mut Lines) {
    fields!(lines, Counter { packets, bytes });
    fields!(lines, Carried { settled, of });
    fields!(lines, MemberKey { addr, slot });
    fields!(lines, Sampling { window, seen, gap, skip, used, suppressed, lost, emitted });
    fields!(
        lines,
        Event { source, verdict, ifindex, len, port, protocol, family, weight, head_len, head }
    );
    for (name, kind) in
        [("BucketStates", type_name::<BucketStates>()), ("Label", type_name::<Label>())]
    {
        lines.push((name.to_owned(), kind.to_owned()));
    }
}

fn enums(lines: &mut Lines) {
    for action in Action::ALL {
        lines.push((format!("Action {}", action.name()), (action as u8).to_string()));
    }
    for reason in Reason::ALL {
        lines.push((format!("Reason {}", reason.name()), (reason as u8).to_string()));
    }
    for unit in Unit::ALL {
        lines.push((format!("Unit {unit:?}"), (unit as u8).to_string()));
    }
    numbers!(lines, NODE_REASONS, MAX_SERVICES, Event::IPV4, Event::IPV6, HEAD_LEN);
    let verdict = Verdict::of_service(Action::Drop, Reason::NotAllowed, 5);
    lines.push(("packed: drop, not_allowed, slot 5".to_owned(), format!("{:#x}", verdict.pack())));
    let verdict = Verdict::of_node(Action::WouldDrop, Reason::Fragment);
    lines.push(("packed: would-drop, fragment".to_owned(), format!("{:#x}", verdict.pack())));
}

/// Adds the index at which each verdict is counted in an interface's row of counters.
fn counters(lines: &mut Lines) {
    // Keep the names that the committed file uses since earlier versions.
    for (name, number) in [
        ("layout::COUNTERS", counters::COUNTERS),
        ("layout::COUNTERS_PER_INTERFACE", counters::COUNTERS_PER_INTERFACE),
        ("layout::NODE_COUNTERS", counters::NODE_COUNTERS),
        ("layout::SERVICE_COUNTERS", counters::SERVICE_COUNTERS),
    ] {
        lines.push((name.to_owned(), number.to_string()));
    }
    numbers!(lines, layout::ORIGINS, layout::CARRIED);
    let first_of_second_service =
        counters::NODE_COUNTERS.saturating_add(counters::SERVICE_COUNTERS);
    for index in 0..first_of_second_service {
        if let Some((_, Verdict { action, reason, service })) = counters::counter_meaning(index) {
            let of = if service.is_some() { "a service" } else { "the node" };
            let name = format!("counter of {of}: {}, {}", action.name(), reason.name());
            lines.push((name, index.to_string()));
        }
    }
}

fn others(lines: &mut Lines) {
    numbers!(lines, MAX_INTERFACES, INTERFACE_SLOTS, INTERFACE_PROBES);
    let row = InterfaceRow::new(70, 2, true);
    lines.push(("row of interface 70, third row, one buffer".to_owned(), format!("{row:x?}")));
    let places: Vec<u32> = InterfaceRow::places(70).collect();
    lines.push(("places of interface 70".to_owned(), format!("{places:?}")));
    let four = Addr::V4(0x0a01_0203);
    let key = MemberKey::new(3, &four);
    lines.push(("key of 10.1.2.3 in slot 3".to_owned(), format!("{:x?} {}", key.addr, key.slot)));
    numbers!(lines, TICKS_PER_NS, HASHED_BUCKETS);
    let six = Addr::V6([0xfd00 << 48, 9]);
    let buckets = [four, six].map(|addr| hashed_bucket([1, 2], 3, &addr));
    lines.push(("hashed buckets of 10.1.2.3 and fd00::9".to_owned(), format!("{buckets:?}")));
    numbers!(lines, layout::ABOUT_BYTES);
    numbers!(lines, LABEL_INTERFACES, LABEL_GENERATION, LABEL_POLICY, layout::LABELS);
    numbers!(
        lines,
        layout::TALLIES,
        layout::TALLY_LOADS_DONE,
        layout::TALLY_LOADS_FAILED,
        layout::TALLY_MEMBER_DROPS_NODE,
        layout::TALLY_LOG_SUPPRESSED,
        layout::TALLY_LOG_LOST,
        layout::TALLY_REQUESTS_SERVED,
        layout::TALLY_REQUESTS_REFUSED,
        layout::TALLY_CONNECTIONS_CUT,
        layout::TALLY_ORIGINS,
        layout::TALLY_MEMBER_DROPS,
    );
    // Keep the names that the committed file uses since earlier versions.
    for (name, number) in [
        ("tally::SIGNATURES_REFUSED", daemon_counters::SIGNATURES_REFUSED),
        ("tally::SIGNATURES_REPLAYED", daemon_counters::SIGNATURES_REPLAYED),
    ] {
        lines.push((name.to_owned(), number.to_string()));
    }
}

/// Returns the name of a field's type.
fn kind_of<T, F>(_: impl Fn(&T) -> &F) -> &'static str {
    type_name::<F>()
}
