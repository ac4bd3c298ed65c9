//! The weights of one model: a single safetensors file, shards with their index, or a GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::dtype::StoredDtype;
use super::fault::{FileFault, FileProblem, WeightsError};
use super::file::{Entries, StoredTensor, TensorFile};
use crate::gguf::{self, GgufFiles};
use crate::model::is_layer_linear;

/// The name of unsharded weights.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The name of the file that says which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// An index of a model with a million tensors is smaller than this.
const INDEX_LIMIT: u64 = 100_000_000;

/// Every tensor of a model, mapped from its files, under the name that a Hugging Face checkpoint has for it.
#[derive(Debug)]
pub struct WeightFiles {
    shards: Vec<TensorFile>,
    by_name: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// Opens `dir/model.safetensors`, or the shards of `dir/model.safetensors.index.json`, or the GGUF file that `dir`
    /// is or holds; whatever is wrong with any of them is listed. Pickle files are never read.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        if let Some(found) = gguf::find(dir)? {
            return Self::open_gguf(&found);
        }
        let single = dir.join(SINGLE_FILE);
        let index = dir.join(INDEX_FILE);
        // As transformers chooses: the single file first.
        if single.exists() {
            return Ok(Self::of_shards(vec![TensorFile::open(&single)?]));
        }
        if !index.exists() {
            return Err(no_weights(dir));
        }
        let by_file = read_index(&index)?;
        let mut faults = Vec::new();
        let mut shards = Vec::new();
        for file in by_file.keys() {
            let path = dir.join(file);
            if !path.exists() {
                faults.push(FileFault { file: path, problem: FileProblem::MissingShard });
                continue;
            }
            match TensorFile::open_listing(&path) {
                Ok(shard) => shards.push(shard),
                Err(problems) => {
                    faults.extend(problems.into_iter().map(|problem| FileFault { file: path.clone(), problem }));
                }
            }
        }
        faults.extend(disagreements(&by_file, &shards));
        if faults.is_empty() { Ok(Self::of_shards(shards)) } else { Err(WeightsError::Unreadable { faults }) }
    }

    fn open_gguf(found: &GgufFiles) -> Result<Self, WeightsError> {
        let mut layout = None;
        let mut faults = Vec::new();
        let mut shards: Vec<TensorFile> = Vec::new();
        for file in &found.files {
            let fault = |problem| FileFault { file: file.clone(), problem };
            match TensorFile::open_gguf(file, layout) {
                Ok((shard, of_first)) => {
                    layout = Some(of_first);
                    let twice = shard.names().filter(|name| shards.iter().any(|other| other.get(name).is_some()));
                    faults.extend(twice.map(|tensor| fault(FileProblem::Duplicate { tensor: tensor.to_owned() })));
                    shards.push(shard);
                }
                Err(problems) => {
                    faults.extend(problems.into_iter().map(fault));
                    // Without the first file's metadata the others cannot be read.
                    if layout.is_none() {
                        break;
                    }
                }
            }
        }
        if faults.is_empty() { Ok(Self::of_shards(shards)) } else { Err(WeightsError::Unreadable { faults }) }
    }

    fn of_shards(shards: Vec<TensorFile>) -> Self {
        let by_name =
            shards.iter().enumerate().flat_map(|(i, shard)| shard.names().map(move |n| (n.to_owned(), i))).collect();
        Self { shards, by_name }
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        self.shards.get(*self.by_name.get(name)?)?.get(name)
    }

    /// The files, sorted by name; each gives its tensors' names in file order.
    pub fn shards(&self) -> &[TensorFile] {
        &self.shards
    }

    /// The `__metadata__` of the first file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.shards.first().map_or(&NONE, TensorFile::metadata)
    }

    /// Bytes of all tensors in the files.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.file_bytes() as u64).sum()
    }

    /// Whether any tensor's values are computed from quantised ones.
    pub fn is_quantised(&self) -> bool {
        self.tensors().any(|tensor| tensor.is_quantised())
    }

    /// Why the decoder layers' linear weights cannot be used in `dtype` where they lie, if they cannot.
    pub fn not_streamable(&self, dtype: StoredDtype) -> Option<String> {
        self.tensors().filter(|tensor| is_layer_linear(tensor.name)).find_map(|tensor| {
            let (name, file) = (tensor.name, tensor.file.display());
            if tensor.plain_bytes().is_none() {
                return Some(format!("{file}: {name} is packed in another way than it is used"));
            }
            if tensor.dtype != dtype {
                return Some(format!("{file}: {name} is stored in {} and would be held in {dtype}", tensor.dtype));
            }
            let unaligned = || format!("{file}: {name} does not begin at a multiple of {} bytes", dtype.bytes());
            tensor.streamed().is_none().then(unaligned)
        })
    }

    fn tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.shards.iter().flat_map(|shard| shard.names().filter_map(|name| shard.get(name)))
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// The tensors that the index places in each file.
fn read_index(path: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, WeightsError> {
    let fault = |problem| FileFault { file: path.to_owned(), problem };
    let one = |problem| WeightsError::Unreadable { faults: vec![fault(problem)] };
    let about = fs::metadata(path).map_err(WeightsError::io(path, "read"))?;
    if !about.is_file() {
        return Err(one(FileProblem::NotAFile));
    }
    if about.len() > INDEX_LIMIT {
        let reason = format!("{} bytes long, more than {INDEX_LIMIT}", about.len());
        return Err(one(FileProblem::Json { what: "the index", reason }));
    }
    let bytes = fs::read(path).map_err(WeightsError::io(path, "read"))?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| one(FileProblem::Json { what: "the index", reason: e.to_string() }))?;
    let mut faults: Vec<FileFault> =
        index.weight_map.duplicates().into_iter().map(|tensor| fault(FileProblem::Duplicate { tensor })).collect();
    let mut by_file: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map.0 {
        if is_plain_name(&file) {
            by_file.entry(file).or_default().insert(tensor);
        } else {
            faults.push(fault(FileProblem::OutsideFolder { tensor, path: file }));
        }
    }
    if by_file.is_empty() && faults.is_empty() {
        faults.push(fault(FileProblem::Json { what: "the index", reason: "`weight_map` names no tensor".into() }));
    }
    if faults.is_empty() { Ok(by_file) } else { Err(WeightsError::Unreadable { faults }) }
}

