//! One file of weights, mapped: safetensors, or GGUF, whose tensors are dequantised as they are read.
//!
//! Format of safetensors: <https://github.com/huggingface/safetensors#format>: eight bytes of header length, a JSON header of
//! `{name: {dtype, shape, data_offsets}}` with an optional `__metadata__` of strings, then the tensors without holes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use rankine_ops::{FileMap, StreamedWeight};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::dtype::{StoredDtype, decode_into, encode};
use super::fault::{FileFault, FileProblem, WeightsError};
use crate::gguf::{Header as GgufHeader, Layout, Packed, Packing, places};

/// The longest header of the format.
const HEADER_LIMIT: u64 = 100_000_000;
/// More dimensions than any tensor has; a longer shape is an attack on our memory.
const MAX_DIMENSIONS: usize = 16;

/// A file whose header was checked against its length: every tensor lies inside, none overlaps.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Arc<FileMap>,
    /// In file order.
    tensors: Vec<Entry>,
    by_name: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    dtype: StoredDtype,
    shape: Vec<usize>,
    /// In the file, header included.
    range: Range<usize>,
    /// Of a GGUF file whose values do not lie as a checkpoint has them.
    packing: Option<Packing>,
}

/// One tensor of a file. Its values are the file's own bytes, or computed from them when they are asked for.
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its type. That of quantised values is the narrowest float that holds them exactly.
    pub dtype: StoredDtype,
    /// Its shape, as PyTorch has it: a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// The file it is in.
    pub file: &'a Path,
    content: Content<'a>,
    owner: &'a TensorFile,
    start: usize,
}

/// What a file has of a tensor.
#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    /// Little-endian values of its type, row by row.
    Plain(&'a [u8]),
    /// Blocks of quantised values, or rows in another order.
    Packed(Packed<'a>),
}

impl TensorFile {
    /// Maps the file at `path` and checks its header.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::open_listing(path).map_err(|problems| WeightsError::Unreadable {
            faults: problems.into_iter().map(|problem| FileFault { file: path.to_owned(), problem }).collect(),
        })
    }

    /// As [`Self::open`], with the bare problems, so that those of several files can be listed together.
    pub(super) fn open_listing(path: &Path) -> Result<Self, Vec<FileProblem>> {
        let one = |problem| vec![problem];
        // Asked before opening: opening a pipe would wait for its writer.
        let about = fs::metadata(path).map_err(|e| one(FileProblem::Unreadable(e)))?;
        if !about.is_file() {
            return Err(one(FileProblem::NotAFile));
        }
        let file = File::open(path).map_err(|e| one(FileProblem::Unreadable(e)))?;
        if about.len() < 8 {
            return Err(one(FileProblem::TooShort { found: about.len() }));
        }
        let map = FileMap::new(&file).map_err(|e| one(FileProblem::Unreadable(e)))?;
        let (header, data_start) = read_header(&map).map_err(one)?;
        let tensors = check(header.tensors, data_start, map.len())?;
        Ok(Self::of_entries(path, map, tensors, header.metadata))
    }

    /// Maps a GGUF file. `layout` is that of the model's first file, and `None` for the first itself.
    pub(super) fn open_gguf(path: &Path, layout: Option<Layout>) -> Result<(Self, Layout), Vec<FileProblem>> {
        let one = |problem| vec![problem];
        let map = File::open(path).and_then(|file| FileMap::new(&file));
        let map = map.map_err(|e| one(FileProblem::Unreadable(e)))?;
        let header = GgufHeader::read(&map).map_err(|e| one(e.into()))?;
        let layout = match layout {
            Some(layout) => layout,
            None => Layout::of(&header.metadata).map_err(|e| one(e.into()))?,
        };
        let places = places(&header, layout, map.len() as u64);
        let places = places.map_err(|problems| problems.into_iter().map(FileProblem::from).collect::<Vec<_>>())?;
        let entry = |place: crate::gguf::TensorPlace| {
            let packing = place.packing;
            // What lies in the file as a checkpoint would have it needs no second way of reading.
            let plain = packing.kind.is_float() && packing.interleaved.is_none();
            Entry {
                name: place.name,
                dtype: packing.kind.float(),
                shape: place.shape,
                range: place.range,
                packing: (!plain).then_some(packing),
            }
        };
        let entries = places.into_iter().map(entry).collect();
        Ok((Self::of_entries(path, map, entries, BTreeMap::new()), layout))
    }

    fn of_entries(path: &Path, map: FileMap, tensors: Vec<Entry>, metadata: BTreeMap<String, String>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
        Self { path: path.to_owned(), map: Arc::new(map), tensors, by_name, metadata }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, in the order in which they lie in the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|entry| entry.name.as_str())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        let entry = self.tensors.get(*self.by_name.get(name)?)?;
        let bytes = &self.map[entry.range.clone()];
        Some(StoredTensor {
            name: &entry.name,
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            content: match entry.packing {
                None => Content::Plain(bytes),
                Some(packing) => Content::Packed(Packed { packing, bytes }),
            },
            file: &self.path,
            owner: self,
            start: entry.range.start,
        })
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

