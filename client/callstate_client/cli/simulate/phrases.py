"""What simulated callers and agents say: a few everyday errands, written for the simulation.

`{…}` are slots that a scenario fills in, so that calls about the same errand differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Errand:
    """One reason to call.

    Args:
        name: one word, used as a label.
        greeting: the agent's first words when called.
        outreach: the agent's first words when calling.
        exchanges: (caller, agent) pairs, used in order; a long call starts over.
        farewell: (caller, agent), the last words of a call that went well.
    """

    name: str
    greeting: str
    outreach: str
    exchanges: tuple[tuple[str, str], ...]
    farewell: tuple[str, str]


SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "name": ("Amara", "Zoë", "Jürgen", "Siobhán", "Kenji", "Lucía", "Owen", "Priya", "Łukasz", "Mei"),
    "day": ("today", "tomorrow", "Friday", "next Monday", "the 14th", "Saturday"),
    "time": ("half past seven", "noon", "a quarter to six", "8:15", "ten in the morning", "five o'clock"),
    "count": ("two", "three", "four", "five", "six", "eight"),
    "digits": ("4417", "0932", "7750", "1286", "6604", "3391"),
    "amount": ("€18.50", "$240", "£1,120", "€75", "$9.99", "£36"),
    "street": ("Mill Lane", "Harbour Street", "Rue des Lilas", "Elm Avenue", "Königsallee"),
}

ERRANDS: Final[tuple[Errand, ...]] = (
    Errand(
        "restaurant",
        "Good evening, Osteria Luna, this is the booking assistant. How can I help?",
        "Hello {name}, this is Osteria Luna calling about your table for {day}.",
        (
            (
                "I'd like a table for {count} on {day}.",
                "With pleasure. What time were you thinking of?",
            ),
            (
                "Around {time}, if you have anything.",
                "I can offer {time} by the window, or a little later on the terrace.",
            ),
            ("The window sounds lovely.", "Very good. Under which name shall I put it?"),
            ("{name}, please.", "Thank you, {name}. Does anybody in your party have an allergy?"),
            (
                "One of us can't eat nuts.",
                "I've noted no nuts for one guest, and the kitchen will know before you arrive.",
            ),
            (
                "Could we bring a cake?",
                "Of course. We keep it cold for you and serve it after the main course.",
            ),
            ("Sorry, make that {count} people.", "No trouble, I've changed it to {count}."),
        ),
        ("That's all, thank you.", "We look forward to seeing you on {day}. Goodbye!"),
    ),
    Errand(
        "bank",
        "Welcome to Northgate Bank. In a few words, what are you calling about?",
        "Good morning, Northgate Bank calling about a payment of {amount}. Am I speaking with {name}?",
        (
            (
                "There's a payment on my card I don't recognise.",
                "I'm sorry to hear that. Could you tell me the last four digits of the card?",
            ),
            (
                "It ends in {digits}.",
                "Thank you. I see a payment of {amount} on {day}. Is that the one?",
            ),
            ("Yes, and I never bought anything there.", "Understood. I've blocked the card as of now."),
            (
                "Will I get the money back?",
                "The {amount} will be credited while we look into it; that takes up to ten days.",
            ),
            ("And how do I pay until then?", "A new card goes out {day}. Your phone wallet keeps working."),
            (
                "Send it to {street}, I've moved.",
                "I'll change the address to {street} once you confirm it with the code I just sent you.",
            ),
            ("The code is {digits}.", "That matches. The new address is in place."),
        ),
        ("Thanks for sorting it out.", "You're welcome, {name}. Take care."),
    ),
    Errand(
        "clinic",
        "Riverside Clinic, appointments. If your life is in danger, please hang up and dial 112.",
        "Hello, Riverside Clinic here with a reminder of your appointment on {day} at {time}.",
        (
            ("I need to see Doctor Okafor.", "Is that a first visit, or have you been here before?"),
            ("I was there last month about my knee.", "I've found you. Is the knee better or worse?"),
            (
                "Worse when I climb stairs.",
                "Then I'd rather not wait. The doctor could see you on {day} at {time}.",
            ),
            ("I'm at work then. Anything later?", "There is one place left, {day}, {time}."),
            ("I'll take it.", "Booked. Please come ten minutes early and bring your insurance card."),
            ("Should I stop the tablets?", "Please keep taking them; the doctor decides when you meet."),
        ),
        ("Okay, see you then.", "Get well soon, {name}."),
    ),
    Errand(
        "delivery",
        "Hi, you've reached parcel support. Please say or type the last four digits of your parcel number.",
        "Hello, this is the driver's assistant. We're at {street} with a parcel and nobody answers the bell.",
        (
            ("{digits}.", "I have it: one parcel, due {day} in {street}."),
            ("It says delivered, but it isn't here.", "Let me look at where the driver left it."),
            ("Nobody rang, I was at home.", "The note says it went to a neighbour at {street}."),
            (
                "Which neighbour? I asked both.",
                "The signature reads {name}. Shall I have the driver come by again {day}?",
            ),
            ("Yes, after {time} please.", "Noted: {day}, after {time}. You'll get a message before."),
            ("And if it's lost?", "Then the sender is refunded {amount}, and I'd open that case right away."),
        ),
        ("Alright, thank you.", "Thanks for your patience. Bye now."),
    ),
    Errand(
        "travel",
        "Thanks for calling Blue Line Rail. Do you want to book, change or cancel?",
        "Blue Line Rail for {name}: your train on {day} has been moved to {time}.",
        (
            ("I have to change my ticket.", "Sure. What's the booking code?"),
            (
                "Bravo, Tango, {digits}.",
                "That's {count} seats on {day} at {time}. When would you like to go instead?",
            ),
            ("{day}, as early as you can.", "The first one leaves at {time} and costs {amount} more."),
            ("Is there a cheaper one?", "At {time} there's no surcharge, but you change trains once."),
            ("How long is the change?", "Twelve minutes, same platform, and the café is open."),
            ("Fine, and {count} bicycles.", "I've added room for {count} bicycles at {amount} in all."),
            ("Can I sit facing forward?", "I've put you at a table, facing forward."),
        ),
        ("Perfect, that's it.", "Your new ticket is in your mail. Have a good trip!"),
    ),
    Errand(
        "utility",
        "City Water, faults and billing. What can I do for you?",
        "City Water here. We're working on {street} on {day}, and the water will be off from {time}.",
        (
            ("There's no water in the whole house.", "I'm sorry. What street are you in?"),
            (
                "{street}, number {digits}.",
                "There's a burst main nearby; the crew expects to be done by {time}.",
            ),
            ("That's late, I've children here.", "A water cart stands at the corner of {street} until then."),
            ("My last bill was odd too, {amount}!", "Let me see. The meter was estimated, not read."),
            ("So read it. It says {digits}.", "Thank you. With that the bill comes down to {amount}."),
            ("When do I get that back?", "It's taken off the next bill, due on {day}."),
        ),
        ("Good. Bye.", "Thank you for telling us. Goodbye."),
    ),
)

FILLERS: Final[tuple[str, ...]] = (
    "Hm, one moment.",
    "Sorry, could you say that again?",
    "Yes.",
    "Right.",
    "Can you hear me?",
    "Wait, my dog is barking. Okay, go on.",
)
