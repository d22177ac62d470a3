//! What a text must be before anybody reads it: no character that hides, reorders or breaks lines
//! where a reviewer sees none.

use super::{
    diagnostic::{Diagnostic, FileId, Location, Report, Span},
    rules,
};

/// Whether a character may not be in a text: controls except tab and line breaks, line breaks that
/// only some readers know, bidirectional controls, and characters without width.
pub fn is_forbidden(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => false,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        c if c.is_ascii() => false,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator; zero width, bidirectional
        // marks and embeddings, line and paragraph separator; word joiner, invisible operators,
        // isolates; byte order mark; interlinear annotation; tags.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The name of a character that is not allowed.
pub(crate) fn describe(character: char) -> String {
    let name = match character {
        '\0' => "a NUL character",
        '\r' => "a carriage return without a line feed",
        '\u{85}' => "a next-line character (NEL)",
        '\u{2028}' => "a line separator",
        '\u{2029}' => "a paragraph separator",
        '\u{feff}' => "a byte order mark",
        '\u{7f}' => "a DEL character",
        '\0'..='\u{1f}' | '\u{80}'..='\u{9f}' => "a control character",
        '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            "a character that changes the direction of writing"
        }
        _ => "an invisible character",
    };
    format!("{name} (U+{:04X})", u32::from(character))
}

/// Whether a carriage return at this byte ends no line of a text file: YAML takes it for a line
/// break, most who show the file do not.
fn is_bare_return(source: &str, at: usize) -> bool {
    let bytes = source.as_bytes();
    bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) != Some(&b'\n')
}

/// Reports every character that is not allowed.
pub(crate) fn check(file: FileId, source: &str, out: &mut Report) {
    // Printable ASCII and the line breaks are nearly all of every file.
    let suspicious = |byte: &u8| !matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if !source.as_bytes().iter().any(suspicious) {
        return;
    }
    let forbidden = source
        .char_indices()
        .filter(|(at, character)| is_forbidden(*character) || is_bare_return(source, *at));
    for (at, character) in forbidden {
        let span = Span::new(at, at + character.len_utf8());
        let message = format!("{} is not allowed", describe(character));
        let place = Location { file, span };
        let mut finding = Diagnostic::error(rules::CHARACTER, place, message)
            .help("remove it; it makes the file read differently from what it shows");
        if at == 0 && character == '\u{feff}' {
            // Before everything it separates and hides nothing.
            finding = finding.fix(place, "");
        }
        out.push(finding);
    }
}

/// A text from a file as it may be shown: without controls, and not endless.
pub fn shown(text: &str) -> String {
    const MAX: usize = 80;
    let end = text.char_indices().nth(MAX).map_or(text.len(), |(at, _)| at);
    let mut short = visible(text.get(..end).unwrap_or(text));
    if end < text.len() {
        short.push('…');
    }
    short
}

/// A text of any length as it may be shown: without controls and line breaks.
pub fn visible(text: &str) -> String {
    let escape = |c: char| {
        if is_forbidden(c) || c.is_control() {
            c.escape_unicode().collect::<String>()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// A word as a shell takes it for that word.
pub fn shell_word(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
