//! Tests that a call works in place on arrays in the variable's order, and copies others into reused memory.

use lion_ndarray::{Lion, Update};
use lion_testing::allocator::{Watched, largest_request};
use ndarray::{Array2, ShapeBuilder, s};

#[global_allocator]
static WATCHED: Watched = Watched;

#[test]
fn calls_allocate_no_array() {
    let mut optimizer = Lion::new(Lion::builder().clipnorm(1.0)).expect("valid options");
    let mut row_major = Array2::<f32>::ones((100, 100));
    let mut column_major = Array2::<f32>::ones((100, 100).f());
    let mut memory = Array2::<f32>::ones((100, 200));
    let mut gaps = memory.slice_mut(s![.., ..;2]);
    let row = optimizer.register("row", &row_major).expect("registered");
    let column = optimizer.register("column", &column_major).expect("registered");
    let with_gaps = optimizer.register("gaps", &gaps).expect("registered");
    let (gradient, turned) = (row_major.clone(), column_major.clone());
    for call in 0..3 {
        let updates = &mut [
            Update::new(row, &mut row_major, &gradient),
            Update::new(column, &mut column_major, &turned),
        ];
        let (bytes, _) = largest_request(|| optimizer.apply(updates).expect("applied"));
        assert!(bytes < 8192, "call {call} asked for {bytes} bytes at once");
    }
    for call in 3..6 {
        let updates = &mut [
            Update::new(row, &mut row_major, &turned),
            Update::new(column, &mut column_major, &gradient),
            Update::new(with_gaps, &mut gaps, &gradient),
        ];
        let (bytes, _) = largest_request(|| optimizer.apply(updates).expect("applied"));
        // The first of these calls allocates memory for the copies.
        assert!(call == 3 || bytes < 8192, "call {call} asked for {bytes} bytes at once");
    }
}
