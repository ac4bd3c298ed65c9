//! Safetensors files written one tensor at a time, under their final names only when whole.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::dtype::{StoredDtype, encode};
use super::fault::WeightsError;
use super::folder::{INDEX_FILE, SINGLE_FILE};
use super::part::{PartFile, Published, sync_folder, write_aside};

/// The largest shard that every reader takes (Bedrock refuses larger ones).
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor that will be written: everything but its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name in the file.
    pub name: String,
    /// How its values will be stored.
    pub dtype: StoredDtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    fn bytes(&self) -> Option<u64> {
        let values = self.shape.iter().try_fold(1_u64, |product, d| product.checked_mul(*d as u64))?;
        values.checked_mul(self.dtype.bytes() as u64)
    }
}

/// Writes a checkpoint as `model.safetensors`, or as shards with `model.safetensors.index.json`.
///
/// Names, types and shapes are planned first; then each tensor's bytes are asked for in that order, a piece at a time.
/// Files are written as `NAME.part`, synced, and renamed together, the index last; a failure removes them.
#[derive(Debug)]
pub struct WeightWriter {
    folder: PathBuf,
    files: Vec<PlannedFile>,
    total: u64,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct PlannedFile {
    name: String,
    tensors: Vec<(PlannedTensor, u64)>,
}

impl WeightWriter {
    /// Divides `tensors` over files of at most `max_shard_bytes` in `folder`, which must exist and hold no weights yet.
    /// A tensor larger than that has a file of its own.
    pub fn plan(folder: &Path, tensors: Vec<PlannedTensor>, max_shard_bytes: u64) -> Result<Self, WeightsError> {
        refuse_occupied(folder)?;
        let sized = sizes(folder, tensors)?;
        let total = sized.iter().map(|(_, bytes)| bytes).sum();
        let mut groups: Vec<Vec<(PlannedTensor, u64)>> = vec![Vec::new()];
        let mut in_last = 0_u64;
        for (tensor, bytes) in sized {
            if in_last > 0 && in_last + bytes > max_shard_bytes {
                groups.push(Vec::new());
                in_last = 0;
            }
            in_last += bytes;
            if let Some(last) = groups.last_mut() {
                last.push((tensor, bytes));
            }
        }
        let count = groups.len();
        let name = |i: usize| match count {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let files = groups.into_iter().enumerate().map(|(i, tensors)| PlannedFile { name: name(i), tensors }).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(Self { folder: folder.to_owned(), files, total, metadata })
    }

    /// The same files with this `__metadata__` instead of the usual one.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The names of the files that [`Self::write`] leaves in the folder.
    pub fn file_names(&self) -> Vec<String> {
        let index = (self.files.len() > 1).then(|| INDEX_FILE.to_owned());
        self.files.iter().map(|file| file.name.clone()).chain(index).collect()
    }

    /// Calls `produce` for each tensor in planned order and writes what it puts into the sink.
    pub fn write<E: From<WeightsError>>(
        self,
        mut produce: impl FnMut(&PlannedTensor, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut progress = Progress { needed: self.total, written: 0 };
        let mut whole = Vec::new();
        for file in &self.files {
            let path = self.folder.join(&file.name);
            whole.push(write_file(&path, &self.metadata, &file.tensors, &mut progress, &mut produce)?);
        }
        let mut published = Vec::new();
        for part in whole {
            published.push(part.publish()?);
        }
        if self.files.len() > 1 {
            write_aside(&self.folder.join(INDEX_FILE), &self.index())?;
        }
        published.into_iter().for_each(Published::keep);
        sync_folder(&self.folder)?;
        Ok(())
    }

    /// As `huggingface_hub` writes it.
    fn index(&self) -> Vec<u8> {
        let by_tensor: BTreeMap<&str, &str> =
            self.files.iter().flat_map(|f| f.tensors.iter().map(|(t, _)| (t.name.as_str(), f.name.as_str()))).collect();
        let index = serde_json::json!({ "metadata": { "total_size": self.total }, "weight_map": by_tensor });
        let mut bytes = format!("{index:#}").into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

/// Writes one safetensors file at `path`, aside and renamed: `produce` is called for each of `tensors` in order.
pub fn write_safetensors<E: From<WeightsError>>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: Vec<PlannedTensor>,
    mut produce: impl FnMut(&PlannedTensor, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let sized = sizes(folder, tensors)?;
    let mut progress = Progress { needed: sized.iter().map(|(_, bytes)| bytes).sum(), written: 0 };
    let part = write_file(path, metadata, &sized, &mut progress, &mut produce)?;
    part.publish()?.keep();
    Ok(sync_folder(folder)?)
}

/// As [`write_safetensors`], of f32 values that are in memory already.
pub fn write_tensors<'a>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: impl IntoIterator<Item = (PlannedTensor, &'a [f32])>,
) -> Result<(), WeightsError> {
    let (planned, values): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
    let mut values = values.into_iter();
    write_safetensors(path, metadata, planned, |tensor, sink| {
        // In pieces: an embedding is not held twice.
        values.next().unwrap_or_default().chunks(1 << 20).try_for_each(|piece| sink.put(&encode(tensor.dtype, piece)))
    })
}

/// Takes one tensor's bytes, in as many pieces as suit the producer.
#[derive(Debug)]
pub struct TensorSink<'a> {
    tensor: &'a str,
    expected: u64,
    found: u64,
    part: &'a mut PartFile,
    progress: &'a mut Progress,
}

impl TensorSink<'_> {
    /// Appends `bytes` to the tensor.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.found += bytes.len() as u64;
        if self.found > self.expected {
            return Err(self.wrong_length());
        }
        let Progress { needed, written } = *self.progress;
        self.part.file.write_all(bytes).map_err(|e| WeightsError::writing(&self.part.target, needed, written, e))?;
        self.progress.written += bytes.len() as u64;
        Ok(())
    }

