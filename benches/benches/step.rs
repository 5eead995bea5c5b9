//! Criterion benches of the step on each backend, and of the bandwidth bound: `cargo bench -p lion-benches --bench
//! step`. The bench `limit` gives ratios to the bound that are robust on a noisy machine.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use lion_benches::{State, Trial};
use lion_kernels::Backend;

const SIZES: [usize; 4] = [1 << 10, 1 << 14, 1 << 18, 1 << 22];

fn formats<P: Trial, G: Trial, M: Trial>(criterion: &mut Criterion) {
    let name = format!("step {}/{}/{}", P::DTYPE, G::DTYPE, M::DTYPE);
    let mut group = criterion.benchmark_group(name);
    for len in SIZES {
        let mut state = State::<P, G, M>::new(len, true);
        group.throughput(Throughput::Bytes(state.bytes()));
        for backend in Backend::available() {
            group.bench_function(BenchmarkId::new(backend.name(), len), |bencher| {
                bencher.iter(|| state.step(backend));
            });
        }
        group.bench_function(BenchmarkId::new("limit", len), |bencher| {
            // Calls come in pairs. The second undoes the first, so the values stay ordinary numbers.
            bencher.iter_custom(|calls| {
                let start = std::time::Instant::now();
                for _ in 0..calls {
                    state.stream(Backend::best());
                    state.stream(Backend::best());
                }
                start.elapsed() / 2
            });
        });
    }
    group.finish();
}

fn benches(criterion: &mut Criterion) {
    formats::<f32, f32, f32>(criterion);
    formats::<bf16, bf16, bf16>(criterion);
    formats::<f16, f16, f16>(criterion);
    formats::<f32, bf16, f32>(criterion);
}

criterion_group!(all, benches);
criterion_main!(all);
