//! The state of the view: focus, order and filter; and the keys that change it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::tables::{Row, Table};
use crate::report::stats::model::Model;

/// Maximum number of characters in a filter.
const MAX_FILTER: usize = 64;
/// Number of rows that a page key moves.
const PAGE: isize = 10;

/// The order of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// Index of the column.
    pub column: usize,
    /// Whether the largest comes first.
    pub descending: bool,
}

/// The unit of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bits.
    Bits,
    /// Bytes.
    Bytes,
}

/// A filter of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Parses a filter. It shows rows that contain the text, ignoring case, or with a leading `!`
    /// the other rows. An empty text or a bare `!` shows all rows.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the filter as it was typed.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Reports whether the filter can hide rows.
    pub fn is_some(&self) -> bool {
        !self.0.strip_prefix('!').unwrap_or(&self.0).is_empty()
    }

    /// Reports whether a row with these words is shown.
    pub fn admits(&self, words: &str) -> bool {
        let (wanted, inverted) = match self.0.strip_prefix('!') {
            Some(wanted) => (wanted, true),
            None => (self.0.as_str(), false),
        };
        wanted.is_empty() || words.to_lowercase().contains(&wanted.to_lowercase()) != inverted
    }
}

/// The selected row of a table: the first one, until the user moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    key: Option<String>,
    index: usize,
}

impl Cursor {
    /// Returns the index of the selected row among these rows, even if the row has moved.
    pub fn place(&self, rows: &[Row]) -> usize {
        let key = self.key.as_deref();
        let found = key.and_then(|key| rows.iter().position(|row| row.key == key));
        found.unwrap_or(self.index.min(rows.len().saturating_sub(1)))
    }

    fn go(&mut self, rows: &[Row], place: usize) {
        self.index = place.min(rows.len().saturating_sub(1));
        // At the top it stays at the top, even if another row becomes the first.
        let row = if self.index == 0 { None } else { rows.get(self.index) };
        self.key = row.map(|row| row.key.clone());
    }
}

/// A window over the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Overlay {
    /// No window.
    #[default]
    Nothing,
    /// The list of keys.
    Help,
    /// The details of the source with this address.
    Details(String),
}

/// The action that a key requests from the event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Draw again.
    Draw,
    /// Draw everything, whatever is on the terminal.
    Redraw,
    /// No action.
    Nothing,
    /// Quit.
    Quit,
    /// Suspend the program, as Ctrl-Z does.
    Suspend,
}

/// The state of the view.
#[derive(Debug, Clone)]
pub struct View {
    /// The table that the keys apply to.
    pub focus: Table,
    /// The order of each table.
    pub sorts: [Sort; 4],
    /// The selected row of each table.
    pub cursors: [Cursor; 4],
    /// The filter of all tables.
    pub filter: Filter,
    /// The previous filter while a new one is being typed.
    pub typing: Option<Filter>,
    /// The window over the tables.
    pub overlay: Overlay,
    /// Whether totals are shown in place of rates.
    pub totals: bool,
    /// The unit of traffic.
    pub unit: Unit,
    /// The model that is shown while the screen is paused.
    pub paused: Option<Box<Model>>,
}

impl Default for View {
    fn default() -> Self {
        let by = |column, descending| Sort { column, descending };
        Self {
            focus: Table::Sources,
            // By name; reasons by drops, sources by rate.
            sorts: [by(0, false), by(0, false), by(3, true), by(1, true)],
            cursors: Default::default(),
            filter: Filter::default(),
            typing: None,
            overlay: Overlay::Nothing,
            totals: false,
            unit: Unit::Bits,
            paused: None,
        }
    }
}

impl View {
    /// Returns the model to show.
    pub fn shown<'a>(&'a self, model: &'a Model) -> &'a Model {
        self.paused.as_deref().unwrap_or(model)
    }

