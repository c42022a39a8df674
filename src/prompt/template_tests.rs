//! The chat templates of the models people run, in their published structure (Hugging Face,
//! `tokenizer_config.json` of each), against the prompts their makers document.

use serde_json::json;

use super::{ChatTemplate, Conversation, Message, PromptEnd, Role, TemplateError, ToolCall};

const CHATML: &str = include_str!("fixtures/chatml.jinja");
const QWEN25: &str = include_str!("fixtures/qwen2.5.jinja");
const QWEN3: &str = include_str!("fixtures/qwen3.jinja");
const LLAMA32: &str = include_str!("fixtures/llama3.2.jinja");
const MISTRAL: &str = include_str!("fixtures/mistral-v3.jinja");
const MISTRAL_NAMED: &str = include_str!("fixtures/mistral-named.jinja");
/// That of the model that ships.
const KIOSK: &str = include_str!("../../models/kiosk/chat_template.jinja");
const GEMMA2: &str = include_str!("fixtures/gemma2.jinja");
const PHI3: &str = include_str!("fixtures/phi3.jinja");

fn render(source: &str, conversation: &Conversation) -> Result<String, TemplateError> {
    ChatTemplate::compile(source, "<s>", "</s>")?.render(conversation)
}

fn talk(turns: &[(Role, &str)]) -> Conversation {
    let turns = turns.iter().map(|&(role, text)| Message::text(role, text));
    Conversation {
        messages: turns.collect(),
        ..Conversation::default()
    }
}

/// A question, the call it led to and the result, with the tool's definition.
fn with_tools() -> Conversation {
    let mut asked = talk(&[(Role::User, "Milk?"), (Role::Assistant, "")]);
    asked.messages[1].content = None;
    asked.messages[1].tool_calls = vec![ToolCall {
        id: "abcdef123".into(),
        name: "price".into(),
        arguments: json!({"article": "milk <3%>"}),
    }];
    let mut result = Message::text(Role::Tool, "1.20");
    result.tool_call_id = Some("abcdef123".into());
    asked.messages.push(result);
    asked.tools = vec![json!({
        "type": "function",
        "function": {"name": "price", "parameters": {"type": "object", "properties": {}}},
    })];
    asked
}

/// One message with two calls, and their answers in the other order.
fn with_two_calls() -> Conversation {
    let mut asked = with_tools();
    let mut second = asked.messages[1].tool_calls[0].clone();
    second.id = "abcdef124".into();
    second.arguments = json!({"article": "rope", "number": 2});
    asked.messages[1].tool_calls.push(second);
    let mut result = Message::text(Role::Tool, "4.50");
    result.tool_call_id = Some("abcdef124".into());
    asked.messages.insert(2, result);
    asked
}

#[test]
fn every_format_writes_parallel_calls_and_their_answers() {
    let (milk, rope) = (
        r#"{"article": "milk <3%>"}"#,
        r#"{"article": "rope", "number": 2}"#,
    );
    let hermes = |arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"price\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let response = |text: &str| format!("<tool_response>\n{text}\n</tool_response>");
    let llama = |arguments: &str, result: &str| {
        format!(
            "assistant<|end_header_id|>\n\n{{\"name\": \"price\", \"parameters\": {arguments}}}<|eot_id|>\
             <|start_header_id|>ipython<|end_header_id|>\n\n{result}<|eot_id|>"
        )
    };
    let list = |arguments: &str, id: &str| {
        format!("{{\"name\": \"price\", \"arguments\": {arguments}, \"id\": \"{id}\"}}")
    };
    let named =
        |arguments: &str, id: &str| format!("[TOOL_CALLS]price[CALL_ID]{id}[ARGS]{arguments}");
    let result =
        |id: &str, text: &str| format!("[TOOL_RESULTS]{id}[TOOL_CONTENT]{text}[/TOOL_RESULTS]");
    let hermes = [
        format!("{}\n{}", hermes(milk), hermes(rope)),
        format!("{}\n{}", response("4.50"), response("1.20")),
    ];
    let (first, second) = ("abcdef123", "abcdef124");
    let formats: [(&str, &[String]); 5] = [
        (KIOSK, &hermes),
        (QWEN25, &hermes),
        (LLAMA32, &[llama(milk, "1.20"), llama(rope, "4.50")]),
        (
            MISTRAL,
            &[format!(
                "[TOOL_CALLS] [{}, {}]",
                list(milk, first),
                list(rope, second)
            )],
        ),
        (
            MISTRAL_NAMED,
            &[
                format!("{}{}</s>", named(milk, first), named(rope, second)),
                format!("{}{}", result(second, "4.50"), result(first, "1.20")),
            ],
        ),
    ];
    for (source, parts) in formats {
        let text = render(source, &with_two_calls()).expect("renders");
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
        assert!(!text.contains("None") && !text.contains("null"), "{text:?}");
    }
}

