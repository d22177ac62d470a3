//! The two text formats of the metrics: that of Prometheus, and `OpenMetrics` for clients that accept
//! it.
//!
//! No library writes both: `prometheus` writes the first, `prometheus-client` the second. The metrics
//! are counters and gauges without timestamps, for which the formats differ in three ways: the name of
//! a counter's family, the end of the text, and the content type.

use std::cell::OnceCell;

use hyper::{
    HeaderMap,
    body::Bytes,
    header::{ACCEPT, HeaderValue},
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The line that ends a text in `OpenMetrics`.
const END: &[u8] = b"# EOF\n";

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextFormat {
    /// Version 0.0.4 of the format of Prometheus.
    Prometheus,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl TextFormat {
    /// Returns the format that the `Accept` headers prefer. `OpenMetrics` wins a tie; without a
    /// preference it is [`Self::Prometheus`].
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let mut open_metrics = 0;
        let mut prometheus = 0;
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let (media, weight) = weighed(range);
            match media.as_str() {
                "application/openmetrics-text" => open_metrics = weight.max(open_metrics),
                "text/plain" | "text/*" | "*/*" => prometheus = weight.max(prometheus),
                _ => {}
            }
        }
        if open_metrics > 0 && open_metrics >= prometheus {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the value of the `Content-Type` header.
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Prometheus => prometheus::TEXT_FORMAT,
            Self::OpenMetrics => OPEN_METRICS,
        })
    }
}

/// The metrics in each requested format, shared by all clients that are answered together.
#[derive(Debug)]
pub(crate) struct Exposition {
    prometheus: Bytes,
    open: OnceCell<Bytes>,
}

impl Exposition {
    /// Takes metrics in the text format of Prometheus.
    pub(crate) fn new(text: String) -> Self {
        Self { prometheus: Bytes::from(text), open: OnceCell::new() }
    }

    /// Returns the metrics in a format. `OpenMetrics` is made at the first call for it.
    pub(crate) fn of(&self, form: TextFormat) -> Bytes {
        match form {
            TextFormat::Prometheus => self.prometheus.clone(),
            TextFormat::OpenMetrics => {
                self.open.get_or_init(|| open_metrics(&self.prometheus)).clone()
            }
        }
    }
}

fn open_metrics(text: &[u8]) -> Bytes {
    let mut open = Vec::with_capacity(text.len() + END.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let mut words = line.splitn(4, |&byte| byte == b' ');
        if let (Some(b"#"), Some(what @ (b"HELP" | b"TYPE")), Some(family), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let family = family.strip_suffix(b"_total").unwrap_or(family);
            open.extend([b"#", what, family, rest].join(&b' '));
        } else {
            open.extend(line);
        }
    }
    open.extend(END);
    open.into()
}

/// Returns the media type of a media range and its weight in thousandths; weight 0 for an unsupported
/// version.
fn weighed(range: &str) -> (String, u16) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let mut weight = 1000;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => {
                let quality: f32 = value.parse().unwrap_or(0.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 1000"
                )]
                let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u16;
                weight = weight.min(thousandths);
            }
            "version" if !matches!(value, "1.0.0" | "0.0.4") => weight = 0,
            _ => {}
        }
    }
    (media, weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &[&str]) -> TextFormat {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_str(value).expect("a header"));
        }
        TextFormat::wanted(&headers)
    }

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        // Prometheus 2.42 and 3.
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                   version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                   application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=1.0.0;q=0.4,\
                   text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for accept in [&[old][..], &[new], &["application/openmetrics-text"]] {
            assert_eq!(wanted(accept), TextFormat::OpenMetrics, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/plain;version=0.0.4", "application/openmetrics-text;q=0.9"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=nonsense"],
            &["application/openmetrics-text; version=2.0.0"],
            &[";;;=,q=1,\"", "application/json"],
        ] {
            assert_eq!(wanted(accept), TextFormat::Prometheus, "{accept:?}");
        }
    }

    #[test]
    fn only_the_declaration_of_a_counter_names_its_family() {
        let text = "# HELP a_total A # HELP b_total.\n# TYPE a_total counter\na_total{x=\"# TYPE a_total b\"} 1\n\
                    # HELP g G.\n# TYPE g gauge\ng 2\n";
        let open = "# HELP a A # HELP b_total.\n# TYPE a counter\na_total{x=\"# TYPE a_total b\"} 1\n\
                    # HELP g G.\n# TYPE g gauge\ng 2\n# EOF\n";
        let exposition = Exposition::new(text.to_owned());
        assert_eq!(exposition.of(TextFormat::OpenMetrics), open);
        assert_eq!(exposition.of(TextFormat::Prometheus), text);
    }
}
