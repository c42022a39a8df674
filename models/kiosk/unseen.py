"""Phrasings for evaluation only."""

# fmt: off

NEW = {
    "price": [
        "What's the damage for {x}?", "How much will {x} set me back?", "What are you asking for {x}?",
        "How much do you want for {x}?", "Please quote me a price for {x}.", "What's the cost of {x}?",
        "So how much is {x} then?",
    ],
    "place": [
        "Which way to {x}?", "Could you point me to {x}?", "Whereabouts is {x}?",
        "I've been searching for {x}, which {u} is it?", "Where in the shop can I get {x}?",
        "What {u} should I go to for {x}?", "Where do you stock {x}?",
        "Please direct me to {x}.",
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

#: A second list, by somebody who saw neither the first nor what training asks; nobody looks at single errors on it.
BLIND = {
    "price": [
        "Can you tell me what {x} costs please", "how much would I pay for {x}",
        "Hi, I'd like to know the price of {x}", "what does {x} go for here",
        "there's no price tag on {x}, what is it?", "could you do a price check on {x}",
        "what's {x} going to cost me", "is {x} expensive? how much is it", "How much are you selling {x} for?",
        "what will I be charged at the register for {x}", "I want to buy {x}, what's the price",
        "cost of {x} please", "I'm on a budget, how much money do I need for {x}?",
    ],
    "place": [
        "I can't find {x}, where is it?",
        "I'm looking for {x}, where should I go",
        "can you point me to {x}?", "Excuse me, whereabouts is {x}?", "could you help me locate {x} please",
        "{x}, where is that?",
        "I've been walking around forever trying to find {x}, where is it", "Did you move {x}? Where is it now?",
        "{x} - what {u}?", "where in the shop do I find {x}?",
    ],
    "stock": [
        "how many of {x} do you have in stock", "Do you have any of {x} left?",
        "How much stock is left of {x}?",
        "what's the stock level for {x}", "do you have {x} available right now",
        "how many are left of {x}?", "Can you check your inventory for {x}", "how many units of {x} are there",
        "is {x} still available", "I need several of {x}, how many do you have?",
        "{x}, how many have you got?", "What quantity of {x} do you have on hand?",
        "Could you see if {x} is in stock today please", "the shelf looks empty, is there any more of {x}?",
        "are you running low on {x}",
    ],
    "hours": [
        "When do you open in the morning?", "how late are you open tonight", "Until what time can I shop here?",
        "store hours please",
    ],
    "wifi": [
        "what's the wifi password", "Do you have free wifi?", "how do I get on the internet here",
        "which network do I connect my phone to?", "Can I use your wi-fi?",
    ],
    "returns": [
        "what's your return policy", "Can I bring something back if I don't like it?",
        "how do I get a refund?",
        "I bought the wrong thing yesterday, can I take it back",
    ],
    "promotion": [
        "any deals today?", "What's on sale right now", "do you have any special offers this week?",
        "are there any discounts at the moment", "Is there a promotion going on?",
    ],
    "phone": [
        "what's your phone number", "What number do I call to reach the store?", "how can I call you guys",
        "can I get the shop's telephone number please?",
    ],
    "manager": [
        "who's the manager here", "What is the store manager's name?", "who is in charge of this shop?",
        "can you tell me who runs this store",
    ],
    "address": [
        "what's the address here", "What street is this store on?",
        "I need to give my taxi driver the address of this shop", "what is the store's full address please?",
    ],
    "parking": [
        "Is there parking here?", "do you have a parking lot?",
        "do I have to pay to park my car here",
    ],
    "restroom": [
        "Is there a toilet I can use?", "do you have a restroom for customers?",
        "my kid needs to pee, where are the toilets",
    ],
}
