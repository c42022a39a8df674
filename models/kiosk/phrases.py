"""What customers say. Each list has a training side and, under `HELD_OUT`, phrasings for evaluation only."""

# One phrase a line would make this four times as long.
# fmt: off

PRICE = [
    "How much is {x}?", "How much is {x}?", "How much does {x} cost?", "What does {x} cost?",
    "What is the price of {x}?", "price of {x}?", "What's the price of {x}?", "How much for {x}?",
    "How much are {x}?", "How much do {x} cost?", "{x} price?", "cost of {x}", "Can you tell me the price of {x}?",
    "What do I pay for {x}?", "How expensive is {x}?", "I'd like to know the price of {x}.",
    "What do you charge for {x}?", "Tell me the price of {x}", "Give me the price for {x}.", "how much {x}",
    "What's {x} cost?", "Price for {x}?", "What would {x} cost me?", "I want to buy {x}, how much is it?",
    "How much would {x} be?", "{x}, how much?", "How many dollars is {x}?", "What does {x} go for?",
    "What is {x} selling for?", "How much do you charge for {x}?", "How much do I pay for {x}?", "Is {x} cheap?",
    "What price is {x}?", "What's {x} going for?", "How much can I get {x} for?", "What is the price tag on {x}?",
    "For how much do you sell {x}?", "{x}: price?", "How much to buy {x}?", "What do you sell {x} for?",
    "Can I know the cost of {x}?", "Let me have the price of {x}", "Check the price of {x}", "{x} cost?",
    "Could you check the price of {x}?", "I need the price of {x}.", "what is the cost of {x}",
    "Do you know how much {x} costs?", "Is {x} expensive?", "How much money is {x}?", "What will I pay for {x}?",
    "How much is one {x}?",
]
PLACE = [
    "Where is {x}?", "Where do I find {x}?", "Where can I find {x}?", "Which {u} is {x} in?", "What {u} is {x} in?",
    "Where are {x}?", "In which {u} is {x}?", "Where do you keep {x}?", "{x} {u}?", "I'm looking for {x}.",
    "Can you tell me where {x} is?", "where is {x} located?", "Which {u} has {x}?", "Where would I find {x}?",
    "Where's {x}?", "Location of {x}?", "I can't find {x}.", "What {u} has {x}?", "Tell me where {x} is",
    "Where should I look for {x}?", "Which {u} do I go to for {x}?", "where to find {x}", "what {u} for {x}?",
    "Show me where {x} is.", "Do you know where {x} is?", "In what {u} can I find {x}?", "Which {u} are {x} in?",
    "{x}, where is it?", "Where abouts can I see {x}?", "Where did you hide {x}?", "How do I get to {x}?",
    "Take me to {x}.", "Lead me to {x}", "Where will I find {x}?", "On which {u} is {x}?", "Where do you sell {x}?",
    "Where can I get {x}?", "Where can I pick up {x}?", "Where does {x} sit?", "{x} location?", "{u} for {x}?",
    "{u} of {x}?", "Where is {x} kept?", "Can you show me {x}?", "Looking for {x}", "How can I find {x}?",
    "Which {u} number is {x}?", "What's the {u} for {x}?", "Where are you keeping {x}?", "I need to find {x}.",
    "Help me find {x}", "Where have you put {x}?", "Which {u} is {x}?", "Where in the store is {x}?",
]

#: Longer questions are put together: an opening and a clause.
OPENERS = [
    "Can you tell me {}?", "Could you tell me {}?", "Do you know {}?", "I'd like to know {}.", "I need to know {}.",
    "Tell me {}.", "Please let me know {}.", "I want to know {}.", "Would you tell me {}?", "Can you say {}?",
    "Just checking {}.", "I'm curious {}.", "Do you happen to know {}?", "I wonder {}.", "Can I ask {}?",
    "Can you check {}?", "Please tell me {}.", "I have a question: {}?", "My question is {}.", "Let me know {}",
    "{}?", "Can you find out {}?",
]
PRICE_CLAUSES = [
    "what {x} costs", "how much {x} is", "the price of {x}", "what the price of {x} is", "how much {x} costs",
    "how much I pay for {x}", "the cost of {x}", "what {x} goes for", "how much you charge for {x}",
    "how much {x} would be", "what you sell {x} for", "how much money I need for {x}", "the current price of {x}",
    "how pricey {x} is", "what I have to pay for {x}", "the price tag of {x}", "how much it costs to buy {x}",
    "what one {x} costs",
]
PLACE_CLAUSES = [
    "where {x} is", "where to find {x}", "where I can find {x}", "which {u} {x} is in", "the location of {x}",
    "what {u} to go to for {x}", "where {x} can be found", "where you keep {x}", "in which {u} {x} is",
    "the {u} of {x}", "where {x} are", "where you have {x}", "where {x} is kept", "which {u} has {x}",
    "the way to {x}", "how to find {x}", "where I should look for {x}", "where I get {x}", "which {u} I need for {x}",
    "the {u} number for {x}",
]
STOCK_CLAUSES = [
    "how many {x} you have", "if {x} is in stock", "whether {x} is available", "how many {x} are left",
    "if there is any {x} left", "the stock of {x}", "how many {x} are in stock", "whether you have {x} in stock",
    "how much {x} you have left", "if {x} is sold out",
]