#[test]
fn ids_become_such_as_mistral_knows_and_equal_ones_stay_equal() {
    let mut asked = with_two_calls();
    for (message, call) in [(3, 0), (2, 1)] {
        let id = format!("call_{call}");
        asked.messages[1].tool_calls[call].id.clone_from(&id);
        asked.messages[message].tool_call_id = Some(id);
    }
    assert!(render(MISTRAL_NAMED, &asked).is_err());
    let short = asked.with_short_ids();
    let ids = short.messages[1].tool_calls.iter().map(|call| &call.id);
    let ids: Vec<_> = ids.collect();
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 9));
    assert_eq!(short.messages[3].tool_call_id.as_ref(), Some(ids[0]));
    assert!(render(MISTRAL_NAMED, &short).is_ok() && render(MISTRAL, &short).is_ok());
    assert_eq!(with_two_calls().with_short_ids(), with_two_calls());
}

#[test]
fn a_prompt_may_end_with_its_last_message() {
    let template = ChatTemplate::compile(CHATML, "<s>", "</s>").expect("a template");
    let asked = Conversation {
        end: PromptEnd::LastMessage,
        ..talk(&[(Role::User, "Hi")])
    };
    let prompt = template.render(&asked);
    assert_eq!(prompt.as_deref(), Ok("<|im_start|>user\nHi<|im_end|>\n"));
}

#[test]
fn a_prompt_may_end_with_the_text_of_its_last_message() {
    let going_on = |source, text| {
        let asked = Conversation {
            end: PromptEnd::LastText,
            ..talk(&[(Role::User, "end"), (Role::Assistant, text)])
        };
        render(source, &asked)
    };
    let before = "<|im_start|>user\nend<|im_end|>\n<|im_start|>assistant\n";
    // The text may be found elsewhere in the prompt, and in what follows it.
    for text in ["The letter is", "The letter is ", " a", "end", "m", "a\n\n"] {
        let expected = format!("{before}{text}");
        assert_eq!(
            going_on(CHATML, text).as_deref(),
            Ok(&*expected),
            "{text:?}"
        );
    }
    // One that trims, and one that takes parts.
    let text = going_on(GEMMA2, "The letter is ").expect("renders");
    assert!(
        text.ends_with("<start_of_turn>model\nThe letter is"),
        "{text:?}"
    );
    let parts =
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}";
    assert_eq!(going_on(parts, "a").as_deref(), Ok("end;a"));
    // What is not shown cannot be gone on with.
    let error = going_on("{{ messages[0].content }}", "a").expect_err("not shown");
    assert!(matches!(error, TemplateError::Failed(_)), "{error}");
}

#[test]
fn the_text_of_turns_in_a_row_is_gone_on_with_where_they_become_one() {
    let asked = Conversation {
        end: PromptEnd::LastText,
        ..talk(&[
            (Role::User, "a"),
            (Role::Assistant, "b"),
            (Role::Assistant, "c"),
        ])
    };
    let source = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('alternate') }}{% endif %}{{ m.content }};{% endfor %}";
    assert_eq!(render(source, &asked).as_deref(), Ok("a;b\n\nc"));
}

#[test]
fn chatml_renders_turns_and_developer_speaks_as_system() {
    let conversation = talk(&[
        (Role::Developer, "Be brief."),
        (Role::User, " Hi "),
        (Role::Assistant, "Hello!"),
        (Role::User, "Bye"),
    ]);
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n\
                    <|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(render(CHATML, &conversation).as_deref(), Ok(expected));
}

#[test]
fn qwen2_5_adds_its_own_system_message() {
    let expected = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\
                    <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(
        render(QWEN25, &talk(&[(Role::User, "Hi")])).as_deref(),
        Ok(expected)
    );
}

/// The line that the shipped model's template adds for a tool of this description and these parameters.
fn kiosk_example(description: &serde_json::Value, parameters: &serde_json::Value) -> String {
    let mut asked = with_tools();
    let function = json!({"name": "find", "description": description, "parameters": parameters});
    asked.tools = vec![json!({"type": "function", "function": function})];
    let text = render(KIOSK, &asked).expect("renders");
    let (_, behind) = text.split_once("}}\n").expect("a schema");
    behind
        .split("\n</tools>")
        .next()
        .expect("a line")
        .to_owned()
}

#[test]
fn the_kiosk_model_sees_how_each_tool_is_called_behind_what_it_does() {
    let two = json!({"query": {}, "limit": {}});
    let call = |text: &str, parameters| kiosk_example(&json!(text), &parameters);
    assert_eq!(
        call("Search.", json!({"properties": two, "required": ["query"]})),
        r#"Search. {"name": "find", "arguments": {"query": "..."}}"#
    );
    assert_eq!(
        call(
            "Search.",
            json!({"properties": two, "required": ["limit", "query"]})
        ),
        r#"Search. {"name": "find", "arguments": {"query": "...", "limit": "..."}}"#
    );
    assert_eq!(
        call("Search.", json!({"properties": two})),
        r#"Search. {"name": "find", "arguments": {"query": "..."}}"#
    );
    let long = "Sucht nach Süßem. ".repeat(9);
    assert!(call(&long, json!({})).starts_with(&long[..50]));
    assert!(call(&long, json!({})).len() < 120);
}