    fn wrong_length(&self) -> WeightsError {
        WeightsError::WrongLength { tensor: self.tensor.to_owned(), expected: self.expected, found: self.found }
    }
}

/// Bytes of all files together, for the message when the disk is full.
#[derive(Debug)]
struct Progress {
    needed: u64,
    written: u64,
}

fn write_file<E: From<WeightsError>>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &[(PlannedTensor, u64)],
    progress: &mut Progress,
    produce: &mut impl FnMut(&PlannedTensor, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<PartFile, E> {
    let mut header = header(metadata, tensors);
    header.splice(..0, (header.len() as u64).to_le_bytes());
    let framed = Framed { header: &header, alignment: 1 };
    let named = tensors.iter().map(|(tensor, bytes)| (tensor, tensor.name.as_str(), *bytes));
    write_part(path, &framed, named, progress, produce)
}

/// What is around the tensors of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framed<'a> {
    /// Everything before the first tensor.
    pub(crate) header: &'a [u8],
    /// Each tensor is followed by zeros up to a multiple of this.
    pub(crate) alignment: u64,
}

/// Writes one file at `path`, aside and renamed: the header, then what `produce` puts for each tensor, which has a name
/// and a number of bytes.
pub(crate) fn write_framed<T: Copy, E: From<WeightsError>>(
    path: &Path,
    framed: &Framed<'_>,
    tensors: &[(T, &str, u64)],
    mut produce: impl FnMut(T, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut progress = Progress { needed: tensors.iter().map(|(_, _, bytes)| bytes).sum(), written: 0 };
    let part = write_part(path, framed, tensors.iter().copied(), &mut progress, &mut produce)?;
    part.publish()?.keep();
    Ok(sync_folder(path.parent().unwrap_or(Path::new("")))?)
}

fn write_part<'a, T, E: From<WeightsError>>(
    path: &Path,
    framed: &Framed<'_>,
    tensors: impl Iterator<Item = (T, &'a str, u64)>,
    progress: &mut Progress,
    produce: &mut impl FnMut(T, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<PartFile, E> {
    let mut part = PartFile::create(path)?;
    let failed = |progress: &Progress| {
        let Progress { needed, written } = *progress;
        move |error| WeightsError::writing(path, needed, written, error)
    };
    part.file.write_all(framed.header).map_err(failed(progress))?;
    for (tensor, name, expected) in tensors {
        let mut sink = TensorSink { tensor: name, expected, found: 0, part: &mut part, progress: &mut *progress };
        produce(tensor, &mut sink)?;
        if sink.found != sink.expected {
            return Err(sink.wrong_length().into());
        }
        let padding = expected.next_multiple_of(framed.alignment) - expected;
        part.file.write_all(&vec![0; padding as usize]).map_err(failed(progress))?;
    }
    part.sync(progress.needed, progress.written)?;
    Ok(part)
}

fn header(metadata: &BTreeMap<String, String>, tensors: &[(PlannedTensor, u64)]) -> Vec<u8> {
    struct Header<'a>(&'a BTreeMap<String, String>, &'a [(PlannedTensor, u64)]);
    impl Serialize for Header<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.1.len() + 1))?;
            map.serialize_entry("__metadata__", self.0)?;
            let mut start = 0;
            for (tensor, bytes) in self.1 {
                let entry = serde_json::json!({
                    "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, start + bytes],
                });
                map.serialize_entry(&tensor.name, &entry)?;
                start += bytes;
            }
            map.end()
        }
    }
    // Strings, integers and lists: there is nothing that JSON could not say.
    let mut bytes = serde_json::to_vec(&Header(metadata, tensors)).unwrap_or_default();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn sizes(folder: &Path, tensors: Vec<PlannedTensor>) -> Result<Vec<(PlannedTensor, u64)>, WeightsError> {
    let refuse = |reason| WeightsError::Plan { folder: folder.to_owned(), reason };
    let mut names = HashSet::new();
    let mut total = 0_u64;
    let mut sized = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        if tensor.name == "__metadata__" || !names.insert(tensor.name.as_str()) {
            return Err(refuse(format!("`{}` cannot be a tensor's name, or is two", tensor.name)));
        }
        let bytes = tensor.bytes().filter(|bytes| {
            total = total.saturating_add(*bytes);
            total < u64::MAX
        });
        sized.push(bytes.ok_or_else(|| refuse(format!("`{}` of shape {:?} is too large", tensor.name, tensor.shape)))?);
    }
    Ok(tensors.into_iter().zip(sized).collect())
}

