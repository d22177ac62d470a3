//! Applies safe fixes: edits attached to findings.
//!
//! Decision: `docs/decisions/0027-fixes-are-safe.md`.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::syntax::diagnostic::{Edit, FileId, Location, Report, Sources, Span};

/// A file before and after its fixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Path of the file.
    pub path: PathBuf,
    /// The text before.
    pub before: String,
    /// The text after.
    pub after: String,
    /// Number of findings fixed.
    pub fixes: usize,
}

/// Replaces the contents of a file atomically. The file keeps its mode.
///
/// # Errors
/// The file does not exist, or the file or its directory cannot be written.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // A symbolic link stays; the file that it points to is replaced.
    let path = path.canonicalize()?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text)?;
    file.as_file().set_permissions(path.metadata()?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

/// Returns what to remove to delete an item of a list: the item with its separator, or its line.
/// Returns none if that would remove anything else, such as a comment, or if the bounds are not
/// certain.
pub(crate) fn removal_of_item(sources: &Sources, item: Location) -> Option<Location> {
    let text = &*sources.get(item.file)?.text;
    let (start, end) = (item.span.start as usize, item.span.end as usize);
    let (before, after) = (text.get(..start)?, text.get(end..)?);
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    let span = if before.get(line..)?.trim() == "-" {
        let rest = after.find('\n').map_or(after.len(), |at| at + 1);
        let alone = after.get(..rest)?.trim().is_empty();
        alone.then(|| Span::new(line, end + rest))?
    } else if after.trim_start_matches(' ').starts_with(',') {
        let comma = after.find(',')? + 1;
        let blanks = after.get(comma..)?.bytes().take_while(|byte| *byte == b' ').count();
        Span::new(start, end + comma + blanks)
    } else if after.trim_start_matches(' ').starts_with(']') {
        let comma = before.trim_end_matches(' ').strip_suffix(',')?.len();
        Span::new(comma, end)
    } else {
        return None;
    };
    Some(Location { span, ..item })
}

/// Returns the files that safe fixes change. A fix that overlaps an earlier one is left for the next
/// run.
pub fn apply(report: &Report) -> Vec<Fixed> {
    let mut by_file: BTreeMap<FileId, Vec<&[Edit]>> = BTreeMap::new();
    for finding in report.diagnostics.iter().filter(|finding| !finding.fix.is_empty()) {
        by_file.entry(finding.place.file).or_default().push(&finding.fix);
    }
    by_file
        .into_iter()
        .filter_map(|(file, mut fixes)| {
            let source = report.sources.get(file)?;
            fixes.sort_by_key(|edits| edits.iter().map(|edit| edit.place.span).min());
            let mut after = String::with_capacity(source.text.len());
            let mut at = 0;
            let mut done = 0;
            for edits in fixes {
                let mut edits: Vec<&Edit> = edits.iter().collect();
                edits.sort_by_key(|edit| edit.place.span);
                let mut piece = String::new();
                let mut end = at;
                let fits = edits.iter().all(|edit| {
                    let span = edit.place.span;
                    let (first, last) = (span.start as usize, span.end as usize);
                    let before = source.text.get(end..first).filter(|_| edit.place.file == file);
                    let (Some(before), true) = (before, last <= source.text.len()) else {
                        return false;
                    };
                    piece.push_str(before);
                    piece.push_str(&edit.text);
                    end = last;
                    true
                });
                if fits {
                    after.push_str(&piece);
                    at = end;
                    done += 1;
                }
            }
            after.push_str(source.text.get(at..)?);
            let path = source.path.clone();
            let before = source.text.to_string();
            (done > 0 && after != before).then_some(Fixed { path, before, after, fixes: done })
        })
        .collect()
}
