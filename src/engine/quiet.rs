//! Panics of a library as errors. A panic inside an inference library is one way in which it says that it cannot run a model.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it becomes its message, and nothing is printed. Other threads keep their panic output.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    // What `work` leaves half done is dropped by the caller, which gives up what it was building.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_is_its_message() {
        let nothing: Option<u8> = None;
        assert_eq!(caught(|| nothing.expect("no operator")), Err("no operator".to_owned()));
        assert_eq!(caught(|| panic!("bad rank {}", 3)), Err::<(), _>("bad rank 3".to_owned()));
        assert_eq!(caught(|| 7), Ok(7));
    }
}
