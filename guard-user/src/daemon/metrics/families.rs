//! Families of metrics, as the library writes them.

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::kernel::error::KernelError;

/// A value with its labels.
pub(super) type Row<'a> = (Vec<(&'static str, &'a str)>, f64);

/// The families, in the order in which they are told.
#[derive(Default)]
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    /// Adds what only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str, rows: &[Row<'_>]) {
        self.add(MetricType::COUNTER, name, help, rows);
    }

    /// Adds what may be anything.
    pub(super) fn gauge(&mut self, name: &str, help: &str, rows: &[Row<'_>]) {
        self.add(MetricType::GAUGE, name, help, rows);
    }

    fn add(&mut self, kind: MetricType, name: &str, help: &str, rows: &[Row<'_>]) {
        if rows.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(rows.iter().map(|row| metric(kind, row)).collect());
        self.0.push(family);
    }

    /// All of them in the text format of Prometheus 0.0.4.
    pub(super) fn text(&self) -> Result<String, KernelError> {
        let mut bytes = Vec::new();
        let encoded = TextEncoder::new().encode(&self.0, &mut bytes);
        encoded.map_err(|error| KernelError::of("writing the metrics", error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn metric(kind: MetricType, (labels, value): &Row<'_>) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(*value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(*value);
        metric.set_gauge(gauge);
    }
    metric
}

/// A number as the format has it. Exact up to 2^53: a rate of 10^9 a second gets there in a hundred
/// days.
#[expect(clippy::cast_precision_loss, reason = "the format has floating point only")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}
