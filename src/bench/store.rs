//! What kiosks say: a store's prompt, and questions about it.

use std::fmt::Write;

/// Product lines that one request for a quotation asks for, some 20 tokens each.
const QUOTED: usize = 6;

/// The prompt of store `name`. Two stores differ from the name on, which stands at the beginning.
pub(super) fn prompt(name: &str, products: usize) -> String {
    let mut prompt =
        format!("You are the assistant of store {name}. Answer in one short sentence.\nProducts:");
    for number in 0..products {
        let (price, aisle) = (100 + number * 37 % 1900, 1 + number * 7 % 24);
        // Writing to a string cannot fail.
        let _ = write!(
            prompt,
            "\n- {}: ${}.{:02}, aisle {aisle}, {} in stock",
            product(number),
            price / 100,
            price % 100,
            number % 40
        );
    }
    prompt
}

/// The `number`-th question about a store with `products` products.
pub(super) fn question(number: usize, products: usize) -> String {
    // Prime and above the largest store: as many questions as products.
    let asked = number * 2003 % products.max(1);
    format!("How much is the {}?", product(asked))
}

/// Asks for a passage of the prompt, word for word.
pub(super) fn quotation(number: usize, products: usize) -> String {
    let first = number * QUOTED % products.max(1);
    let last = (first + QUOTED).min(products.max(1)) - 1;
    format!(
        "Quote the list of products word for word, from the {} to the {}.",
        product(first),
        product(last)
    )
}

/// The `number`-th question without a store.
pub(super) fn small_talk(number: usize) -> String {
    format!("Tell me something about the {}.", product(number))
}

fn product(number: usize) -> String {
    const KINDS: [&str; 7] = ["Tea", "Soap", "Bread", "Lamp", "Juice", "Rope", "Cheese"];
    const MAKERS: [&str; 9] = [
        "Alder", "Birch", "Cedar", "Dune", "Ember", "Fjord", "Grove", "Heath", "Isle",
    ];
    format!(
        "{} {} {}",
        MAKERS[number % MAKERS.len()],
        KINDS[number % KINDS.len()],
        1 + number / (MAKERS.len() * KINDS.len())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_is_about_the_store() {
        let prompt = prompt("a", 40);
        for number in 0..100 {
            let question = question(number, 40);
            let name = &question["How much is the ".len()..question.len() - 1];
            assert!(prompt.contains(&format!("- {name}: $")), "{name}");
        }
    }

    #[test]
    fn a_quotation_names_two_products_of_the_store_in_order() {
        for products in [1, 5, 30] {
            let prompt = prompt("a", products);
            for number in 0..20 {
                let text = quotation(number, products);
                let (_, names) = text.split_once("from the ").expect("a first product");
                let (first, last) = names.split_once(" to the ").expect("a last product");
                let last = last.trim_end_matches('.');
                let at = |name: &str| prompt.find(&format!("- {name}: $")).expect(name);
                assert!(at(first) <= at(last));
            }
        }
    }
}
