//! Events as a capture: each record of packets is a frame with the headers of the packet.

use std::{
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
    time::UNIX_EPOCH,
};

use super::{CaptureError, Captured, MAX_FRAME};
use crate::api::events::{Event, EventKind, Line, MAX_LINE, Packet};

/// Passes a frame to `visit` for every record of packets, in order, until `visit` breaks. Records of
/// other kinds are skipped. Returns the number of frames.
///
/// # Errors
/// A line is not an event; the error has its number. Frames before it have been passed to `visit`.
pub fn read(
    input: impl Read,
    mut visit: impl FnMut(Captured<'_>) -> ControlFlow<()>,
) -> Result<u64, CaptureError> {
    let mut frames = 0;
    events(input, |event| {
        let EventKind::Packet(packet) = &event.what else { return Ok(ControlFlow::Continue(())) };
        let (bytes, wire_len) = frame(packet)?;
        let time = event.time.as_deref().map(time_ns).transpose()?;
        frames += 1;
        Ok(visit(Captured { number: frames, time_ns: time, bytes: &bytes, wire_len }))
    })?;
    Ok(frames)
}

/// Passes every event to `visit`, in order, until `visit` breaks or returns an error, which is
/// reported with the number of the line.
///
/// # Errors
/// A line is not an event, or `visit` failed. Events before it have been passed to `visit`.
pub fn events(
    input: impl Read,
    mut visit: impl FnMut(&Event) -> Result<ControlFlow<()>, String>,
) -> Result<(), CaptureError> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let wrong = |problem: String| CaptureError::Line { number, problem };
        if line.len() >= MAX_LINE && !line.ends_with(b"\n") {
            return Err(wrong(format!("more than {MAX_LINE} bytes, expected an event")));
        }
        let Line::Event(event) = crate::api::events::read(&line).map_err(wrong)? else {
            return Err(wrong(
                "a verdict of `replay`, without the bytes of the frame; expected an event"
                    .to_owned(),
            ));
        };
        if visit(&event).map_err(wrong)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the captured bytes of a frame, and its length on the wire.
fn frame(packet: &Packet) -> Result<(Vec<u8>, u32), String> {
    let missing = |field: &str| {
        format!(
            "the event has no `{field}`, so its packet cannot be evaluated again: an older version \
             of trainguard recorded it"
        )
    };
    let text = packet.frame.as_deref().ok_or_else(|| missing("frame"))?;
    let length = packet.length.ok_or_else(|| missing("length"))?;
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let both = <[u8; 2]>::try_from(pair).ok().filter(|pair| {
            // `from_str_radix` also accepts a sign.
            pair.iter().all(u8::is_ascii_hexdigit)
        })?;
        u8::from_str_radix(str::from_utf8(&both).ok()?, 16).ok()
    });
    let bytes: Option<Vec<u8>> = digits.collect();
    let bytes = bytes.ok_or("`frame` is not hexadecimal, expected two digits for each byte")?;
    if bytes.len() > length as usize || length as usize > MAX_FRAME {
        return Err(format!(
            "`length` is {length}, expected at least the {} bytes of `frame`, at most {MAX_FRAME}",
            bytes.len()
        ));
    }
    Ok((bytes, length))
}

/// Parses an RFC 3339 time, and returns nanoseconds since 1970.
pub(crate) fn time_ns(text: &str) -> Result<u64, String> {
    let at = humantime::parse_rfc3339(text).ok();
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).ok_or_else(|| {
        "`time` is not an RFC 3339 time, such as 2026-01-31T12:00:00.000Z".to_owned()
    })
}

/// Reports whether a file that begins with these bytes contains events.
pub fn begins_like_events(start: &[u8]) -> bool {
    start.trim_ascii_start().first() == Some(&b'{')
}

/// Reads the beginning of a file: four bytes, and further bytes until one is not blank.
///
/// # Errors
/// Reading the input fails.
pub fn beginning(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    // A pcapng file begins with bytes that look blank.
    while start.len() < MAX_LINE && start != *b"\n\r\r\n" && start.trim_ascii().is_empty() {
        if input.by_ref().take(1).read_to_end(&mut start)? == 0 {
            break;
        }
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time, captured bytes, and length on the wire.
    type Seen = (Option<u64>, Vec<u8>, u32);

    fn read_all(text: &str) -> Result<Vec<Seen>, String> {
        let mut seen = Vec::new();
        let read = read(text.as_bytes(), |frame| {
            seen.push((frame.time_ns, frame.bytes.to_vec(), frame.wire_len));
            ControlFlow::Continue(())
        });
        read.map(|_| seen).map_err(|error| error.to_string())
    }

    const PACKET: &str = r#"{"schema":"trainguard/event/v1","time":"1970-01-01T00:00:01.500Z","kind":"packet","verdict":"drop","reason":"not_allowed","length":60,"frame":"0aFF"}"#;

    #[test]
    fn records_of_packets_become_frames() {
        let policy = r#"{"schema":"trainguard/event/v1","kind":"policy","what":"in_force","generation":1,"policy_hash":""}"#;
        let text = format!("\n{PACKET}\n{policy}\n{PACKET}");
        let frame = (Some(1_500_000_000), vec![0x0a, 0xff], 60);
        assert_eq!(read_all(&text), Ok(vec![frame.clone(), frame]));
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number() {
        let length = PACKET.replace("\"length\":60", "\"length\":1");
        let sign = PACKET.replace("0aFF", "+a+f");
        let odd = PACKET.replace("0aFF", "0aF");
        let time = PACKET.replace("1970-01-01T", "");
        let old = PACKET.replace("\"frame\"", "\"other\"");
        let verdict = r#"{"frame":1,"action":"pass","reason":"not_ip","service":null}"#;
        for (bad, expected) in [
            (length.as_str(), "`length` is 1, expected"),
            (&sign, "hexadecimal"),
            (&odd, "hexadecimal"),
            (&time, "RFC 3339"),
            (&old, "has no `frame`"),
            (verdict, "expected an event"),
            ("{", "expected a JSON object"),
        ] {
            let error = read_all(&format!("{PACKET}\n\n{bad}\n")).expect_err(bad);
            assert!(error.starts_with("line 3: ") && error.contains(expected), "{error}");
        }
        let endless = " ".repeat(MAX_LINE - 1) + "{" + &"[".repeat(MAX_LINE);
        assert!(read_all(&endless).expect_err("too long").contains("more than"));
    }

    #[test]
    fn a_capture_is_never_mistaken_for_events() {
        for (start, events) in [
            (&b"\n\r\r\nrest"[..], false),
            (&[0xd4, 0xc3, 0xb2, 0xa1], false),
            (b"\n\n\n\n \t{\"schema\"", true),
            (b"{", true),
            (b"", false),
            (b"   ", false),
        ] {
            let mut input = start;
            let begins = beginning(&mut input).expect("memory");
            assert_eq!(begins_like_events(&begins), events, "{start:?}");
            assert_eq!([&begins[..], input].concat(), start);
        }
    }
}