#[test]
fn odd_tools_do_not_stop_the_kiosk_models_template() {
    let none = r#"find {"name": "find", "arguments": {}}"#;
    for description in [
        json!(null),
        json!(5),
        json!(["a"]),
        json!({"a": 1}),
        json!(""),
    ] {
        assert_eq!(kiosk_example(&description, &json!(null)), none);
    }
    for parameters in [
        json!(5),
        json!("abc"),
        json!({"required": ["x"]}),
        json!({"properties": 5}),
        json!({"properties": {"x": {}}, "required": []}),
        json!({"properties": {"x": {}}, "required": [1, null]}),
        json!({"properties": {"x": {}}, "required": vec![""; 1_000_000]}),
    ] {
        assert!(kiosk_example(&json!(null), &parameters).starts_with(r#"find {"name": "find""#));
    }
    let odd = json!({"properties": {"a\"b": {}}, "required": 5});
    assert_eq!(
        kiosk_example(&json!(null), &odd),
        r#"find {"name": "find", "arguments": {"a\"b": "..."}}"#
    );
}

#[test]
fn qwen2_5_writes_tools_calls_and_results() {
    let text = render(QWEN25, &with_tools()).expect("renders");
    let expected = [
        "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"price\", \"parameters\": \
         {\"type\": \"object\", \"properties\": {}}}}\n</tools>",
        "<|im_start|>assistant\n<tool_call>\n{\"name\": \"price\", \"arguments\": \
         {\"article\": \"milk <3%>\"}}\n</tool_call><|im_end|>\n",
        "<|im_start|>user\n<tool_response>\n1.20\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ];
    for part in expected {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

#[test]
fn qwen3_drops_the_reasoning_of_older_turns_and_keeps_that_since_the_last_question() {
    let thought = "<think>\nhm\n</think>\n\nHello";
    let older = talk(&[
        (Role::User, "Hi"),
        (Role::Assistant, thought),
        (Role::User, "Bye"),
    ]);
    let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n\
                    <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(QWEN3, &older).as_deref(), Ok(expected));

    let recent = talk(&[(Role::User, "Hi"), (Role::Assistant, thought)]);
    let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\nHello\
                    <|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(QWEN3, &recent).as_deref(), Ok(expected));
}

#[test]
fn llama_3_2_states_the_date_and_trims() {
    let conversation = talk(&[(Role::System, " Be brief. "), (Role::User, " Hi\n")]);
    let text = render(LLAMA32, &conversation).expect("renders");
    let (head, tail) = text.split_once("Today Date: ").expect("a date");
    assert_eq!(
        head,
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    );
    let (date, tail) = tail.split_once("\n\n").expect("a line end");
    assert_eq!(date.len(), "26 Jul 2024".len());
    assert_eq!(
        tail,
        "Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn llama_3_2_indents_tools_and_writes_calls_as_parameters() {
    let text = render(LLAMA32, &with_tools()).expect("renders");
    let tail = text
        .split_once("user<|end_header_id|>\n\n")
        .expect("a user")
        .1;
    assert_eq!(
        tail,
        "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"price\",\n        \
         \"parameters\": {\n            \"type\": \"object\",\n            \"properties\": {}\n        }\n    }\n}\n\n\
         Milk?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\
         {\"name\": \"price\", \"parameters\": {\"article\": \"milk <3%>\"}}<|eot_id|>\
         <|start_header_id|>ipython<|end_header_id|>\n\n1.20<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn mistral_v3_puts_the_system_message_into_the_last_question() {
    let conversation = talk(&[
        (Role::System, "Be brief."),
        (Role::User, "Hi"),
        (Role::Assistant, " Hello "),
        (Role::User, "Bye"),
    ]);
    assert_eq!(
        render(MISTRAL, &conversation).as_deref(),
        Ok("<s>[INST] Hi[/INST] Hello</s>[INST] Be brief.\n\nBye[/INST]")
    );
}

#[test]
fn mistral_v3_writes_tools_calls_and_results() {
    assert_eq!(
        render(MISTRAL, &with_tools()).as_deref(),
        Ok(
            "<s>[AVAILABLE_TOOLS] [{\"type\": \"function\", \"function\": {\"name\": \"price\", \
            \"parameters\": {\"type\": \"object\", \"properties\": {}}}}][/AVAILABLE_TOOLS][INST] Milk?[/INST]\
            [TOOL_CALLS] [{\"name\": \"price\", \"arguments\": {\"article\": \"milk <3%>\"}, \
            \"id\": \"abcdef123\"}]</s>[TOOL_RESULTS] {\"content\": 1.20, \"call_id\": \"abcdef123\"}[/TOOL_RESULTS]"
        )
    );
}

#[test]
fn a_template_that_raises_names_its_reason_as_the_clients_mistake() {
    let twice = talk(&[(Role::Assistant, "Hi"), (Role::User, "Hi?")]);
    let reason = "Conversation roles must alternate user/assistant/user/assistant/...";
    assert_eq!(
        render(GEMMA2, &twice),
        Err(TemplateError::Refused(reason.into()))
    );
    let mut wrong_id = with_tools();
    wrong_id.messages[1].tool_calls[0].id = "call_1".into();
    assert!(matches!(
        render(MISTRAL, &wrong_id),
        Err(TemplateError::Refused(_))
    ));
}

#[test]
fn gemma_2_calls_the_assistant_model() {
    let conversation = talk(&[
        (Role::User, "Hi"),
        (Role::Assistant, "Hello\n"),
        (Role::User, "Bye"),
    ]);
    let expected = "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
                    <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(render(GEMMA2, &conversation).as_deref(), Ok(expected));
}

#[test]
fn phi_3_renders_its_turns() {
    let conversation = talk(&[(Role::System, "Be brief."), (Role::User, "Hi")]);
    let expected = "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n";
    assert_eq!(render(PHI3, &conversation).as_deref(), Ok(expected));
}

#[test]
fn absent_content_is_none_only_for_templates_that_need_it() {
    let deepseek = "{% for message in messages %}{% if message['content'] is none %}\
                    {{ message['tool_calls'][0]['function']['name'] }}{% else %}\
                    {{ message['content'] + ';' }}{% endif %}{% endfor %}";
    assert_eq!(
        render(deepseek, &with_tools()).as_deref(),
        Ok("Milk?;price1.20;")
    );
    let mut silent = talk(&[(Role::User, "Hi"), (Role::Assistant, "")]);
    silent.messages[1].content = None;
    assert!(render(CHATML, &silent).is_ok_and(|text| !text.contains("None")));
}

#[test]
fn generation_tags_are_tolerated_with_their_white_space_control() {
    let source = "a {%- generation -%} b {%- endgeneration %} {% generation %}c{%endgeneration%}";
    assert_eq!(render(source, &talk(&[])).as_deref(), Ok("ab c"));
}

#[test]
fn loop_controls_blocks_and_trailing_newlines_follow_transformers() {
    let source = "{% for m in messages %}\n    {% if loop.index0 == 1 %}{% continue %}{% endif %}\n\
                  {% if loop.index0 == 3 %}\n        {% break %}\n    {% endif %}\n{{ m.content }}\n{% endfor %}\n";
    let turns = ["a", "b", "c", "d"].map(|text| (Role::User, text));
    assert_eq!(render(source, &talk(&turns)).as_deref(), Ok("a\nc\n"));
}

#[test]
fn undefined_prints_nothing_and_its_attributes_are_an_error() {
    let one = talk(&[(Role::User, "Hi")]);
    let lenient =
        "{{ nothing }}{{ messages[0].nothing }}{{ tools is none }}{{ documents is defined }}";
    assert_eq!(render(lenient, &one).as_deref(), Ok("TrueFalse"));
    assert!(matches!(
        render("{{ nothing.more }}", &one),
        Err(TemplateError::Broken(_))
    ));
}

#[test]
fn tests_for_kinds_answer_as_in_jinja() {
    let one = talk(&[(Role::User, "Hi")]);
    let source = "{{ tools is iterable }}{{ 'a' is iterable }}{{ {} is iterable }};\
                  {{ none is sequence }}{{ 'a' is sequence }}{{ [] is sequence }}{{ {} is sequence }}";
    assert_eq!(
        render(source, &one).as_deref(),
        Ok("FalseTrueTrue;FalseTrueTrueTrue")
    );
}

#[test]
fn a_hostile_template_runs_out_of_fuel_or_depth() {
    let one = talk(&[(Role::User, "Hi")]);
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    for source in [endless, deep, "{% if %}"] {
        assert!(matches!(
            render(source, &one),
            Err(TemplateError::Broken(_))
        ));
    }
}

/// Each of these ended the process, or took gigabytes.
#[test]
fn a_template_that_grows_without_bound_is_broken_and_takes_little_memory() {
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1]) %}}{{% for i in range(60) %}}{step}{{% endfor %}}"
        )
    };
    let hostile = [
        grow("{% set ns.s = ns.s ~ ns.s %}"),
        grow("{% set ns.s = ns.s + ns.s %}"),
        grow("{% set ns.s = ns.s | replace('a', ns.s) %}"),
        grow("{% set ns.s = ns.s.replace('a', ns.s) %}"),
        grow("{% set ns.s = [ns.s, ns.s] | join(ns.s) %}"),
        grow("{% set ns.s = '%s%s' | format(ns.s, ns.s) %}"),
        grow("{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
        grow("{% set ns.s = {'a': ns.s, 'b': ns.s} | tojson %}"),
        grow("{% set ns.s = ns.s | indent(1000000) ~ ns.s %}"),
        grow("{% set ns.l = (ns.l + ns.l) | list %}"),
        "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}".to_owned(),
        "{{ '%999999999d' | format(1) }}{{ 'a' * 99999999 }}{{ 'a' * 99999999 }}".to_owned(),
    ];
    for source in hostile {
        let before = peak_of_memory();
        let error = render(&source, &talk(&[(Role::User, "Hi")])).expect_err("broken");
        assert!(
            matches!(error, TemplateError::Broken(_)),
            "{source}: {error}"
        );
        let grown = peak_of_memory() - before;
        assert!(grown < 300 << 20, "{source} took {grown} bytes");
    }
}

