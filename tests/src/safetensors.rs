//! Builds safetensors files from their parts, valid or not.

use lion_kernels::TensorRef;

use crate::with_sample;

/// A file of this header and these data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A valid file of f32 tensors of zeros, given by name and number of elements.
pub fn zeros(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut begin = 0;
    let mut entries = Vec::new();
    for (name, len) in tensors {
        let end = begin + 4 * len;
        entries.push(format!(
            "{name:?}:{{\"dtype\":\"F32\",\"shape\":[{len}],\"data_offsets\":[{begin},{end}]}}"
        ));
        begin = end;
    }
    file(&format!("{{{}}}", entries.join(",")), &vec![0; begin])
}

/// A valid file of these tensors.
pub fn tensors(tensors: &[(String, &[usize], TensorRef<'_>)]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut entries = Vec::new();
    for (name, shape, values) in tensors {
        let begin = data.len();
        let dtype = values.dtype().name().to_uppercase();
        with_sample!(values.dtype(), T => {
            data.extend(values.as_slice::<T>().expect("its dtype").iter().flat_map(|value| value.to_le_bytes()));
        });
        let end = data.len();
        entries.push(format!(
            "{name:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        ));
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}
