//! The quantizer, with the model that ships.

use super::*;

const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

fn job(input: &Path, output: &Path) -> Quantization {
    Quantization {
        input: input.to_owned(),
        output: output.to_owned(),
        file_type: FileType::by_name("q4_0").expect("a type"),
        threads: Some(1),
        replace: false,
        requantize: false,
    }
}

#[test]
fn progress_and_warnings_are_read_from_the_log() {
    let heard = Mutex::new(Vec::new());
    let listener = Listener {
        progress: &|progress| heard.lock().push(progress),
        log: Mutex::default(),
    };
    listener.hear(
        sys::GGML_LOG_LEVEL_INFO,
        "[   3/ 290] blk.0.attn_k.weight - [",
    );
    listener.hear(sys::GGML_LOG_LEVEL_INFO, "[meta] not a tensor");
    listener.hear(sys::GGML_LOG_LEVEL_WARN, "warning: x   not divisible ");
    listener.hear(sys::GGML_LOG_LEVEL_WARN, "-> falling back to q5_0\n");
    let expected = QuantizeProgress {
        tensors: 3,
        total: 290,
    };
    assert_eq!(*heard.lock(), [expected]);
    let log = listener.log.into_inner();
    assert_eq!(log.warnings, ["x not divisible -> falling back to q5_0"]);
}

#[test]
fn what_cannot_be_a_model_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (text, output) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    let refuse = |input: &Path| {
        quantize(&job(input, &output), &|_| ())
            .expect_err("no model")
            .to_string()
    };
    assert!(refuse(&text).contains("check the path"));
    assert!(refuse(folder.path()).contains("check the path"));
    for content in ["", "GG", "hello"] {
        fs::write(&text, content).expect("written");
        assert!(refuse(&text).contains("is not a GGUF file"), "{content}");
    }
    fs::write(&text, "GGUF and nothing of the kind").expect("written");
    assert!(refuse(&text).contains("cannot quantize"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn a_file_that_exists_is_replaced_only_on_demand_and_never_the_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.gguf");
    fs::write(&output, "precious").expect("written");
    let mut job = job(Path::new(KIOSK), &output);
    let error = quantize(&job, &|_| ()).expect_err("exists").to_string();
    assert!(error.contains("--force"), "{error}");
    job.replace = true;
    // It is quantized already: what bore the name still does.
    let error = quantize(&job, &|_| ()).expect_err("quantized").to_string();
    assert!(
        error.contains("(Q8_0)") && error.contains("--allow-requantize"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&output).expect("read"), "precious");
    job.output = KIOSK.into();
    let error = quantize(&job, &|_| ()).expect_err("itself").to_string();
    assert!(error.contains("another name"), "{error}");
}

#[test]
fn a_whole_model_is_made_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.gguf");
    let job = Quantization {
        requantize: true,
        ..job(Path::new(KIOSK), &output)
    };
    let last = Mutex::new(None);
    let progress = |progress| *last.lock() = Some(progress);
    let made = quantize(&job, &progress).expect("a model");
    assert!(made.output_bytes < made.input_bytes);
    let last = last.into_inner().expect("some progress");
    assert_eq!(last.tensors, last.total);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    let model = super::super::load_model(&output, &super::super::LoadWatch::default());
    let (weights, _) = model.expect("it loads");
    assert_eq!(weights.info().quantization, "Q4_0");
}

#[test]
fn a_model_that_was_cut_off_is_shorter_than_it_says() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let whole = fs::read(KIOSK).expect("read");
    let expected = expected_bytes(Path::new(KIOSK)).expect("a GGUF");
    assert!(expected <= whole.len() as u64);
    fs::write(file.path(), &whole[..whole.len() - 4096]).expect("written");
    let cut = expected_bytes(file.path()).expect("its head is whole");
    assert!(cut > whole.len() as u64 - 4096);
}
