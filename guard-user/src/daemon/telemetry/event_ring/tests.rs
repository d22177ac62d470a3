//! Properties of the event ring: no sample is reported twice, and none is missing without being
//! counted.

use guard_common::verdict::{Action, Reason, Verdict};
use proptest::prelude::*;

use std::collections::BTreeMap;

use super::*;
use crate::api::status::ServiceStatus;

const START: u64 = 1_790_000_000;

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START) + Duration::from_millis(ms)
}

fn sample(source: u32, weight: u32) -> Sample {
    Sample {
        source: Addr::V4(source).mapped(),
        verdict: Verdict::of_service(Action::Drop, Reason::NotAllowed, 0).pack(),
        family: Sample::IPV4,
        protocol: 6,
        port: 9091,
        weight,
        ..Sample::default()
    }
}

fn with_names(work: impl FnOnce(Names<'_>)) {
    let status = ServiceStatus { name: "s".to_owned(), ..ServiceStatus::default() };
    let services = BTreeMap::from([(0, status)]);
    work(Names { services: &services, nodes: &[], devices: &[] });
}

/// Sums over all records: samples, frames, samples not kept, and losses in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    count: u64,
    packets: u64,
    not_kept: u64,
    kernel: u64,
}

fn add(totals: &mut Totals, page: &Page) {
    for event in &page.events {
        match &event.what {
            EventKind::Packet(packet) => {
                totals.count += packet.count;
                totals.packets += packet.packets;
            }
            EventKind::Lost(lost) => {
                totals.not_kept += lost.not_kept;
                totals.kernel += lost.suppressed + lost.lost;
            }
            _ => {}
        }
    }
}

/// Reads all new events page by page, as a client does.
fn read(ring: &EventRing, after: &mut u64, totals: &mut Totals) {
    loop {
        let page = ring.page(*after, 64);
        assert!(page.first <= *after + 1, "a client that polls often misses nothing");
        let Some(last) = page.events.last().and_then(|event| event.seq) else { return };
        let numbers: Vec<u64> = page.events.iter().filter_map(|event| event.seq).collect();
        let expected: Vec<u64> = (*after + 1..=last).collect();
        assert_eq!(numbers, expected);
        *after = last;
        add(totals, &page);
    }
}

/// A time step in milliseconds, and the packets in it as (source, weight).
type Step = (u64, Vec<(u8, u32)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let packets = proptest::collection::vec((any::<u8>(), 1..1000_u32), 0..300);
    proptest::collection::vec((0..1500_u64, packets), 0..20)
}

proptest! {
    #[test]
    fn every_sample_is_reported_or_counted(steps in steps(), few in any::<bool>()) {
        with_names(|names| {
            let mut ring = EventRing::new(at(0));
            let (mut after, mut totals) = (0, Totals::default());
            let mut fed = Totals::default();
            let mut now = 0;
            for (step, packets) in steps {
                now += step;
                let counts = EventCounts { suppressed: fed.count * 7, lost: 3, emitted: 0 };
                ring.tick(names, at(now), || Some(counts));
                for (source, weight) in packets {
                    // Few sources fold; many exceed the records per second.
                    let source = if few { u32::from(source % 4) } else { u32::from(source) };
                    fed.count += 1;
                    fed.packets += u64::from(weight);
                    ring.packet(&sample(source, weight), names, at(now));
                }
                assert!(ring.folds.len() <= 2 * RECORDS_PER_SECOND as usize);
                read(&ring, &mut after, &mut totals);
            }
            // After a few more ticks everything has been reported.
            let counts = EventCounts { suppressed: 1_000_000, lost: 7, emitted: 0 };
            for later in 0..3 {
                ring.tick(names, at(now + 1000 * (later + 1)), || Some(counts));
                read(&ring, &mut after, &mut totals);
            }
            assert_eq!(totals.count + totals.not_kept, fed.count);
            assert!(totals.packets <= fed.packets);
            if few {
                assert_eq!((totals.packets, totals.not_kept), (fed.packets, 0));
            }
            assert!(ring.folds.is_empty());
        });
    }

    #[test]
    fn a_gap_is_the_number_of_discarded_records(more in 0..3000_u64, after in 0..8000_u64) {
        let mut ring = EventRing::new(at(0));
        let all = MAX_RECORDS as u64 + more;
        for _ in 0..all {
            ring.push(at(0), EventKind::Lost(Lost::default()));
        }
        let page = ring.page(after, PAGE);
        prop_assert_eq!((page.first, page.next), (more + 1, all + 1));
        let first = page.events.first().and_then(|event| event.seq);
        let expected = (after + 1).max(page.first);
        prop_assert_eq!(first, (expected < page.next).then_some(expected));
        prop_assert!(page.events.len() <= PAGE);
    }
}

