//! A Prometheus on a lab host that scrapes the gateway there, and the queries of our dashboard.

#![allow(dead_code, unreachable_pub, reason = "each test is a crate of its own, and uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_lab::{Host, LabError, Process, Result};
use serde_json::Value;

/// Alert rules.
pub const RULES: &str = "deploy/prometheus/portcullis.rules.yml";
/// Grafana's dashboard.
pub const DASHBOARD: &str = "deploy/grafana/portcullis.json";

const SOON: Duration = Duration::from_secs(60);

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).map_err(LabError::io(format!("read {path}")))
}

/// A Prometheus on the host that scrapes its gateway twice a second.
pub fn start(host: &Host) -> Result<Process> {
    let dir = host.dir().join("prometheus");
    fs::create_dir_all(&dir).map_err(LabError::io("make a directory"))?;
    let rules = repository().join(RULES);
    let config = format!(
        "global:\n  scrape_interval: 500ms\n  evaluation_interval: 1s\nrule_files: [{}]\nscrape_configs:\n\
         - job_name: portcullis\n  static_configs:\n  - targets: ['127.0.0.1:9464']\n",
        rules.display()
    );
    let file = dir.join("prometheus.yml");
    fs::write(&file, config).map_err(LabError::io("write its configuration"))?;
    let process = host.spawn_words([
        "prometheus".to_owned(),
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
        "--web.listen-address=127.0.0.1:9090".to_owned(),
    ])?;
    process.wait_line("Server is ready to receive web requests", SOON)?;
    Ok(process)
}

/// What the Prometheus on the host answers; empty if there is no data.
pub fn query(host: &Host, query: &str) -> Result<String> {
    host.run(["promtool", "query", "instant", "http://127.0.0.1:9090", query]).map(|output| output.stdout)
}

/// Every query of the dashboard: of panels, annotations and variables.
pub fn dashboard_queries() -> Result<Vec<String>> {
    let dashboard = serde_json::from_str(&read(DASHBOARD)?).map_err(|error| LabError::Answer {
        tool: "the dashboard",
        reason: error.to_string(),
        answer: DASHBOARD.to_owned(),
    })?;
    Ok(queries(&dashboard))
}

fn queries(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match dashboard {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    Value::String(text) if key == "query" && text.starts_with("label_values(") => {
                        let inner = text.trim_start_matches("label_values(");
                        found.extend(inner.rsplit_once(',').map(|(series, _)| series.to_owned()));
                    }
                    other => found.extend(queries(other)),
                }
            }
        }
        Value::Array(values) => found.extend(values.iter().flat_map(queries)),
        _ => {}
    }
    found
}

/// Those of the dashboard's queries, for all gateways and connections, that the Prometheus on the host has no data for.
pub fn without_data(host: &Host, queries: Vec<String>) -> Result<Vec<String>> {
    let mut empty = Vec::new();
    for asked in queries {
        let asked_now = asked
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$connection", ".*")
            .replace(
                "changes(portcullis_start_time_seconds{instance=~\".*\"}[2m]) > 0",
                "portcullis_start_time_seconds",
            );
        if query(host, &asked_now)?.trim().is_empty() {
            empty.push(asked);
        }
    }
    Ok(empty)
}
