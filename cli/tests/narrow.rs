//! `lion replay` with the narrow formats: flags, files, and stopped and resumed runs.

mod common;

use std::path::Path;

use common::{Files, failed_at, finish, said};
use half::bf16;
use lion::checkpoint::{Checkpoint, Tensor};
use lion::tensor_file::{self, Entry};
use lion::{Config, Lion, TensorRef, Update};

const LEN: usize = 150;
const CALLS: usize = 6;

/// Returns numbers in (-1, 1), with a period of 199.
fn numbers(seed: usize) -> Vec<f32> {
    (0..LEN).map(|index| ((index * 37 + seed * 101) % 199) as f32 / 100.0 - 0.995).collect()
}

fn halves(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// Writes some steps of a run with one variable, whose parameter is f32 or bf16.
fn record(path: &Path, in_f32: bool, calls: std::ops::Range<usize>) {
    let (single, half) = (numbers(0), halves(&numbers(0)));
    let parameter = if in_f32 { TensorRef::from(&single) } else { TensorRef::from(&half) };
    let gradients: Vec<_> = calls.map(|call| halves(&numbers(call + 1))).collect();
    let names: Vec<_> = (0..gradients.len()).map(|call| format!("grad/{call}/w")).collect();
    let shape = [3, 50];
    let mut entries = vec![Entry { name: "param/w", shape: &shape, values: parameter }];
    for (name, gradient) in names.iter().zip(&gradients) {
        entries.push(Entry { name, shape: &shape, values: gradient.into() });
    }
    tensor_file::write(path, &entries, &[]).expect("written");
}

/// Creates a folder with a config and a run.
fn files(in_f32: bool) -> Files {
    let files = Files::new();
    let config = r#"{"learning_rate": 0.0003, "weight_decay": 0.1, "use_ema": true, "ema_momentum": 0.5}"#;
    std::fs::write(files.path("config.json"), config).expect("written");
    record(&files.path("run.safetensors"), in_f32, 0..CALLS);
    files
}

fn replay(files: &Files, more: &[&str]) -> Checkpoint<'static> {
    let mut arguments = files.replay("result.safetensors");
    arguments.extend(more.iter().map(|it| it.to_string()));
    let done = finish(&mut files.command(common::LION, &arguments));
    assert!(done.status.success(), "{more:?}: {}", said(&done));
    Checkpoint::read(files.path("result.safetensors")).expect("read")
}

fn bytes(tensor: &Option<Tensor<'_>>) -> Vec<Vec<u8>> {
    let tensor = tensor.as_ref().expect("it is there").to_ref();
    (0..).map_while(|stream| tensor.as_bytes(stream)).map(<[u8]>::to_vec).collect()
}

/// Returns all tensors of a checkpoint as bytes.
fn all(checkpoint: &Checkpoint<'_>) -> Vec<Vec<Vec<u8>>> {
    let [w] = checkpoint.variables.as_slice() else { panic!("{checkpoint:?}") };
    let low = w.low.as_ref().map(|_| bytes(&w.low));
    let tensors = [bytes(&w.parameter), bytes(&w.momentum), bytes(&w.ema)];
    tensors.into_iter().chain(low).collect()
}

const FLAGS: [&[&str]; 4] = [
    &["--momentum-dtype", "q8", "--stochastic-rounding", "77", "--cautious-decay"],
    &["--momentum-dtype", "q8", "--split-master", "--decay-scale", "relative:0.001"],
    &["--stochastic-rounding", "0", "--decay-scale", "corrected:0.001"],
    &["--split-master", "--momentum-dtype", "f32"],
];

