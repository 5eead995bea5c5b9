//! Safetensors files built from their parts, valid or not.

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
