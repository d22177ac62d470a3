//! Which tables and columns a screen has room for.

use super::tables::{Column, Row, SPARKLINE, Table};

/// Columns of the screen between two columns of a table.
pub(super) const GAP: u16 = 2;
/// From this width on, services and reasons stand side by side.
const SIDE_BY_SIDE_WIDTH: u16 = 128;
/// Lines of a table that is worth showing: its heading and a row.
const MIN_TABLE_HEIGHT: u16 = 2;

/// A part of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// What is in it.
    pub(super) table: Table,
    /// Its first column.
    pub(super) x: u16,
    /// Its first line, from the first one that tables have.
    pub(super) y: u16,
    /// Its columns.
    pub(super) width: u16,
    /// Its lines, heading included.
    pub(super) height: u16,
}

/// Gives tables of so many rows their part of the screen, the focused one all if there is no room
/// for every one.
pub(super) fn parts(rows: [usize; 4], focus: Table, width: u16, height: u16) -> Vec<Part> {
    let wide = width >= SIDE_BY_SIDE_WIDTH;
    let bands: &[&[Table]] = if wide {
        &[&[Table::Interfaces], &[Table::Services, Table::Reasons], &[Table::Sources]]
    } else {
        &[&[Table::Interfaces], &[Table::Services], &[Table::Reasons], &[Table::Sources]]
    };
    let wants: Vec<u16> = bands
        .iter()
        .map(|band| {
            let most = band.iter().map(|table| rows[table.index()]).max().unwrap_or_default();
            u16::try_from(most.max(1)).unwrap_or(u16::MAX).saturating_add(1)
        })
        .collect();
    let count = u16::try_from(bands.len()).unwrap_or(u16::MAX);
    if height < count * MIN_TABLE_HEIGHT {
        return vec![Part { table: focus, x: 0, y: 0, width, height }];
    }
    // A line between two tables, if nobody must do without a row for it.
    let asked: u32 = wants.iter().map(|want| u32::from(*want)).sum();
    let between = u16::from(asked + u32::from(count) - 1 <= u32::from(height));
    let heights = shares(&wants, height - between * (count - 1));
    let mut parts = Vec::new();
    let mut y = 0;
    for (band, height) in bands.iter().zip(heights) {
        let columns = u16::try_from(band.len()).unwrap_or(1).max(1);
        let width = width / columns;
        for (table, index) in band.iter().zip(0..) {
            parts.push(Part { table: *table, x: index * width, y, width, height });
        }
        y += height + between;
    }
    parts
}

/// Shares lines out: [`MIN_TABLE_HEIGHT`] for each, then one by one to whoever wants more. The last one gets
/// what nobody wants.
fn shares(wants: &[u16], room: u16) -> Vec<u16> {
    let mut shares: Vec<u16> = wants.iter().map(|_| MIN_TABLE_HEIGHT).collect();
    let mut left = room.saturating_sub(shares.iter().sum());
    while left > 0 {
        let mut given = false;
        for (share, want) in shares.iter_mut().zip(wants) {
            if *share < *want && left > 0 {
                *share += 1;
                left -= 1;
                given = true;
            }
        }
        if !given {
            break;
        }
    }
    if let Some(last) = shares.last_mut() {
        *last += left;
    }
    shares
}

/// The widths of the columns that there is room for: as many from the left as fit at their least
/// and then what is left for those whose texts are longer.
pub(super) fn widths(table: Table, rows: &[Row], width: u16) -> Vec<u16> {
    let columns = table.columns();
    let mut widths: Vec<u16> = Vec::new();
    let mut taken = 0_u16;
    for column in columns {
        let gap = if widths.is_empty() { 0 } else { GAP };
        // What a row is about is shown whole where that leaves room for more, and at least begun
        // however narrow the screen is.
        let most = if widths.is_empty() { (width / 2).saturating_sub(GAP) } else { column.worth };
        let wanted = wanted(table, column, widths.len(), rows).min(most).max(column.least);
        let wanted = if widths.is_empty() { wanted.min(width) } else { wanted };
        if taken + gap + wanted > width {
            break;
        }
        taken += gap + wanted;
        widths.push(wanted);
    }
    let mut left = width.saturating_sub(taken);
    for (index, given) in widths.iter_mut().enumerate() {
        let Some(column) = columns.get(index) else { continue };
        let more = wanted(table, column, index, rows).saturating_sub(*given).min(left);
        *given += more;
        left -= more;
    }
    widths
}

/// How wide a column would like to be.
fn wanted(table: Table, column: &Column, index: usize, rows: &[Row]) -> u16 {
    if table == Table::Interfaces && index == SPARKLINE {
        return column.most;
    }
    let cells = rows.iter().filter_map(|row| row.cells.get(index));
    let longest = cells.map(|cell| unicode_width::UnicodeWidthStr::width(cell.text.as_str())).max();
    let longest = u16::try_from(longest.unwrap_or_default()).unwrap_or(u16::MAX);
    longest.clamp(column.least, column.most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_lie_within_the_screen_and_apart(
            rows in any::<[u8; 4]>(),
            focus in 0..4_usize,
            width in 0..300_u16,
            height in 0..120_u16,
        ) {
            let parts = parts(rows.map(usize::from), Table::ALL[focus], width, height);
            prop_assert!(parts.iter().any(|part| part.table == Table::ALL[focus]));
            for (index, part) in parts.iter().enumerate() {
                prop_assert!(part.x + part.width <= width && part.y + part.height <= height);
                for other in &parts[index + 1..] {
                    let beside = part.x + part.width <= other.x;
                    let above = part.y + part.height <= other.y;
                    prop_assert!(beside || above, "{part:?} {other:?}");
                }
            }
        }

        #[test]
        fn columns_fit(table in 0..4_usize, width in 0..300_u16) {
            let widths = widths(Table::ALL[table], &[], width);
            let gaps = GAP * (u16::try_from(widths.len()).expect("few") - 1);
            prop_assert!(widths.iter().sum::<u16>() + gaps <= width);
        }
    }
}