/// A reader takes `model.safetensors` before an index, so weights left from before would win over the new ones.
fn refuse_occupied(folder: &Path) -> Result<(), WeightsError> {
    for entry in fs::read_dir(folder).map_err(WeightsError::io(folder, "list"))? {
        let file = entry.map_err(WeightsError::io(folder, "list"))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name == INDEX_FILE || name.ends_with(".safetensors") {
            return Err(WeightsError::Occupied { file });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::weights::WeightFiles;

    fn tensor(name: &str, dtype: StoredDtype, shape: &[usize]) -> PlannedTensor {
        PlannedTensor { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn values(tensor: &PlannedTensor) -> Vec<f32> {
        let len = tensor.shape.iter().product();
        (0..len).map(|i| i as f32 + tensor.name.len() as f32 / 8.0).collect()
    }

    fn fill(tensor: &PlannedTensor, sink: &mut TensorSink<'_>) -> Result<(), WeightsError> {
        let bytes = encode(tensor.dtype, &values(tensor));
        let (first, second) = bytes.split_at(bytes.len() / 3);
        sink.put(first)?;
        sink.put(second)
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn three() -> Vec<PlannedTensor> {
        vec![
            tensor("b", StoredDtype::F32, &[2, 3]),
            tensor("a.weight", StoredDtype::BF16, &[5]),
            tensor("scalar", StoredDtype::F16, &[]),
        ]
    }

    fn assert_readable(dir: &Path, plan: &[PlannedTensor]) {
        let files = WeightFiles::open(dir).unwrap();
        assert_eq!(files.names().len(), plan.len());
        for planned in plan {
            let found = files.get(&planned.name).unwrap();
            assert_eq!((found.dtype, &found.shape), (planned.dtype, &planned.shape));
            assert_eq!(found.bytes(), encode(planned.dtype, &values(planned)));
        }
        assert_eq!(files.metadata()["format"], "pt");
    }

    #[test]
    fn what_fits_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let writer = WeightWriter::plan(dir.path(), three(), 1000).unwrap();
        assert_eq!((writer.total_bytes(), writer.file_names()), (36, vec![SINGLE_FILE.to_owned()]));
        writer.write(fill).unwrap();
        assert_eq!(listing(dir.path()), [SINGLE_FILE]);
        assert_readable(dir.path(), &three());
        let bytes = fs::read(dir.path().join(SINGLE_FILE)).unwrap();
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0, "values are aligned");
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a.weight").unwrap().shape(), [5]);
    }

    #[test]
    fn what_does_not_fit_is_sharded_with_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let writer = WeightWriter::plan(dir.path(), three(), 12).unwrap();
        let names = writer.file_names();
        writer.write(fill).unwrap();
        let expected = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX_FILE];
        assert_eq!(names, expected);
        assert_eq!(listing(dir.path()), expected);
        assert_readable(dir.path(), &three());
        let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join(INDEX_FILE)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 36);
        assert_eq!(index["weight_map"]["b"], expected[0], "larger than a shard, so alone in its own");
        assert_eq!(index["weight_map"]["scalar"], expected[1], "10 and 2 bytes fill a shard of 12");
        let other = tempfile::tempdir().unwrap();
        let writer = WeightWriter::plan(other.path(), three(), 11).unwrap();
        assert_eq!(writer.file_names().len(), 4, "and not one of 11");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        for failing in ["b", "a.weight", "scalar"] {
            let dir = tempfile::tempdir().unwrap();
            let result: Result<(), WeightsError> = WeightWriter::plan(dir.path(), three(), 12)
                .unwrap()
                .write(|tensor, sink| if tensor.name == failing { sink.put(&[1]) } else { fill(tensor, sink) });
            let text = result.unwrap_err().to_string();
            assert!(text.starts_with(failing) && text.contains("1 produced"), "{text}");
            assert!(listing(dir.path()).is_empty(), "{failing}: {:?}", listing(dir.path()));
        }
        let dir = tempfile::tempdir().unwrap();
        let writer = WeightWriter::plan(dir.path(), three(), 1000).unwrap();
        assert!(writer.write(|_, sink| sink.put(&[0; 25])).is_err(), "too many bytes");
        assert!(listing(dir.path()).is_empty());
    }

    #[test]
    fn a_failed_index_takes_the_shards_back() {
        let dir = tempfile::tempdir().unwrap();
        let writer = WeightWriter::plan(dir.path(), three(), 12).unwrap();
        fs::create_dir(dir.path().join(INDEX_FILE)).unwrap();
        assert!(writer.write(fill).is_err());
        assert_eq!(listing(dir.path()), [INDEX_FILE]);
    }

    #[test]
    fn folders_with_weights_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        WeightWriter::plan(dir.path(), three(), 1000).unwrap();
        fs::write(dir.path().join("model-00001-of-00003.safetensors"), "").unwrap();
        let text = WeightWriter::plan(dir.path(), three(), 1000).unwrap_err().to_string();
        assert!(text.contains("model-00001-of-00003.safetensors: weights are already here"), "{text}");
    }

    #[test]
    fn impossible_plans_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plan = |tensors| WeightWriter::plan(dir.path(), tensors, 1000).map(|_| ());
        assert!(plan(vec![tensor("a", StoredDtype::F32, &[1]), tensor("a", StoredDtype::F32, &[1])]).is_err());
        assert!(plan(vec![tensor("__metadata__", StoredDtype::F32, &[1])]).is_err());
        assert!(plan(vec![tensor("a", StoredDtype::F32, &[usize::MAX, 2])]).is_err());
        assert!(
            plan(vec![tensor("a", StoredDtype::F32, &[usize::MAX / 4]), tensor("b", StoredDtype::F32, &[9])]).is_err()
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_names_the_file_and_the_bytes() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("model.safetensors.part");
        fs::write(&part, "").unwrap();
        let target = dir.path().join(SINGLE_FILE);
        let mut part = PartFile { file: full, part, target, renamed: false };
        let mut progress = Progress { needed: 4096, written: 1024 };
        let mut sink = TensorSink { tensor: "a", expected: 8, found: 0, part: &mut part, progress: &mut progress };
        let error = sink.put(&[0; 8]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, WeightsError::NoSpace { .. }), "{text}");
        assert!(
            text.contains("model.safetensors: no space left after 1024 of 4096 bytes; free at least 3072"),
            "{text}"
        );
        drop(part);
        assert!(listing(dir.path()).is_empty());
    }
}
