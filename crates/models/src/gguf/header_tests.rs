use super::*;
use crate::gguf::test_file::{TestFile, string};
use crate::gguf::{Layout, places};

fn read(bytes: &[u8]) -> Result<Header, GgufProblem> {
    Header::read(bytes)
}

fn refused(file: &TestFile) -> String {
    read(&file.bytes()).unwrap_err().to_string()
}

/// Everything that is wrong with the header or the tensors.
fn problems(file: &TestFile) -> String {
    let bytes = file.bytes();
    let header = read(&bytes).unwrap();
    let layout = Layout::of(&header.metadata).unwrap();
    let problems = places(&header, layout, bytes.len() as u64).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// One of every kind of value, and two tensors.
fn small() -> TestFile {
    TestFile::new()
        .text("general.architecture", "qwen2")
        .raw("u8", 0, &[200])
        .raw("i8", 1, &[200])
        .raw("u16", 2, &[1, 2])
        .raw("i16", 3, &[0xfe, 0xff])
        .number("u32", 7)
        .raw("i32", 5, &(-7_i32).to_le_bytes())
        .float("f32", 0.25)
        .flag("flag", true)
        .texts("texts", &["a", "", "bc"])
        .array("lists", 9, &[[4_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes(), &9_u32.to_le_bytes()].concat()])
        .raw("u64", 10, &u64::MAX.to_le_bytes())
        .raw("i64", 11, &i64::MIN.to_le_bytes())
        .raw("f64", 12, &0.1_f64.to_le_bytes())
        .raw("cut", 8, &[2_u64.to_le_bytes().as_slice(), &[b'a', 0xe2]].concat())
        .tensor("blk.0.ffn_up.weight", &[2, 32], 2, &[1; 36])
        .tensor("output_norm.weight", &[3], 0, &[0; 12])
}

#[test]
fn every_kind_of_value_is_read() {
    let bytes = small().bytes();
    let header = read(&bytes).unwrap();
    let get = |key: &str| header.metadata.get(key).unwrap().clone();
    assert_eq!(get("u8"), Value::Unsigned(200));
    assert_eq!(get("i8"), Value::Signed(-56));
    assert_eq!(get("u16"), Value::Unsigned(513));
    assert_eq!(get("i16"), Value::Signed(-2));
    assert_eq!(get("i32"), Value::Signed(-7));
    assert_eq!(get("f32"), Value::Single(0.25));
    assert_eq!(get("flag"), Value::Bool(true));
    let text = |text: &str| Value::String(text.to_owned());
    assert_eq!(get("texts"), Value::Array(vec![text("a"), text(""), text("bc")]));
    assert_eq!(get("lists"), Value::Array(vec![Value::Array(vec![Value::Unsigned(9)])]));
    assert_eq!(get("u64"), Value::Unsigned(u64::MAX));
    assert_eq!(get("i64"), Value::Signed(i64::MIN));
    assert_eq!(get("f64"), Value::Double(0.1));
    assert_eq!(get("cut"), Value::NotText);
    let places = places(&header, Layout::of(&header.metadata).unwrap(), bytes.len() as u64).unwrap();
    let found: Vec<_> = places.iter().map(|place| (place.name.as_str(), place.shape.as_slice())).collect();
    assert_eq!(found, [("model.layers.0.mlp.up_proj.weight", &[2, 32][..]), ("model.norm.weight", &[3][..])]);
    assert_eq!(bytes[places[0].range.clone()], [1; 36]);
    assert_eq!(places[1].range, bytes.len() - 12..bytes.len());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = small().bytes();
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        let Ok(header) = read(cut) else { continue };
        let layout = Layout::of(&header.metadata).unwrap();
        assert!(places(&header, layout, length as u64).is_err(), "{length} of {}", bytes.len());
    }
}

