//! Misbehaving clients against a real daemon: meanwhile the daemon guards, counts and answers other
//! clients, and afterwards it has as few open files as before.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use guard_tests::{
    node::{MEMBER, Node, PORT, UNLISTED, WAIT_TIMEOUT, enforcing, moved},
    skip,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Number of connections that a crowd opens at each socket.
const CROWDS: [(&str, usize); 2] = [("stats.sock", 10_000), ("control.sock", 5_000)];
/// Maximum number of a daemon's open files: 128 connections on each of two sockets, and its own.
const MAX_FILES: usize = 2 * 128 + 100;
/// Maximum memory that bad clients may cost, in KiB: 32 MiB of unread responses, and buffers.
const MAX_MEMORY: u64 = 64 << 10;
/// A request timeout longer than any test waits for a response, so that a client gets in because others
/// are evicted, not because they time out.
const LONG: &str = "2m";
/// A request timeout for tests that wait until it expires.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Length of a line that does not end, in bytes.
const GIGABYTE: usize = 1 << 30;

fn files(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.daemon_id())).expect("a daemon").count()
}

/// Returns the daemon's peak resident memory in KiB.
fn peak(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon_id())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Starts a daemon with this request timeout. Returns the node, the number of open files and the peak
/// memory, both before any client misbehaves.
fn started(test: &str, request: &str) -> Option<(Node, usize, u64)> {
    let mut node = Node::new(test)?;
    let timing = format!("request={request}");
    node.start(&["--metrics-listen", "127.0.0.1:9477", "--timing", &timing]);
    node.wait("enforcing", enforcing);
    let files = settled(&node, |_| true);
    let peak = peak(&node);
    Some((node, files, peak))
}

/// Waits until the number of open files satisfies a condition in two consecutive samples, and returns
/// it.
fn settled(node: &Node, wanted: impl Fn(usize) -> bool) -> usize {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut before = usize::MAX;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = files(node);
        if now == before && wanted(now) {
            return now;
        }
        before = now;
        assert!(Instant::now() < deadline, "{now} files are open");
    }
}

/// Asserts that the daemon guards the node and counts exactly.
fn assert_works(node: &Node) {
    let before = node.stats();
    for family in 0..2 {
        assert!(!node.answers(UNLISTED[family], PORT), "an unlisted source gets in");
        assert!(node.answers(MEMBER[family], PORT), "a member does not get in");
    }
    let moved = moved(&before, &node.stats());
    assert_eq!(moved, [("allowed".to_owned(), 2), ("not_allowed".to_owned(), 2)]);
    assert!(node.status().is_some_and(|status| enforcing(&status)), "{}", node.log());
}

fn connect(node: &Node, socket: &str) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(node.path("run").join(socket))?;
    stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
    stream.set_write_timeout(Some(WAIT_TIMEOUT))?;
    Ok(stream)
}

