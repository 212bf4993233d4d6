//! How long a store is borne with when it is slow, busy or away.

use std::time::Duration;

use object_store::{BackoffConfig, RetryConfig};

use super::error::{At, Fault, StoreError};

/// The variable that says how many seconds one request is tried for.
const VARIABLE: &str = "BAKEHOUSE_STORE_PATIENCE";

/// Rides out a restart of a store, and lets a person with a wrong address wait no longer than that.
const USUAL: Duration = Duration::from_mins(2);

/// A pod that waits longer than this had better be started again.
const MOST: u64 = 3600;

/// Tries of one request beside the first; with pauses that grow, they come to about half a minute.
const RETRIES: usize = 8;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// The budget of one request with all its retries. What still fails then is worth another attempt as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience(Duration);

impl Patience {
    /// As the environment says.
    pub(super) fn of_environment() -> Result<Self, StoreError> {
        std::env::var(VARIABLE)
            .ok()
            .filter(|value| !value.is_empty())
            .map_or(Ok(Self(USUAL)), |value| Self::parse(&value))
    }

    fn parse(value: &str) -> Result<Self, StoreError> {
        match value.parse() {
            Ok(seconds @ 1..=MOST) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(At::new(VARIABLE, value).fault(Fault::Setting, format!("it takes seconds, from 1 to {MOST}"))),
        }
    }

    pub(super) fn budget(self) -> Duration {
        self.0
    }

    /// Until the next byte of an answer comes, and for an upload until its answer begins: 8 MiB pass in half a minute at 2.2 Mbit/s. A connection that
    /// went dead is noticed early enough to try others within the budget.
    pub(super) fn silence(self) -> Duration {
        self.0 / 4
    }

    pub(super) fn connect(self) -> Duration {
        CONNECT.min(self.silence())
    }

    /// Each pause is a random one between the first and three times the last, so that workers that failed together do not come back together.
    pub(super) fn retries(self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(250), base: 3.0, ..BackoffConfig::default() },
            max_retries: RETRIES,
            retry_timeout: self.0,
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self(USUAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    #[test]
    fn silence_is_borne_several_times_within_the_budget() {
        for patience in [Patience::default(), Patience::parse("1").unwrap(), Patience::parse("3600").unwrap()] {
            assert!(patience.silence() * 3 < patience.budget(), "{patience:?}");
            assert!(patience.connect() <= patience.silence(), "{patience:?}");
        }
    }

    #[test]
    fn what_is_no_number_of_seconds_is_refused() {
        for value in ["0", "-1", "soon", "1.5", "3601"] {
            let error = Patience::parse(value).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidJob, "{value}");
            assert!(error.to_string().starts_with(VARIABLE), "{error}");
        }
    }
}
