//! Checkpoints and tensor files in parts: reading ranges, writing tensors piece by piece, and resuming from several
//! checkpoints of other shards.

use std::fs;
use std::ops::Range;

use half::bf16;
use lion::checkpoint::{Checkpoint, Tensor};
use lion::tensor_file::{Entry, Planned, TensorFile, write, write_streamed};
use lion::{Dtype, DynamicLossScale, Error, Lion, TensorBuf, TensorRef, Update, VariableId, VariableOptions};
use lion_tests::{Rng, checkpoint_text, fill, tensor_bits};
use tempfile::tempdir;

fn values(dtype: Dtype, len: usize) -> TensorBuf {
    let mut made = TensorBuf::zeroed(dtype, len).expect("memory");
    fill(&mut Rng::with_seed(len as u64), &mut made.to_mut(), true);
    made
}

#[test]
fn a_file_written_in_pieces_is_the_same_file() {
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let tensors = [
        ("b", vec![5, 7], values(Dtype::F32, 35)),
        ("a", vec![], values(Dtype::F16, 1)),
        ("c", vec![0, 3], values(Dtype::F32, 0)),
        ("d", vec![100], values(Dtype::BF16, 100)),
    ];
    let entries: Vec<_> =
        tensors.iter().map(|(name, shape, values)| Entry { name, shape, values: values.to_ref() }).collect();
    let metadata = [("key", "text"), ("another", "")];
    write(path("whole"), &entries, &metadata).expect("written");
    let planned: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| Planned {
            name: (*name).into(),
            shape: shape.clone(),
            dtype: values.dtype(),
        })
        .collect();
    let find = |name: &str| tensors.iter().find(|it| it.0 == name).map(|it| it.2.to_ref()).expect("planned");
    for step in [1, 3, 64, 1000] {
        let mut asked = Vec::new();
        let give = |planned: &Planned, give: &mut dyn FnMut(TensorRef<'_>) -> Result<(), Error>| {
            asked.push(planned.name.clone());
            let all = find(&planned.name);
            (0..all.len()).step_by(step).try_for_each(|at| give(all.range(at..all.len().min(at + step))?))
        };
        write_streamed(path("streamed"), &planned, &metadata, give).expect("written");
        assert_eq!(asked, ["b", "c", "a", "d"], "in the order of the file");
        assert_eq!(fs::read(path("streamed")).expect("read"), fs::read(path("whole")).expect("read"));
    }
    // What is wrong leaves the old file.
    let refused = |values: &[TensorBuf], expected: &str| {
        let give = |_: &Planned, give: &mut dyn FnMut(TensorRef<'_>) -> Result<(), Error>| {
            values.iter().try_for_each(|values| give(values.to_ref()))
        };
        let error =
            write_streamed(path("streamed"), &planned[..1], &[], give).expect_err(expected).to_string();
        assert_eq!(error, format!("{}: b: {expected}", path("streamed").display()));
        assert_eq!(fs::read(path("streamed")).expect("read"), fs::read(path("whole")).expect("read"));
    };
    refused(&[], "lacks 35 of its 35 elements");
    refused(&[values(Dtype::F32, 34)], "lacks 1 of its 35 elements");
    refused(
        &[values(Dtype::F32, 30), values(Dtype::F32, 6)],
        "is given 6 elements of f32; expected at most 5 of f32",
    );
    refused(&[values(Dtype::BF16, 35)], "is given 35 elements of bf16; expected at most 35 of f32");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "no temporary file is left");
}

#[test]
fn any_range_of_a_tensor_is_read() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("file");
    let (a, b) = (values(Dtype::F32, 35), values(Dtype::BF16, 20));
    let entries = [
        Entry { name: "a", shape: &[5, 7], values: a.to_ref() },
        Entry { name: "b", shape: &[20], values: b.to_ref() },
    ];
    write(&path, &entries, &[]).expect("written");
    let file = TensorFile::open(&path).expect("a file");
    for (name, values) in [("a", &a), ("b", &b)] {
        let tensor = file.find(name).expect("written");
        for start in 0..=values.len() {
            for end in start..=values.len() {
                let mut read = TensorBuf::zeroed(values.dtype(), end - start).expect("memory");
                file.read_range(tensor, start..end, read.to_mut()).expect("read");
                let expected = values.to_ref().range(start..end).expect("within");
                assert_eq!(tensor_bits(read.to_ref()), tensor_bits(expected));
            }
        }
    }
    let mut room = [0.0_f32; 3];
    let a = file.find("a").expect("written");
    let mut refused = |range: Range<usize>, expected: &str| {
        let error = file.read_range(a, range, &mut room[..]).expect_err("refused").to_string();
        assert_eq!(error, format!("{}: a: {expected}", path.display()));
    };
    refused(33..36, "has the elements 0..35; the range 33..36 was requested");
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 5..2;
    refused(reversed, "has the elements 0..35; the range 5..2 was requested");
    refused(
        usize::MAX..usize::MAX,
        &format!("has the elements 0..35; the range {0}..{0} was requested", usize::MAX),
    );
    refused(0..4, "is 4 elements of f32; the destination has 3 of f32");
}

const LENGTHS: [usize; 3] = [9_000, 5, 4_096];

