use super::*;
use crate::gguf::header::Header;
use crate::gguf::test_file::TestFile;

fn faults(file: &TestFile) -> String {
    let header = Header::read(&file.bytes()).unwrap();
    Tokenizer::read(&header.metadata).unwrap_err().join("\n")
}

fn bpe_file(tokens: &[&str], merges: &[&str]) -> TestFile {
    TestFile::new()
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", tokens)
        .texts("tokenizer.ggml.merges", merges)
}

fn built(file: &TestFile) -> (tokenizers::Tokenizer, Json) {
    let header = Header::read(&file.bytes()).unwrap();
    let tokenizer = Tokenizer::read(&header.metadata).unwrap().unwrap();
    (tokenizer.json().to_string().parse().unwrap(), tokenizer.config())
}

#[test]
fn a_file_without_a_tokenizer_has_none() {
    let header = Header::read(&TestFile::new().bytes()).unwrap();
    assert!(Tokenizer::read(&header.metadata).unwrap().is_none());
}

#[test]
fn contradictions_are_named() {
    let tokens = ["a", "b", "ab", "<s>"];
    let file = || bpe_file(&tokens, &["a b"]);
    let cases = [
        (TestFile::new().text("tokenizer.ggml.model", "t5"), "`tokenizer.ggml.model` is `t5`, which is not supported"),
        (TestFile::new().text("tokenizer.ggml.model", "gpt2"), "`tokenizer.ggml.tokens` is missing"),
        (TestFile::new().text("tokenizer.ggml.model", "gpt2"), "`tokenizer.ggml.merges` is missing"),
        (
            TestFile::new().text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", &tokens),
            "`tokenizer.ggml.scores` is missing",
        ),
        (
            file().numbers("tokenizer.ggml.token_type", &[1, 1, 1]),
            "`tokenizer.ggml.token_type` has 3 values for 4 tokens",
        ),
        (file().numbers("tokenizer.ggml.token_type", &[1, 1, 9, 3]), "`tokenizer.ggml.token_type` has 9 at place 2"),
        (file().number("tokenizer.ggml.eos_token_id", 4), "`tokenizer.ggml.eos_token_id` is 4, and there are 4 tokens"),
        (file().text("tokenizer.ggml.pre", "grok-2"), "`tokenizer.ggml.pre` is `grok-2`, which is not known"),
        (bpe_file(&["a", "b", "a"], &[]), "has \"a\" twice, at places 0 and 2"),
        (bpe_file(&tokens, &["a b", "b a"]), "has \"b a\" at place 1: two tokens that make a third"),
        (bpe_file(&tokens, &["ab"]), "has \"ab\" at place 0"),
        (file().number("tokenizer.chat_template", 1), "`tokenizer.chat_template` is 1: a text is expected"),
        (
            file().raw("tokenizer.ggml.add_bos_token", 4, &[1, 0, 0, 0]),
            "`tokenizer.ggml.add_bos_token` is 1: true or false",
        ),
    ];
    for (file, expected) in cases {
        let text = faults(&file);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn words_are_cut_as_the_name_says() {
    let bytes = ["1", "2", "3", "4", "a", "b", "'", "s", "S", "Ġ", "Ċ", "c", "\u{304}", "Ì", "Ħ"];
    let vocabulary: Vec<&str> = bytes
        .iter()
        .copied()
        .filter(|token| *token != "\u{304}")
        .chain(["12", "ab", "123", "1234", "Ġa", "abc"])
        .collect();
    let merges = ["1 2", "a b", "12 3", "123 4", "Ġ a"];
    let cut = |pre: &str, text: &str| -> Vec<String> {
        let (tokenizer, _) = built(&bpe_file(&vocabulary, &merges).text("tokenizer.ggml.pre", pre));
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    };
    assert_eq!(cut("gpt-2", "1234 a"), ["1234", "Ġa"]);
    assert_eq!(cut("smollm", "1234"), ["1", "2", "3", "4"]);
    assert_eq!(cut("qwen2", "1234"), ["1", "2", "3", "4"]);
    assert_eq!(cut("llama-bpe", "1234"), ["123", "4"]);
    assert_eq!(cut("tekken", "12"), ["1", "2"]);
    // A word that is a token needs no merge.
    assert_eq!(cut("llama-bpe", "abc"), ["abc"]);
    assert_eq!(cut("dbrx", "abc"), ["ab", "c"]);
    assert_eq!(cut("gpt-2", "abc"), ["ab", "c"]);
    // Contractions of any case.
    assert_eq!(cut("gpt-2", "a'S"), ["a", "'", "S"]);
    assert_eq!(cut("llama-bpe", "a\n\nb"), ["a", "Ċ", "Ċ", "b"]);
}

#[test]
fn bos_is_added_where_the_file_or_the_name_says_so() {
    let file = |pre: &str| {
        bpe_file(&["a", "<s>", "</s>"], &[])
            .numbers("tokenizer.ggml.token_type", &[1, 3, 3])
            .number("tokenizer.ggml.bos_token_id", 1)
            .number("tokenizer.ggml.eos_token_id", 2)
            .text("tokenizer.ggml.pre", pre)
    };
    let ids = |file: TestFile| built(&file).0.encode("a", true).unwrap().get_ids().to_vec();
    assert_eq!(ids(file("gpt-2")), [0]);
    assert_eq!(ids(file("llama-bpe")), [1, 0]);
    assert_eq!(ids(file("llama-bpe").flag("tokenizer.ggml.add_bos_token", false)), [0]);
    let both = file("gpt-2").flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true);
    assert_eq!(ids(both), [1, 0, 2]);
}

#[test]
fn added_tokens_are_found_in_text_and_only_control_ones_are_special() {
    let file = bpe_file(&["a", "<ctl>", "<usr>", "[fill]"], &[]).numbers("tokenizer.ggml.token_type", &[1, 3, 4, 5]);
    let (tokenizer, config) = built(&file);
    assert_eq!(tokenizer.encode("a<usr><ctl>a", false).unwrap().get_ids(), [0, 2, 1, 0]);
    assert_eq!(tokenizer.decode(&[0, 2, 1, 0], true).unwrap(), "a<usr>a");
    assert_eq!(tokenizer.token_to_id("[fill]"), None);
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
}

#[test]
fn a_sentence_piece_vocabulary_may_have_no_space_before_a_text() {
    let tokens = ["<unk>", "<0x41>", "\u{2581}", "a", "b", "ab", "\u{2581}a"];
    let silent = || {
        TestFile::new()
            .text("tokenizer.ggml.model", "llama")
            .texts("tokenizer.ggml.tokens", &tokens)
            .floats("tokenizer.ggml.scores", &[0.0, 0.0, -3.0, -4.0, -5.0, -1.0, -2.0])
            .numbers("tokenizer.ggml.token_type", &[2, 6, 1, 1, 1, 1, 1])
            .number("tokenizer.ggml.unknown_token_id", 0)
    };
    let file = |prefix: bool| silent().flag("tokenizer.ggml.add_space_prefix", prefix);
    let ids = |prefix, text: &str| built(&file(prefix)).0.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids(true, "ab a"), [2, 5, 6]);
    assert_eq!(ids(false, "ab a"), [5, 6]);
    assert_eq!(ids(true, "A"), [2, 1], "a byte for what the vocabulary lacks");
    assert_eq!(built(&file(true)).0.decode(&[2, 5, 6], false).unwrap(), "ab a");
    // Where the file does not say, llama.cpp puts one.
    assert_eq!(built(&silent()).0.encode("ab a", false).unwrap().get_ids(), [2, 5, 6]);
}