#[test]
fn no_changed_byte_is_a_panic() {
    let bytes = small().bytes();
    let mut accepted = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 7, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x80] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let Ok(header) = read(&changed) else { continue };
            let Ok(layout) = Layout::of(&header.metadata) else { continue };
            if let Ok(places) = places(&header, layout, changed.len() as u64) {
                accepted += 1;
                assert!(places.iter().all(|place| place.range.end <= changed.len()));
            }
        }
    }
    assert!(accepted > 0, "changed values of metadata are still a file");
}

#[test]
fn absurd_numbers_take_no_memory() {
    for count in [1 << 20, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
        let tensors = TestFile { counts: (Some(count), None), ..small() };
        assert!(refused(&tensors).contains("the number of tensors at offset 8 is"), "{}", refused(&tensors));
        let pairs = TestFile { counts: (None, Some(count)), ..small() };
        assert!(refused(&pairs).contains("the number of metadata keys at offset 16 is"));
        let mut array = 4_u32.to_le_bytes().to_vec();
        array.extend(count.to_le_bytes());
        let text = refused(&TestFile::new().raw("list", 9, &array));
        assert!(text.contains("the length of `list`") && text.contains(&count.to_string()), "{text}");
        let text = refused(&TestFile::new().raw("text", 8, &count.to_le_bytes()));
        assert!(text.contains("the file ends inside the value of `text`"), "{text}");
    }
    // As many elements as the file has bytes for, and more than any model has.
    let mut array = 0_u32.to_le_bytes().to_vec();
    array.extend(9_000_000_u64.to_le_bytes());
    array.resize(array.len() + 9_000_000, 0);
    let text = refused(&TestFile::new().raw("list", 9, &array));
    assert!(text.contains("`list` brings the elements of all arrays over 8388608"), "{text}");
}

#[test]
fn other_files_and_versions_are_named() {
    assert!(read(b"version https://git-lfs").unwrap_err().to_string().contains("begins with \"vers\""));
    assert!(read(b"").unwrap_err().to_string().contains("not a GGUF file"));
    assert!(
        refused(&TestFile { version: 1, ..small() }).contains("GGUF version 1, of which 2 and 3 are read; convert")
    );
    assert!(refused(&TestFile { version: 3_u32.swap_bytes(), ..small() }).contains("the file is big-endian"));
    assert!(read(&TestFile { version: 2, ..small() }.bytes()).is_ok());
}

#[test]
fn wrong_metadata_are_named() {
    let file = TestFile::new;
    assert!(refused(&file().raw("k", 13, &[0])).contains("`k` has the value type 13"));
    assert!(refused(&file().array("k", 99, &[vec![0; 8]])).contains("`k` has the value type 99"));
    assert!(refused(&file().raw("k", 7, &[2])).contains("`k` is the truth value 2"));
    assert!(refused(&file().number("k", 1).number("k", 1)).contains("the metadata key `k` occurs twice"));
    let mut deep = 4_u32.to_le_bytes().to_vec();
    deep.extend(0_u64.to_le_bytes());
    for _ in 0..6 {
        deep = [9_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes(), &deep].concat();
    }
    assert!(refused(&file().raw("k", 9, &deep)).contains("nested deeper than 4"));
    for alignment in [0, 24, 1 << 21] {
        assert!(refused(&file().number("general.alignment", alignment)).contains("a power of two"));
    }
    assert!(refused(&file().text("general.alignment", "32")).contains("`general.alignment` is \"32\""));
    let mut bad = TestFile::new().number("k", 1).bytes();
    let at = bad.len() - 32 + 24;
    bad[32] = 0xff;
    assert!(read(&bad).unwrap_err().to_string().contains("is not UTF-8"), "{at}");
}

