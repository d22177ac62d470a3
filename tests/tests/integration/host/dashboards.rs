//! The shipped files for Prometheus and Grafana: the alerts name existing commands, and Grafana accepts
//! the dashboard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use clap::CommandFactory as _;
use guard_tests::prometheus::packaging;
use guard_user::cli::Cli;
use serde_json::Value;

/// Returns the panels of the dashboard that have queries.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().expect("panels").iter();
    all.filter(|panel| panel["type"] != "row").collect()
}

pub(crate) fn dashboard() -> Value {
    let text = fs::read_to_string(packaging().join("dashboard.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn each_alert_names_existing_commands() {
    let text = fs::read_to_string(packaging().join("alerts.yaml")).expect("the alerts");
    let cli = Cli::command();
    let mut alerts: BTreeMap<&str, String> = BTreeMap::new();
    let mut alert = "";
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            alert = name;
        }
        let so_far = alerts.entry(alert).or_default();
        *so_far = format!("{so_far} {}", line.trim());
    }
    alerts.remove("");
    for (alert, text) in alerts {
        assert!(alert.starts_with("Trainguard"), "{alert}");
        for field in ["severity: ", "summary: ", "description: "] {
            assert!(text.contains(field), "{alert} has no {field}");
        }
        let subcommands: Vec<&str> = text
            .split("`trainguard ")
            .skip(1)
            .filter_map(|rest| rest.split(['`', ' ']).next())
            .collect();
        assert!(!subcommands.is_empty(), "{alert} names no command");
        for subcommand in subcommands {
            assert!(
                cli.find_subcommand(subcommand).is_some(),
                "{alert}: no subcommand `{subcommand}`"
            );
        }
    }
}

#[test]
fn the_dashboard_has_the_format_that_grafana_accepts() {
    let dashboard = dashboard();
    assert_eq!(dashboard["schemaVersion"], 39);
    let variables: BTreeSet<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(variables, ["datasource", "interface", "job", "node", "service"].into());
    let all = dashboard["panels"].as_array().expect("panels");
    let rows: Vec<&str> = all
        .iter()
        .filter(|panel| panel["type"] == "row")
        .filter_map(|row| row["title"].as_str())
        .collect();
    assert_eq!(rows, ["Cluster", "Node $node"]);
    let ids: BTreeSet<u64> = all.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), all.len(), "a duplicate panel id");
    let mut taken = BTreeSet::new();
    for panel in all {
        let number = |field: &str| panel["gridPos"][field].as_u64().expect("a number in gridPos");
        assert!(number("x") + number("w") <= 24, "{}", panel["title"]);
        for y in number("y")..number("y") + number("h") {
            for x in number("x")..number("x") + number("w") {
                assert!(taken.insert((x, y)), "{} overlaps another panel", panel["title"]);
            }
        }
    }
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().expect("targets") {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
