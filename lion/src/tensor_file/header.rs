//! Parses the JSON of a header. The caller checks the values against the file.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::METADATA;

/// A parsed header.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<RawTensor>,
}

/// A tensor's entry in a header, unchecked.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Parses a header. An error has the name of the tensor that it is about, if it is about one.
pub(super) fn parse(text: &[u8]) -> Result<Header, (Option<String>, String)> {
    let mut header = Header::default();
    let mut tensor = None;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Entries { header: &mut header, tensor: &mut tensor }.deserialize(&mut reader);
    match read.and_then(|()| reader.end()) {
        Ok(()) => Ok(header),
        Err(error) => Err((tensor, format!("the header is not valid: {error}"))),
    }
}

/// Reads the entries. After an error `tensor` holds the name of the entry with the error.
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
                    return Err(A::Error::custom("duplicate field `__metadata__`"));
                }
                has_metadata = true;
                self.header.metadata = entries.next_value_seed(Metadata)?;
                continue;
            }
            *self.tensor = Some(name.clone());
            let Tensor { dtype, shape, data_offsets: (begin, end) } =
                entries.next_value_seed(TensorObject)?;
            self.header.tensors.push(RawTensor { name, dtype, shape, begin, end });
            *self.tensor = None;
        }
        Ok(())
    }
}

/// Reads texts by name, in the order of the file. Null means none, as in the format's own library.
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

/// One tensor's entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads an entry from an object. The derived reader alone would take a list, too.
struct TensorObject;

impl<'de> DeserializeSeed<'de> for TensorObject {
    type Value = Tensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorObject {
    type Value = Tensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Tensor, A::Error> {
        Tensor::deserialize(MapAccessDeserializer::new(entries))
    }
}
