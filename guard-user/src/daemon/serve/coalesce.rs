//! Who waits for statistics or metrics. With many interfaces and services these take a while to
//! read, and many may ask: so all who wait get the same, and reading takes half of the time at most.
//! What is asked of the guard besides is answered in between.

use tokio::{
    sync::oneshot::Sender,
    time::{Instant, sleep_until},
};

use hyper::body::Bytes;

use super::exposition::TextFormat;
use crate::{api::stats::Stats, system_error::SystemError};

/// Where statistics go.
type ToStats = Sender<Result<Stats, SystemError>>;
/// Where metrics go, and in which format.
type ToMetrics = (TextFormat, Sender<Result<Bytes, SystemError>>);

/// Those who wait.
#[derive(Debug)]
pub(crate) struct PendingReads {
    stats: Vec<ToStats>,
    metrics: Vec<ToMetrics>,
    /// When they are answered at the earliest.
    next: Instant,
}

impl Default for PendingReads {
    fn default() -> Self {
        Self { stats: Vec::new(), metrics: Vec::new(), next: Instant::now() }
    }
}

impl PendingReads {
    /// Somebody wants the statistics.
    pub(crate) fn want_stats(&mut self, reply: ToStats) {
        self.stats.push(reply);
    }

    /// Somebody wants the metrics.
    pub(crate) fn want_metrics(
        &mut self,
        form: TextFormat,
        reply: Sender<Result<Bytes, SystemError>>,
    ) {
        self.metrics.push((form, reply));
    }

    /// Waits until they are to be answered; for ever if nobody waits.
    pub(crate) async fn due(&self) {
        if self.stats.is_empty() && self.metrics.is_empty() {
            return std::future::pending().await;
        }
        sleep_until(self.next).await;
    }

    /// Takes them, without those who have given up.
    pub(crate) fn take(&mut self) -> (Vec<ToStats>, Vec<ToMetrics>) {
        let mut stats = std::mem::take(&mut self.stats);
        let mut metrics = std::mem::take(&mut self.metrics);
        stats.retain(|reply| !reply.is_closed());
        metrics.retain(|(_, reply)| !reply.is_closed());
        (stats, metrics)
    }

    /// They were answered, which began then.
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
    async fn reading_takes_half_of_the_time() {
        let mut readers = PendingReads::default();
        let soon = Duration::from_millis(20);
        let due =
            async |readers: &PendingReads| tokio::time::timeout(soon, readers.due()).await.is_ok();
        assert!(!due(&readers).await, "nobody waits");
        let (reply, _answer) = oneshot::channel();
        readers.want_stats(reply);
        assert!(due(&readers).await);
        let (reply, given_up) = oneshot::channel();
        readers.want_metrics(TextFormat::Prometheus, reply);
        drop(given_up);
        let (stats, metrics) = readers.take();
        assert_eq!((stats.len(), metrics.len()), (1, 0));
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_mins(1)).unwrap_or(now);
        readers.answered(began);
        let (reply, _answer) = oneshot::channel();
        readers.want_stats(reply);
        assert!(!due(&readers).await, "it was read for a minute");
    }
}
