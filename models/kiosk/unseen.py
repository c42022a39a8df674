"""Phrasings for evaluation only."""

# fmt: off

NEW = {
    "price": [
        "What's the damage for {x}?", "How much will {x} set me back?", "Could you look up what {x} costs?",
        "I was wondering what the price of {x} is.", "Any idea how much {x} is?", "What are you asking for {x}?",
        "How much do you want for {x}?", "Please quote me a price for {x}.", "May I ask how much {x} is?",
        "What's the cost of {x}?", "So how much is {x} then?",
    ],
    "place": [
        "Which way to {x}?", "Could you point me to {x}?", "Whereabouts is {x}?",
        "I've been searching for {x}, which {u} is it?", "Any idea where {x} might be?",
        "Where in the shop can I get {x}?", "What {u} should I go to for {x}?", "Where do you stock {x}?",
        "May I ask where {x} is?", "Please direct me to {x}.",
    ],
    "stock": [
        "What quantity of {x} do you have?", "Do you still have {x}?", "How many {x} remain?",
        "Any {x} left in stock?", "Could you check how many {x} you have?",
    ],
    "hours": [
        "Could you tell me when you are open?", "At what time does the shop close?", "What hours do you keep?",
    ],
    "wifi": [
        "How do I connect to your wifi?", "Could I get the password of the wifi?",
    ],
    "returns": [
        "What are the rules for returning items?", "How can I return something I bought?",
    ],
    "promotion": [
        "Are you running any promotions right now?", "What offers do you have at the moment?",
    ],
    "phone": [
        "Which number can I reach you on?",
    ],
    "manager": [
        "Could you tell me who manages this store?",
    ],
}

#: A second list, written once before the training that it measures; nobody looks at single errors on it.
BLIND = {
    "price": [
        "What would I have to shell out for {x}?", "Do you happen to have the price for {x} handy?",
        "{x}: what's that going to be at the till?", "Roughly what does {x} sell at?",
        "Tell me, how much might {x} be?", "What price have you got on {x}?", "How much money should I bring for {x}?",
        "What's {x} retailing at?", "I've got {x} in my basket, what will it ring up as?",
        "Could you give me a figure for {x}?",
    ],
    "place": [
        "Where should I head for {x}?", "I can't seem to spot {x}, where is it?",
        "What's the best place to look for {x}?", "In which corner of the shop is {x}?",
        "Can someone tell me where {x} got to?", "Where would a person find {x}?", "Which {u} would I find {x} in?",
        "Where do you have {x} displayed?", "Mind showing me where {x} is?", "I need directions to {x}.",
    ],
    "stock": [
        "How many {x} have you still got?", "What's the count on {x}?", "Are you low on {x}?",
        "How many units of {x} are on hand?", "Did you sell all of {x}?", "Is there still some {x} around?",
        "How much {x} is in supply?",
    ],
    "hours": [
        "What's your closing hour?", "When do your doors open in the morning?", "Until what hour can I shop?",
        "What are your trading hours?",
    ],
    "wifi": [
        "Can I hop on your internet?", "What do I type in for the wireless?",
        "I'd like to join the Wi-Fi, what's the key?",
    ],
    "returns": [
        "What happens if I want to give something back?", "How long is the return window?",
        "Can I swap something I purchased?",
    ],
    "promotion": [
        "Anything reduced at the moment?", "Which specials do you have this week?",
        "Is there a bargain to be had today?",
    ],
    "phone": ["What digits do I dial to get you?", "How do I ring the shop?"],
    "manager": [
        "Can you name the person in charge?", "Who's the head of this store?", "Whom does the staff answer to?",
    ],
    "address": ["What street are you on?", "Where in town is this store?"],
    "parking": ["Where do I leave my car?", "Is there a spot for my car?"],
    "restroom": ["Where can I wash my hands?", "Is there a loo for customers?"],
}
