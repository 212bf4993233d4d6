//! A pass that needs more memory than there is runs in its cheaper form, or not at all; it never takes the process down.

use crate::model::{Model, Pass};

/// How a pass can run in the room there is.
pub(super) enum Form {
    /// As it is.
    Whole,
    /// In its cheaper form, and why.
    Cheaper(Box<dyn Pass>, String),
}

/// The largest form of `pass` that fits into `room` bytes (`None`: no limit is known), or why none does.
pub(super) fn form(pass: &dyn Pass, model: &Model, room: Option<u64>) -> Result<Form, String> {
    let Some(room) = room else { return Ok(Form::Whole) };
    let needed = pass.working_bytes(model);
    if needed <= room {
        return Ok(Form::Whole);
    }
    let short = format!("it may take {} and {} are left", megabytes(needed), megabytes(room));
    match pass.cheaper() {
        Some(cheaper) if cheaper.working_bytes(model) <= room => {
            Ok(Form::Cheaper(cheaper, format!("in its cheaper form: {short}")))
        }
        Some(_) => Err(format!("{short}; its cheaper form takes too much as well. Give the bake more memory.")),
        None => Err(format!("{short}. Give the bake more memory.")),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Effect, Facts, PassError};

    /// Takes as many bytes as it says, and a thousandth of them in its cheaper form.
    struct Hungry(u64);

    impl Pass for Hungry {
        fn name(&self) -> &'static str {
            "hungry"
        }

        fn working_bytes(&self, _: &Model) -> u64 {
            self.0
        }

        fn cheaper(&self) -> Option<Box<dyn Pass>> {
            (self.0 >= 1_000).then(|| Box::new(Self(self.0 / 1_000)) as Box<dyn Pass>)
        }

        fn apply(&self, _: &mut Model, _: &mut Facts) -> Result<Effect, PassError> {
            Ok(Effect::rewrites(1, ""))
        }
    }

    #[test]
    fn a_pass_runs_whole_then_cheaper_then_not_at_all_as_the_room_shrinks() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["1"])
            .node("Relu", &["x"], "y", vec![])
            .output("y", DType::F32, &["1"])
            .build();
        let pass = Hungry(5_000_000);
        let form = |room| form(&pass, &model, room);
        assert!(matches!(form(None), Ok(Form::Whole)));
        assert!(matches!(form(Some(5_000_000)), Ok(Form::Whole)));
        let Ok(Form::Cheaper(cheaper, why)) = form(Some(4_999_999)) else { panic!("its cheaper form fits") };
        assert_eq!(cheaper.working_bytes(&model), 5_000);
        assert_eq!(why, "in its cheaper form: it may take 5.0 MB and 5.0 MB are left");
        assert!(form(Some(4_999)).is_err_and(|why| why.contains("Give the bake more memory")));
    }
}
