//! One gate as it is written: a metric and its bound.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rules::{rule, rule_with};
use crate::api::metric::{Direction, Metric, Unit};

/// A metric and the bound it must keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct GateSpec {
    /// What is measured.
    pub metric: Metric,
    /// The least that passes, in quotes: a decimal such as "0.95".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub min: Option<String>,
    /// The most that passes: 50ms, 100Mi or a decimal in quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub max: Option<String>,
}

/// The names of the metrics for which `which` holds, as a CEL list.
fn list(which: impl Fn(Metric) -> bool) -> String {
    let names: Vec<String> = Metric::ALL.into_iter().filter(|m| which(*m)).map(|m| format!("'{m}'")).collect();
    format!("[{}]", names.join(","))
}

fn rules() -> Value {
    const DECIMAL: &str = "matches('^[0-9]+([.][0-9]+)?$')";
    let lower = list(|m| m.direction() == Direction::Lower);
    let seconds = list(|m| m.unit() == Unit::Seconds);
    let bytes = list(|m| m.unit() == Unit::Bytes);
    let plain_max = list(|m| m.direction() == Direction::Lower && !matches!(m.unit(), Unit::Seconds | Unit::Bytes));
    let shares = list(|m| m.unit() == Unit::Share);
    json!([
        rule("has(self.min) != has(self.max)", "set exactly one of min and max"),
        rule_with(
            &format!("!has(self.min) || has(self.max) || !(self.metric in {lower})"),
            "self.metric + ' is better when lower: give it max, not min'"
        ),
        rule_with(
            &format!("!has(self.max) || has(self.min) || self.metric in {lower}"),
            "self.metric + ' is better when higher: give it min, not max'"
        ),
        rule(
            &format!(
                "!has(self.max) || !(self.metric in {seconds}) || self.max.matches('^[0-9]+([.][0-9]+)?(us|ms|s)$')"
            ),
            "max must be a duration with its unit: 50ms, 1.5s or 200us"
        ),
        rule(
            &format!(
                "!has(self.max) || !(self.metric in {bytes}) || self.max.matches('^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$')"
            ),
            "max must be a number of bytes, with or without a suffix: 100Mi, 2G or 1048576"
        ),
        rule(
            &format!(
                "(!has(self.min) || self.metric in {lower} || self.min.{DECIMAL}) && (!has(self.max) || !(self.metric in {plain_max}) || self.max.{DECIMAL})"
            ),
            "must be a decimal number such as \"0.95\", without percent sign or exponent"
        ),
        rule(
            &format!("!has(self.min) || !(self.metric in {shares}) || !self.min.{DECIMAL} || double(self.min) <= 1.0"),
            "min is a share between 0 and 1: 95 percent is \"0.95\""
        ),
    ])
}
