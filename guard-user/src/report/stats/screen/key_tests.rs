//! Tests of the keys, and properties of sorting and filtering.

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    snapshots::model,
    tables::{Cell, Order, Row, Table, Tone, sort},
    view::{Effect, Filter, Overlay, Sort, Unit, View},
};
use crate::report::stats::model::Model;

/// A simulated viewer with a keyboard.
struct Viewer {
    model: Model,
    view: View,
}

impl Viewer {
    fn new() -> Self {
        Self { model: model(), view: View::default() }
    }

    fn press(&mut self, key: impl Into<KeyEvent>) -> Effect {
        self.view.key(&self.model, key.into(), false)
    }

    fn write(&mut self, text: &str) {
        for character in text.chars() {
            self.press(KeyCode::Char(character));
        }
    }

    fn keys(&self, table: Table) -> Vec<String> {
        table.rows(&self.model, &self.view, false).0.into_iter().map(|row| row.key).collect()
    }
}

fn control(character: char) -> KeyEvent {
    KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL)
}

#[test]
fn three_keys_quit_and_one_suspends() {
    let mut viewer = Viewer::new();
    assert_eq!(viewer.press(KeyCode::Char('q')), Effect::Quit);
    assert_eq!(viewer.press(KeyCode::Esc), Effect::Quit);
    assert_eq!(viewer.press(control('c')), Effect::Quit);
    assert_eq!(viewer.press(control('z')), Effect::Suspend);
    assert_eq!(viewer.press(KeyCode::Char('x')), Effect::Nothing);
    assert_eq!(viewer.press(control('q')), Effect::Nothing, "only `q` without Ctrl quits");
    for window in ['?', '/'] {
        viewer.press(KeyCode::Char(window));
        assert_eq!(viewer.press(control('c')), Effect::Quit, "also in a window");
        assert_eq!(viewer.press(KeyCode::Esc), Effect::Draw, "closes the window");
        assert_eq!(viewer.press(KeyCode::Esc), Effect::Quit);
    }
}

#[test]
fn a_filter_applies_while_it_is_typed_and_escape_cancels_it() {
    let mut viewer = Viewer::new();
    viewer.write("/GPU-048x");
    assert_eq!(viewer.keys(Table::Sources), Vec::<String>::new());
    viewer.press(KeyCode::Backspace);
    assert_eq!(viewer.keys(Table::Sources), ["10.20.48.9"]);
    viewer.press(KeyCode::Enter);
    assert_eq!((viewer.view.filter.text(), &viewer.view.typing), ("GPU-048", &None));
    viewer.write("/");
    viewer.press(control('u'));
    viewer.write("q p");
    viewer.press(control('w'));
    assert_eq!(viewer.view.filter.text(), "q ", "keys are text while a filter is typed");
    viewer.press(KeyCode::Esc);
    assert_eq!(viewer.view.filter.text(), "GPU-048");
}

#[test]
fn the_length_of_a_filter_is_limited() {
    let mut viewer = Viewer::new();
    viewer.write("/");
    viewer.write(&"x".repeat(10_000));
    assert_eq!(viewer.view.filter.text().len(), 64);
}

#[test]
fn the_focused_table_is_sorted() {
    let mut viewer = Viewer::new();
    assert_eq!(viewer.keys(Table::Sources)[0], "10.30.0.5", "the most frequent one first");
    viewer.press(KeyCode::Char('S'));
    assert_eq!(viewer.keys(Table::Sources)[2], "10.30.0.5");
    viewer.press(KeyCode::Char('1'));
    let columns = Table::Interfaces.columns().len();
    for column in (1..columns).chain([0]) {
        viewer.press(KeyCode::Char('s'));
        assert_eq!(viewer.view.sorts[0].column, column);
    }
    assert_eq!(viewer.view.sorts[3].column, 1, "the others keep their order");
}

#[test]
fn numbers_in_names_are_sorted_by_value() {
    let mut viewer = Viewer::new();
    let names = ["eth10", "eth2", "Eth1", "lo", "eth", "99999999999999999999999"];
    let interface = |name: &str| crate::api::stats::InterfaceStats {
        name: name.to_owned(),
        ..Default::default()
    };
    viewer.model.stats.interfaces = names.map(interface).to_vec();
    let sorted = ["99999999999999999999999", "eth", "Eth1", "eth2", "eth10", "lo"];
    assert_eq!(viewer.keys(Table::Interfaces), sorted);
}

#[test]
fn tables_get_the_focus_in_turn() {
    let mut viewer = Viewer::new();
    for table in Table::ALL {
        viewer.press(KeyCode::Tab);
        assert_eq!(viewer.view.focus, table);
    }
    viewer.press(KeyCode::BackTab);
    assert_eq!(viewer.view.focus, Table::Reasons);
    viewer.press(KeyCode::Char('2'));
    assert_eq!(viewer.view.focus, Table::Services);
}

