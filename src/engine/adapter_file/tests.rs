use super::super::gguf_editor::{GgufEditor, KIOSK};
use super::super::model_file::ModelFile;
use super::super::test_adapters::{RANK, header, numbers, write};
use super::super::{LoadWatch, backend, load_model};
use super::AdapterProblem::*;
use super::*;

const Q: (&str, usize, usize) = ("blk.0.attn_q.weight", 384, 256);
const NORM: &str = "blk.0.attn_norm.weight";

fn open(adapter: GgufEditor) -> Result<AdapterFile, AdapterError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    adapter.write(&path);
    opened(&path)
}

fn opened(path: &Path) -> Result<AdapterFile, AdapterError> {
    backend::backend().expect("llama.cpp");
    let model = ModelFile::open(Path::new(KIOSK)).expect("it ships");
    AdapterFile::open(path, &AdapterBase::of(model.header()))
}

/// What is wrong with an adapter; its message names the file.
fn problem(adapter: GgufEditor) -> AdapterProblem {
    let error = open(adapter).expect_err("it is refused");
    assert!(error.to_string().contains("adapter.gguf"), "{error}");
    match error {
        AdapterError::Unfit { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn half(adapter: GgufEditor, name: &str, shape: &[usize]) -> GgufEditor {
    let count = shape.iter().product();
    adapter.tensor(name, shape, &numbers(1, count))
}

/// An adapter with one pair of these shapes.
fn pair(adapter: GgufEditor, name: &str, a: &[usize], b: &[usize]) -> GgufEditor {
    let adapter = half(adapter, &format!("{name}.lora_a"), a);
    half(adapter, &format!("{name}.lora_b"), b)
}

fn good() -> GgufEditor {
    let (name, inputs, outputs) = Q;
    pair(header(), name, &[inputs, RANK], &[RANK, outputs])
}

#[test]
fn an_adapter_for_this_model_is_opened_and_its_bytes_are_known() {
    let adapter = open(good()).expect("nothing is wrong");
    assert_eq!(adapter.bytes(), 4 * 4 * (384 + 256));
    open(good().without("adapter.lora.alpha")).expect("llama.cpp does not scale then");
}

#[test]
fn metadata_of_other_kinds_or_types_are_refused() {
    let other = |key: &str, value: &str| problem(good().text(key, value));
    assert_eq!(other("general.type", "model"), NotAnAdapter);
    assert_eq!(other("adapter.type", "vera"), NotLora);
    assert_eq!(
        other("general.architecture", "llama"),
        OtherArchitecture {
            adapter: "llama".to_owned(),
            model: "qwen3".to_owned()
        }
    );
    assert_eq!(problem(GgufEditor::kiosk()), NotAnAdapter);
    // llama.cpp would end the process on each of these.
    assert_eq!(problem(good().i32("general.type", 1)), NotAnAdapter);
    assert_eq!(problem(good().flag("adapter.type", true)), NotLora);
    assert_eq!(
        problem(good().texts("adapter.type", &["lora".to_owned()])),
        NotLora
    );
    assert!(matches!(
        problem(good().u16("general.architecture", 3)),
        OtherArchitecture { .. }
    ));
    assert_eq!(problem(good().i32("adapter.lora.alpha", 16)), Alpha);
    for alpha in [f32::NAN, f32::INFINITY, 0.0] {
        assert_eq!(problem(good().f32("adapter.lora.alpha", alpha)), Alpha);
    }
    let activated = good().numbers("adapter.alora.invocation_tokens", &[5, 6]);
    assert_eq!(problem(activated), Activated);
}

#[test]
fn tensors_that_would_be_left_out_are_refused() {
    assert_eq!(problem(header()), Empty);
    assert_eq!(problem(half(good(), NORM, &[384])), NoPair(NORM.to_owned()));
    let norm = pair(good(), NORM, &[384, RANK], &[RANK, 1]);
    assert_eq!(problem(norm), NotAdaptable(NORM.to_owned()));
    let lone = "blk.1.attn_q.weight.lora_b";
    assert_eq!(
        problem(half(good(), lone, &[RANK, 256])),
        OneHalf(lone.to_owned())
    );
}

#[test]
fn matrices_that_do_not_go_together_are_refused() {
    let (name, inputs, outputs) = Q;
    let with = |a: &[usize], b: &[usize]| problem(pair(header(), name, a, b));
    let (a, b) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
    assert_eq!(with(&[inputs + 32, 4], &[4, outputs]), Shape(a.clone()));
    assert_eq!(with(&[inputs, 4], &[4, outputs + 1]), Shape(b.clone()));
    assert_eq!(with(&[inputs, 4], &[8, outputs]), Shape(a.clone()));
    assert_eq!(with(&[inputs, 4, 2], &[4, outputs]), Shape(a.clone()));
    assert_eq!(with(&[inputs, 4], &[4, outputs, 2]), Shape(b.clone()));
    assert_eq!(with(&[inputs, 385], &[385, outputs]), Rank(b));
    let missing = "blk.5.attn_q.weight";
    assert_eq!(
        problem(pair(header(), missing, &[inputs, 4], &[4, outputs])),
        UnknownTensor(missing.to_owned())
    );
    // The shipped model gives out tokens by the same matrix.
    let embedding = "token_embd.weight";
    assert_eq!(
        problem(pair(header(), embedding, &[4, 2136], &[4, 384])),
        NotAdaptable(embedding.to_owned())
    );
    // Blocks of 256 numbers in ggml's type `Q3_K`.
    let blocks = vec![0; 8 * 110];
    let quantized = good().tensor_of_type(&a, &[512, 4], 11, blocks);
    assert_eq!(problem(quantized), NumberType(a));
}

#[test]
fn a_file_that_is_cut_off_or_no_adapter_at_all_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    write(&path, 1, 1.0);
    let whole = std::fs::read(&path).expect("readable");
    opened(&path).expect("it is whole");
    for length in [whole.len() - 100, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).expect("written");
        let error = opened(&path).expect_err("cut off");
        assert!(error.to_string().contains("cut off"), "{error}");
    }
    std::fs::write(&path, &whole[..100]).expect("written");
    assert!(matches!(opened(&path), Err(AdapterError::Refused { .. })));
    std::fs::write(&path, "hello").expect("written");
    assert!(matches!(opened(&path), Err(AdapterError::NotGguf(_))));
    let error = opened(&folder.path().join("none.gguf")).expect_err("no such file");
    assert!(error.to_string().contains("none.gguf"), "{error}");
}

#[test]
fn a_model_of_several_files_is_known_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let part = |number: u16| {
        folder
            .path()
            .join(format!("big-0000{number}-of-00002.gguf"))
    };
    let split = |edited: GgufEditor, number: u16| {
        let edited = edited.u16("split.no", number).u16("split.count", 2);
        edited
            .i32("split.tensors.count", 58)
            .write(&part(number + 1));
    };
    split(GgufEditor::kiosk(), 0);
    split(
        half(GgufEditor::bare(), "blk.7.attn_q.weight", &[384, 256]),
        1,
    );
    let base = AdapterBase::of(ModelFile::open(&part(1)).expect("a model").header());
    assert!(base.adaptable("blk.7.attn_q.weight").is_ok());
    assert!(base.adaptable("blk.0.attn_q.weight").is_ok());
}

#[test]
fn whatever_byte_of_the_head_is_another_the_file_is_refused_or_can_be_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.gguf");
    good().write(&path);
    let original = std::fs::read(&path).expect("readable");
    let head = original.len() - 4 * 4 * (384 + 256);
    let (weights, _) = load_model(Path::new(KIOSK), &LoadWatch::default()).expect("it ships");
    for place in 4..head {
        for byte in [0, 1, 0xff, original[place] ^ 0x10] {
            let mut edited = original.clone();
            edited[place] = byte;
            std::fs::write(&path, edited).expect("written");
            if let Ok(file) = AdapterFile::open(&path, weights.adapter_base()) {
                let loaded = super::super::adapter::Adapter::load(&weights, &file);
                drop(loaded.expect("it was checked"));
            }
        }
    }
}
