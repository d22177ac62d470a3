//! A client and a server, each on its own end of the cable and its own CPU.
#![expect(clippy::cast_precision_loss, reason = "counts of bytes are far below 2^52")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use guard_tests::wire::{
    cpu::{self, Cpus},
    lab::Lab,
    policy,
};
use socket2::SockRef;

/// Bytes per write and per read of the bulk transfer.
const CHUNK: usize = 1 << 18;
/// Bytes per request and per response.
const MESSAGE: usize = 64;
/// Timeout of each read and write.
const SILENCE: Duration = Duration::from_secs(5);
/// Time before the measurement, in which TCP windows open.
const WARM_UP: Duration = Duration::from_millis(40);

/// The result of one run of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Throughput of the bulk transfer in Gbit/s.
    pub(crate) gbits: f64,
    /// CPU time of both ends per 1,000 bytes, in nanoseconds.
    pub(crate) bulk_cpu_ns: f64,
    /// Requests answered per second.
    pub(crate) requests: f64,
    /// Median time from request to response, in microseconds.
    pub(crate) request_us: f64,
    /// CPU time of both ends per request, in microseconds.
    pub(crate) request_cpu_us: f64,
}

/// Totals of one end.
struct Half {
    /// Bytes transferred, or requests.
    count: u64,
    elapsed: Duration,
    cpu: Duration,
}

/// Runs both transfers. Returns the result and the number of bytes that the server received in bulk.
pub(crate) fn run(
    lab: &Lab,
    cpus: Cpus,
    bulk: Duration,
    requests: Duration,
) -> Result<(Sample, u64)> {
    let (sent, received, ()) = both(lab, cpus, |stream| send(stream, bulk), receive)?;
    let (asked, _, time) = both(lab, cpus, |stream| ask(stream, requests), answer)?;
    let sample = Sample {
        gbits: received.count as f64 * 8.0 / received.elapsed.as_secs_f64() / 1e9,
        bulk_cpu_ns: sent.cpu.as_secs_f64() * 1e12 / received.count as f64,
        requests: asked.count as f64 / asked.elapsed.as_secs_f64(),
        request_us: time.as_secs_f64() * 1e6,
        request_cpu_us: asked.cpu.as_secs_f64() * 1e6 / asked.count as f64,
    };
    Ok((sample, received.count))
}

/// Connects the ends and runs both. The CPU time in the client's result is that of both ends, and
/// includes the kernel threads that work for them.
fn both<T: Send>(
    lab: &Lab,
    cpus: Cpus,
    client: impl FnOnce(TcpStream) -> Result<(Half, T)> + Send,
    server: impl FnOnce(TcpStream) -> Result<Half> + Send,
) -> Result<(Half, Half, T)> {
    let (node, _) = policy::NODE;
    let at = SocketAddr::new(node.into(), policy::PORT);
    let (ready, listening) = mpsc::channel();
    let idle = softirq_time()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            lab.receiver.inside(|| {
                let listener = TcpListener::bind(at)?;
                // This also limits the wait for a connection.
                SockRef::from(&listener).set_read_timeout(Some(SILENCE))?;
                ready.send(())?;
                let (stream, _) = listener.accept()?;
                settle(&stream, cpus.receiver)?;
                server(stream)
            })
        });
        listening.recv_timeout(SILENCE).context("the server does not listen")?;
        let asked = lab.sender.inside(|| {
            let stream = TcpStream::connect_timeout(&at, SILENCE)?;
            settle(&stream, cpus.sender)?;
            client(stream)
        });
        let answered = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ((mut asked, more), answered) = (asked?, answered?);
        asked.cpu += answered.cpu + softirq_time()?.saturating_sub(idle);
        Ok((asked, answered, more))
    })
}

fn settle(stream: &TcpStream, cpu: usize) -> Result<()> {
    cpu::pin(cpu::this_thread(), cpu)?;
    cpu::raise(cpu::this_thread())?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(())
}

fn send(mut stream: TcpStream, duration: Duration) -> Result<(Half, ())> {
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        stream.write_all(&chunk)?;
        count += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The server closes the connection when it has received everything.
    let _ = stream.read(&mut [0])?;
    Ok((Half { count, elapsed: start.elapsed(), cpu: cpu::own_time()? }, ()))
}

fn receive(mut stream: TcpStream) -> Result<Half> {
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut count = 0;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            bytes => count += bytes as u64,
        }
    }
    Ok(Half { count, elapsed: start.elapsed(), cpu: cpu::own_time()? })
}

/// Sends requests and waits for the responses. Also returns the median time per request.
fn ask(mut stream: TcpStream, duration: Duration) -> Result<(Half, Duration)> {
    let mut message = [0; MESSAGE];
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < WARM_UP + duration {
        let asked = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(asked.elapsed());
    }
    let half = Half { count: times.len() as u64, elapsed: start.elapsed(), cpu: cpu::own_time()? };
    times.sort_unstable();
    Ok((half, times.get(times.len() / 2).copied().unwrap_or_default()))
}

fn answer(mut stream: TcpStream) -> Result<Half> {
    let mut message = [0; MESSAGE];
    let start = Instant::now();
    let mut count = 0;
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
        count += 1;
    }
    Ok(Half { count, elapsed: start.elapsed(), cpu: cpu::own_time()? })
}

/// Returns the CPU time of the `ksoftirqd` threads, which process packets that no other context
/// processes.
fn softirq_time() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in cpu::kernel_threads("ksoftirqd/")? {
        sum += cpu::time_of(thread)?;
    }
    Ok(sum)
}