/// Reads until the end of the stream, or until the daemon resets the connection.
fn rest(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn ten_thousand_connections_lock_no_client_out() {
    let Some((node, files_before, peak_before)) = started("clients/crowd", LONG) else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted: usize = CROWDS.iter().map(|(_, size)| size + 500).sum();
    if usize::try_from(hard).is_ok_and(|hard| hard < wanted) {
        return skip::skip(
            "clients/crowd",
            &format!("needs {wanted} open files, the limit is {hard}"),
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("more files");
    let log_before = node.log().lines().count();
    let done = AtomicUsize::new(0);
    let held: Vec<Vec<UnixStream>> = thread::scope(|scope| {
        let crowds = CROWDS.map(|(socket, size)| {
            let (node, done) = (&node, &done);
            scope.spawn(move || {
                let held: Vec<UnixStream> = (0..size)
                    .map(|_| connect(node, socket).expect("a place in the queue"))
                    .collect();
                done.fetch_add(1, Ordering::Relaxed);
                held
            })
        });
        let mut peak_files = 0;
        while done.load(Ordering::Relaxed) < CROWDS.len() {
            assert!(
                node.status().is_some(),
                "no response while the connections are open: {}",
                node.log()
            );
            peak_files = peak_files.max(files(&node));
        }
        assert!(
            peak_files > files_before + 100,
            "the connections were not open: {peak_files} files"
        );
        assert!(peak_files <= MAX_FILES, "{peak_files} files");
        assert_works(&node);
        crowds.map(|crowd| crowd.join().expect("a crowd")).into()
    });
    // All connections of the crowds are still open.
    assert_works(&node);
    drop(held);
    settled(&node, |files| files == files_before);
    assert_works(&node);
    let grown = peak(&node) - peak_before;
    assert!(grown < MAX_MEMORY, "{grown} KiB");
    let logged = node.log().lines().count() - log_before;
    assert!(logged < 100, "{logged} lines");
}

#[test]
fn many_connections_on_loopback_lock_no_scraper_out() {
    let Some((node, files_before, _)) = started("clients/loopback", LONG) else { return };
    let scrape = || {
        let mut stream =
            TcpStream::connect("127.0.0.1:9477").expect("connecting to the metrics port");
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).expect("a limit");
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    node.at_node(|| {
        let crowd: Vec<TcpStream> = (0..2000)
            .map(|_| TcpStream::connect("127.0.0.1:9477").expect("a place in the queue"))
            .collect();
        scrape();
        drop(crowd);
        scrape();
    });
    settled(&node, |files| files == files_before);
    assert_works(&node);
}

/// Sends the same bytes repeatedly until the daemon closes the connection. Returns how many bytes it
/// accepted.
fn stream(node: &Node, socket: &str, beginning: &str) -> usize {
    let mut stream = connect(node, socket).expect("a connection");
    let mut accepted = 0;
    let part = vec![b'a'; 1 << 16];
    let mut sent = stream.write_all(beginning.as_bytes());
    while sent.is_ok() && accepted < GIGABYTE {
        sent = stream.write(&part).map(|count| accepted += count);
    }
    let error = sent.expect_err("the daemon accepted a gigabyte");
    let disconnected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(disconnected.contains(&error.kind()), "{error}");
    let response = rest(stream);
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{response}");
    accepted
}

#[test]
fn a_line_without_an_end_is_refused() {
    let Some((node, files_before, peak_before)) = started("clients/gigabyte", LONG) else { return };
    let post = "POST /v1/detach HTTP/1.1\r\nhost: x\r\n";
    for (socket, beginning) in [
        ("stats.sock", "GET /".to_owned()),
        ("stats.sock", String::new()),
        ("stats.sock", "GET /v1/status HTTP/1.1\r\nhost: x\r\nlong: ".to_owned()),
        (
            "stats.sock",
            "POST /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n".to_owned(),
        ),
        ("control.sock", format!("{post}content-length: 1073741824\r\n\r\n{{\"interfaces\": [\"")),
        ("control.sock", format!("{post}transfer-encoding: chunked\r\n\r\n40000000\r\n")),
        // A chunk whose size line does not end.
        ("control.sock", format!("{post}transfer-encoding: chunked\r\n\r\n")),
    ] {
        let accepted = stream(&node, socket, &beginning);
        assert!(accepted < 16 << 20, "{accepted} bytes of {beginning} were accepted");
    }
    assert_works(&node);
    settled(&node, |files| files == files_before);
    let grown = peak(&node) - peak_before;
    assert!(grown < MAX_MEMORY, "{grown} KiB");
}

#[test]
fn slow_and_malformed_clients_are_disconnected() {
    let Some((node, files_before, peak_before)) =
        started("clients/odd", &format!("{}ms", REQUEST_TIMEOUT.as_millis()))
    else {
        return;
    };
    let open = || connect(&node, "stats.sock").expect("a connection");
    let request = "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";

    // Half-closed before a request: no response. Half-closed after a request: the response.
    let stream = open();
    stream.shutdown(Shutdown::Write).expect("shutting down");
    assert_eq!(rest(stream), "");
    let mut stream = open();
    stream.write_all(request.as_bytes()).expect("a request");
    stream.shutdown(Shutdown::Write).expect("shutting down");
    assert!(rest(stream).starts_with("HTTP/1.1 200"));

    // Garbage: refused at once.
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for garbage in [
        &tls[..],
        &[0xff; 4096],
        b"\r\n\r\n\r\n\0",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = open();
        stream.write_all(garbage).expect("garbage");
        stream.shutdown(Shutdown::Write).expect("shutting down");
        let response = rest(stream);
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{response}");
    }

    // Pipelined requests: only the first is answered.
    let mut stream = open();
    stream.write_all(request.repeat(1000).as_bytes()).expect("requests");
    let response = rest(stream);
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");

    // More clients than the daemon accepts send a request and never read the response: the responses are
    // not kept for ever.
    let unread: Vec<UnixStream> = (0..500)
        .map(|_| {
            let mut stream = open();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
            stream
        })
        .collect();
    assert_works(&node);

    // A client that sends nothing, or one byte at a time, is closed when the timeout expires.
    let began = Instant::now();
    let silent = open();
    let mut trickling = open();
    trickling.write_all(b"GET /v1/status HTTP/1.1\r\nhost: ").expect("a beginning");
    while trickling.write_all(b"x").is_ok() {
        assert!(began.elapsed() < 3 * WAIT_TIMEOUT, "a slow client is never disconnected");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() >= REQUEST_TIMEOUT, "disconnected after {:?}", began.elapsed());
    assert!(!rest(trickling).starts_with("HTTP/1.1 2"));
    assert!(!rest(silent).starts_with("HTTP/1.1 2"));
    settled(&node, |files| files == files_before);
    drop(unread);
    assert_works(&node);
    let grown = peak(&node) - peak_before;
    assert!(grown < MAX_MEMORY, "{grown} KiB");
}

#[test]
fn clients_that_read_no_response_lock_no_client_out() {
    let Some(mut node) = Node::new("clients/much") else { return };
    node.fill_tables();
    node.start(&["--timing", &format!("request={LONG}")]);
    node.wait("enforcing", enforcing);
    let (files_before, peak_before) = (settled(&node, |_| true), peak(&node));
    for path in ["/metrics", "/v1/stats"] {
        let unread: Vec<UnixStream> = (0..500)
            .map(|_| {
                let mut stream = connect(&node, "stats.sock").expect("a connection");
                write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
                stream
            })
            .collect();
        assert!(node.status().is_some_and(|status| enforcing(&status)), "{path}: no status");
        let mut scraper = connect(&node, "stats.sock").expect("a connection");
        write!(scraper, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
        let metrics = rest(scraper);
        assert!(metrics.contains("\ntrainguard_packets_total{"), "{path}: no metrics");
        assert!(metrics.ends_with('\n'), "{path}: truncated metrics");
        assert!(!node.answers(MEMBER[0], PORT), "a member gets in");
        drop(unread);
    }
    settled(&node, |files| files == files_before);
    let grown = peak(&node) - peak_before;
    assert!(grown < MAX_MEMORY, "{grown} KiB");
}
