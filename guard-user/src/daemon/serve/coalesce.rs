//! Requests for statistics or metrics that wait for an answer. With many interfaces and services,
//! reading the counters takes a while, and many clients may ask. All waiting requests get the same
//! answer, and reading takes at most half of the time. Other requests are answered in between.

use tokio::{
    sync::oneshot::Sender,
    time::{Instant, sleep_until},
};

use hyper::body::Bytes;

use super::exposition::TextFormat;
use crate::{api::stats::Stats, system_error::SystemError};

/// The channel for the answer with statistics.
type ToStats = Sender<Result<Stats, SystemError>>;
/// The format of metrics, and the channel for the answer.
type ToMetrics = (TextFormat, Sender<Result<Bytes, SystemError>>);

/// The waiting requests.
#[derive(Debug)]
pub(crate) struct PendingReads {
    stats: Vec<ToStats>,
    metrics: Vec<ToMetrics>,
    /// Earliest time of the next answer.
    next: Instant,
}

impl Default for PendingReads {
    fn default() -> Self {
        Self { stats: Vec::new(), metrics: Vec::new(), next: Instant::now() }
    }
}

impl PendingReads {
    /// Queues a request for statistics.
    pub(crate) fn queue_stats(&mut self, reply: ToStats) {
        self.stats.push(reply);
    }

    /// Queues a request for metrics.
    pub(crate) fn queue_metrics(
        &mut self,
        form: TextFormat,
        reply: Sender<Result<Bytes, SystemError>>,
    ) {
        self.metrics.push((form, reply));
    }

    /// Waits until the queued requests may be answered; forever if there are none.
    pub(crate) async fn due(&self) {
        if self.stats.is_empty() && self.metrics.is_empty() {
            return std::future::pending().await;
        }
        sleep_until(self.next).await;
    }

    /// Removes and returns the queued requests, without those whose client has given up.
    pub(crate) fn take(&mut self) -> (Vec<ToStats>, Vec<ToMetrics>) {
        let mut stats = std::mem::take(&mut self.stats);
        let mut metrics = std::mem::take(&mut self.metrics);
        stats.retain(|reply| !reply.is_closed());
        metrics.retain(|(_, reply)| !reply.is_closed());
        (stats, metrics)
    }

    /// Records that the requests were answered. `began`: when their answering began.
    pub(crate) fn answered(&mut self, began: Instant) {
        self.next = Instant::now() + began.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn reading_takes_at_most_half_of_the_time() {
        let mut readers = PendingReads::default();
        let soon = Duration::from_millis(20);
        let due =
            async |readers: &PendingReads| tokio::time::timeout(soon, readers.due()).await.is_ok();
        assert!(!due(&readers).await, "no request waits");
        let (reply, _answer) = oneshot::channel();
        readers.queue_stats(reply);
        assert!(due(&readers).await);
        let (reply, given_up) = oneshot::channel();
        readers.queue_metrics(TextFormat::Prometheus, reply);
        drop(given_up);
        let (stats, metrics) = readers.take();
        assert_eq!((stats.len(), metrics.len()), (1, 0));
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_mins(1)).unwrap_or(now);
        readers.answered(began);
        let (reply, _answer) = oneshot::channel();
        readers.queue_stats(reply);
        assert!(!due(&readers).await, "the last reading took a minute");
    }
}
