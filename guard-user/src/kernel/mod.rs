//! Loading, attaching, pinning, reading counters. Knows no YAML.
