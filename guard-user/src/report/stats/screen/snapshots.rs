//! Snapshots of the live screen, compared with the files in `snapshots/`. To change one on purpose,
//! run the test with `INSTA_UPDATE=always`, and review the new file before committing it.

use std::time::Duration;

use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, layout::Rect, style::Color};

use super::{
    TerminalFeatures, draw,
    tables::Table,
    view::{Filter, Overlay, View},
};
use crate::api::{
    stats::{Events, InterfaceStats, ReasonStats, STATS_SCHEMA, ServiceStats, Stats, TopSource},
    status::ServiceMode,
};
use crate::attach_mode::DeviceMode;
use crate::report::stats::model::{Model, Reading};

const PLAIN: TerminalFeatures = TerminalFeatures { color: true, ascii: false };

fn time(second: u64) -> String {
    format!("2026-03-04T12:{:02}:{:02}.250Z", second / 60, second % 60)
}

fn interface(
    name: &str,
    mode: Option<DeviceMode>,
    [passed, dropped, would_drop]: [u64; 3],
) -> InterfaceStats {
    InterfaceStats {
        name: name.to_owned(),
        passed,
        dropped,
        would_drop,
        passed_bytes: passed * 1400,
        dropped_bytes: dropped * 64,
        would_drop_bytes: would_drop * 200,
        mode,
    }
}

fn service(name: &str, mode: ServiceMode, [passed, dropped, would_drop]: [u64; 3]) -> ServiceStats {
    ServiceStats {
        name: name.to_owned(),
        policy: "train".to_owned(),
        passed,
        dropped,
        would_drop,
        mode: Some(mode),
        ..ServiceStats::default()
    }
}

fn source(address: &str, node: Option<&str>, packets: u64, [first, last]: [u64; 2]) -> TopSource {
    TopSource {
        address: address.to_owned(),
        node: node.map(str::to_owned),
        sampled: packets / 64 + 1,
        packets,
        first_seen: time(first),
        last_seen: time(last),
        reason: "not_allowed".to_owned(),
        service: Some("scheduler".to_owned()),
        port: Some("tcp/9091".to_owned()),
    }
}

/// Returns the counters of a node under attack after `second` seconds.
pub(super) fn reading(second: u64) -> Stats {
    let flood = if second > 30 { (second - 30) * 1_812 } else { 0 };
    let reason = |packets, dropped, would_drop| ReasonStats {
        packets,
        bytes: packets * 100,
        dropped,
        would_drop,
    };
    Stats {
        schema: STATS_SCHEMA.to_owned(),
        time: time(second),
        node: "gpu-017".to_owned(),
        enforcing: Some(true),
        generation: 37,
        policy_hash: "4f2c9a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7".to_owned(),
        in_force_since: Some("2026-03-04T09:46:30.000Z".to_owned()),
        interfaces: vec![
            interface("mgmt0", Some(DeviceMode::Generic), [second * 3_100, second * 2, 0]),
            interface("rail0", Some(DeviceMode::Native), [second * 10_300_000, flood, second * 7]),
            interface("rail1", Some(DeviceMode::Native), [second * 10_300_000, 0, 0]),
            interface("rail2", None, [0, 0, 0]),
        ],
        services: vec![
            service("nccl", ServiceMode::Enforce, [second * 20_000_000, flood, 0]),
            service("scheduler", ServiceMode::Observe, [second * 500, 0, second * 7]),
        ],
        reasons: [
            ("allowed".to_owned(), reason(second * 20_000_000, 0, 0)),
            ("fragment".to_owned(), reason(4, 4, 0)),
            ("limit_source".to_owned(), reason(second * 2, second * 2, 0)),
            ("malformed".to_owned(), reason(0, 0, 0)),
            ("not_allowed".to_owned(), reason(flood + second * 7, flood, second * 7)),
        ]
        .into(),
        top_sources: vec![
            source("10.30.0.5", None, flood, [31, second]),
            source("10.20.48.9", Some("gpu-048"), second * 61, [2, second]),
            source("2001:db8:1234:5678:a00:27ff:fe4e:66a1", None, 55, [1, 12]),
        ],
        events: Events { emitted: 100, suppressed: 5, lost: 0 },
    }
}

fn answered(stats: Stats) -> Reading {
    Reading::Answered(Box::new(stats))
}