impl<'a> StoredTensor<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it takes in the file.
    pub fn file_bytes(&self) -> usize {
        match &self.content {
            Content::Plain(bytes) => bytes.len(),
            Content::Packed(packed) => packed.bytes.len(),
        }
    }

    /// Whether its values are computed from quantised ones.
    pub fn is_quantised(&self) -> bool {
        matches!(&self.content, Content::Packed(packed) if !packed.packing.kind.is_float())
    }

    /// The little-endian values of its type, row by row, where they lie so in the file.
    pub fn plain_bytes(&self) -> Option<&'a [u8]> {
        match self.content {
            Content::Plain(bytes) => Some(bytes),
            Content::Packed(_) => None,
        }
    }

    /// The little-endian values of its type, row by row; all of them computed where they do not lie so in the file.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        match self.content {
            Content::Plain(bytes) => Cow::Borrowed(bytes),
            Content::Packed(_) => Cow::Owned(encode(self.dtype, &self.to_f32())),
        }
    }

    /// All values as f32, converted on all cores.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.read_into(0..values.len(), &mut values);
        values
    }

    /// The values `range` (counted in values, row by row) as f32.
    ///
    /// # Panics
    /// Where the range does not lie in the tensor or `out` is not as long as it.
    pub fn read_into(&self, range: Range<usize>, out: &mut [f32]) {
        match &self.content {
            Content::Plain(bytes) => {
                let width = self.dtype.bytes();
                decode_into(self.dtype, &bytes[range.start * width..range.end * width], out);
            }
            Content::Packed(packed) => packed.read_into(range, out),
        }
    }

    /// The tensor as a weight that stays in the file; `None` where it is no matrix, or its values cannot be used where
    /// they lie.
    pub fn streamed(&self) -> Option<StreamedWeight> {
        let &[out, input] = self.shape.as_slice() else { return None };
        let dtype = match self.dtype {
            StoredDtype::F32 => DType::F32,
            StoredDtype::F16 => DType::F16,
            StoredDtype::BF16 => DType::BF16,
        };
        let range = self.start..self.start + self.plain_bytes()?.len();
        StreamedWeight::new(&self.owner.map, range, dtype, [out, input])
    }

    /// Says that the values `range` of this tensor will not be read again soon, so that the system can take their
    /// memory back. Reading them all the same is right, and slower.
    pub fn release(&self, range: Range<usize>) {
        if range.start >= range.end || range.end > self.len() {
            return;
        }
        // A block of a quantised row may be shared with the values beside the range: it is read again.
        let place = |value: usize| (value as u128 * self.file_bytes() as u128 / self.len() as u128) as usize;
        self.owner.map.release(self.start + place(range.start)..self.start + place(range.end));
    }
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Entries<RawTensor>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