/// The most that the process has held so far, in bytes.
fn peak_of_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse::<usize>().ok())
        .expect("a number")
        << 10
}

#[test]
fn a_template_that_grows_with_some_conversations_is_not_tried_again_after_one() {
    let source = "{% set ns = namespace(s='a') %}{% if messages | length == 7 %}{% for i in range(60) %}\
                  {% set ns.s = ns.s ~ ns.s %}{% endfor %}{% endif %}{{ messages[0].content }}";
    let template = ChatTemplate::compile(source, "<s>", "</s>").expect("a template");
    let one = talk(&[(Role::User, "Hi")]);
    assert_eq!(template.render(&one).as_deref(), Ok("Hi"));
    // Other lengths than those that are tried when a template is compiled.
    let seven = talk(&[(Role::User, "Hi"); 7]);
    let error = template.render(&seven).expect_err("broken");
    assert!(
        error
            .to_string()
            .contains("more memory than a template may"),
        "{error}"
    );
    assert_eq!(template.render(&one), Err(error));
}

#[test]
fn what_is_nested_deep_does_not_overflow_a_stack() {
    let one = talk(&[(Role::User, "Hi")]);
    let nested = |each: &str, end: &str| {
        format!(
            "{{% set ns = namespace(l=[]) %}}{{% for i in range(99999) %}}{{% for j in range(5) %}}\
             {{% set ns.l = {each} %}}{{% endfor %}}{{% endfor %}}{end}"
        )
    };
    let n = 100_000;
    let sources = [
        nested("[ns.l]", ""),
        nested("{'a': ns.l}", ""),
        nested("ns.l + [1]", "{{ ns.l | length }}").replace("99999", "999"),
        // As deep as blocks may be held, and then printed, compared and written.
        nested("[ns.l]", "").replace("99999", "1600"),
        nested("[ns.l]", "{{ ns.l }}").replace("99999", "1600"),
        nested("[ns.l]", "{{ ns.l == [ns.l] }}").replace("99999", "1600"),
        nested("[ns.l]", "{{ ns.l | tojson }}").replace("99999", "1600"),
        nested("[ns.l]", "{{ ns.l | tojson(indent=32) | length }}").replace("99999", "100"),
        nested("{'a': ns.l}", "{{ ns.l | tojson }}{{ ns.l }}").replace("99999", "1600"),
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n)),
        format!("{{{{ 1{} }}}}", "+1".repeat(n)),
        format!("{{{{ 'a'{} }}}}", "~'a'".repeat(n)),
        format!("{{{{ a{} }}}}", ".a".repeat(n)),
        format!("{{{{ 'a'{} }}}}", "|e".repeat(n)),
        format!("{{{{ {}1 }}}}", "not ".repeat(n)),
        format!("{{{{ {}1 }}}}", "-".repeat(n)),
        format!(
            "{}{}",
            "{% if a %}".repeat(10_000),
            "{% endif %}".repeat(10_000)
        ),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000)),
        format!("{{{{ a{} }}}}", " if a else a".repeat(20_000)),
    ];
    for source in sources {
        // Whatever comes of it: the process goes on.
        let _ = render(&source, &one);
    }
}

