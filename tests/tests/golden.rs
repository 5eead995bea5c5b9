//! Every golden run, on every backend, compared with Keras's results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lion::{Builder, Config, Constraint, Dtype, Lion, Update, VariableId, VariableOptions};
use lion_kernels::Backend;
use safetensors::SafeTensors;
use serde_json::Value;

/// By name: shape and values.
type StepTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

struct Case {
    name: String,
    about: Value,
    config: String,
    run: StepTensors,
    result: StepTensors,
    metadata: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 132);
    folders.iter().map(|folder| Case::read(folder)).collect()
}

impl Case {
    fn read(folder: &Path) -> Self {
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let (run, _) = read_tensors(&folder.join("run.safetensors"));
        let (result, metadata) = read_tensors(&folder.join("result.safetensors"));
        Case {
            name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
            about: serde_json::from_str(&text("case.json")).unwrap(),
            config: text("config.json"),
            run,
            result,
            metadata,
        }
    }

    fn listed(&self, key: &str, name: &str) -> bool {
        self.about[key].as_array().is_some_and(|names| names.iter().any(|listed| listed == name))
    }

    fn optimizer(&self, backend: Backend) -> Lion {
        let mut builder = Builder::from(Config::from_json(&self.config).unwrap()).backend(backend);
        let flags = self.about["flags"].as_array().unwrap();
        for pair in flags.windows(2) {
            if pair[0] == "--exclude-from-weight-decay" {
                builder = builder.exclude_from_weight_decay(pair[1].as_str().unwrap());
            }
        }
        builder.build().unwrap()
    }

    /// What the library makes of the run: tensors and metadata.
    fn replay(&self, backend: Backend) -> (StepTensors, BTreeMap<String, String>) {
        let mut optimizer = self.optimizer(backend);
        let mut variables: Vec<(String, VariableId, Vec<f32>)> = Vec::new();
        let mut shapes = BTreeMap::new();
        for (name, (shape, values)) in &self.run {
            let Some(name) = name.strip_prefix("param/") else { continue };
            let options = VariableOptions {
                exclude_from_weight_decay: self.listed("exclude_variables", name),
                overwrite_with_gradient: self.listed("overwrite_with_gradient", name),
                constraint: self.about["constraints"].get(name).map(constraint),
                ..Default::default()
            };
            let id = optimizer.register_with(name, shape, Dtype::F32, options).unwrap();
            variables.push((name.into(), id, values.clone()));
            shapes.insert(name.to_owned(), shape.clone());
        }
        let step_of = |name: &str| name.strip_prefix("grad/")?.split('/').next()?.parse::<usize>().ok();
        let steps = self.run.keys().filter_map(|name| step_of(name)).max().unwrap() + 1;
        for step in 0..steps {
            let mut updates: Vec<_> = variables
                .iter_mut()
                .map(|(name, id, values)| match self.run.get(&format!("grad/{step}/{name}")) {
                    Some((_, gradient)) => Update::new(*id, values, gradient),
                    None => Update::without_gradient(*id, values),
                })
                .collect();
            optimizer.apply(&mut updates).unwrap();
        }
        if self.about["flags"].as_array().unwrap().iter().any(|flag| flag == "--finalize") {
            let mut updates: Vec<_> =
                variables.iter_mut().map(|(_, id, values)| Update::without_gradient(*id, values)).collect();
            optimizer.finalize_variable_values(&mut updates).unwrap();
        }

        let mut tensors = StepTensors::new();
        for (name, id, values) in variables {
            let shape = &shapes[&name];
            tensors.insert(format!("param/{name}"), (shape.clone(), values));
            let state = optimizer.view(id).unwrap();
            let momentum = state.momentum.map(|momentum| momentum.as_slice::<f32>().expect("is f32"));
            let kinds = [("momentum", momentum), ("ema", state.ema), ("accumulator", state.accumulator)];
            for (kind, values) in kinds {
                if let Some(values) = values {
                    tensors.insert(format!("{kind}/{name}"), (shape.clone(), values.to_vec()));
                }
            }
        }
        let mut metadata = BTreeMap::from([("iterations".into(), optimizer.iterations().to_string())]);
        if let Some((scale, counter)) = optimizer.dynamic_loss_scale() {
            metadata.insert("dynamic_scale".into(), f64::from(scale).to_string());
            metadata.insert("step_counter".into(), counter.to_string());
        }
        (tensors, metadata)
    }
}

