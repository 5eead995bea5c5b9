//! Criterion bench of the plan look-up: `cargo bench -p lion-benches --bench profile`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::Dtype;

fn look_up(criterion: &mut Criterion) {
    let profile = Profile::load();
    let dtypes: Vec<Dtypes> = Dtype::ALL.iter().map(|dtype| Dtypes::all(*dtype)).collect();
    let mut bytes = 1_usize;
    criterion.bench_function("look up a plan", |bencher| {
        bencher.iter(|| {
            // Look up another entry of the table each time.
            bytes = bytes.rotate_left(7);
            let dtypes = dtypes[bytes % dtypes.len()];
            *profile.plan(black_box(Operation::Step), black_box(dtypes), black_box(bytes))
        });
    });
}

criterion_group!(benches, look_up);
criterion_main!(benches);
