//! Sums along one binary tree: every backend compared bit for bit with the reference, and any split of the leaves
//! compared with one sum.

use half::{bf16, f16};
use lion_kernels::{Backend, Error, SumTree, TensorMut, TensorRef, reference};
use lion_tests::{Guarded, Rng, Sample, bits, on_each_backend, values};

on_each_backend!(every_number_of_leaves, every_length, any_cut_of_the_leaves, what_does_not_fit_is_refused);

/// Returns values close together, so that the order affects most bits of a sum, and some values of every class.
fn leaf<F: Sample>(rng: &mut Rng, len: usize) -> Vec<F> {
    let mut leaf = values(rng, len);
    for value in &mut leaf {
        if rng.u8(0..4) > 0 {
            *value = F::round(rng.f32() * 3.0 - 1.0);
        }
    }
    leaf
}

fn agrees<F: Sample, T: Sample>(backend: Backend, rng: &mut Rng, count: usize, len: usize, mean: bool) {
    let leaves: Vec<Guarded<F>> =
        (0..count).map(|index| Guarded::new(&leaf(rng, len), rng.usize(0..64) * (index % 3))).collect();
    let slices: Vec<&[F]> = leaves.iter().map(Guarded::tensor).collect();
    let before = vec![T::default(); len];
    let mut expected = before.clone();
    reference::sum(&slices, mean, &mut expected);
    let mut found = Guarded::new(&before, rng.usize(0..64));
    let sources: Vec<_> = slices.iter().map(|leaf| TensorRef::from(*leaf)).collect();
    let tree = SumTree::new(count).expect("leaves");
    let to = found.tensor_mut();
    let done = if mean { tree.mean(backend, &sources, to) } else { tree.sum(backend, &sources, to) };
    done.expect("summed");
    found.assert_holds(&expected, &format!("{count} leaves on {backend}, mean {mean}"));
}

fn every_number_of_leaves(backend: Backend) {
    let mut rng = Rng::with_seed(3);
    for count in (1..=33).chain([63, 100, 128]) {
        for mean in [false, true] {
            agrees::<f32, f32>(backend, &mut rng, count, 1100, mean);
            agrees::<bf16, f32>(backend, &mut rng, count, 1100, mean);
            agrees::<f16, f32>(backend, &mut rng, count, 600, mean);
            agrees::<f32, bf16>(backend, &mut rng, count, 600, mean);
            agrees::<f32, f16>(backend, &mut rng, count, 600, mean);
            agrees::<bf16, bf16>(backend, &mut rng, count, 600, mean);
        }
    }
}

fn every_length(backend: Backend) {
    let mut rng = Rng::with_seed(4);
    for len in (0..70).chain(500..530) {
        agrees::<f32, f32>(backend, &mut rng, 5, len, true);
        agrees::<bf16, bf16>(backend, &mut rng, 6, len, true);
        agrees::<f16, f32>(backend, &mut rng, 1, len, false);
    }
}

fn any_cut_of_the_leaves(backend: Backend) {
    const LEN: usize = 700;
    let mut rng = Rng::with_seed(5);
    let mut others = 0;
    for count in 2..=24 {
        let leaves: Vec<Vec<f32>> = (0..count).map(|_| leaf(&mut rng, LEN)).collect();
        let sources: Vec<_> = leaves.iter().map(TensorRef::from).collect();
        let mut whole = vec![0.0_f32; LEN];
        SumTree::new(count).expect("leaves").mean(backend, &sources, &mut whole).expect("summed");
        for shares in (1..=count).filter(|shares| count.is_multiple_of(*shares)) {
            let each = count / shares;
            let mut parts: Vec<(usize, Vec<f32>)> = Vec::new();
            for share in 0..shares {
                for subtree in SumTree::subtrees(count, share * each..(share + 1) * each) {
                    let mut sum = vec![0.0_f32; LEN];
                    let tree = SumTree::new(subtree.len()).expect("leaves");
                    tree.sum(backend, &sources[subtree.clone()], &mut sum).expect("summed");
                    parts.push((subtree.len(), sum));
                }
            }
            let lengths: Vec<_> = parts.iter().map(|(leaves, _)| *leaves).collect();
            let sums: Vec<_> = parts.iter().map(|(_, sum)| TensorRef::from(sum)).collect();
            let mut found = vec![0.0_f32; LEN];
            let tree = SumTree::from_subtrees(&lengths).expect("subtrees");
            tree.mean(backend, &sums, &mut found).expect("summed");
            assert_eq!(bits(&found), bits(&whole), "{shares} shares of {count} leaves on {backend}");
        }
        // A sequential sum differs; otherwise this test could not fail.
        let in_turn = (0..LEN).map(|i| leaves.iter().fold(0.0, |sum, leaf| sum + leaf[i]) / count as f32);
        others += in_turn.zip(&whole).filter(|(a, b)| a.comparable() != b.comparable()).count();
    }
    assert!(others > LEN, "only {others} elements differ from a sum in turn");
}

fn what_does_not_fit_is_refused(backend: Backend) {
    let (a, b, mut to) = ([1.0_f32; 8], [1.0_f32; 7], [7.0_f32; 8]);
    let tree = SumTree::new(2).expect("leaves");
    let mut sum = |sources: &[TensorRef<'_>]| tree.sum(backend, sources, TensorMut::from(&mut to));
    assert_eq!(sum(&[(&a).into()]), Err(Error::Sources { found: 1, expected: 2 }));
    let error = sum(&[(&a).into(), (&b).into()]).expect_err("too short");
    assert_eq!(error.to_string(), "the source has 7 elements; expected 8, to match the sum");
    assert_eq!(to, [7.0; 8]);
    if let Some(missing) = Backend::ALL.iter().find(|backend| !backend.is_available()) {
        let refused = tree.sum(*missing, &[(&a).into(), (&a).into()], &mut to);
        assert_eq!(refused, Err(Error::UnavailableBackend { backend: *missing }));
        assert_eq!(to, [7.0; 8]);
    }
}