#[test]
fn the_first_packet_is_reported_at_once_and_similar_ones_a_second_later() {
    with_names(|names| {
        let mut ring = EventRing::new(at(0));
        ring.tick(names, at(0), || None);
        for ms in 0..60 {
            ring.packet(&sample(1, 2), names, at(ms));
        }
        let counts = |ring: &EventRing| -> Vec<(u64, u64)> {
            let events = ring.page(0, PAGE).events;
            let of = |event: Event| match event.what {
                EventKind::Packet(packet) => Some((packet.count, packet.packets)),
                _ => None,
            };
            events.into_iter().filter_map(of).collect()
        };
        assert_eq!(counts(&ring), [(1, 2)]);
        ring.tick(names, at(999), || None);
        assert_eq!(counts(&ring), [(1, 2)]);
        ring.tick(names, at(1000), || None);
        assert_eq!(counts(&ring), [(1, 2), (59, 118)]);
        // Still the same second of this source.
        ring.packet(&sample(1, 2), names, at(1500));
        ring.tick(names, at(1600), || None);
        assert_eq!(counts(&ring).len(), 2);
        ring.tick(names, at(2000), || None);
        assert_eq!(counts(&ring), [(1, 2), (59, 118), (1, 2)]);
        ring.tick(names, at(3000), || None);
        ring.packet(&sample(1, 2), names, at(3000));
        assert_eq!(counts(&ring).len(), 4, "reported at once again after a second without packets");
    });
}

#[test]
fn a_clock_that_is_set_back_delays_no_record() {
    with_names(|names| {
        let mut ring = EventRing::new(at(100_000));
        ring.packet(&sample(1, 1), names, at(100_000));
        ring.packet(&sample(1, 1), names, at(100_001));
        ring.tick(names, at(0), || None);
        assert_eq!(ring.page(0, PAGE).events.len(), 2);
    });
}

#[test]
fn losses_before_the_start_are_not_reported() {
    with_names(|names| {
        let mut ring = EventRing::new(at(0));
        let counts = |suppressed| EventCounts { suppressed, lost: 0, emitted: 0 };
        ring.tick(names, at(0), || Some(counts(500)));
        assert_eq!(ring.page(0, PAGE).events, []);
        ring.tick(names, at(1000), || Some(counts(507)));
        let events = ring.page(0, PAGE).events;
        let Some(EventKind::Lost(lost)) = events.first().map(|event| &event.what) else {
            panic!("{events:?}")
        };
        assert_eq!((lost.suppressed, lost.not_kept), (7, 0));
        // At most once a second, and only if there are losses.
        ring.tick(names, at(1500), || Some(counts(509)));
        ring.tick(names, at(2000), || Some(counts(509)));
        ring.tick(names, at(3000), || Some(counts(509)));
        assert_eq!(ring.page(0, PAGE).events.len(), 2);
    });
}

#[test]
fn memory_is_bounded_also_by_long_texts() {
    let mut ring = EventRing::new(at(0));
    for _ in 0..3 * MAX_RECORDS {
        ring.push(
            at(0),
            EventKind::Policy(Policy { text: short(&"€".repeat(100_000)), ..Policy::default() }),
        );
    }
    let bytes: usize = ring.records.iter().map(size).sum();
    assert_eq!(bytes, ring.bytes);
    assert!(bytes <= MAX_BYTES);
    let page = serde_json::to_vec(&ring.page(0, PAGE)).expect("JSON");
    assert!(page.len() <= 2 * PAGE_BYTES, "{}", page.len());
}
