//! How far the files of one transfer are.

/// A transfer tells how far it is so many times.
const STEPS: u64 = 20;

pub(super) struct Meter<'t> {
    verb: &'static str,
    bytes: u64,
    total: u64,
    told: u64,
    tell: &'t mut dyn FnMut(&str),
}

impl<'t> Meter<'t> {
    /// `verb` is what happened to the bytes, as "fetched".
    pub(super) fn new(verb: &'static str, total: u64, tell: &'t mut dyn FnMut(&str)) -> Self {
        Self { verb, bytes: 0, total, told: 0, tell }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        let step = self.bytes * STEPS / self.total.max(1);
        if step > self.told {
            self.told = step;
            let [bytes, total] = [self.bytes / 1_000_000, self.total.div_ceil(1_000_000)];
            self.say(&format!("{} {bytes} of {total} MB", self.verb));
        }
    }

    /// A file is begun again.
    pub(super) fn take_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) fn say(&mut self, text: &str) {
        (self.tell)(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_steps_and_never_twice() {
        let mut told = Vec::new();
        let mut tell = |text: &str| told.push(text.to_owned());
        let mut meter = Meter::new("fetched", 40_000_000, &mut tell);
        for _ in 0..10 {
            meter.add(1_000_000);
        }
        meter.take_back(10_000_000);
        for _ in 0..40 {
            meter.add(1_000_000);
        }
        assert_eq!(told.len(), 20, "{told:?}");
        assert_eq!((told[0].as_str(), told[19].as_str()), ("fetched 2 of 40 MB", "fetched 40 of 40 MB"));
    }
}