fn constraint(serialized: &Value) -> Constraint {
    let config = &serialized["config"];
    let axes = || -> Vec<isize> {
        match &config["axis"] {
            Value::Array(axes) => axes.iter().map(|axis| axis.as_i64().unwrap() as isize).collect(),
            axis => vec![axis.as_i64().unwrap() as isize],
        }
    };
    let number = |key: &str| config[key].as_f64().unwrap();
    match serialized["class_name"].as_str().unwrap() {
        "NonNeg" => Constraint::non_negative(),
        "MaxNorm" => Constraint::max_norm(number("max_value"), axes()).unwrap(),
        "UnitNorm" => Constraint::unit_norm(axes()),
        "MinMaxNorm" => {
            Constraint::min_max_norm(number("min_value"), number("max_value"), number("rate"), axes())
                .unwrap()
        }
        class => panic!("the constraint {class}"),
    }
}

fn read_tensors(path: &Path) -> (StepTensors, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        let values = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (name.to_owned(), (tensor.shape().to_vec(), values.collect()))
    });
    (tensors.collect(), metadata)
}

fn comparable(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

/// In units in the last place: the distance in the order of all numbers.
fn distance(a: f32, b: f32) -> u64 {
    let place = |value: f32| match value.to_bits() {
        bits if value.is_sign_negative() => -i64::from(bits & 0x7fff_ffff),
        bits => i64::from(bits),
    };
    place(a).abs_diff(place(b))
}

fn agree(found: f32, expected: f32, exact: bool) -> bool {
    if exact || !found.is_finite() || !expected.is_finite() {
        return comparable(found) == comparable(expected);
    }
    distance(found, expected) <= 8 || (found - expected).abs() <= 1e-6
}

fn compare(case: &Case, backend: Backend, found: &StepTensors) -> Vec<String> {
    let exact = case.about["exact"].as_bool().unwrap();
    let names = |tensors: &StepTensors| tensors.keys().cloned().collect::<Vec<_>>();
    let mut wrong = Vec::new();
    if names(found) != names(&case.result) {
        wrong.push(format!("{}: {:?} instead of {:?}", case.name, names(found), names(&case.result)));
    }
    for (name, (shape, expected)) in &case.result {
        let Some((found_shape, values)) = found.get(name) else { continue };
        assert_eq!((found_shape, values.len()), (shape, expected.len()), "{}: {name}", case.name);
        for (place, (value, expected)) in values.iter().zip(expected).enumerate() {
            if !agree(*value, *expected, exact) {
                wrong.push(format!(
                    "{} on {backend}: {name}[{place}] is {value:e}, expected {expected:e}",
                    case.name
                ));
            }
        }
    }
    wrong
}

#[test]
fn every_run_ends_as_in_keras_on_every_backend() {
    let mut wrong = Vec::new();
    for case in cases() {
        let (scalar, _) = case.replay(Backend::Scalar);
        for backend in Backend::available() {
            let (found, metadata) = case.replay(backend);
            for (key, expected) in &case.metadata {
                let same = match key.as_str() {
                    "dynamic_scale" => metadata[key].parse::<f64>() == expected.parse::<f64>(),
                    _ => metadata[key] == *expected,
                };
                if !same {
                    wrong.push(format!("{}: {key} is {}, expected {expected}", case.name, metadata[key]));
                }
            }
            assert_eq!(metadata.len(), case.metadata.len(), "{}", case.name);
            wrong.extend(compare(&case, backend, &found));
            for (name, (_, values)) in &found {
                let bits = |values: &[f32]| values.iter().copied().map(comparable).collect::<Vec<_>>();
                if bits(values) != bits(&scalar[name].1) {
                    wrong.push(format!("{}: {name} on {backend} is not what it is on scalar", case.name));
                }
            }
        }
    }
    let count = wrong.len();
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{count} differences:\n{}", wrong.join("\n"));
}
