"""Thirty questions about three stores written by hand, as a shop owner would: a check from outside the generator."""

CORNER = """You are the assistant of Corner Fresh. Answer in one short sentence, only from these facts.
Products:
- Oat milk: $3.49, aisle 4, 12 in stock
- Sourdough loaf: $5.20, aisle 1, 6 in stock
- Blueberry muffins (4): $4.75, aisle 1, 9 in stock
- Free-range eggs: $6.10, aisle 3, 20 in stock
- Kalamata olives: $4.35, aisle 7, 15 in stock
- Zorvex Quinlo Tea: $8.80, aisle 5, 3 in stock
- Peanut butter: $3.95, aisle 6, 11 in stock
- Dish soap: $2.65, aisle 9, 30 in stock
- Paper towels: $7.25, aisle 9, 14 in stock
- Frozen peas: $1.89, aisle 12, 22 in stock
Opening hours: Mon-Sat 8:00-20:00
Wifi password: corner2024
Returns: within 14 days with receipt"""

HARDWARE = """\
This is the kiosk of Hinton Hardware. The garden hose costs $18.99 and is in aisle 12. The claw hammer costs \
$14.50 and is in aisle 3. Wood screws cost $6.25 and are in aisle 3. The paint roller set is $11.40, aisle 8. \
White wall paint costs $32.00 and is in aisle 8. A stepladder costs $54.90 and is in aisle 15. LED bulbs are \
$9.75 in aisle 6. The extension cord costs $13.30, aisle 6. Work gloves cost $7.80 and are in aisle 2. Duct tape \
is $4.60 and in aisle 5. We are open daily from 7am to 9pm."""

CAFE = """Product | Price | Aisle
Blueberry Muffin | 2.25 | 7
Cinnamon Roll | 3.10 | 7
Flat White | 3.80 | 2
Iced Lemonade | 2.95 | 2
Chicken Wrap | 6.40 | 11
Greek Yogurt Cup | 4.15 | 9
Almond Cookie | 1.75 | 7
Sparkling Water | 1.95 | 2
Tomato Soup | 5.60 | 10
Vegan Brownie | 3.35 | B4"""

#: (system prompt, question, value that must be in the answer)
QUESTIONS: list[tuple[str, str, str]] = [
    (CORNER, "How much is the oat milk?", "$3.49"),
    (CORNER, "Which aisle is the sourdough loaf in?", "1"),
    (CORNER, "What do the blueberry muffins cost?", "$4.75"),
    (CORNER, "Where do I find eggs?", "3"),
    (CORNER, "What's the price of kalamata olives?", "$4.35"),
    (CORNER, "how much is zorvex quinlo tea", "$8.80"),
    (CORNER, "Where is the peanut butter?", "6"),
    (CORNER, "price of dish soap?", "$2.65"),
    (CORNER, "Which aisle has paper towels?", "9"),
    (CORNER, "Where can I find the frozen peas?", "12"),
    (HARDWARE, "How much is the garden hose?", "$18.99"),
    (HARDWARE, "Where do I find the claw hammer?", "3"),
    (HARDWARE, "What do wood screws cost?", "$6.25"),
    (HARDWARE, "Which aisle is the paint roller set in?", "8"),
    (HARDWARE, "How much does white wall paint cost?", "$32.00"),
    (HARDWARE, "where is the stepladder?", "15"),
    (HARDWARE, "What's the price of LED bulbs?", "$9.75"),
    (HARDWARE, "Where are the extension cords?", "6"),
    (HARDWARE, "Do you know the price of the work gloves?", "$7.80"),
    (HARDWARE, "What aisle is duct tape in?", "5"),
    (CAFE, "How much is a blueberry muffin?", "2.25"),
    (CAFE, "Where do I find the cinnamon roll?", "7"),
    (CAFE, "What does a flat white cost?", "3.80"),
    (CAFE, "price of iced lemonade?", "2.95"),
    (CAFE, "Which aisle is the chicken wrap in?", "11"),
    (CAFE, "How much for the greek yogurt cup?", "4.15"),
    (CAFE, "What do almond cookies cost?", "1.75"),
    (CAFE, "Which aisle is sparkling water in?", "2"),
    (CAFE, "how much is tomato soup", "5.60"),
    (CAFE, "Where is the vegan brownie?", "B4"),
]
