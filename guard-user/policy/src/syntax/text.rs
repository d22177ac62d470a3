//! Checks the characters of a text before it is parsed: none may hide or reorder text, or break a line
//! where a reviewer sees no break.

use super::{
    diagnostic::{Diagnostic, FileId, Location, Report, Span},
    rules,
};

/// Reports whether a character is forbidden in a text: control characters except tab and line breaks,
/// line breaks that only some readers recognise, bidirectional controls, and characters without width.
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

/// Describes a forbidden character: its name and its code point.
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

/// Reports whether the byte is a carriage return that no line feed follows. YAML treats it as a line
/// break, but most viewers do not show one.
fn is_bare_return(source: &str, at: usize) -> bool {
    let bytes = source.as_bytes();
    bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) != Some(&b'\n')
}

/// Reports every forbidden character.
pub(crate) fn check(file: FileId, source: &str, out: &mut Report) {
    // Fast path: most files consist of printable ASCII, tabs and line breaks only.
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
            .help("remove it; it makes the file look different from its content");
        if at == 0 && character == '\u{feff}' {
            // A byte order mark at the start of a file hides nothing, so removing it is safe.
            finding = finding.fix(place, "");
        }
        out.push(finding);
    }
}

/// Escapes control and invisible characters for display, and truncates the text after 80 characters.
pub fn shown(text: &str) -> String {
    const MAX: usize = 80;
    let end = text.char_indices().nth(MAX).map_or(text.len(), |(at, _)| at);
    let mut short = visible(text.get(..end).unwrap_or(text));
    if end < text.len() {
        short.push('…');
    }
    short
}

/// Escapes control and invisible characters and line breaks for display.
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

/// Quotes a word for a POSIX shell, if it needs quotes.
pub fn shell_word(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