#[test]
fn details_are_those_of_the_source_at_the_cursor() {
    let mut viewer = Viewer::new();
    viewer.press(KeyCode::Down);
    viewer.press(KeyCode::Enter);
    assert_eq!(viewer.view.overlay, Overlay::Details("10.20.48.9".to_owned()));
    viewer.press(KeyCode::Enter);
    assert_eq!(viewer.view.overlay, Overlay::Nothing);
    // In reverse order, the cursor stays on the same row.
    viewer.press(KeyCode::Char('S'));
    viewer.press(KeyCode::Enter);
    assert_eq!(viewer.view.overlay, Overlay::Details("10.20.48.9".to_owned()));
    viewer.press(KeyCode::Esc);
    viewer.press(KeyCode::End);
    viewer.press(KeyCode::Char('j'));
    viewer.press(KeyCode::Enter);
    assert_eq!(viewer.view.overlay, Overlay::Details("10.30.0.5".to_owned()));
    viewer.press(KeyCode::Esc);
    viewer.write("/no-such-source");
    viewer.press(KeyCode::Enter);
    assert_eq!(viewer.press(KeyCode::Enter), Effect::Nothing, "no source matches");
}

#[test]
fn a_paused_screen_stays_while_the_counters_change() {
    let mut viewer = Viewer::new();
    viewer.press(KeyCode::Char('p'));
    let paused = viewer.model.stats.time.clone();
    viewer.model.stats.time = "later".to_owned();
    assert_eq!(viewer.view.shown(&viewer.model).stats.time, paused);
    viewer.press(KeyCode::Char(' '));
    assert_eq!(viewer.view.shown(&viewer.model).stats.time, "later");
}

#[test]
fn units_and_totals_are_switched() {
    let mut viewer = Viewer::new();
    viewer.write("rb");
    assert_eq!((viewer.view.totals, viewer.view.unit), (true, Unit::Bytes));
    viewer.write("rb");
    assert_eq!((viewer.view.totals, viewer.view.unit), (false, Unit::Bits));
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Nothing),
        any::<f64>().prop_map(Order::Number),
        "[a-c]{0,2}".prop_map(Order::Text),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = |(index, order): (usize, Order)| Row {
        key: index.to_string(),
        cells: vec![Cell { text: String::new(), order, tone: Tone::Plain }],
    };
    prop::collection::vec(orders(), 0..40)
        .prop_map(move |orders| orders.into_iter().enumerate().map(row).collect())
}

proptest! {
    #[test]
    fn sorting_is_stable_and_keeps_all_rows(
        rows in rows(),
        descending in any::<bool>(),
    ) {
        let mut sorted = rows.clone();
        sort(&mut sorted, Sort { column: 0, descending });
        let place = |row: &Row| row.key.parse::<usize>().expect("a number");
        for pair in sorted.windows(2) {
            let order = pair[0].cells[0].order.compare(&pair[1].cells[0].order);
            let order = if descending { order.reverse() } else { order };
            prop_assert!(order.is_le());
            prop_assert!(order.is_lt() || place(&pair[0]) < place(&pair[1]));
        }
        sorted.sort_by_key(place);
        prop_assert!(sorted.iter().map(place).eq(rows.iter().map(place)));
    }

    #[test]
    fn a_filter_and_its_inverse_admit_complementary_rows(
        text in "[^!].{0,8}",
        words in any::<String>(),
    ) {
        let inverse = Filter::new(&format!("!{text}"));
        prop_assert_ne!(Filter::new(&text).admits(&words), inverse.admits(&words));
    }

    #[test]
    fn any_part_of_a_row_finds_it(words in "[a-zA-Z0-9./ -]{1,40}", cut in any::<prop::sample::Index>()) {
        let start = cut.index(words.len());
        prop_assert!(Filter::new(&words[start..].to_uppercase()).admits(&words));
    }

    #[test]
    fn no_sequence_of_keys_breaks_the_view(codes in prop::collection::vec(0..24_usize, 0..60)) {
        const KEYS: [KeyCode; 24] = [
            KeyCode::Up, KeyCode::Down, KeyCode::PageUp, KeyCode::PageDown, KeyCode::Home,
            KeyCode::End, KeyCode::Tab, KeyCode::BackTab, KeyCode::Enter, KeyCode::Esc,
            KeyCode::Backspace, KeyCode::Delete, KeyCode::Null, KeyCode::Char('/'),
            KeyCode::Char('!'), KeyCode::Char('s'), KeyCode::Char('S'), KeyCode::Char('p'),
            KeyCode::Char('r'), KeyCode::Char('b'), KeyCode::Char('?'), KeyCode::Char('1'),
            KeyCode::Char('é'), KeyCode::F(7),
        ];
        let mut viewer = Viewer::new();
        for code in codes {
            viewer.press(KEYS[code]);
            let view = &viewer.view;
            for table in Table::ALL {
                let (rows, _) = table.rows(&viewer.model, view, false);
                let place = view.cursors[table.index()].place(&rows);
                prop_assert!(rows.is_empty() || place < rows.len());
                prop_assert!(view.sorts[table.index()].column < table.columns().len());
            }
        }
    }
}
