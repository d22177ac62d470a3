//! Decides which tables and columns fit on the screen.

use super::tables::{Column, Row, SPARKLINE, Table};

/// Number of screen columns between two columns of a table.
pub(super) const GAP: u16 = 2;
/// Minimum width at which services and reasons are side by side.
const SIDE_BY_SIDE_WIDTH: u16 = 128;
/// Minimum height of a table: its heading and a row.
const MIN_TABLE_HEIGHT: u16 = 2;

/// The area of a table on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The table.
    pub(super) table: Table,
    /// First column.
    pub(super) x: u16,
    /// First line, relative to the area of the tables.
    pub(super) y: u16,
    /// Width in columns.
    pub(super) width: u16,
    /// Height in lines, including the heading.
    pub(super) height: u16,
}

/// Assigns areas to the tables, given their numbers of rows. If there is no room for all tables,
/// the focused one gets the whole area.
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
            let rows = band.iter().map(|table| rows[table.index()]).max().unwrap_or_default();
            u16::try_from(rows.max(1)).unwrap_or(u16::MAX).saturating_add(1)
        })
        .collect();
    let count = u16::try_from(bands.len()).unwrap_or(u16::MAX);
    if height < count * MIN_TABLE_HEIGHT {
        return vec![Part { table: focus, x: 0, y: 0, width, height }];
    }
    // An empty line between two tables, if no table loses a row for it.
    let needed: u32 = wants.iter().map(|want| u32::from(*want)).sum();
    let between = u16::from(needed + u32::from(count) - 1 <= u32::from(height));
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

/// Distributes lines: [`MIN_TABLE_HEIGHT`] to each table, then one at a time to the tables that
/// need more. The last table also gets the lines that are left.
fn shares(wants: &[u16], room: u16) -> Vec<u16> {
    let mut shares: Vec<u16> = wants.iter().map(|_| MIN_TABLE_HEIGHT).collect();
    let mut left = room.saturating_sub(shares.iter().sum());
    while left > 0 {
        let mut changed = false;
        for (share, want) in shares.iter_mut().zip(wants) {
            if *share < *want && left > 0 {
                *share += 1;
                left -= 1;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if let Some(last) = shares.last_mut() {
        *last += left;
    }
    shares
}

/// Returns the widths of the columns that fit: as many columns from the left as possible, at their
/// minimum; the remaining space goes to columns with longer texts.
pub(super) fn widths(table: Table, rows: &[Row], width: u16) -> Vec<u16> {
    let columns = table.columns();
    let mut widths: Vec<u16> = Vec::new();
    let mut taken = 0_u16;
    for column in columns {
        let gap = if widths.is_empty() { 0 } else { GAP };
        // The first column, the subject of the row, is shown in full if that leaves room for
        // others, and is cut on a very narrow screen, but never omitted.
        let limit = if widths.is_empty() {
            (width / 2).saturating_sub(GAP)
        } else {
            column.preferred_width
        };
        let wanted = wanted(table, column, widths.len(), rows).min(limit).max(column.min_width);
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

/// Returns the width that the texts of a column need, within its limits.
fn wanted(table: Table, column: &Column, index: usize, rows: &[Row]) -> u16 {
    if table == Table::Interfaces && index == SPARKLINE {
        return column.max_width;
    }
    let cells = rows.iter().filter_map(|row| row.cells.get(index));
    let longest = cells.map(|cell| unicode_width::UnicodeWidthStr::width(cell.text.as_str())).max();
    let longest = u16::try_from(longest.unwrap_or_default()).unwrap_or(u16::MAX);
    longest.clamp(column.min_width, column.max_width)
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
