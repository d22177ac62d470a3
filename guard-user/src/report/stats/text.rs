//! The statistics as text.

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::{api::stats::Stats, output, text::counted};

/// Maximum number of refused sources in the text.
const SOURCES: usize = 8;

/// Prints the statistics.
pub fn print(stats: &Stats) {
    output::answer(text(stats));
}

fn text(stats: &Stats) -> String {
    let mut parts = Vec::new();
    let node = if stats.node.is_empty() { "this node" } else { &stats.node };
    parts.push(format!("{node}, generation {}", stats.generation));

    let interfaces = stats.interfaces.iter();
    parts.push(verdicts(
        "interface",
        interfaces.map(|row| (&row.name, [row.passed, row.dropped, row.would_drop])),
    ));
    let services = stats.services.iter();
    parts.push(verdicts(
        "service",
        services.map(|row| (&row.name, [row.passed, row.dropped, row.would_drop])),
    ));

    let mut table = table(["reason", "packets", "bytes", "dropped"]);
    for (name, row) in stats.reasons.iter().filter(|(_, row)| row.packets > 0) {
        table.add_row([
            name.clone(),
            row.packets.to_string(),
            row.bytes.to_string(),
            row.dropped.to_string(),
        ]);
    }
    parts.push(table.to_string());

    if !stats.top_sources.is_empty() {
        parts.push("most refused sources, by samples:".to_owned());
        for source in stats.top_sources.iter().take(SOURCES) {
            let node = source.node.as_deref().unwrap_or("not in the manifest");
            let port = source.port.as_deref().unwrap_or("no port");
            let service = source.service.as_deref().map(|name| format!(" of {name}"));
            parts.push(format!(
                "  {} ({node}) to {port}{}: {}, {}",
                source.address,
                service.unwrap_or_default(),
                source.reason,
                counted(source.sampled, "sample")
            ));
        }
        let more = stats.top_sources.len().saturating_sub(SOURCES);
        if more > 0 {
            parts.push(format!("  and {more} more; `--format json` lists them"));
        }
    }
    let lines = parts.iter().flat_map(|part| part.lines()).map(str::trim_end);
    lines.collect::<Vec<_>>().join("\n")
}

fn verdicts<'a>(what: &str, rows: impl Iterator<Item = (&'a String, [u64; 3])>) -> String {
    let mut table = table([what, "passed", "dropped", "would drop"]);
    for (name, counts) in rows {
        let [passed, dropped, would_drop] = counts.map(|count| count.to_string());
        table.add_row([name, &passed, &dropped, &would_drop]);
    }
    table.to_string()
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::stats::{InterfaceStats, TopSource};

    #[test]
    fn an_unlisted_source_is_marked() {
        let stats = Stats {
            interfaces: vec![InterfaceStats {
                name: "eth0".to_owned(),
                passed: 3,
                dropped: 41,
                ..InterfaceStats::default()
            }],
            top_sources: vec![TopSource {
                address: "10.0.0.9".to_owned(),
                sampled: 2,
                reason: "not_allowed".to_owned(),
                service: Some("scheduler".to_owned()),
                port: Some("tcp/9091".to_owned()),
                ..TopSource::default()
            }],
            ..Stats::default()
        };
        let text = text(&stats);
        assert!(text.contains("eth0") && text.contains("41"), "{text}");
        let line =
            "  10.0.0.9 (not in the manifest) to tcp/9091 of scheduler: not_allowed, 2 samples";
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