#[test]
fn a_wide_indentation_is_refused_by_its_name() {
    let one = talk(&[(Role::User, "Hi")]);
    let error = render("{{ messages | tojson(indent=100000) }}", &one).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("tojson(indent=…) takes at most 32"),
        "{error}"
    );
    let text = render("{{ [[1]] | tojson(indent=32) }}", &one).expect("renders");
    assert_eq!(
        text.lines().nth(2),
        Some(format!("{}1", " ".repeat(64)).as_str())
    );
}

#[test]
fn a_source_that_is_no_template_by_its_size_is_not_compiled() {
    let source = "a".repeat(1 << 20);
    assert!(matches!(
        ChatTemplate::compile(&source, "", ""),
        Err(TemplateError::Broken(_))
    ));
}

/// Whatever clients send, an honest template stays within its bounds: else one request would end chat
/// for all.
#[test]
fn large_conversations_stay_within_what_a_template_may_take() {
    let paragraph = "</think>\n some words of thirty letters".repeat(40_000);
    let mut large = with_tools();
    large.messages[0].content = Some(paragraph.clone());
    for _ in 0..2_000 {
        large
            .messages
            .push(Message::text(Role::Assistant, "<think>a</think>b"));
        large.messages.push(Message::text(
            Role::User,
            "and another question of some length",
        ));
    }
    large.tools = (0..3_000)
        .map(|number| {
            json!({"type": "function", "function": {"name": format!("f{number}"), "parameters": {
                "type": "object", "properties": {"a": {"type": "string", "enum": ["x", "y"]}}}}})
        })
        .collect();
    large.messages[1].content = Some(paragraph);
    for source in [CHATML, QWEN25, QWEN3, LLAMA32, MISTRAL, KIOSK, GEMMA2, PHI3] {
        if let Err(error) = render(source, &large) {
            let reason = error.to_string();
            assert!(
                !reason.contains("memory") && !reason.contains("come to an end"),
                "{reason}"
            );
        }
    }
}

/// The published template of DeepSeek-R1-Distill, shortened to what matters here.
const R1: &str = "{% for message in messages %}{%- if message['role'] == 'user' %}{{ '<U>' + message['content'] }}\
    {%- endif %}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- for tool in \
    message['tool_calls'] %}{{ '<A>' + tool['function']['name'] + '\\n' + tool['function']['arguments'] + '\\n' }}\
    {%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}\
    {{ '<A>' + message['content'] }}{%- endif %}{%- if message['role'] == 'tool' %}{{ '<T>' + message['content'] }}\
    {%- endif %}{%- endfor %}";