/// An optimizer with every kind of state, of these elements.
fn optimizer(held: [Range<usize>; 3]) -> (Lion, Vec<VariableId>) {
    let builder = Lion::builder().ema(0.9).gradient_accumulation_steps(2).momentum_dtype(Dtype::BF16);
    let mut optimizer = builder.dynamic_loss_scale(DynamicLossScale::default()).build().expect("valid");
    let ids = held.into_iter().enumerate().map(|(index, held)| {
        let options = VariableOptions { shard: Some(held), ..Default::default() };
        let name = ["a", "b", "c"][index];
        optimizer.register_with(name, &[LENGTHS[index]], Dtype::F32, options).expect("registered")
    });
    let ids = ids.collect();
    (optimizer, ids)
}

/// One that has made three calls, with its parameters.
fn trained() -> (Lion, Vec<Vec<f32>>) {
    let (mut optimizer, ids) = optimizer(LENGTHS.map(|len| 0..len));
    let mut parameters: Vec<Vec<f32>> = LENGTHS.iter().map(|&len| vec![1.0; len]).collect();
    let mut rng = Rng::with_seed(1);
    for _ in 0..3 {
        let gradients: Vec<Vec<bf16>> =
            LENGTHS.iter().map(|&len| (0..len).map(|_| bf16::from_f32(rng.f32() - 0.5)).collect()).collect();
        let mut updates: Vec<_> = ids
            .iter()
            .zip(&mut parameters)
            .zip(&gradients)
            .map(|((&id, parameter), gradient)| Update::new(id, parameter, gradient))
            .collect();
        optimizer.apply(&mut updates).expect("applied");
    }
    (optimizer, parameters)
}

#[test]
fn an_optimizer_goes_on_from_any_parts_of_a_checkpoint() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("whole.safetensors");
    let (whole, parameters) = trained();
    let mut checkpoint = whole.checkpoint().expect("no open step");
    for (variable, parameter) in checkpoint.variables.iter_mut().zip(&parameters) {
        variable.parameter = Some(Tensor::from(parameter));
    }
    checkpoint.write(&path).expect("written");
    let mut rng = Rng::with_seed(2);
    for _ in 0..60 {
        let mut cut = |len: usize| {
            let (a, b) = (rng.usize(0..=len), rng.usize(0..=len));
            a.min(b)..a.max(b)
        };
        let held = LENGTHS.map(&mut cut);
        let (mut part, ids) = optimizer(held.clone());
        // Two files' worth of elements, cut anywhere, in either order.
        let places = LENGTHS.map(|len| rng.usize(0..=len));
        let mut halves = [true, false];
        rng.shuffle(&mut halves);
        let mut found = Vec::new();
        for first in halves {
            let wanted = |name: &str, all: Range<usize>| {
                let place = places[["a", "b", "c"].iter().position(|it| *it == name).expect("saved")];
                if first { 0..place } else { place..all.end }
            };
            let read = Checkpoint::read_part(&path, wanted).expect("read");
            for variable in &read.variables {
                let range = variable.shard.clone().unwrap_or(0..variable.shape[0]);
                assert_eq!(range, wanted(&variable.name, 0..variable.shape[0]));
                let number = ["a", "b", "c"].iter().position(|it| *it == variable.name).expect("saved");
                let values = variable.parameter.as_ref().expect("saved").to_ref();
                assert_eq!(tensor_bits(values), tensor_bits(TensorRef::from(&parameters[number][range])));
            }
            found.extend(part.restore_part(&read).expect("restored"));
        }
        found.sort_by_key(|(id, range)| (*id, range.start));
        for (id, held) in ids.iter().zip(&held) {
            let ranges = found.iter().filter(|(other, _)| other == id).map(|(_, range)| range.clone());
            assert!(ranges.flatten().eq(held.clone()), "each element once");
        }
        // The same as from the whole.
        let (mut expected, _) = optimizer(held);
        expected.restore(&whole.checkpoint().expect("no open step")).expect("restored");
        let text = |optimizer: &Lion| checkpoint_text(&optimizer.checkpoint().expect("no open step"));
        assert_eq!(text(&part), text(&expected));
    }
    let beyond = Checkpoint::read_part(&path, |name, all| if name == "b" { 2..6 } else { all });
    let error = beyond.expect_err("beyond").to_string();
    assert!(error.ends_with("b: has the elements 0..5; the range 2..6 was requested"), "{error}");
}

#[test]
fn nothing_is_taken_from_parts_of_another_optimizer() {
    let (whole, _) = trained();
    let checkpoint = || whole.checkpoint().expect("no open step");
    let (mut own, _) = optimizer([0..100, 0..5, 0..0]);
    let before = checkpoint_text(&own.checkpoint().expect("no open step"));
    let mut refused = |checkpoint: &Checkpoint<'_>, expected: &str| {
        assert_eq!(own.restore_part(checkpoint).expect_err(expected).to_string(), expected);
        assert_eq!(checkpoint_text(&own.checkpoint().expect("no open step")), before);
    };
    let mut other = checkpoint();
    other.variables[1].name = "z".into();
    refused(&other, "momentum/z: the optimizer has no such variable");
    let mut other = checkpoint();
    other.variables[1].shape = vec![1, 5];
    refused(&other, "momentum/b: has the shape [1, 5], and the variable has [5]");
    let mut other = checkpoint();
    other.variables[2].ema = None;
    refused(&other, "ema/c: is missing");
    let mut other = checkpoint();
    let momentum = vec![0.0_f32; 9_000];
    other.variables[0].momentum = Some(Tensor::from(&momentum));
    refused(
        &other,
        "momentum/a: is f32, and must be bf16 as the optimizer's; Checkpoint::convert_momentum converts it",
    );
    let mut other = checkpoint();
    other.dynamic = None;
    refused(&other, "dynamic_scale: is missing");
    assert!(own.restore_part(&checkpoint()).is_ok());
}