    /// Handles a key.
    pub fn key(&mut self, model: &Model, key: KeyEvent, ascii: bool) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Effect::Quit,
                KeyCode::Char('z') => return Effect::Suspend,
                KeyCode::Char('l') => return Effect::Redraw,
                _ => {}
            }
        }
        if let Some(before) = self.typing.take() {
            self.typing = self.typed(key, before);
            return Effect::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return Effect::Nothing;
        }
        if self.overlay != Overlay::Nothing {
            return self.closing(key.code);
        }
        self.plain(model, key.code, ascii)
    }

    fn closing(&mut self, code: KeyCode) -> Effect {
        match (code, &self.overlay) {
            (KeyCode::Char('?'), Overlay::Details(_)) => self.overlay = Overlay::Help,
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?'), _) => {
                self.overlay = Overlay::Nothing;
            }
            _ => return Effect::Nothing,
        }
        Effect::Draw
    }

    /// Handles a key while a filter is typed. Returns the previous filter until typing ends.
    fn typed(&mut self, key: KeyEvent, before: Filter) -> Option<Filter> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let typed = &mut self.filter.0;
        match key.code {
            KeyCode::Esc => {
                self.filter = before;
                return None;
            }
            KeyCode::Enter => return None,
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Char('h') if control => drop(typed.pop()),
            KeyCode::Char('u') if control => typed.clear(),
            KeyCode::Char('w') if control => {
                let end = typed.trim_end().rfind(' ').map_or(0, |at| at + 1);
                typed.truncate(end);
            }
            KeyCode::Char(character)
                if !control && !character.is_control() && typed.chars().count() < MAX_FILTER =>
            {
                typed.push(character);
            }
            _ => {}
        }
        Some(before)
    }

    fn plain(&mut self, model: &Model, code: KeyCode, ascii: bool) -> Effect {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Effect::Quit,
            KeyCode::Char('?') | KeyCode::F(1) => self.overlay = Overlay::Help,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Char('s') => {
                let columns = self.focus.columns().len();
                let sort = &mut self.sorts[self.focus.index()];
                sort.column = (sort.column + 1) % columns;
            }
            KeyCode::Char('S') => {
                let sort = &mut self.sorts[self.focus.index()];
                sort.descending = !sort.descending;
            }
            KeyCode::Char('p' | ' ') => {
                self.paused = match self.paused.take() {
                    Some(_) => None,
                    None => Some(Box::new(model.clone())),
                };
            }
            KeyCode::Char('r') => self.totals = !self.totals,
            KeyCode::Char('b') => {
                self.unit = match self.unit {
                    Unit::Bits => Unit::Bytes,
                    Unit::Bytes => Unit::Bits,
                };
            }
            KeyCode::Tab => self.focus = Table::ALL[(self.focus.index() + 1) % 4],
            KeyCode::BackTab => self.focus = Table::ALL[(self.focus.index() + 3) % 4],
            KeyCode::Char(digit @ '1'..='4') => {
                self.focus = Table::ALL[usize::from(digit as u8 - b'1')];
            }
            KeyCode::Enter => return self.open(model, ascii),
            _ => return self.scroll(model, code, ascii),
        }
        Effect::Draw
    }

    fn scroll(&mut self, model: &Model, code: KeyCode, ascii: bool) -> Effect {
        let step = match code {
            KeyCode::Char('j') | KeyCode::Down => 1,
            KeyCode::Char('k') | KeyCode::Up => -1,
            KeyCode::PageDown => PAGE,
            KeyCode::PageUp => -PAGE,
            KeyCode::Char('g') | KeyCode::Home => isize::MIN,
            KeyCode::Char('G') | KeyCode::End => isize::MAX,
            _ => return Effect::Nothing,
        };
        let (rows, _) = self.focus.rows(self.shown(model), self, ascii);
        let cursor = &mut self.cursors[self.focus.index()];
        let place = cursor.place(&rows).saturating_add_signed(step);
        cursor.go(&rows, place);
        Effect::Draw
    }

    /// Opens the details of the source at the cursor.
    fn open(&mut self, model: &Model, ascii: bool) -> Effect {
        if self.focus != Table::Sources {
            return Effect::Nothing;
        }
        let (rows, _) = self.focus.rows(self.shown(model), self, ascii);
        let cursor = &self.cursors[self.focus.index()];
        let Some(row) = rows.get(cursor.place(&rows)) else { return Effect::Nothing };
        self.overlay = Overlay::Details(row.key.clone());
        Effect::Draw
    }
}