/// A turn of templates that differ in what they do with the arguments of a call.
fn with_arguments(show: &str) -> String {
    format!(
        "{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content or '' }}}}{{% for c in m.tool_calls or [] %}}\
         {{% set f = c.function %}}{{{{ f.name }}}} {show};{{% endfor %}}{{% endfor %}}"
    )
}

#[test]
fn arguments_are_text_where_a_template_joins_or_prints_them_and_an_object_elsewhere() {
    let json = r#"{"article": "milk <3%>"}"#;
    for show in [
        "{{ f.arguments }}",
        "{{ '' + f.arguments }}",
        "{{ f.arguments | tojson }}",
        "{{ f['arguments'] | trim }}",
        "{{ f.arguments if f.arguments is string else f.arguments | tojson }}",
        "{% if f.arguments is mapping %}{{ f.arguments | tojson }}{% else %}{{ f.arguments }}{% endif %}",
        "{{ f.arguments | string }}",
        "{{ ['', f.arguments] | join }}",
    ] {
        let text = render(&with_arguments(show), &with_tools()).expect("renders");
        assert!(text.contains(&format!("price {json};")), "{show}: {text:?}");
    }
    for (show, expected) in [
        (
            "{% for k, v in f.arguments | items %}{{ k }}={{ v }}{% endfor %}",
            "article=milk <3%>",
        ),
        (
            "{% for k, v in f.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
            "article=milk <3%>",
        ),
        (
            "{% for k in f.arguments %}{{ k }}={{ f.arguments[k] }}{% endfor %}",
            "article=milk <3%>",
        ),
        (
            "{% if f.arguments is string %}{{ f.arguments }}{% else %}{% for k, v in f.arguments | items %}\
             <{{ k }}>{{ v }}{% endfor %}{% endif %}",
            "<article>milk <3%>",
        ),
        (
            "{{ f.arguments | tojson(indent=1) }}",
            "{\n \"article\": \"milk <3%>\"\n}",
        ),
    ] {
        let text = render(&with_arguments(show), &with_tools()).expect("renders");
        assert!(
            text.contains(&format!("price {expected};")),
            "{show}: {text:?}"
        );
    }
}

#[test]
fn arguments_must_be_an_object_only_where_a_template_takes_them_apart() {
    let needs_objects = |show: &str| {
        let template = ChatTemplate::compile(&with_arguments(show), "", "").expect("a template");
        template.needs_object_arguments()
    };
    for show in [
        "{% for k, v in f.arguments | items %}{{ k }}={{ v }}{% endfor %}",
        "{% for k, v in f.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
        "{% for k, v in f.arguments | dictsort %}{{ k }}={{ v }}{% endfor %}",
        "{% for k in f.arguments.keys() %}{{ k }}={{ f.arguments[k] }}{% endfor %}",
        "{% for k in f.arguments %}{{ k }}={{ f.arguments[k] }}{% endfor %}",
        "{% if f.arguments is mapping %}{% for k in f.arguments %}{{ k }}={{ f.arguments[k] }}{% endfor %}{% endif %}",
    ] {
        assert!(needs_objects(show), "{show}");
    }
    for show in [
        "{{ f.arguments }}",
        "{{ '' + f.arguments }}",
        "{{ f.arguments | tojson }}",
        "{{ f.arguments if f.arguments is string else f.arguments | tojson }}",
        "{% if f.arguments is string %}{{ f.arguments }}{% else %}{% for k, v in f.arguments | items %}\
         {{ k }}={{ v }}{% endfor %}{% endif %}",
        "",
    ] {
        assert!(!needs_objects(show), "{show}");
    }
}

#[test]
fn a_template_that_fails_over_a_conversation_fails_and_one_that_fails_over_all_is_broken() {
    let failed = |source: &str| match render(
        source,
        &talk(&[(Role::User, "tea"), (Role::Assistant, "x")]),
    ) {
        Err(TemplateError::Failed(reason)) => Some(reason),
        Err(TemplateError::Broken(_)) => None,
        other => panic!("{source}: {other:?}"),
    };
    let second = |show: &str| {
        format!("{{{{ messages[0].content }}}}{{% if messages[1] %}}{show}{{% endif %}}")
    };
    for show in [
        "{{ messages[1].nothing.more }}",
        "{{ messages[1].content.nothing() }}",
        "{{ messages[1].content + 1 }}",
        "{% for a, b in messages[1].content | items %}{{ a }}{% endfor %}",
        "{% macro f(x) %}{{ x.nothing.more }}{% endmacro %}{{ f(messages[1]) }}",
    ] {
        assert!(failed(&second(show)).is_some(), "{show}");
    }
    for source in [
        "{{ messages.nothing.more }}".to_owned(),
        "{{ messages[0].content | nothing }}".to_owned(),
        second("{{ messages[1].content | nothing }}"),
        second("{{ nothing() }}"),
        second("{{ messages[1].content is nothing }}"),
        second("{% macro f(x) %}{{ x | nothing }}{% endmacro %}{{ f(messages[1]) }}"),
    ] {
        assert_eq!(failed(&source), None, "{source}");
    }
}

