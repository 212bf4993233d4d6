//! From the pods of an active Job to one state: pod-level truth, which a Job's own status hides.

use k8s_openapi::jiff::Timestamp;

use crate::api::state::State;
use crate::operator::facts::{PodFacts, PodState};

/// What the pods tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) message: String,
    pub(super) node: Option<String>,
    /// Since when it is so, as far as the pod tells: since it was made, unless no node takes it or it has ended.
    pub(super) since: Option<Timestamp>,
}

/// Reads the pods, oldest first. The newest counts: those before it have ended, or are on their way out. `silent` says whether a node is
/// known not to answer: the pod's own status keeps what its kubelet said last.
pub(super) fn view(pods: &[&PodFacts], silent: impl Fn(&str) -> bool) -> View {
    let Some(pod) = pods.last() else {
        return View { state: State::Starting, message: "The Job has no pod yet".into(), node: None, since: None };
    };
    let place = pod.node.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
    let name = format!("Pod {}{place}", pod.name);
    let lost = pod.lost || pod.node.as_deref().is_some_and(silent);
    let (state, message) = match &pod.state {
        PodState::Running { reachable } if lost || !reachable => {
            (State::NodeUnreachable, format!("{name} runs, but its node does not answer"))
        }
        _ if pod.deleting => (State::Retrying, format!("{name} is being stopped; the Job makes a new one")),
        PodState::Unschedulable { message, .. } => (unschedulable(message), format!("{name}: {message}")),
        PodState::ImagePull { message } => (State::ImagePullFailed, format!("{name}: {message}")),
        PodState::Config { message } => (State::ContainerConfigError, format!("{name}: {message}")),
        PodState::Pending => (State::Starting, format!("{name} is being prepared")),
        PodState::Running { .. } => (State::Running, format!("{name} bakes")),
        PodState::Succeeded { .. } => (State::Running, format!("{name} has ended; the Job is about to")),
        PodState::Failed(end) => (State::Retrying, format!("{name}: {}; the Job makes a new one", end.detail)),
    };
    let since = match pod.state {
        PodState::Unschedulable { since: at, .. } | PodState::Succeeded { at, .. } => at.or(pod.created),
        _ => pod.created,
    };
    View { state, message, node: pod.node.clone(), since }
}

fn unschedulable(message: &str) -> State {
    if message.contains("exceeded quota") { State::QuotaExceeded } else { State::Unschedulable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::facts::PodEnd;

    fn pod(state: PodState, deleting: bool) -> PodFacts {
        PodFacts {
            name: "p".into(),
            job: "j".into(),
            created: None,
            node: Some("n1".into()),
            deleting,
            lost: false,
            state,
        }
    }

    #[test]
    fn each_pod_has_one_state_with_its_node_and_the_words_of_the_cluster() {
        let words = || "words".to_owned();
        let table = [
            (PodState::Pending, false, State::Starting, ""),
            (PodState::Unschedulable { since: None, message: words() }, false, State::Unschedulable, "words"),
            (PodState::ImagePull { message: words() }, false, State::ImagePullFailed, "words"),
            (PodState::Config { message: words() }, false, State::ContainerConfigError, "words"),
            (PodState::Running { reachable: true }, false, State::Running, ""),
            (PodState::Running { reachable: false }, false, State::NodeUnreachable, "does not answer"),
            (PodState::Running { reachable: false }, true, State::NodeUnreachable, "does not answer"),
            (PodState::Running { reachable: true }, true, State::Retrying, "being stopped"),
            (PodState::Succeeded { at: None, message: None }, false, State::Running, ""),
            (PodState::Failed(PodEnd { detail: words(), ..PodEnd::default() }), false, State::Retrying, "words"),
        ];
        for (state, deleting, expected, words) in table {
            let pod = pod(state, deleting);
            let view = view(&[&pod], |_| false);
            assert_eq!(view.state, expected, "{pod:?}");
            assert!(view.message.contains("on node n1") && view.message.contains(words), "{}", view.message);
        }
        assert_eq!(view(&[], |_| false).state, State::Starting);
    }

    #[test]
    fn a_pod_runs_on_only_as_far_as_its_node_answers() {
        let running = pod(PodState::Running { reachable: true }, false);
        assert_eq!(view(&[&running], |node| node == "n1").state, State::NodeUnreachable);
        assert_eq!(view(&[&running], |node| node == "n2").state, State::Running);
        let deleted = PodFacts { deleting: true, lost: true, ..running };
        assert_eq!(view(&[&deleted], |_| false).state, State::NodeUnreachable);
    }
}
