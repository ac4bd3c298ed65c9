//! Batches in the order of training: everything once an epoch, packed as unpacked, resumed as not interrupted.

use std::collections::BTreeMap;

use rankine_data::{Batch, Cursor, Example, GlobalBatch, IGNORED, Loader, LoaderConfig, RecordSource};

const PAD: u32 = 9_999;

/// `count` examples of lengths 2 to 40, each with tokens of its own.
fn examples(count: usize) -> Vec<Example> {
    (0..count)
        .map(|index| {
            let length = 2 + ((index * 2_654_435_761) >> 7) % 39;
            let input_ids: Vec<u32> = (0..length).map(|at| (index * 100 + at) as u32).collect();
            let labels = input_ids
                .iter()
                .enumerate()
                .map(|(at, id)| if at * 3 >= length { i64::from(*id) } else { IGNORED })
                .collect();
            Example {
                input_ids,
                labels,
                completion_start: None,
                source: RecordSource::new("a.jsonl", index + 1),
                dataset: (index % 3) as u32,
            }
        })
        .collect()
}

fn config(packing: bool, shuffle: bool, seed: u64) -> LoaderConfig {
    LoaderConfig {
        micro_batch_size: 3,
        gradient_accumulation_steps: 2,
        max_seq_len: 64,
        packing,
        shuffle,
        seed,
        pad_id: PAD,
    }
}

fn loader(count: usize, weights: &[f64], config: LoaderConfig) -> Loader {
    Loader::new(examples(count), weights.to_vec(), config)
}

/// The documents of a batch, by segment, with everything that belongs to each.
fn documents(batch: &Batch) -> Vec<(Vec<u32>, Vec<i64>, Vec<u32>)> {
    let mut documents = Vec::new();
    for row in 0..batch.rows {
        let range = row * batch.length..(row + 1) * batch.length;
        let segments = &batch.segment_ids[range.clone()];
        let last = segments.iter().copied().max().unwrap_or_default();
        for segment in 1..=last {
            let places: Vec<usize> = range.clone().filter(|at| segments[at - range.start] == segment).collect();
            assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a document lies in one piece");
            documents.push((
                places.iter().map(|at| batch.input_ids[*at]).collect(),
                places.iter().map(|at| batch.labels[*at]).collect(),
                places.iter().map(|at| batch.position_ids[*at]).collect(),
            ));
        }
        for at in range.filter(|at| batch.segment_ids[*at] == 0) {
            assert_eq!((batch.input_ids[at], batch.labels[at], batch.position_ids[at]), (PAD, IGNORED, 0));
        }
    }
    assert_eq!(documents.len(), batch.sources.len());
    documents
}

fn epoch(loader: &mut Loader) -> Vec<GlobalBatch> {
    let number = loader.cursor().epoch;
    let mut batches = Vec::new();
    while loader.cursor().epoch == number {
        batches.push(loader.next());
    }
    batches
}

#[test]
fn an_epoch_has_every_example_once_packed_or_not() {
    for seed in 0..6 {
        for (packing, shuffle) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut loader = loader(301, &[], config(packing, shuffle, seed));
            for number in 0..2 {
                let steps = loader.steps_in_epoch(number);
                let batches = epoch(&mut loader);
                assert_eq!(batches.len(), steps);
                let mut found = BTreeMap::new();
                for batch in batches.iter().flat_map(|batch| &batch.micro_batches) {
                    for (document, source) in documents(batch).into_iter().zip(&batch.sources) {
                        assert!(found.insert(source.line, document).is_none(), "{source} comes twice");
                    }
                }
                // Content, labels and positions are what one row for each example would have.
                for example in examples(301) {
                    let (ids, labels, positions) = &found[&example.source.line];
                    assert_eq!(ids, &example.input_ids);
                    assert_eq!(labels[0], IGNORED);
                    assert_eq!(labels[1..], example.labels[1..]);
                    assert_eq!(positions, &(0..ids.len() as u32).collect::<Vec<_>>());
                }
                assert_eq!(found.len(), 301);
                let trained: usize = batches.iter().map(|batch| batch.trained_tokens).sum();
                assert_eq!(trained, examples(301).iter().map(Example::trained_tokens).sum::<usize>());
            }
        }
    }
}

#[test]
fn packed_rows_are_full_and_never_too_long() {
    let mut loader = loader(2000, &[], config(true, true, 1));
    let (mut rows, mut tokens) = (0, 0);
    for batch in epoch(&mut loader).iter().flat_map(|batch| &batch.micro_batches) {
        assert!(batch.length <= 64);
        rows += batch.rows;
        tokens += batch.tokens();
    }
    assert!(tokens as f64 / (rows * 64) as f64 > 0.97, "{tokens} tokens in {rows} rows of 64");
}

