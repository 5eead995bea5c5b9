//! Checkpoints that are missing or of another optimizer.

use lion::Dtype;
use lion_c::*;

use crate::common::{Optimizer, VARIABLE, ok, refused, update};
use crate::optimizer;

#[test]
fn files() {
    let c = optimizer();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let mut memory = [1.0_f32; 8];
    let parameter = update(0, &mut (&mut memory).into(), None);
    assert_eq!(c.load(&path, &[]), LION_ERROR_IO);
    assert_eq!(c.save(&folder.path().join("missing/state"), &[]), LION_ERROR_IO);
    std::fs::write(&path, "nothing").expect("written");
    assert_eq!(c.load(&path, &[]), LION_ERROR_FORMAT);
    ok(c.save(&path, &[]));
    refused(c.load(&path, &[parameter]), LION_ERROR_STATE, "param/a: is missing");
    ok(c.save(&path, &[parameter]));
    let short = LionUpdate { len: 7, ..parameter };
    let message = r#"parameters[0].variable "a": the parameter has 7 elements, and its shape has 8"#;
    refused(c.save(&path, &[short]), LION_ERROR_TENSOR, message);
    refused(c.load(&path, &[short]), LION_ERROR_TENSOR, message);
    assert_eq!(c.load(&path, &[LionUpdate { variable: 7, ..parameter }]), LION_ERROR_NAME);
    let other = Optimizer::new(None);
    other.register("z", &[8], Dtype::F32, &VARIABLE);
    assert_eq!(other.load(&path, &[]), LION_ERROR_STATE);
    memory.fill(0.0);
    ok(c.load(&path, &[parameter]));
    assert_eq!(memory, [1.0; 8]);
}
