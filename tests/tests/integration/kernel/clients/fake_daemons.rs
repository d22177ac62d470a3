//! `status` and `stats` while something other than a daemon listens on the socket: the commands end in
//! bounded time and memory, and report what they found.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use guard_test_support::binary;
use guard_tests::{node::WAIT_TIMEOUT, skip};
use nix::sys::resource::{UsageWho, getrusage};

/// Maximum memory of a subcommand in KiB: a response of 16 MiB, and parsing it.
const MAX_MEMORY: i64 = 128 << 10;

/// Handles a connection after the request was read.
type Fake = fn(UnixStream);

/// Runs a subcommand against a fake daemon. Returns its exit code and its error output.
fn run_against(args: &[&str], fake: Option<Fake>) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a directory");
    if let Some(fake) = fake {
        let listener = UnixListener::bind(run.join("stats.sock")).expect("a socket");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut stream = stream;
                    let _ = stream.read(&mut [0; 4096]);
                    fake(stream);
                });
            }
        });
    }
    run_in(args, &run, directory.path())
}

fn run_in(args: &[&str], run: &Path, bpf: &Path) -> (Option<i32>, String) {
    let began = Instant::now();
    let mut command = binary::command(binary::path(), args);
    command.arg("--run-dir").arg(run).arg("--bpf-dir").arg(bpf.join("none"));
    let output = command.stdin(Stdio::null()).output().expect("running the subcommand");
    assert!(began.elapsed() < 4 * WAIT_TIMEOUT, "the subcommand took {:?}", began.elapsed());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn respond(mut stream: UnixStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// Sends the same bytes until the client disconnects.
fn repeat(mut stream: UnixStream, beginning: &str) {
    let part = vec![b'a'; 1 << 16];
    let mut sent = stream.write_all(beginning.as_bytes());
    while sent.is_ok() {
        sent = stream.write_all(&part);
    }
}

fn silent(mut stream: UnixStream) {
    // Until the client disconnects.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn trickle(mut stream: UnixStream) {
    while stream.write_all(b"H").is_ok() {
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn subcommands_report_what_answers_at_the_socket() {
    if !binary::path().is_file() {
        return skip::skip("fake_daemons", "the binary is not built, see `cargo xtask build`");
    }
    let fakes: [(&str, Option<Fake>, i32, &str); 13] = [
        ("no listener", None, 3, "no daemon answers"),
        ("silence", Some(silent), 3, "no response within 1 seconds"),
        ("a trickle", Some(trickle), 3, "no response within 1 seconds"),
        ("closed at once", Some(drop), 3, "the connection closed"),
        (
            "closed within the head",
            Some(|stream| respond(stream, b"HTTP/1.1 200 OK\r\ncontent-le")),
            3,
            "the connection closed",
        ),
        (
            "closed within the body",
            Some(|stream| {
                respond(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n{\"schema\":");
            }),
            3,
            "the connection closed",
        ),
        ("garbage", Some(|stream| respond(stream, &[0xff; 9000])), 2, "incompatible response"),
        (
            "another protocol",
            Some(|stream| respond(stream, b"SSH-2.0-x\r\n")),
            2,
            "incompatible response",
        ),
        (
            "another document",
            Some(|stream| respond(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")),
            2,
            "incompatible response",
        ),
        (
            "deep nesting",
            Some(|stream| {
                let body = "[".repeat(1 << 20);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                respond(stream, (head + &body).as_bytes());
            }),
            2,
            "incompatible response",
        ),
        (
            "a refusal with control characters",
            Some(|stream| {
                respond(
                    stream,
                    b"HTTP/1.1 500 X\r\ncontent-length: 27\r\n\r\n{\"error\": \"a \\u001b[31m b\"}",
                );
            }),
            2,
            "\\u{1b}[31m",
        ),
        (
            "a head without an end",
            Some(|stream| repeat(stream, "HTTP/1.1 200 OK\r\nlong: ")),
            2,
            "incompatible response",
        ),
        (
            "a body without an end",
            Some(|stream| repeat(stream, "HTTP/1.1 200 OK\r\n\r\n\"")),
            2,
            "more than 16777216 bytes",
        ),
    ];
    for (what, fake, code, expected) in fakes {
        for command in [&["status"][..], &["stats", "--once"]] {
            let limit = if expected.starts_with("no response within") { "1s" } else { "30s" };
            let (exit, stderr) =
                run_against(&[command, &["--answer-within", limit]].concat(), fake);
            assert!(stderr.contains(expected), "{what}, {command:?}: {stderr}");
            assert!(!stderr.contains('\u{1b}'), "{what}, {command:?}: {stderr:?}");
            assert_eq!(exit, Some(code), "{what}, {command:?}: {stderr}");
        }
    }
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage").max_rss();
    assert!(peak < MAX_MEMORY, "{peak} KiB");
}

#[test]
fn a_full_queue_is_waited_for() {
    if !binary::path().is_file() {
        return skip::skip(
            "fake_daemons/queue",
            "the binary is not built, see `cargo xtask build`",
        );
    }
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("stats.sock");
    // No connection is accepted, and the queue is full, so that further connections wait.
    let raw =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    raw.bind(&socket2::SockAddr::unix(&socket).expect("an address")).expect("a name");
    raw.listen(1).expect("a queue");
    let waiting: Vec<UnixStream> =
        (0..2).map(|_| UnixStream::connect(&socket).expect("a place in the queue")).collect();
    let server = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        let listener = UnixListener::from(std::os::fd::OwnedFd::from(raw));
        for stream in listener.incoming().flatten().take(3) {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            respond(
                stream,
                b"HTTP/1.1 500 X\r\ncontent-length: 22\r\n\r\n{\"error\": \"it waited\"}",
            );
        }
    });
    let client = thread::spawn({
        let run = directory.path().to_owned();
        move || run_in(&["status", "--answer-within", "30s"], &run, &run)
    });
    thread::sleep(Duration::from_millis(500));
    drop(waiting);
    let (exit, stderr) = client.join().expect("an answer");
    assert!(stderr.contains("it waited"), "{stderr}");
    assert_eq!(exit, Some(2));
    server.join().expect("a server");
}