#[test]
fn global_batches_are_cut_into_micro_batches_and_the_last_is_not_lost() {
    let mut loader = loader(20, &[], config(false, false, 0));
    let batches = epoch(&mut loader);
    let shape: Vec<Vec<usize>> =
        batches.iter().map(|batch| batch.micro_batches.iter().map(|batch| batch.rows).collect()).collect();
    assert_eq!(shape, [vec![3, 3], vec![3, 3], vec![3, 3], vec![2]]);
    let lines: Vec<usize> = batches
        .iter()
        .flat_map(|batch| &batch.micro_batches)
        .flat_map(|batch| &batch.sources)
        .map(|source| source.line)
        .collect();
    assert_eq!(lines, (1..=20).collect::<Vec<_>>(), "without shuffling it is the order of the data");
    let fractions: Vec<f64> = batches.iter().map(|batch| batch.epoch_fraction).collect();
    assert_eq!(fractions, [0.25, 0.5, 0.75, 1.0]);
    assert_eq!(loader.cursor(), Cursor { epoch: 1, ..Cursor::default() });
    let longest = examples(20)[..3].iter().map(|example| example.input_ids.len()).max().unwrap();
    assert_eq!(batches[0].micro_batches[0].length, longest, "padded to the longest row and no further");
    assert!(
        batches.iter().all(|batch| {
            batch.trained_tokens == batch.micro_batches.iter().map(Batch::trained_tokens).sum::<usize>()
        })
    );
}

#[test]
fn a_resumed_loader_goes_on_as_if_it_had_not_been_interrupted() {
    for packing in [false, true] {
        let weights = [1.5, 0.5, 1.0];
        let mut whole = loader(200, &weights, config(packing, true, 11));
        let (mut cursors, mut batches) = (Vec::new(), Vec::new());
        for _ in 0..3 * whole.steps_in_epoch(0) {
            cursors.push(whole.cursor());
            batches.push(whole.next());
        }
        for at in (0..cursors.len()).step_by(7) {
            let stored = serde_json::to_string(&cursors[at]).unwrap();
            let mut resumed = loader(200, &weights, config(packing, true, 11));
            resumed.seek(serde_json::from_str(&stored).unwrap());
            for (offset, expected) in batches[at..].iter().take(9).enumerate() {
                assert_eq!(&resumed.next(), expected, "packing {packing}, batch {at} + {offset}");
            }
        }
        // Also after having been somewhere else.
        whole.seek(cursors[5]);
        assert_eq!(whole.next(), batches[5]);
    }
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let plan = |seed, number| loader(100, &[], config(true, true, seed)).plan_epoch(number);
    assert_eq!(plan(1, 0), plan(1, 0));
    assert_ne!(plan(1, 0), plan(1, 1));
    assert_ne!(plan(1, 0), plan(2, 0));
    // The micro-batch size is not part of the order.
    let mut other = config(true, true, 1);
    other.micro_batch_size = 1;
    assert_eq!(loader(100, &[], other).plan_epoch(0), plan(1, 0));
}

#[test]
fn weights_repeat_and_sample_whole_datasets() {
    let weights = [2.0, 0.5, 1.25];
    let loader = loader(300, &weights, config(false, true, 5));
    let all = examples(300);
    let counts = |number: usize| -> Vec<usize> {
        let mut counts = vec![0; 300];
        loader.plan_epoch(number).rows.iter().flatten().for_each(|index| counts[*index as usize] += 1);
        counts
    };
    let (first, second) = (counts(0), counts(1));
    for counts in [&first, &second] {
        let of = |dataset: u32| -> Vec<usize> {
            (0..300).filter(|index| all[*index].dataset == dataset).map(|index| counts[index]).collect()
        };
        assert!(of(0).iter().all(|count| *count == 2));
        assert!(of(1).iter().all(|count| *count <= 1));
        assert_eq!(of(1).iter().sum::<usize>(), 50);
        assert!(of(2).iter().all(|count| (1..=2).contains(count)));
        assert_eq!(of(2).iter().sum::<usize>(), 125);
    }
    assert_ne!(first, second, "another half each epoch");
}

#[test]
fn without_examples_there_is_nothing_to_wait_for() {
    let mut empty = loader(0, &[], config(true, true, 0));
    assert_eq!(empty.steps_in_epoch(0), 0);
    assert!(empty.next().micro_batches.is_empty());
    // A cursor beyond the epoch, as of a run with other data, begins the next.
    let mut short = loader(5, &[], config(false, false, 0));
    short.seek(Cursor { epoch: 2, step: 77, ..Cursor::default() });
    assert_eq!(short.next().epoch, 3);
}

/// Every document that is trained on, once, whole, without padding, and no row longer than it may be.
#[test]
fn pieces_hold_the_same_documents_without_padding() {
    let examples = examples(17);
    let untrained = Example { labels: vec![IGNORED; 5], input_ids: vec![7; 5], ..examples[0].clone() };
    let rows: Vec<Vec<&Example>> = vec![
        vec![&examples[0], &examples[1], &untrained],
        vec![&examples[2]],
        vec![&untrained],
        examples[3..].iter().collect(),
    ];
    let batch = Batch::from_examples(&rows, PAD);
    let mut expected = documents(&batch);
    expected.retain(|(_, labels, _)| labels.iter().any(|label| *label != IGNORED));
    for tokens in [1, 40, 64, 10_000] {
        let pieces = batch.pieces(tokens);
        let found: Vec<_> = pieces.iter().flat_map(documents).collect();
        assert_eq!(found, expected, "{tokens} tokens");
        for piece in &pieces {
            assert_eq!((piece.rows, piece.input_ids.len()), (1, piece.length));
            assert!(piece.segment_ids.iter().all(|segment| *segment > 0), "no padding");
            let documents = piece.segment_ids.last().copied().unwrap_or_default();
            assert!(piece.length <= tokens || documents == 1, "a row of {} of {tokens} tokens", piece.length);
        }
    }
    assert!(Batch::from_examples(&[vec![&untrained]], PAD).pieces(64).is_empty());
}
