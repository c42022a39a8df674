//! What the models are asked: chats by their own template where they have one, and raw text.

use edgellm::engine::{Token, Tokenizer, Vocabulary};
use edgellm::prompt::{Conversation, Message, Prompter, Role};

/// A prompt, and what its answer is expected to be.
#[derive(Debug, Clone)]
pub struct Question {
    pub prompt: Vec<Token>,
    /// OpenAI's `prediction`; wrong in places, as those of clients are.
    pub prediction: Vec<Token>,
}

const STORE: &str = "You are the assistant of Harbour Corner Shop. Answer in one short sentence with facts from the list.
Products:
- Brindle Oat Bar: $2.49, aisle 7, 31 in stock
- Quarry Sparkling Water: $1.15, aisle 3, 120 in stock
- Velmont Ground Coffee: $8.90, aisle 12, 14 in stock
- Osprey Sun Lotion: $11.75, aisle 5, out of stock
Opening hours: 8:00 to 21:30
Wifi password: lantern-4471";

/// Asked of the same store, one behind the other in a conversation.
const CUSTOMERS: [&[&str]; 7] = [
    &["How much is the Brindle Oat Bar?"],
    &["Where do I find the sparkling water?"],
    &[
        "Is there any sun lotion left?",
        "No, it is out of stock.",
        "And how much would it be?",
    ],
    &["When do you close?"],
    &[
        "What is the wifi password?",
        "It is lantern-4471.",
        "Please spell it, letter by letter.",
    ],
    &["Repeat the list of products, word for word."],
    &["Wie viel kostet der Kaffee? \u{2615} \u{00e4}\u{00f6}\u{00fc}\u{00df}"],
];

const CHATS: [&str; 4] = [
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that reverses a list.",
    "Count from one to twenty, in words, separated by commas.",
    "Say the word \"lantern\" ten times.",
];

const TEXTS: [&str; 5] = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday, Wednesday,",
    "Once upon a time, in a village at the foot of a mountain,",
    "{\"name\": \"Alice\", \"age\": 30}\n{\"name\": \"Bob\", \"age\": 25}\n{\"name\": \"Carol\",",
];

/// What a model is asked.
#[derive(Debug)]
pub struct Questions {
    pub questions: Vec<Question>,
    /// Others of 200 tokens or more that have nothing in common.
    pub strangers: Vec<Question>,
}

/// Sixteen questions: eleven chats, seven of which have their beginning in common, and five texts. A model
/// without a template completes texts, four of them longer than a window of 512 tokens.
pub fn questions(tokenizer: &Tokenizer) -> Questions {
    let raw = |text: &str| {
        tokenizer
            .bos()
            .into_iter()
            .chain(tokenizer.encode(text))
            .collect::<Vec<_>>()
    };
    let texts = TEXTS.iter().map(|text| raw(text));
    let prompts: Vec<Vec<Token>> = if tokenizer.info().chat_template.is_some() {
        chats(tokenizer).into_iter().chain(texts).collect()
    } else {
        // Four go beyond the window, and the rest does not take as long.
        let lines = |number| if number < 4 { 36 } else { 7 };
        (0..11)
            .map(|number| raw(&ledger(number, lines(number))))
            .chain(texts)
            .collect()
    };
    assert_eq!(prompts.len(), 16);
    let prediction = tokenizer.encode(
        "- Brindle Oat Bar: $2.49, aisle 7, 31 in stock\n- Quarry Still Water: $1.15, aisle 3\n",
    );
    let question = |prompt| Question {
        prompt,
        prediction: prediction.clone(),
    };
    let strangers = [3, 7, 11].map(|number| question(raw(&ledger(number, 12))));
    Questions {
        questions: prompts.into_iter().map(question).collect(),
        strangers: strangers.into(),
    }
}

fn chats(tokenizer: &Tokenizer) -> Vec<Vec<Token>> {
    let info = tokenizer.info();
    let prompter = Prompter::new(
        info.chat_template.as_deref(),
        &info.bos_text,
        &info.eos_text,
    );
    let prompter = prompter.expect("its template");
    let tokens = |messages: Vec<Message>| {
        let conversation = Conversation {
            messages,
            ..Conversation::default()
        };
        prompter
            .tokens(&conversation, tokenizer)
            .expect("a prompt")
            .tokens
    };
    let customers = CUSTOMERS.iter().map(|turns| {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        let turns = roles
            .zip(*turns)
            .map(|(role, text)| Message::text(role, *text));
        tokens(
            std::iter::once(Message::text(Role::System, STORE))
                .chain(turns)
                .collect(),
        )
    });
    let chats = CHATS
        .iter()
        .map(|text| tokens(vec![Message::text(Role::User, *text)]));
    customers.chain(chats).collect()
}

/// The beginning of a ledger with so many entries of some 17 tokens, which no other has.
fn ledger(number: usize, lines: usize) -> String {
    let goods = [
        "lamps",
        "ropes",
        "barrels of oil",
        "maps",
        "anchors",
        "bolts of cloth",
        "crates of tea",
    ];
    let entry = |line: usize| {
        let good = goods[(line * (number + 2) + number) % goods.len()];
        format!(
            "{line}. {} {good} for the harbour master, paid {} crowns\n",
            3 + line * 7 % 11,
            10 + line * 13 % 40
        )
    };
    let entries: String = (1..=lines).map(entry).collect();
    format!("Ledger of ship number {number}\n{entries}{}.", lines + 1)
}