#[test]
fn the_command_does_what_the_library_does() {
    for flags in FLAGS {
        let files = files(false);
        let found = replay(&files, flags);
        let mut config = Config::read(files.path("config.json")).expect("valid");
        let mut rest = flags.iter().copied();
        while let Some(flag) = rest.next() {
            let name = flag.trim_start_matches("--").replace('-', "_");
            match name.as_str() {
                "cautious_decay" | "split_master" => config.set(&name, true),
                "stochastic_rounding" => {
                    config.set(&name, rest.next().expect("a seed").parse::<u64>().expect("a number"))
                }
                _ => config.set(&name, rest.next().expect("a value")),
            }
            .expect("valid");
        }
        let mut optimizer = Lion::from_config(config).expect("valid");
        let id = optimizer.register("w", &[3, 50], lion::Dtype::BF16).expect("registered");
        let mut parameter = halves(&numbers(0));
        for call in 0..CALLS {
            let gradient = halves(&numbers(call + 1));
            optimizer.apply(&mut [Update::new(id, &mut parameter, &gradient)]).expect("applied");
        }
        let mut expected = optimizer.checkpoint().expect("no open step");
        expected.variables[0].parameter = Some(Tensor::from(&parameter));
        assert_eq!(all(&found), all(&expected), "{flags:?}");
        assert_eq!(found.seed, expected.seed);
    }
}

#[test]
fn a_run_goes_on_from_a_checkpoint() {
    for flags in FLAGS {
        let files = files(false);
        let whole = all(&replay(&files, flags));
        let state = files.text("result.safetensors");
        record(&files.path("run.safetensors"), false, 0..2);
        replay(&files, flags);
        record(&files.path("run.safetensors"), false, 2..CALLS);
        let resumed = replay(&files, &[flags, &["--state", &state]].concat());
        assert_eq!(all(&resumed), whole, "{flags:?}");
        assert_eq!(resumed.iterations, CALLS as u64);
    }
}

/// A split f32 run has the same bits as one that is not split.
#[test]
fn an_f32_run_in_two_halves() {
    let files = files(true);
    let whole = replay(&files, &["--momentum-dtype", "bf16"]);
    let split = replay(&files, &["--momentum-dtype", "bf16", "--split-master"]);
    let [whole, split] = [&whole, &split].map(|checkpoint| &checkpoint.variables[0]);
    let tensor = |tensor: &Option<Tensor<'_>>| tensor.as_ref().expect("it is there").to_ref().to_f32();
    let (high, low) = (split.parameter.as_ref().expect("there"), split.low.as_ref().expect("there"));
    let joined = TensorRef::from_streams(lion::Dtype::Split, high.to_ref(), low.to_ref()).expect("halves");
    assert_eq!(joined.to_f32(), tensor(&whole.parameter));
    assert_eq!(bytes(&split.momentum), bytes(&whole.momentum));
    assert_eq!(bytes(&split.ema), bytes(&whole.ema));
}

#[test]
fn what_is_refused() {
    let files = files(true);
    let run = |more: &[&str]| {
        let mut arguments = files.replay("result.safetensors");
        arguments.extend(more.iter().map(|it| it.to_string()));
        finish(&mut files.command(common::LION, &arguments))
    };
    failed_at(
        &run(&["--stochastic-rounding", "1"]),
        "variable \"w\" is f32, and stochastic_rounding is for bf16",
    );
    failed_at(
        &run(&["--stochastic-rounding", "1", "--split-master"]),
        "split_master is true, and must be false beside stochastic_rounding",
    );
    for (wrong, allowed) in [
        (["--momentum-dtype", "split"], "one of f32, f16, bf16, q8"),
        (["--decay-scale", "relative:0"], "lr, relative:TO or corrected:TO, with TO in (0, inf)"),
        (["--stochastic-rounding", "-1"], "unexpected argument"),
        (["--stochastic-rounding", "x"], "a whole number that is not negative"),
    ] {
        let done = run(&wrong);
        assert_eq!(done.status.code(), Some(2), "{wrong:?}: {}", said(&done));
        assert!(said(&done).contains(allowed), "{wrong:?}: {}", said(&done));
    }
    // Another seed, and another format.
    record(&files.path("run.safetensors"), false, 0..2);
    assert!(run(&["--stochastic-rounding", "7"]).status.success());
    let state = files.text("result.safetensors");
    failed_at(
        &run(&["--state", &state]),
        "seed: is 7, and must be none as the optimizer's stochastic_rounding",
    );
    failed_at(
        &run(&["--state", &state, "--stochastic-rounding", "7", "--momentum-dtype", "q8"]),
        "momentum/w: is bf16, and must be q8 as the optimizer's",
    );
}