/// Returns the model after forty seconds.
pub(super) fn model() -> Model {
    let mut model = Model::default();
    model.manifest = Some("/etc/trainguard/cluster.yaml".to_owned());
    for second in 0..=40 {
        model.add(answered(reading(second)), Duration::from_secs(second));
    }
    model
}

fn terminal(
    model: &Model,
    view: &View,
    look: TerminalFeatures,
    [width, height]: [u16; 2],
) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(model, view, look, frame.buffer_mut())).expect("a picture");
    terminal
}

fn picture(model: &Model, view: &View, look: TerminalFeatures, size: [u16; 2]) -> String {
    terminal(model, view, look, size).backend().to_string()
}

#[test]
fn usual_sizes() {
    for (name, size) in [("80x24", [80, 24]), ("100x30", [100, 30]), ("132x43", [132, 43])] {
        insta::assert_snapshot!(name, picture(&model(), &View::default(), PLAIN, size));
    }
}

#[test]
fn small_sizes_show_what_fits() {
    let sizes = [[40, 10], [40, 5], [30, 3], [20, 2], [9, 1], [1, 1]];
    let all: Vec<String> =
        sizes.iter().map(|size| picture(&model(), &View::default(), PLAIN, *size)).collect();
    insta::assert_snapshot!("small", all.join("\n"));
}

#[test]
fn totals_in_bytes() {
    let mut view = View::default();
    view.totals = true;
    view.unit = super::view::Unit::Bytes;
    view.focus = Table::Reasons;
    insta::assert_snapshot!("totals", picture(&model(), &view, PLAIN, [100, 30]));
}

#[test]
fn ascii_only() {
    let look = TerminalFeatures { color: false, ascii: true };
    insta::assert_snapshot!("ascii", picture(&model(), &View::default(), look, [80, 24]));
}

#[test]
fn without_colours_there_are_none() {
    let colours = |look| {
        let terminal = terminal(&model(), &View::default(), look, [100, 30]);
        let buffer: &Buffer = terminal.backend().buffer();
        let plain = |color: Color| color == Color::Reset;
        buffer.content.iter().filter(|cell| !plain(cell.fg) || !plain(cell.bg)).count()
    };
    assert!(colours(PLAIN) > 0);
    assert_eq!(colours(TerminalFeatures { color: false, ascii: false }), 0);
}

#[test]
fn keys_and_details_are_drawn_over_the_tables() {
    let mut view = View { overlay: Overlay::Help, ..View::default() };
    insta::assert_snapshot!("help", picture(&model(), &view, PLAIN, [80, 24]));
    view.overlay = Overlay::Details("10.20.48.9".to_owned());
    insta::assert_snapshot!("details", picture(&model(), &view, PLAIN, [80, 24]));
    view.overlay = Overlay::Details("2001:db8:1234:5678:a00:27ff:fe4e:66a1".to_owned());
    let look = TerminalFeatures { color: false, ascii: true };
    insta::assert_snapshot!("details_ascii", picture(&model(), &view, look, [132, 43]));
    view.overlay = Overlay::Details("10.0.0.77".to_owned());
    insta::assert_snapshot!("details_gone", picture(&model(), &view, PLAIN, [60, 12]));
}

#[test]
fn a_filter_is_shown_while_it_is_typed_and_after() {
    let mut view = View { filter: Filter::new("!rail"), ..View::default() };
    insta::assert_snapshot!("filter", picture(&model(), &view, PLAIN, [80, 24]));
    view.filter = Filter::new("not in");
    view.typing = Some(Filter::default());
    insta::assert_snapshot!("filter_typed", picture(&model(), &view, PLAIN, [80, 24]));
}

#[test]
fn a_node_without_traffic() {
    let stats = Stats {
        time: time(0),
        node: "gpu-017".to_owned(),
        enforcing: Some(false),
        ..Stats::default()
    };
    let mut model = Model::default();
    model.add(answered(stats), Duration::ZERO);
    insta::assert_snapshot!("empty", picture(&model, &View::default(), PLAIN, [80, 24]));
}