#[test]
fn wrong_tensors_are_named() {
    let base = || TestFile::new().text("general.architecture", "qwen2");
    let twice = base().tensor("a", &[1], 0, &[0; 4]).tensor("a", &[1], 0, &[0; 4]);
    assert!(refused(&twice).contains("the tensor `a` occurs twice"));
    assert!(refused(&base().entry("a", &[], 0, 0)).contains("`a` has 0 dimensions"));
    assert!(refused(&base().entry("a", &[1; 5], 0, 0)).contains("`a` has 5 dimensions"));
    for shape in [&[0, 4][..], &[u64::MAX, 32], &[1 << 32, 1 << 32], &[1 << 62, 32]] {
        assert!(problems(&base().entry("a", shape, 0, 0).data(64)).contains("has no value, or more"), "{shape:?}");
    }
    assert!(
        problems(&base().entry("a", &[2, 33], 2, 0).data(64))
            .contains("rows of 33 values in Q4_0, whose blocks have 32")
    );
    assert!(problems(&base().entry("a", &[2, 32], 12, 0).data(64)).contains("in Q4_K, whose blocks have 256"));
    assert!(problems(&base().entry("a", &[1], 0, 4).data(64)).contains("no multiple of the alignment 32"));
    assert!(
        problems(&base().entry("a", &[17], 0, 0).data(64))
            .contains("`a` takes 68 bytes from offset 0 of the data, which has 64")
    );
    for offset in [64, u64::MAX - 31] {
        assert!(problems(&base().entry("a", &[1], 0, offset).data(64)).contains("the file is truncated"));
    }
    let overlap = base().entry("a", &[9], 0, 0).entry("b", &[1], 0, 32).data(64);
    assert!(problems(&overlap).contains("`b` starts at 32, before the end of `a` at 36"));
}

#[test]
fn formats_that_are_not_read_are_all_listed() {
    let file = TestFile::new()
        .text("general.architecture", "qwen2")
        .entry("blk.0.ffn_up.weight", &[1, 256], 23, 0)
        .entry("blk.1.ffn_up.weight", &[1, 256], 23, 0)
        .entry("output.weight", &[1, 256], 10, 0)
        .entry("odd", &[1, 256], 77, 0)
        .entry("far", &[1 << 20], 0, 0)
        .data(512);
    let text = problems(&file);
    for part in [
        "2 tensors are in the format IQ4_XS, which is not supported (blk.0.ffn_up.weight, blk.1.ffn_up.weight)",
        "the tensor `output.weight` is in the format Q2_K",
        "the tensor `odd` is in the format number 77",
        "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K are read",
        "`far` takes 4194304 bytes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_alignment_of_its_own_is_kept_to() {
    let mut file = TestFile::new().text("general.architecture", "qwen2").number("general.alignment", 64);
    file.alignment = 64;
    let file = file.tensor("a", &[1], 0, &[1; 4]).tensor("b", &[1], 0, &[2; 4]);
    let bytes = file.bytes();
    let header = read(&bytes).unwrap();
    assert_eq!(header.data_start % 64, 0);
    let places = places(&header, Layout::of(&header.metadata).unwrap(), bytes.len() as u64).unwrap();
    assert_eq!(bytes[places[1].range.clone()], [2; 4]);
}

#[test]
fn heads_that_do_not_divide_the_rows_are_named() {
    let base =
        |heads| TestFile::new().text("general.architecture", "llama").number("llama.attention.head_count", heads);
    for (heads, rows) in [(0, 4), (3, 4), (4, 4)] {
        let text = problems(&base(heads).tensor("blk.0.attn_q.weight", &[rows, 1], 0, &vec![0; 4 * rows as usize]));
        assert!(text.contains(&format!("has {rows} rows, which are not {heads} heads")), "{text}");
    }
    let quantised = base(2).tensor("blk.0.attn_k.bias", &[32], 2, &[0; 18]);
    assert!(problems(&quantised).contains("rows of 1 values in Q4_0"));
    let nameless = read(&TestFile::new().raw("k", 8, &string("v")).bytes()).unwrap();
    assert!(Layout::of(&nameless.metadata).unwrap_err().to_string().contains("`general.architecture` is missing"));
}