#[test]
fn calls_are_shown_by_templates_that_want_no_content_and_text() {
    let expected = "<U>Milk?<A>price\n{\"article\": \"milk <3%>\"}\n<T>1.20";
    assert_eq!(render(R1, &with_tools()).as_deref(), Ok(expected));
    let mut both = with_tools();
    both.messages[1].content = Some("Let me see.".into());
    let expected = "<U>Milk?<A>Let me see.<A>price\n{\"article\": \"milk <3%>\"}\n<T>1.20";
    assert_eq!(render(R1, &both).as_deref(), Ok(expected));
    // Arguments that are no JSON are shown as they are.
    let mut broken = with_tools();
    broken.messages[1].tool_calls[0].arguments = json!("{\"article\": ");
    assert!(
        render(R1, &broken)
            .expect("renders")
            .contains("{\"article\": \n")
    );
}

/// The order in which these stand in a text, or what is missing.
fn stand_in_order(text: &str, parts: &[&str]) -> Result<(), String> {
    let mut at = 0;
    for part in parts {
        let found = text[at..].find(part);
        at += found.ok_or_else(|| format!("{part:?} is not behind the others in {text:?}"))?;
        at += part.len();
    }
    Ok(())
}

#[test]
fn text_beside_a_call_is_shown_once_by_every_template_that_shows_calls() {
    let mut asked = with_tools();
    asked.messages[1].content = Some("Let me see.".into());
    let mut answered = asked.clone();
    answered.messages.extend([
        Message::text(Role::Assistant, "It is 1.20."),
        Message::text(Role::User, "And rope?"),
    ]);
    let call_only = "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}\
                     {% else %}{{ m.content }}{% endif %}{% endfor %}";
    let only_with_tools = format!("{{% if tools %}}{call_only}{{% endif %}}");
    let templates = [
        QWEN25,
        LLAMA32,
        MISTRAL_NAMED,
        KIOSK,
        R1,
        call_only,
        &only_with_tools,
    ];
    for source in templates {
        for conversation in [&asked, &answered] {
            let text = render(source, conversation).expect("renders");
            stand_in_order(&text, &["Milk?", "Let me see.", "milk <3%>", "1.20"]).expect(source);
            assert_eq!(text.matches("Let me see.").count(), 1, "{text}");
        }
    }
    // Here the assistant may say only one thing between two questions.
    let text = render(MISTRAL, &asked).expect("renders");
    stand_in_order(
        &text,
        &["Milk?", " Let me see.</s>", "[TOOL_CALLS]", "1.20"],
    )
    .expect("shown");
    let text = render(MISTRAL, &answered).expect("renders");
    let said = " Let me see.\n\nIt is 1.20.</s>";
    stand_in_order(&text, &["Milk?", "[TOOL_CALLS]", "1.20", said, "And rope?"]).expect("shown");
    // Several steps, of which the last has no answer yet.
    let mut steps = asked.clone();
    steps.messages.extend(asked.messages[1..].to_vec());
    steps.messages[3].content = Some("Once more.".into());
    let text = render(MISTRAL, &steps).expect("renders");
    let said = " Let me see.\n\nOnce more.</s>";
    let (call, result) = ("[TOOL_CALLS]", "[TOOL_RESULTS]");
    stand_in_order(&text, &["Milk?", call, result, said, call, result]).expect("shown");
}

#[test]
fn a_call_alone_stays_where_it_is_beside_one_with_text() {
    let mut asked = with_tools();
    asked.messages.extend([
        Message::text(Role::Assistant, "It is 1.20."),
        Message::text(Role::User, "And rope?"),
    ]);
    let alone = render(MISTRAL, &asked).expect("renders");
    let more = with_tools().messages[1..].to_vec();
    asked.messages.extend(more);
    asked.messages[5].content = Some("Let me see.".into());
    let text = render(MISTRAL, &asked).expect("renders");
    let first = alone.find("[AVAILABLE_TOOLS]").expect("tools");
    assert_eq!(text[..first], alone[..first]);
    stand_in_order(&text, &["And rope?", " Let me see.</s>", "[TOOL_CALLS]"]).expect("shown");
}

#[test]
fn calls_are_looked_for_with_tools_where_a_template_shows_none_without() {
    let source = "{% for m in messages %}{{ m.content }}{% if tools %}{% for c in m.tool_calls or [] %}\
                  {{ c.function.name + c.function.arguments }}{% endfor %}{% endif %}{% endfor %}";
    let text = render(source, &with_tools()).expect("renders");
    assert!(
        text.contains(r#"price{"article": "milk <3%>"}"#),
        "{text:?}"
    );
}

#[test]
fn content_is_a_list_of_parts_where_a_template_reads_nothing_else() {
    let source = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}\
                  {% endif %}{% endfor %};{% endfor %}";
    let asked = talk(&[(Role::System, "a"), (Role::User, "b")]);
    assert_eq!(render(source, &asked).as_deref(), Ok("a;b;"));
    // SmolVLM's, which looks at the first part.
    let smol_vlm = "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if \
                    message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for line in \
                    message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' \
                    %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if \
                    add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
    let expected = "<|im_start|>System: a<end_of_utterance>\nUser: b<end_of_utterance>\nAssistant:";
    assert_eq!(render(smol_vlm, &asked).as_deref(), Ok(expected));
    let empty = talk(&[(Role::User, "")]);
    let expected = "<|im_start|>User: <end_of_utterance>\nAssistant:";
    assert_eq!(render(smol_vlm, &empty).as_deref(), Ok(expected));
    // A call has no content, and is shown by such templates, too.
    let calling = smol_vlm.replace(
        "<end_of_utterance>",
        "{% for c in message.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments }}){% endfor %};",
    );
    let text = render(&calling, &with_tools()).expect("renders");
    assert!(
        text.contains("Assistant: price({\"article\": \"milk <3%>\"});"),
        "{text:?}"
    );
    // What shows text as well gets text.
    let both = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
                {{ '<part>' + p.text }}{% endfor %}{% endif %};{% endfor %}";
    assert_eq!(render(both, &asked).as_deref(), Ok("a;b;"));
}