#[test]
fn a_missing_daemon_is_shown_also_while_paused() {
    let mut model = model();
    let mut view = View { paused: Some(Box::new(model.clone())), ..View::default() };
    let why = "no daemon answers at `/run/trainguard/stats.sock`: No such file or directory";
    model.add(Reading::Nothing(why.to_owned()), Duration::from_secs(41));
    insta::assert_snapshot!("gone_paused", picture(&model, &view, PLAIN, [80, 24]));
    view.paused = None;
    let mut bare = reading(42);
    bare.node = String::new();
    bare.enforcing = None;
    bare.top_sources = Vec::new();
    model.add(Reading::Pinned(Box::new(bare), why.to_owned()), Duration::from_secs(42));
    insta::assert_snapshot!("gone_pinned", picture(&model, &view, PLAIN, [100, 30]));
}

#[test]
fn counters_that_were_reset_are_marked() {
    let mut model = model();
    let mut stats = reading(1);
    stats.time = time(41);
    model.add(answered(stats), Duration::from_secs(41));
    insta::assert_snapshot!("anew", picture(&model, &View::default(), PLAIN, [100, 30]));
}

fn many() -> Model {
    let mut model = Model::default();
    for second in 0..3 {
        let mut stats = reading(second);
        stats.interfaces = (0..40)
            .map(|number| {
                interface(
                    &format!("eth{number}"),
                    Some(DeviceMode::Native),
                    [second * 9, number, 0],
                )
            })
            .collect();
        model.add(answered(stats), Duration::from_secs(second));
    }
    model
}

#[test]
fn forty_interfaces_scroll() {
    let mut view = View { focus: Table::Interfaces, ..View::default() };
    insta::assert_snapshot!("forty", picture(&many(), &view, PLAIN, [80, 24]));
    let end = ratatui::crossterm::event::KeyCode::End;
    view.key(&many(), end.into(), false);
    insta::assert_snapshot!("forty_end", picture(&many(), &view, PLAIN, [80, 24]));
}

const HOSTILE: [&str; 6] = [
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "a\u{202e}0htе",
    "e\u{301}\u{302}\u{303}\u{304}vil",
    "列車守衛\u{fe0f}",
    "",
    "\u{0}\n\r\t",
];

fn hostile() -> Model {
    let mut model = Model::default();
    for second in 0..2 {
        let mut stats = reading(second);
        stats.interfaces = HOSTILE
            .iter()
            .map(|name| interface(name, Some(DeviceMode::Native), [second, 0, 0]))
            .collect();
        stats.services = HOSTILE
            .iter()
            .map(|name| service(name, ServiceMode::Enforce, [second, 0, 0]))
            .collect();
        HOSTILE[1].clone_into(&mut stats.node);
        HOSTILE[0].clone_into(&mut stats.policy_hash);
        HOSTILE[5].clone_into(&mut stats.time);
        let mut evil = source(HOSTILE[0], Some(HOSTILE[2]), 3, [0, 0]);
        HOSTILE[3].clone_into(&mut evil.reason);
        evil.service = Some("x'; rm -rf ~".to_owned());
        stats.top_sources = vec![evil];
        model.add(answered(stats), Duration::from_secs(second));
    }
    model
}

#[test]
fn hostile_names_are_shown_and_do_nothing() {
    let view = View::default();
    insta::assert_snapshot!("hostile", picture(&hostile(), &view, PLAIN, [100, 30]));
    let ascii = TerminalFeatures { color: true, ascii: true };
    let shown = picture(&hostile(), &view, ascii, [100, 30]);
    // The marks around each line come from the test.
    assert!(shown.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{shown}");
}

proptest! {
    #[test]
    fn every_size_can_be_drawn(
        width in 0..200_u16,
        height in 0..60_u16,
        focus in 0..4_usize,
        overlay in 0..3,
        bits in any::<[bool; 4]>(),
    ) {
        let [totals, ascii, color, typing] = bits;
        let mut view = View { focus: Table::ALL[focus], totals, ..View::default() };
        view.typing = typing.then(Filter::default);
        view.overlay = match overlay {
            0 => Overlay::Nothing,
            1 => Overlay::Help,
            _ => Overlay::Details("10.20.48.9".to_owned()),
        };
        for model in [many(), hostile(), Model::default()] {
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
            draw(&model, &view, TerminalFeatures { color, ascii }, &mut buffer);
            // A character that moves the cursor would reach the terminal unchanged.
            let moves = |symbol: &str| symbol.chars().any(char::is_control);
            prop_assert!(!buffer.content.iter().any(|cell| moves(cell.symbol())));
        }
    }
}