fn read_header(map: &[u8]) -> Result<(Header, usize), FileProblem> {
    let file_length = map.len() as u64;
    let Some((length, rest)) = map.split_first_chunk::<8>() else {
        return Err(FileProblem::TooShort { found: file_length });
    };
    let length = u64::from_le_bytes(*length);
    let limit = HEADER_LIMIT.min(file_length - 8);
    if length > limit {
        return Err(FileProblem::HeaderLength { length, limit, file_length });
    }
    let length = length as usize;
    let header = serde_json::from_slice(&rest[..length])
        .map_err(|e| FileProblem::Json { what: "the header", reason: e.to_string() })?;
    Ok((header, 8 + length))
}

/// Turns the header's claims into entries in file order, or says everything that is wrong with them.
fn check(raw: Entries<RawTensor>, data_start: usize, file_length: usize) -> Result<Vec<Entry>, Vec<FileProblem>> {
    let mut problems: Vec<FileProblem> =
        raw.duplicates().into_iter().map(|tensor| FileProblem::Duplicate { tensor }).collect();
    let mut raw = raw.0;
    raw.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end_before = 0;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, RawTensor { dtype, shape: Shape(shape), data_offsets: (start, end) }) in raw {
        if start != end_before {
            problems.push(FileProblem::NotContiguous { tensor: name.clone(), expected: end_before, found: start });
        }
        end_before = end_before.max(end);
        let Some(stored) = StoredDtype::from_name(&dtype) else {
            problems.push(FileProblem::Dtype { tensor: name, found: dtype });
            continue;
        };
        let values = shape.iter().try_fold(1_u64, |product, d| product.checked_mul(*d));
        let expected = values.and_then(|values| values.checked_mul(stored.bytes() as u64));
        if expected.is_none() || end.checked_sub(start) != expected {
            problems.push(FileProblem::Size { tensor: name, shape, dtype, expected, start, end });
            continue;
        }
        // Lengths below are those of the file once no problem was found, so they fit.
        let range = data_start.saturating_add(start as usize)..data_start.saturating_add(end as usize);
        let shape = shape.into_iter().map(|d| d as usize).collect();
        entries.push(Entry { name, dtype: stored, shape, range, packing: None });
    }
    let expected = (data_start as u64).saturating_add(end_before);
    if expected != file_length as u64 {
        problems.push(FileProblem::FileLength { expected, found: file_length as u64 });
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// A JSON object as it was written: a map would drop the first of two equal keys in silence.
pub(super) struct Entries<T>(pub(super) Vec<(String, T)>);

impl<T> Entries<T> {
    /// Every key that occurs more than once.
    pub(super) fn duplicates(&self) -> Vec<String> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let mut twice: Vec<String> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0].to_owned()).collect();
        twice.dedup();
        twice
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        tensors.push((name, map.next_value()?));
                    } else if metadata.replace(map.next_value::<Option<_>>()?.unwrap_or_default()).is_some() {
                        return Err(A::Error::custom("`__metadata__` occurs twice"));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors: Entries(tensors) })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = seq.next_element()? {
                    if shape.len() == MAX_DIMENSIONS {
                        return Err(A::Error::custom(format!("a shape of more than {MAX_DIMENSIONS} dimensions")));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few thousand damaged headers: each is refused, or describes tensors that lie inside the file.
    #[test]
    fn damage_is_refused_or_harmless() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"F16","shape":[],"data_offsets":[32,34]}}"#;
        let whole = [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &[7; 34]].concat();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut readable = 0;
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(3) {
                let at = next(8 + header.len());
                bytes[at] = b"0123456789,:[]{}\"abF\x00\xff"[next(22)];
            }
            fs::write(&path, &bytes).unwrap();
            let Ok(file) = TensorFile::open(&path) else { continue };
            readable += 1;
            for name in file.names() {
                let tensor = file.get(name).unwrap();
                assert_eq!(tensor.to_f32().len(), tensor.shape.iter().product::<usize>());
            }
        }
        assert!((20..3000).contains(&readable), "{readable} of the damaged files could be read");
    }
}