/// Whether `name` can only be a file directly inside the folder.
fn is_plain_name(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0'])
}

/// Where index and shards contradict each other.
fn disagreements(by_file: &BTreeMap<String, BTreeSet<String>>, shards: &[TensorFile]) -> Vec<FileFault> {
    let place: BTreeMap<&str, &str> =
        by_file.iter().flat_map(|(file, names)| names.iter().map(move |n| (n.as_str(), file.as_str()))).collect();
    let mut faults = Vec::new();
    for shard in shards {
        let file = shard.path().file_name().unwrap_or_default().to_string_lossy();
        let mut fault = |problem| faults.push(FileFault { file: shard.path().to_owned(), problem });
        for tensor in by_file.get(file.as_ref()).into_iter().flatten().filter(|t| shard.get(t).is_none()) {
            fault(FileProblem::NotInShard { tensor: tensor.clone() });
        }
        for tensor in shard.names().filter(|t| place.get(t).is_none_or(|f| *f != file)) {
            let indexed = place.get(tensor).map(|f| (*f).to_owned());
            fault(FileProblem::NotIndexed { tensor: tensor.to_owned(), indexed });
        }
    }
    faults
}

fn no_weights(dir: &Path) -> WeightsError {
    let folder = dir.to_owned();
    let Ok(entries) = fs::read_dir(dir) else {
        return WeightsError::NoWeights { folder, hint: "the folder cannot be read".to_owned() };
    };
    let mut files: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    let pickles: Vec<String> = files
        .iter()
        .filter(|f| [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| f.ends_with(end)))
        .cloned()
        .collect();
    let other: Vec<&str> = files.iter().filter(|f| f.ends_with(".safetensors")).map(String::as_str).collect();
    if files.iter().any(|f| f == "adapter_config.json") {
        let hint = "this is an adapter: give the base model's folder, and this one as the adapter".to_owned();
        return WeightsError::NoWeights { folder, hint };
    }
    if !other.is_empty() {
        let hint = format!("there is {}, but no index that names it: rename it or write the index", other.join(", "));
        return WeightsError::NoWeights { folder, hint };
    }
    if !pickles.is_empty() {
        return WeightsError::PickleOnly { folder, files: pickles };
    }
    let hint = match files.len() {
        0 => "the folder is empty".to_owned(),
        _ => "download the model's *.safetensors files into it".to_owned(),
    };
    WeightsError::NoWeights { folder, hint }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::weights::StoredDtype;

    /// Bytes of a safetensors file with that header and that much data.
    fn file_of(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..data).map(|i| i as u8));
        bytes
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    /// The error of opening a folder whose one file holds `bytes`.
    fn refused(bytes: Vec<u8>) -> String {
        let dir = folder(&[(SINGLE_FILE, bytes)]);
        WeightFiles::open(dir.path()).unwrap_err().to_string()
    }

    const A: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    const B: &str = r#"{"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}"#;

    fn index(map: &str) -> Vec<u8> {
        format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{map}}}"#).into_bytes()
    }

    #[test]
    fn a_single_file_is_read() {
        let header = r#"{"__metadata__":{"format":"pt"},"z":{"dtype":"F16","shape":[],"data_offsets":[8,10]},
            "a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}} "#;
        let dir = folder(&[(SINGLE_FILE, file_of(header, 10))]);
        let files = WeightFiles::open(dir.path()).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "z"]);
        assert_eq!(files.metadata()["format"], "pt");
        let a = files.get("a").unwrap();
        assert_eq!(
            (a.dtype, a.shape.as_slice(), a.plain_bytes()),
            (StoredDtype::F32, &[2, 1][..], Some(&[0, 1, 2, 3, 4, 5, 6, 7][..]))
        );
        assert_eq!(a.to_f32(), [f32::from_le_bytes([0, 1, 2, 3]), f32::from_le_bytes([4, 5, 6, 7])]);
        a.release(0..2);
        let mut second = [0.0];
        a.read_into(1..2, &mut second);
        assert_eq!(second, [f32::from_le_bytes([4, 5, 6, 7])], "released bytes are read again");
        let z = files.get("z").unwrap();
        assert_eq!((z.len(), z.plain_bytes()), (1, Some(&[8, 9][..])));
        assert!(files.get("q").is_none());
        assert_eq!(files.total_bytes(), 10);
    }

    #[test]
    fn shards_are_read_through_the_index() {
        let dir = folder(&[
            (INDEX_FILE, index(r#"{"b":"model-2.safetensors","a":"model-1.safetensors"}"#)),
            ("model-1.safetensors", file_of(A, 8)),
            ("model-2.safetensors", file_of(B, 4)),
        ]);
        let files = WeightFiles::open(dir.path()).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(files.get("b").unwrap().file, dir.path().join("model-2.safetensors"));
        let order: Vec<Vec<&str>> = files.shards().iter().map(|s| s.names().collect()).collect();
        assert_eq!(order, [["a"], ["b"]]);
    }

    #[test]
    fn every_missing_shard_is_listed() {
        let dir = folder(&[
            (INDEX_FILE, index(r#"{"a":"m1.safetensors","b":"m2.safetensors","c":"m3.safetensors"}"#)),
            ("m1.safetensors", file_of(A, 8)),
        ]);
        let text = WeightFiles::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("m2.safetensors: named by the index and missing"), "{text}");
        assert!(text.contains("m3.safetensors: named by the index and missing"), "{text}");
    }

    #[test]
    fn the_index_cannot_lead_out_of_the_folder() {
        for path in
            ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", r"..\\x.safetensors", "x.bin", "..", ""]
        {
            let dir = folder(&[(INDEX_FILE, index(&format!(r#"{{"a":"{path}"}}"#)))]);
            let text = WeightFiles::open(dir.path()).unwrap_err().to_string();
            assert!(text.contains("places `a` in") && text.contains("in this folder"), "{path}: {text}");
        }
    }

    #[test]
    fn index_and_shards_must_agree() {
        let both = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        let dir = folder(&[
            (INDEX_FILE, index(r#"{"a":"m1.safetensors","c":"m1.safetensors","b":"m2.safetensors"}"#)),
            ("m1.safetensors", file_of(both, 8)),
            ("m2.safetensors", file_of(B, 4)),
        ]);
        let text = WeightFiles::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("m1.safetensors: `c` is placed here by the index and is not here"), "{text}");
        assert!(text.contains("m1.safetensors: `b` is here and the index places it in m2.safetensors"), "{text}");
        for map in [r#"{"a":"m.safetensors","a":"m.safetensors"}"#, "{}", "[]", r#"{"a":1}"#] {
            let dir = folder(&[(INDEX_FILE, index(map)), ("m.safetensors", file_of(A, 8))]);
            assert!(WeightFiles::open(dir.path()).is_err(), "{map}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let huge = |length: u64| [length.to_le_bytes().as_slice(), b"{}"].concat();
        for length in [3, 100_000_001, u64::MAX, u64::MAX - 8, i64::MAX as u64] {
            assert!(refused(huge(length)).contains("the header says it is"), "{length}");
        }
        assert!(refused(b"1234567".to_vec()).contains("7 bytes long"));
        assert!(refused(b"version https://git-lfs.github.com/spec/v1\n".to_vec()).contains("the header says"));
        assert!(refused(file_of("", 0)).contains("the header is not"));
        assert!(refused(file_of("[1]", 0)).contains("the header is not"));
        assert!(refused(file_of(&"[".repeat(10_000), 0)).contains("the header is not"), "deep nesting");
        let cases = [
            // Offsets outside the file, backwards, with a hole, overlapping; sizes that overflow.
            (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 8, "truncated"),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 9, "data after the last tensor"),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, "offsets 8..0"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "overlap or leave a hole"),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
                "`b` starts at 4 where 8",
            ),
            (r#"{"a":{"dtype":"F32","shape":[9223372036854775808,2],"data_offsets":[0,0]}}"#, 0, "more than 2^64"),
            (r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#, 0, "more than 2^64"),
            (
                r#"{"a":{"dtype":"F32","shape":[4611686018427387903],"data_offsets":[0,18446744073709551612]}}"#,
                0,
                "truncated",
            ),
            (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, "takes 12 bytes"),
            (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#, 8, "header is not"),
            (r#"{"a":{"dtype":"F32","shape":[1e30],"data_offsets":[0,8]}}"#, 8, "header is not"),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#, 8, "header is not"),
            (r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8, "header is not"),
            (
                r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}"#,
                8,
                "16 dimensions",
            ),
            // Types and names.
            (r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}"#, 8, "`a` is I8: only F32"),
            (
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
                "`a` occurs twice",
            ),
            (r#"{"__metadata__":{"format":1}}"#, 0, "header is not"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "occurs twice"),
        ];
        for (header, data, expected) in cases {
            let text = refused(file_of(header, data));
            assert!(text.contains(expected) && text.contains(SINGLE_FILE), "{header}: {text}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = file_of(A, 8);
        for length in 0..whole.len() {
            refused(whole[..length].to_vec());
        }
    }

    #[test]
    fn all_faults_of_all_shards_are_listed() {
        let dir = folder(&[
            (INDEX_FILE, index(r#"{"a":"m1.safetensors","b":"m2.safetensors"}"#)),
            ("m1.safetensors", file_of(A, 7)),
            ("m2.safetensors", file_of(r#"{"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4)),
        ]);
        let text = WeightFiles::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("m1.safetensors: 69 bytes long") && text.contains("`b` is U8"), "{text}");
    }

    #[test]
    fn folders_without_safetensors_say_what_to_do() {
        let open = |files: &[(&str, Vec<u8>)]| WeightFiles::open(folder(files).path()).unwrap_err().to_string();
        let text = open(&[("pytorch_model.bin", vec![]), ("config.json", vec![])]);
        assert!(text.contains("pickle files (pytorch_model.bin), which are never read"), "{text}");
        assert!(open(&[("adapter_config.json", vec![]), ("adapter_model.bin", vec![])]).contains("this is an adapter"));
        assert!(open(&[("consolidated.safetensors", vec![])]).contains("there is consolidated.safetensors"));
        assert!(open(&[]).contains("the folder is empty"));
        assert!(WeightFiles::open(&PathBuf::from("/nonexistent")).unwrap_err().to_string().contains("cannot be read"));
        let dir = folder(&[]);
        fs::create_dir(dir.path().join(SINGLE_FILE)).unwrap();
        assert!(WeightFiles::open(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
