//! The header's JSON, read into what it says without yet asking whether that can be.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::METADATA;

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<RawTensor>,
}

/// What a header says of a tensor.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Reads a header. An error comes with the name of the tensor that it is about, if it is about one.
pub(super) fn parse(text: &[u8]) -> Result<Header, (Option<String>, String)> {
    let mut header = Header::default();
    let mut tensor = None;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Entries { header: &mut header, tensor: &mut tensor }.deserialize(&mut reader);
    match read.and_then(|()| reader.end()) {
        Ok(()) => Ok(header),
        Err(error) => Err((tensor, format!("the header is not a valid one: {error}"))),
    }
}

/// The name is left where an error comes up, so that it says where.
struct Entries<'a> {
    header: &'a mut Header,
    tensor: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(name) = entries.next_key::<String>()? {
            if name == METADATA {
                if has_metadata {
                    return Err(A::Error::custom("__metadata__ is there twice"));
                }
                has_metadata = true;
                self.header.metadata = entries.next_value_seed(Metadata)?;
                continue;
            }
            *self.tensor = Some(name.clone());
            self.header.tensors.push(entries.next_value_seed(Tensor { name })?);
            *self.tensor = None;
        }
        Ok(())
    }
}

/// Texts by name, in the order of the file; null is none, as the format's own library has it.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings as __metadata__")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(entry) = entries.next_entry::<String, String>()? {
            texts.push(entry);
        }
        Ok(texts)
    }
}

/// One tensor's entry. Written out and not derived: a derived one would take a list for an object.
struct Tensor {
    name: String,
}

impl<'de> DeserializeSeed<'de> for Tensor {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawTensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawTensor, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = entries.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(entries.next_value::<String>()?).is_some(),
                "shape" => shape.replace(entries.next_value::<Vec<u64>>()?).is_some(),
                "data_offsets" => offsets.replace(entries.next_value::<(u64, u64)>()?).is_some(),
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom("a key other than dtype, shape and data_offsets"));
                }
            };
            if twice {
                return Err(A::Error::custom(format_args!("{key} is there twice")));
            }
        }
        let missing = |key| A::Error::custom(format_args!("{key} is missing"));
        let (begin, end) = offsets.ok_or_else(|| missing("data_offsets"))?;
        Ok(RawTensor {
            name: self.name,
            dtype: dtype.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            begin,
            end,
        })
    }
}
