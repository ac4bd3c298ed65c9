//! GGUF files, written one tensor at a time and under their name only when whole. [`super::header`] reads what this
//! writes.

use std::path::Path;

use super::ggml_type::GgmlType;
use crate::weights::{Framed, TensorSink, WeightsError, write_framed};

/// Where tensors begin: what a reader takes where `general.alignment` does not say otherwise.
const ALIGNMENT: u64 = 32;

/// A value of the metadata, of the type that llama.cpp's converter gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// `UINT32`.
    U32(u32),
    /// `FLOAT32`.
    F32(f32),
    /// `BOOL`.
    Bool(bool),
    /// `STRING`.
    Text(String),
    /// An array of `STRING`.
    Texts(Vec<String>),
    /// An array of `INT32`.
    I32s(Vec<i32>),
    /// An array of `FLOAT32`.
    F32s(Vec<f32>),
}

/// The keys of a file and their values, in the order in which they are written.
pub type GgufMetadata = Vec<(String, GgufValue)>;

/// A tensor that will be written: everything but its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// llama.cpp's name for it.
    pub name: String,
    /// Rows first, as PyTorch has it.
    pub shape: Vec<usize>,
    /// How its values are packed.
    pub kind: GgmlType,
}

impl GgufTensor {
    /// Bytes of its values.
    pub fn bytes(&self) -> u64 {
        let values = self.shape.iter().map(|d| *d as u64).product::<u64>();
        values / self.kind.block_values() as u64 * self.kind.block_bytes() as u64
    }
}

/// Writes a file: `produce` is called for each tensor in order, and puts its packed rows.
///
/// # Errors
/// A file that cannot be written, or a tensor that did not get as many bytes as its shape says.
pub fn write_gguf<E: From<WeightsError>>(
    path: &Path,
    metadata: &[(String, GgufValue)],
    tensors: &[GgufTensor],
    produce: impl FnMut(&GgufTensor, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let header = header(metadata, tensors);
    let named: Vec<_> = tensors.iter().map(|tensor| (tensor, tensor.name.as_str(), tensor.bytes())).collect();
    write_framed(path, &Framed { header: &header, alignment: ALIGNMENT }, &named, produce)
}

fn header(metadata: &[(String, GgufValue)], tensors: &[GgufTensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut bytes, key);
        put_value(&mut bytes, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        // The innermost dimension first.
        tensor.shape.iter().rev().for_each(|d| bytes.extend((*d as u64).to_le_bytes()));
        bytes.extend(tensor.kind.code().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &GgufValue) {
    const I32: u32 = 5;
    const F32: u32 = 6;
    const TEXT: u32 = 8;
    match value {
        GgufValue::U32(number) => {
            bytes.extend(4_u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        GgufValue::F32(number) => {
            bytes.extend(F32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        GgufValue::Bool(value) => {
            bytes.extend(7_u32.to_le_bytes());
            bytes.push(u8::from(*value));
        }
        GgufValue::Text(text) => {
            bytes.extend(TEXT.to_le_bytes());
            put_text(bytes, text);
        }
        GgufValue::Texts(texts) => {
            put_array(bytes, TEXT, texts.len());
            texts.iter().for_each(|text| put_text(bytes, text));
        }
        GgufValue::I32s(numbers) => {
            put_array(bytes, I32, numbers.len());
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        }
        GgufValue::F32s(numbers) => {
            put_array(bytes, F32, numbers.len());
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        }
    }
}

fn put_array(bytes: &mut Vec<u8>, kind: u32, count: usize) {
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::test_file::TestFile;
    use super::*;

    #[test]
    fn a_file_is_laid_out_as_the_reader_expects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let texts = ["ab".to_owned(), String::new()];
        let metadata = vec![
            ("general.architecture".to_owned(), GgufValue::Text("llama".into())),
            ("n".to_owned(), GgufValue::U32(7)),
            ("f".to_owned(), GgufValue::F32(1e-5)),
            ("b".to_owned(), GgufValue::Bool(true)),
            ("texts".to_owned(), GgufValue::Texts(texts.to_vec())),
            ("numbers".to_owned(), GgufValue::I32s(vec![1, -2])),
            ("floats".to_owned(), GgufValue::F32s(vec![0.5])),
        ];
        let tensors = [
            GgufTensor { name: "one".into(), shape: vec![3, 1], kind: GgmlType::F32 },
            GgufTensor { name: "two".into(), shape: vec![2, 32], kind: GgmlType::Q8_0 },
        ];
        let write: Result<(), WeightsError> = write_gguf(&path, &metadata, &tensors, |tensor, sink| {
            sink.put(&vec![if tensor.name == "one" { 1 } else { 2 }; tensor.bytes() as usize])
        });
        write.unwrap();
        let mut expected = TestFile::new()
            .text("general.architecture", "llama")
            .number("n", 7)
            .float("f", 1e-5)
            .flag("b", true)
            .texts("texts", &["ab", ""])
            .numbers("numbers", &[1, -2])
            .floats("floats", &[0.5])
            .tensor("one", &[3, 1], 0, &[1; 12])
            .tensor("two", &[2, 32], 8, &[2; 68])
            .bytes();
        // The last tensor is padded, too, as llama.cpp's own writer does it.
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let short: Result<(), WeightsError> = write_gguf(&path, &metadata, &tensors, |_, sink| sink.put(&[0; 12]));
        assert!(short.unwrap_err().to_string().contains("two"));
        assert_eq!(std::fs::read(&path).unwrap(), expected, "the old file is still there");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
