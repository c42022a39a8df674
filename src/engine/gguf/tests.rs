use super::super::gguf_editor::{GgufEditor, KIOSK};
use super::*;

const SPARE: u64 = u64::MAX / 2;

/// A header of these keys and tensors, with bytes for data behind it.
fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    file.extend(keys.concat());
    file.extend(tensors.concat());
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn list(key: &str, entry: u32, count: u64) -> Vec<u8> {
    [
        text(key),
        9_u32.to_le_bytes().to_vec(),
        entry.to_le_bytes().to_vec(),
        count.to_le_bytes().to_vec(),
    ]
    .concat()
}

fn number(key: &str, number: u32) -> Vec<u8> {
    [
        text(key),
        4_u32.to_le_bytes().to_vec(),
        number.to_le_bytes().to_vec(),
    ]
    .concat()
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend(u32::try_from(dimensions.len()).expect("few").to_le_bytes());
    out.extend(dimensions.iter().flat_map(|numbers| numbers.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn refusal(file: &[u8]) -> String {
    let header = GgufHeader::parse(file, file.len() as u64);
    header.expect_err("refused").to_string()
}

#[test]
fn the_shipped_models_header_is_what_is_known_of_it() {
    let bytes = std::fs::read(KIOSK).expect("the shipped model");
    let header = GgufHeader::parse(bytes.as_slice(), bytes.len() as u64).expect("sound");
    assert_eq!(header.architecture, "qwen3");
    assert_eq!(header.tensors.len(), 57);
    assert_eq!(header.data_offset, 65_888);
    assert_eq!(header.tensors[0].kind.name(), "Q8_0");
    assert_eq!(header.tensors[0].dimensions, [384, 2136, 1, 1]);
    let model = check_model(&header).expect("a model");
    assert_eq!((model.layers, model.heads[0], model.kv_heads[0]), (5, 4, 2));
    assert!(model.has_plain_cells());
    // Five layers of two heads with keys and values of 64 numbers in 16 bits.
    assert_eq!(model.cell_bytes(), 5 * 2 * 128 * 2);
}

#[test]
fn whatever_part_of_a_file_is_there_is_read_or_refused() {
    let bytes = std::fs::read(KIOSK).expect("the shipped model");
    for length in (0..66_000).step_by(997).chain([0, 3, 4, 8, 24, 25]) {
        fuzzing::read(&bytes[..length]);
    }
    fuzzing::read(&bytes);
}

#[test]
fn counts_that_the_file_has_no_room_for_are_refused_without_taking_memory() {
    for entry in [0, 4, 5, 6, 8, 10] {
        for count in [1 << 20, 1 << 40, u64::MAX, SPARE] {
            let message = refusal(&file(&[list("a.b", entry, count)], &[], 64));
            assert!(
                message.contains("`a.b`") && message.contains("no room"),
                "{message}"
            );
        }
    }
    let mut many = file(&[], &[], 64);
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&many).contains("tensors"));
    let mut many = file(&[], &[], 64);
    many[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&many).contains("keys"));
    // A text that claims to be longer than the file.
    let long = [&u64::MAX.to_le_bytes()[..], b"abc"].concat();
    assert!(refusal(&file(&[long], &[], 64)).contains("cut off"));
}

#[test]
fn what_is_no_metadata_is_refused_with_the_key() {
    let nested = list("a.nested", 9, 1);
    assert!(refusal(&file(&[nested], &[], 64)).contains("`a.nested` is a list of lists"));
    let twice = [number("a.b", 1), number("a.b", 2)];
    assert!(refusal(&file(&twice, &[], 64)).contains("`a.b` is there twice"));
    let unprintable = [number("a\0b", 1)];
    assert!(refusal(&file(&unprintable, &[], 64)).contains("printable"));
    for alignment in [0, 1, 24, 1 << 20] {
        let wrong = [number("general.alignment", alignment)];
        assert!(refusal(&file(&wrong, &[], 64)).contains("general.alignment"));
    }
}

#[test]
fn a_tensor_lies_in_the_file_behind_the_one_before_it() {
    let first = || tensor("a", &[32, 4], 8, 0);
    assert!(GgufHeader::parse(file(&[], &[first()], 136).as_slice(), 1000).is_ok());
    let refused = [
        (vec![first()], 100, "cut off"),
        (
            vec![first(), tensor("b", &[8], 0, 136)],
            999,
            "does not begin where",
        ),
        (
            vec![first(), tensor("b", &[8], 0, 0)],
            999,
            "does not begin where",
        ),
        (
            vec![first(), tensor("a", &[8], 0, 160)],
            999,
            "is there twice",
        ),
        (vec![tensor("a", &[33], 8, 0)], 999, "no whole blocks"),
        (vec![tensor("a", &[32], 4, 0)], 999, "does not know"),
        (vec![tensor("a", &[32, 0], 8, 0)], 999, "has no numbers"),
        (
            vec![tensor("a", &[1, 1, 1, 1, 1], 0, 0)],
            999,
            "four dimensions",
        ),
        (
            vec![tensor("a", &[1 << 40, 1 << 40], 0, 0)],
            999,
            "larger than any file",
        ),
        (
            vec![tensor("a", &[1 << 62], 0, 0)],
            999,
            "larger than any file",
        ),
    ];
    for (tensors, data, why) in refused {
        let message = refusal(&file(&[], &tensors, data));
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn dimensions_that_llama_cpp_would_not_survive_are_refused_with_the_key() {
    let refused = [
        ("block_count", 0),
        ("block_count", 513),
        ("nextn_predict_layers", 5),
        ("embedding_length", 0),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 0),
        ("rope.dimension_count", 63),
        ("rope.dimension_count", 66),
        ("expert_count", 4),
        ("expert_used_count", 1),
        ("pooling_type", 9),
        ("attention.sliding_window", u32::MAX),
    ];
    for (key, value) in refused {
        let key = format!("qwen3.{key}");
        let error = GgufEditor::kiosk().u32(&key, value).load();
        let message = error.expect_err("refused").to_string();
        assert!(
            message.contains(key.as_str()) || key.contains("expert"),
            "{message}"
        );
        assert!(message.contains("convert it again"), "{message}");
    }
    let scaling = GgufEditor::kiosk()
        .text("qwen3.rope.scaling.type", "huge")
        .load();
    let message = scaling.expect_err("refused").to_string();
    assert!(message.contains("`huge`"), "{message}");
    let adapter = GgufEditor::kiosk().text("general.type", "adapter").load();
    let message = adapter.expect_err("refused").to_string();
    assert!(message.contains("no model by itself"), "{message}");
}
