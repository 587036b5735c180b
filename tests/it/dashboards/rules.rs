//! The alert and recording rules of `dashboards/alerts.yaml`.

use serde_json::Value;

use super::catalogue::{Catalogue, read};

#[derive(Debug, Clone)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expr: String,
    pub(crate) rule: Value,
}

/// The content of the PrometheusRule.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) alerts: Vec<Alert>,
    /// Name and expression.
    pub(crate) recorded: Vec<(String, String)>,
}

/// The labels of the recorded series.
const RECORDED: [(&str, &[&str]); 1] = [("instance_pool:usernsd_id_pool_used:ratio", &["pool"])];

/// The plain rule file in a PrometheusRule, as extracted by the `sed` line in its header.
pub(crate) fn plain(text: &str) -> String {
    let (_, rules) = text.split_once("\nspec:\n").unwrap();
    rules.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect()
}

impl Rules {
    pub(crate) fn read() -> Rules {
        Rules::parse(&read("dashboards/alerts.yaml"))
    }

    pub(crate) fn parse(text: &str) -> Rules {
        let document: Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(document["apiVersion"], "monitoring.coreos.com/v1");
        assert_eq!(document["kind"], "PrometheusRule");
        let plain: Value = serde_saphyr::from_str(&plain(text)).unwrap();
        assert_eq!(plain, document["spec"], "the plain rule file has other content");
        let groups = document["spec"]["groups"].as_array().unwrap();
        let mut rules = Rules { alerts: Vec::new(), recorded: Vec::new() };
        for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
            let expr = rule["expr"].as_str().unwrap().to_owned();
            if let Some(name) = rule["record"].as_str() {
                rules.recorded.push((name.to_owned(), expr));
            } else {
                let name = rule["alert"].as_str().unwrap().to_owned();
                rules.alerts.push(Alert { name, expr, rule: rule.clone() });
            }
        }
        rules
    }
}

/// All metrics, including those that the rules record.
pub(crate) fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::read();
    for (name, labels) in RECORDED {
        catalogue.record(name, labels);
    }
    catalogue
}
