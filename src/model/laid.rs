//! Idle weights, laid down in a file of their own and mapped from there: in memory is then only what is read of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bytes::Bytes;

use super::{Model, mapped};
use crate::signals::HeldFolder;

/// Smaller weights stay where they are.
const LEAST_BYTES: usize = 1 << 12;

/// Weights of so many bytes are given back by themselves.
const LARGE_BYTES: usize = 1 << 16;

/// Fewer bytes in all are not worth a file.
const WORTH_BYTES: usize = 1 << 20;

/// What kernels may expect of the address of a weight: a map begins at a page, so its place in the file decides.
const ALIGNMENT: u64 = 64;

/// Puts the large weights of a model that are in no file yet into one, from which they are read when they are used. The file is gone with the last of them.
/// Values, names and order stay as they are. Where the folder for temporary files has no room, so do the weights.
pub fn lay_down(model: &mut Model) {
    if let Err(error) = try_lay_down(model) {
        tracing::debug!(%error, "weights stay in memory: no file can be made for them");
    }
}

/// Gives back the pages of a model's large weights that a map holds: they come back when they are read again.
pub fn put_down(model: &Model) {
    let weights = model.graph().initializer.iter().filter_map(|tensor| tensor.raw_data.as_deref());
    weights.filter(|weight| weight.len() >= LARGE_BYTES).for_each(mapped::put_down);
}

fn try_lay_down(model: &mut Model) -> io::Result<()> {
    let mut loose: Vec<&mut Bytes> = model
        .graph_mut()
        .initializer
        .iter_mut()
        .filter_map(|tensor| tensor.raw_data.as_mut())
        .filter(|data| data.len() >= LEAST_BYTES && !mapped::is_mapped(data))
        .collect();
    if loose.iter().map(|data| data.len()).sum::<usize>() < WORTH_BYTES {
        return Ok(());
    }
    let folder = HeldFolder::temporary()?;
    let path = folder.path().join("weights.bin");
    let places = write(&path, &loose)?;
    let map = mapped::map_held(&File::open(&path)?, &path, Some(folder))?;
    for (data, place) in loose.iter_mut().zip(places) {
        **data = map.slice(place..place + data.len());
    }
    Ok(())
}

/// Writes weights one behind the other, those that share their bytes once, and says where each begins.
fn write(path: &Path, weights: &[&mut Bytes]) -> io::Result<Vec<usize>> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut end = 0_u64;
    let mut known: HashMap<(*const u8, usize), usize> = HashMap::new();
    let mut places = Vec::with_capacity(weights.len());
    for data in weights {
        let id = (data.as_ptr(), data.len());
        if let Some(&place) = known.get(&id) {
            places.push(place);
            continue;
        }
        let begin = end.next_multiple_of(ALIGNMENT);
        file.write_all(&[0; ALIGNMENT as usize][..(begin - end) as usize])?;
        file.write_all(data)?;
        end = begin + data.len() as u64;
        known.insert(id, begin as usize);
        places.push(begin as usize);
    }
    file.flush()?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::{DType, Tensor};

    fn model(of_each: usize) -> Model {
        let weight = |seed: usize| {
            Tensor::new(&[of_each], &(0..of_each).map(|v| ((v + seed) % 1000) as f32).collect::<Vec<f32>>())
        };
        let shared = weight(2);
        let builder = Builder::new(17).initializer("a", weight(1)).initializer("b", shared.clone());
        let builder = builder.initializer("c", shared).initializer("s", Tensor::scalar(1.0_f32));
        builder.output("a", DType::F32, &["N"]).build()
    }

    fn weight(model: &Model, at: usize) -> &Bytes {
        model.graph().initializer[at].raw_data.as_ref().unwrap()
    }

    #[test]
    fn what_was_laid_down_is_the_same_model_aligned_and_read_from_a_file_that_goes_with_it() {
        let (before, mut after) = (model(200_003), model(200_003));
        lay_down(&mut after);
        assert_eq!(after, before);
        for at in 0..3 {
            assert!(mapped::is_mapped(weight(&after, at)) && !mapped::is_mapped(weight(&before, at)));
            assert!(weight(&after, at).as_ptr().addr().is_multiple_of(ALIGNMENT as usize));
        }
        assert!(!mapped::is_mapped(weight(&after, 3)), "a single number is not worth it");
        let folder = tempfile::tempdir().unwrap();
        let (name, _) = mapped::link(weight(&after, 0), folder.path()).unwrap();
        let place = weight(&after, 0).as_ptr();
        lay_down(&mut after);
        assert_eq!(weight(&after, 0).as_ptr(), place, "what lies in a file stays there");
        let copy = after.clone();
        drop(after);
        mapped::release();
        assert_eq!(copy, before, "the file lives as long as one who reads it");
        let links = || std::os::unix::fs::MetadataExt::nlink(&folder.path().join(&name).metadata().unwrap());
        assert_eq!(links(), 2);
        drop(copy);
        assert_eq!(links(), 1, "the file's own name is gone");
    }

    #[test]
    fn weights_that_share_their_bytes_are_written_once_and_few_not_at_all() {
        let mut large = model(200_000);
        let shared = weight(&large, 1).clone();
        large.graph_mut().initializer[2].raw_data = Some(shared);
        lay_down(&mut large);
        assert_eq!(weight(&large, 1).as_ptr(), weight(&large, 2).as_ptr());
        let mut small = model(2_000);
        lay_down(&mut small);
        assert!(!mapped::is_mapped(weight(&small, 0)));
    }
}
