//! Timing runs take turns: two bakes that time at once would measure each other.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

/// The right to time, held until dropped. The kernel frees it when its process dies, so a killed bake never blocks the others.
#[derive(Debug)]
pub struct TimingTurn {
    _lock: File,
}

impl TimingTurn {
    /// Waits for the turn. One per user and machine.
    pub fn take() -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(lock_path())?;
        file.lock()?;
        Ok(Self { _lock: file })
    }
}

fn lock_path() -> PathBuf {
    let user = nix::unistd::Uid::effective();
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|p| p.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    folder.join(format!("bakehouse-timing-{user}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn only_one_holds_the_turn_at_a_time() {
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _turn = TimingTurn::take().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }
}