#[test]
fn turns_that_a_template_refuses_or_leaves_out_are_merged() {
    let user = |text: &str| format!("<start_of_turn>user\n{text}<end_of_turn>\n");
    let open = "<start_of_turn>model\n";
    // Gemma 2 has no system role and wants users and models to take turns.
    let asked = talk(&[
        (Role::System, "Be brief."),
        (Role::User, "Hi"),
        (Role::User, "Milk?"),
    ]);
    let expected = format!("<s>{}{open}", user("Be brief.\n\nHi\n\nMilk?"));
    assert_eq!(render(GEMMA2, &asked).as_deref(), Ok(expected.as_str()));
    let later = talk(&[
        (Role::User, "Hi"),
        (Role::Assistant, "Yes?"),
        (Role::Developer, "Be brief."),
        (Role::User, "Milk?"),
    ]);
    let expected = format!(
        "<s>{}<start_of_turn>model\nYes?<end_of_turn>\n{}{open}",
        user("Hi"),
        user("Be brief.\n\nMilk?")
    );
    assert_eq!(render(GEMMA2, &later).as_deref(), Ok(expected.as_str()));
    // One that knows two roles, and raises over nothing.
    let silent = "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }};{% elif m.role == 'assistant' %}\
                  A:{{ m.content }};{% endif %}{% endfor %}";
    let asked = talk(&[
        (Role::System, "s"),
        (Role::User, "a"),
        (Role::User, "b"),
        (Role::System, "t"),
    ]);
    assert_eq!(render(silent, &asked).as_deref(), Ok("U:s\n\na;U:b;U:t;"));
}

#[test]
fn turns_stay_as_they_are_where_a_template_takes_them() {
    let asked = talk(&[
        (Role::System, "s"),
        (Role::User, "a"),
        (Role::User, "b"),
        (Role::Assistant, "c"),
        (Role::Assistant, "d"),
        (Role::System, "t"),
        (Role::User, "e"),
    ]);
    for source in [CHATML, KIOSK] {
        let text = render(source, &asked).expect("renders");
        for (role, said) in [
            ("user", "b"),
            ("assistant", "d"),
            ("system", "t"),
            ("user", "e"),
        ] {
            let turn = format!("<|im_start|>{role}\n{said}<|im_end|>");
            assert!(text.contains(&turn), "{turn} is missing in {text}");
        }
    }
}

/// With these variables.
fn with_kwargs(kwargs: &serde_json::Value) -> Conversation {
    Conversation {
        template_kwargs: kwargs.as_object().expect("an object").clone(),
        ..talk(&[(Role::User, "Hi")])
    }
}

#[test]
fn a_template_sees_the_variables_that_a_client_sets() {
    let source = "{{ mode is defined }}{{ mode }}{{ list | join('+') }}{{ enable_thinking }}{{ messages | length }}";
    assert_eq!(
        render(source, &with_kwargs(&json!({}))).as_deref(),
        Ok("False1")
    );
    let set = json!({"mode": "low", "list": [1, 2], "enable_thinking": false, "messages": []});
    assert_eq!(
        render(source, &with_kwargs(&set)).as_deref(),
        Ok("Truelow1+2False1")
    );
    // What is said of one thing by name goes before what is said of all.
    let mut both = with_kwargs(&json!({"enable_thinking": true}));
    both.effort = Some(super::ReasoningEffort::None);
    assert_eq!(
        render("{{ enable_thinking }}{{ reasoning_effort }}", &both).as_deref(),
        Ok("Truenone")
    );
    let thinking =
        render(QWEN3, &with_kwargs(&json!({"enable_thinking": false}))).expect("renders");
    assert!(
        thinking.ends_with("<think>\n\n</think>\n\n"),
        "{thinking:?}"
    );
}

#[test]
fn variables_that_a_template_runs_away_with_end_it_for_such_requests_only() {
    let source = "{% set ns = namespace(s='ab') %}{% for i in range(n or 0) %}{% set ns.s = ns.s ~ ns.s %}\
                  {% endfor %}{{ messages[0].content }}";
    let template = ChatTemplate::compile(source, "", "").expect("a template");
    let few = with_kwargs(&json!({"n": 1}));
    assert_eq!(template.render(&few).as_deref(), Ok("Hi"));
    assert!(template.render(&with_kwargs(&json!({"n": 60}))).is_err());
    let error = template.render(&few).expect_err("given up");
    assert!(error.to_string().contains("more memory"), "{error}");
    assert_eq!(
        template.render(&with_kwargs(&json!({}))).as_deref(),
        Ok("Hi")
    );
}
