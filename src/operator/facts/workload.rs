//! What Kueue says about a Job that waits: its Workload's conditions, in a sentence.

use serde_json::Value;

/// Why a Workload does not run; `None` when it says nothing about it.
pub fn waits(workload: &Value) -> Option<String> {
    let conditions = workload["status"]["conditions"].as_array()?;
    let find = |kind: &str, status: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == status);
    let said = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().trim().to_owned();
        match (text("reason"), text("message")) {
            (reason, message) if message.is_empty() => reason,
            (reason, message) => format!("{reason}: {message}"),
        }
    };
    if let Some(evicted) = find("Evicted", "True") {
        return Some(format!("Kueue took its place back ({}); it waits to be admitted again", said(evicted)));
    }
    find("QuotaReserved", "False").map(|reserved| format!("Kueue has not admitted it ({})", said(reserved)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_eviction_counts_more_than_the_quota_that_is_missing_because_of_it() {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
        let pending = condition("QuotaReserved", "False", "Pending", "insufficient unused quota for cpu");
        let evicted = condition("Evicted", "True", "Preempted", "Preempted to accommodate a higher priority");
        let of = |conditions: Vec<Value>| waits(&json!({"status": {"conditions": conditions}}));
        assert_eq!(of(vec![]), None);
        assert_eq!(
            of(vec![pending.clone()]).unwrap(),
            "Kueue has not admitted it (Pending: insufficient unused quota for cpu)"
        );
        assert!(of(vec![pending, evicted]).unwrap().starts_with("Kueue took its place back (Preempted: Preempted to"));
        assert_eq!(waits(&json!({})), None);
    }
}
