//! GGUF files for tests, right and wrong ones.

/// The parts of a file; every one of them may be a lie.
#[derive(Debug, Clone)]
pub(super) struct TestFile {
    pub(super) version: u32,
    pub(super) pairs: Vec<Vec<u8>>,
    pub(super) tensors: Vec<Vec<u8>>,
    pub(super) data: Vec<u8>,
    /// In place of the true number of tensors and keys.
    pub(super) counts: (Option<u64>, Option<u64>),
    pub(super) alignment: usize,
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

impl TestFile {
    pub(super) fn new() -> Self {
        Self { version: 3, pairs: vec![], tensors: vec![], data: vec![], counts: (None, None), alignment: 32 }
    }

    pub(super) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([string(key).as_slice(), &kind.to_le_bytes(), value].concat());
        self
    }

    pub(super) fn text(self, key: &str, text: &str) -> Self {
        self.raw(key, 8, &string(text))
    }

    pub(super) fn number(self, key: &str, number: u32) -> Self {
        self.raw(key, 4, &number.to_le_bytes())
    }

    pub(super) fn float(self, key: &str, number: f32) -> Self {
        self.raw(key, 6, &number.to_le_bytes())
    }

    pub(super) fn flag(self, key: &str, flag: bool) -> Self {
        self.raw(key, 7, &[flag.into()])
    }

    pub(super) fn array(self, key: &str, kind: u32, values: &[Vec<u8>]) -> Self {
        let head = [kind.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        self.raw(key, 9, &[head, values.concat()].concat())
    }

    pub(super) fn texts(self, key: &str, texts: &[&str]) -> Self {
        let values: Vec<Vec<u8>> = texts.iter().map(|text| string(text)).collect();
        self.array(key, 8, &values)
    }

    pub(super) fn numbers(self, key: &str, numbers: &[i32]) -> Self {
        let values: Vec<Vec<u8>> = numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect();
        self.array(key, 5, &values)
    }

    pub(super) fn floats(self, key: &str, numbers: &[f32]) -> Self {
        let values: Vec<Vec<u8>> = numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect();
        self.array(key, 6, &values)
    }

    /// A tensor with its bytes, at the next aligned place. The shape has its rows first.
    pub(super) fn tensor(mut self, name: &str, shape: &[u64], code: u32, bytes: &[u8]) -> Self {
        let start = self.data.len().next_multiple_of(self.alignment);
        self.data.resize(start, 0);
        self.data.extend(bytes);
        self.entry(name, shape, code, start as u64)
    }

    /// A tensor's entry alone.
    pub(super) fn entry(mut self, name: &str, shape: &[u64], code: u32, offset: u64) -> Self {
        let mut entry = string(name);
        entry.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|d| entry.extend(d.to_le_bytes()));
        entry.extend(code.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// Bytes of data beside those of tensors.
    pub(super) fn data(mut self, length: usize) -> Self {
        self.data.resize(length, 0);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.counts.0.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.counts.1.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }
}