#: What people say around a question.
CONTEXT = [
    "I'm making dinner tonight.", "My friend asked me to get some things.", "I'm in a hurry.", "It's for my sister.",
    "I'm new here.", "I have a long list today.", "We're having a party.", "My kids love it.",
    "I was here yesterday.", "I only have ten minutes.", "I forgot my glasses.", "Nice store!",
    "It's my first time here.",
]
STOCK = [
    "How many {x} do you have?", "Is {x} in stock?", "How many {x} are in stock?", "Are {x} in stock?",
    "How many {x} are left?", "Do you have {x} in stock?", "What is the stock of {x}?", "stock of {x}?",
    "How much {x} is left?", "Is {x} available?", "How many of {x} are there?", "Is there any {x} left?",
    "Are there any {x} left?", "Is {x} still in stock?", "{x} in stock?", "How many {x} can I buy?",
    "Can I still get {x}?", "Is {x} sold out?", "how many {x} left", "What's the stock level of {x}?",
]
ABOUT = [
    "Tell me about {x}.", "What can you tell me about {x}?", "Information on {x}", "What do you know about {x}?",
    "{x}", "{x}?", "How much is {x} and where is it?", "Where is {x} and what does it cost?", "Price and {u} of {x}?",
]
SELL = [
    "Do you sell {x}?", "Do you have {x}?", "Have you got {x}?", "Can I buy {x} here?", "Do you carry {x}?",
    "Do you stock {x}?",
]
TOPIC_QUESTIONS = {
    "hours": [
        "When are you open?", "What are your opening hours?", "What time do you open?", "What time do you close?",
        "When do you close?", "Opening hours?", "Are you open today?", "How late are you open?", "what are the hours",
        "When does the store open?", "Until when are you open?",
    ],
    "wifi": [
        "What is the wifi password?", "What's the Wi-Fi password?", "wifi password?", "Do you have wifi?",
        "How do I get on the wifi?", "Can I use the wifi?", "Can I have the wifi password?", "password for the wifi",
        "What's the WiFi code?", "Is there wifi here?",
    ],
    "returns": [
        "What is your return policy?", "Can I return this?", "How do returns work?", "Can I bring something back?",
        "What about refunds?", "Can I get a refund?", "How long do I have to return an item?", "return policy?",
        "Do you accept returns?", "What's the returns policy?",
    ],
    "promotion": [
        "Are there any promotions?", "What is on offer today?", "Any special offers?", "Do you have any deals?",
        "What's the promotion?", "What deals are there?", "any discounts today?", "Is anything on sale?",
        "What is the special offer?",
    ],
    "phone": [
        "What is your phone number?", "How can I call you?", "phone number?", "Can I have your telephone number?",
        "What's the store's number?",
    ],
    "manager": [
        "Who is the manager?", "What's the manager's name?", "Who runs this store?", "name of the manager?",
        "Who is in charge here?",
    ],
}

#: Second and third turns: the same product asked for something else, or the same thing of another product.
IT_PRICE = [
    "And how much is it?", "How much is it?", "how much does it cost?", "And the price?", "what does it cost?",
    "and what's the price?", "How much?", "What about the price?",
]
IT_PLACE = [
    "And where is it?", "Where is it?", "where can I find it?", "Which {u}?", "Where do I find it?",
    "and which {u} is it in?", "In which {u}?", "where?",
]
IT_STOCK = [
    "How many are left?", "Is it in stock?", "how many do you have?", "And is it in stock?",
    "Do you have it in stock?", "How many are there?",
]
AND_OTHER = [
    "And {x}?", "What about {x}?", "and for {x}?", "How about {x}?", "and {x}", "OK, and {x}?", "Also {x}?",
]
BEFORE = [
    "", "", "", "", "", "", "", "", "Hi, ", "Hello, ", "Excuse me, ", "hey, ", "Hi! ", "Please, ", "Sorry, ",
    "Hello! ", "Good morning, ", "OK, ", "Um, ", "Thanks. ",
]
AFTER = [
    "", "", "", "", "", "", "", "", "", " please", ", please", " Thanks.", " today", " thanks", " here", " right now",
]
SMALL_TALK = [
    ([
        "Hi", "Hello", "Hello!", "hi there", "Hey", "Good morning", "Good afternoon", "good evening", "Hi!",
        "hello there", "Howdy", "hey there!",
    ], "Hello! How can I help you?"),
    ([
        "Thanks", "Thank you", "thank you!", "Thanks a lot", "ok thanks", "Great, thanks!", "Thank you very much",
        "cheers", "Perfect, thank you.",
    ], "You're welcome!"),
    ([
        "Bye", "Goodbye", "bye bye", "See you", "See you later!", "Have a nice day",
    ], "Goodbye, have a nice day!"),
    ([
        "Who are you?", "What are you?", "Are you a robot?", "What can you do?", "How can you help me?",
        "What is your name?",
    ], "I am the store assistant. Ask me about our products."),
    ([
        "What is the capital of France?", "Who won the game?", "Tell me a joke", "How old are you?",
        "What is 12 times 7?", "Write a poem.", "What's the weather like?", "Who is the president?",
        "What is the meaning of life?", "How far is the moon?", "Translate this to German.", "Do you like music?",
        "What day is it?",
    ], "Sorry, I don't know that."),
]
HELD_OUT = {
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
