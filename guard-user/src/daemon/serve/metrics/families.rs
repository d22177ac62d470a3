//! Families of metrics, for the encoder of the `prometheus` crate.

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{self, Counter, Gauge, LabelPair, MetricFamily, MetricType},
};

use super::declared::{Kind, Metric};
use crate::system_error::SystemError;

/// The values of the labels, in the order in which the metric declares them, and the value.
pub(crate) type Row<'a> = (Vec<&'a str>, f64);

/// The families, in the order of the output.
#[derive(Default)]
pub(crate) struct Families(Vec<MetricFamily>);

impl Families {
    /// Adds the rows of a metric. Adds nothing if there are none.
    pub(crate) fn add(&mut self, metric: &Metric, rows: &[Row<'_>]) {
        if rows.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(match metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        family.set_metric(rows.iter().map(|row| row_of(metric, row)).collect());
        self.0.push(family);
    }

    /// Adds a metric without labels.
    pub(crate) fn value(&mut self, metric: &Metric, value: f64) {
        self.add(metric, &[(Vec::new(), value)]);
    }

    /// Adds a metric without labels that is 1 for true and 0 for false.
    pub(crate) fn flag(&mut self, metric: &Metric, value: bool) {
        self.value(metric, flag(value));
    }

    /// Returns all families in the text format of Prometheus 0.0.4.
    pub(crate) fn text(&self) -> Result<String, SystemError> {
        let mut bytes = Vec::new();
        let encoded = TextEncoder::new().encode(&self.0, &mut bytes);
        encoded.map_err(|error| SystemError::of("writing the metrics", error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn row_of(metric: &Metric, (labels, value): &Row<'_>) -> proto::Metric {
    debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut row = proto::Metric::from_label(pairs.collect());
    match metric.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(*value);
            row.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(*value);
            row.set_gauge(gauge);
        }
    }
    row
}

/// Returns 1 for true, 0 for false.
pub(crate) fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Converts a number to floating point. Exact up to 2^53, which a rate of 10^9 per second reaches in a
/// hundred days.
#[expect(clippy::cast_precision_loss, reason = "the format has floating point only")]
pub(crate) fn number(value: u64) -> f64 {
    value as f64
}
