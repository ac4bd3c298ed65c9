#!/usr/bin/env python3
"""Write every dataset that ships with rankine.

    python3 datasets/generate.py            # (re)write all files
    python3 datasets/generate.py --check    # compare with what is on disk, write nothing
    python3 datasets/generate.py --stats    # also print lengths and label balance

Standard library only.  All text is synthetic: it comes from the word lists and
phrase templates below and from nothing else.  The output is a pure function of
this file, so running it twice gives the same bytes.

Template syntax
    [a|b|c]   pick one alternative (nesting is fine, an empty one is allowed)
    {o} {p}   order number, product          {a}  product with its article
    {q}       another product, with article  {name} {city} {addr}  who and where
    {when} {since} {recently}                times in the past
    {broken} {damage}                        "cracked", "a big dent"
"""

import argparse
import gzip
import hashlib
import io
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent

SEED = "rankine-datasets-1"
TRAIN_RECORDS = 600
HELDOUT_RECORDS = 84  # even lines use phrasings that training never sees
CHAT_RECORDS = 60
VALIDATION_RECORDS = 150
SHARDS = 4
SHARD_CHARS = 2_300_000
MESSAGE_CHARS = (60, 300)

# --------------------------------------------------------------------------
# Vocabulary
# --------------------------------------------------------------------------

PRODUCTS = """
electric kettle|desk lamp|coffee grinder|yoga mat|garden hose|office chair|wall clock
rain jacket|travel mug|picture frame|bread knife|camping tent|bike helmet|phone case
water bottle|hair dryer|steam iron|toaster|backpack|blender|table fan|door mat|laundry basket
chess board|photo album|sleeping bag|wool blanket|cutting board|frying pan|rice cooker
baby monitor|dog bed|cat tree|bird feeder|plant pot|watering can|tool box|cordless drill
step ladder|air purifier|floor mirror|shoe rack|bath towel|shower curtain|alarm clock
wireless mouse|mechanical keyboard|laptop stand|power bank|webcam|desk organiser|notebook
fountain pen|jigsaw puzzle|board game|soccer ball|tennis racket|jump rope|winter scarf
leather wallet|umbrella|kitchen scale|salad bowl|tea pot
""".replace("\n", "|").strip("|").split("|")

NAMES = """
Mia Noah Emma Liam Ava Ethan Zoe Lucas Ella Oscar Ruby Felix Nora Hugo Alice Leo Clara Max
Ivy Theo Rosa Finn Lena Adam Maya Omar Layla Karim Amina Yusuf Priya Arjun Anika Ravi Mei
Kenji Yuki Hana Jun Lin Sofia Mateo Lucia Diego Elena Marco Giulia Paolo Ines Pedro Anna
Pavel Katya Milos Petra Jonas Greta Lars Astrid Erik Freya Nils Ada Kofi Zuri Tariq Imani
Sean Niamh Owen Megan Rhys Isla Callum Fiona Gavin Tessa Victor Wanda Daniel Grace Simon
Julia Peter
""".split()

CITIES = """
Leeds|York|Bristol|Cardiff|Dublin|Cork|Glasgow|Oxford|Derby|Lyon|Lille|Nantes|Porto|Lisbon
Madrid|Seville|Turin|Verona|Milan|Vienna|Graz|Munich|Bremen|Hamburg|Dresden|Prague|Brno
Krakow|Oslo|Bergen|Malmo|Turku|Riga|Ghent|Utrecht|Boston|Denver|Austin|Portland|Toronto
Halifax|Auckland
""".replace("\n", "|").strip("|").split("|")

STREETS = """
Mill Lane|High Street|Station Road|Park Avenue|Church Street|Garden Row|River Road|Oak Drive
Hill Street|Bridge Street|Maple Road|Elm Close|Queen Street|Harbour Way|Castle Road|Rose Lane
Market Square|Forest Road|Lake View|North Street
""".replace("\n", "|").strip("|").split("|")

COLOURS = "red blue green black white grey yellow brown silver orange purple pink".split()
MATERIALS = {False: "steel wood glass plastic bamboo aluminium ceramic".split(),
             True: "cotton leather wool canvas nylon".split()}

WHEN = [
    "last week", "last month", "two weeks ago", "three weeks ago", "on Monday", "on Tuesday",
    "on Saturday", "ten days ago", "a few days ago", "earlier this month", "the other day",
    "at the weekend", "last Friday",
]
SINCE = ["Monday", "Tuesday", "Friday", "last week", "last month", "the weekend"]
RECENTLY = ["yesterday", "this morning", "an hour ago", "last night"]

# What can go wrong with a thing depends on what it is made of.
SOFT = set("""
yoga mat|garden hose|rain jacket|camping tent|backpack|door mat|laundry basket|photo album|sleeping bag
wool blanket|dog bed|bath towel|shower curtain|notebook|board game|jump rope|winter scarf|leather wallet|umbrella
""".replace("\n", "|").strip("|").split("|"))
assert SOFT <= set(PRODUCTS)
DAMAGED = {False: ["broken", "cracked", "damaged", "dented", "smashed", "badly scratched", "in pieces"],
           True: ["torn", "ripped", "damaged", "badly stained", "full of holes", "ruined", "falling apart"]}
DAMAGE = {False: ["a crack", "a big dent", "a broken part", "a deep scratch"],
          True: ["a tear", "a big stain", "a hole", "a torn edge"]}

# --------------------------------------------------------------------------
# Support messages
#
# Every intent has "seen" openings, used everywhere, and "reserved" openings that
# only the held-out file uses.  An opening that does not contain {o} gets one of
# the ORDER sentences; one without {p} gets one of the PRODUCT sentences.
# --------------------------------------------------------------------------

INTENTS = ["refund", "delivery_delay", "damaged_item", "wrong_item", "cancel_order", "change_address"]
URGENCIES = ["low", "normal", "high"]

SEEN = {
    "refund": [
        "[I would like|I'd like|I want] [a refund|my money back] for [the|my] {p} [from|in|I bought with] order {o}.",
        "[Can|Could] [I|you let me] [get|have] [a refund|a full refund|my money back] [for|on] [the|my] {p}? ",
        "[Please refund|Kindly refund] [my|the] {p}[, order {o}| (order {o})| from order {o}].",
        "I bought {a} {when} and [I am not happy with it|it is not what I expected|it does not suit me]. [Please refund me|I want my money back|I would like a refund].",
        "I [am returning|have sent back|want to return] the {p} [from order {o}|I got {when}] and [would like|want|am asking for] a refund.",
        "[How do I|How can I] get [a refund|my money back] for {a}[ bought {when}|]?",
        "The {p} [is not as described|does not match the photos|is too small for me|is not for me], so [I want a refund|please give me my money back|I am asking for a refund].",
        "[I returned|I sent back] [my|the] {p} {when} [and|but] [the money is not back in my account|I have not had my refund|my refund has not been paid]. ",
        "[Refund request|Refund please|Asking for a refund] for order {o}: {p}.",
        "You [charged me twice|took the payment twice] for [the|my] {p}, [please refund one of them|I need one payment refunded|please send one payment back].",
        "Order {o} [was|is] for {a}. [I changed my mind and|It is not right for me and|I do not like it and] [want a refund|would like my money back].",
        "[I want to send back|I'd like to return] order {o} and [get a refund|have my money back].",
    ],
    "delivery_delay": [
        "[My|The] {p} [has not arrived|has not come|still has not arrived|is late][ yet|]. ",
        "[Where is|What happened to] my {p}? [I ordered it {when}|It was due {when}|It should be here by now], order {o}.",
        "I [ordered|bought] {a} {when} and [I am still waiting|it has still not arrived|nothing has come|it is still not here].",
        "Order {o} [with|for] {a} [has not been delivered|is late|is overdue|still shows as in transit|never turned up].",
        "[I am still waiting for|I have not received] [my|the] {p} from order {o}.",
        "[The tracking|The tracking page] for [my {p}|order {o}] [has not moved|has not changed|shows nothing new] since {since}.",
        "[My parcel|My package|The delivery] for order {o} is [late|very late|a week late|overdue]. ",
        "[The delivery of|The shipment with] my {p} was [due|promised|expected] {when} [but|and] [nothing came|it is not here|there is no sign of it].",
        "[Any news on|Any update on|Do you have news about] order {o}? [The|My] {p} [is late|has not arrived|still has not come].",
        "It has been [two|three|four] weeks and [my|the] {p} [is still not here|has not been delivered|has not shown up].",
        "[When will|When does] my {p} [arrive|get here|be delivered]? [It is already late|It should have come {when}|I have been waiting a long time].",
        "You [said|told me|wrote] that order {o} would [arrive|come|be here] {when}, [but it has not|but nothing has arrived|and I am still waiting].",
    ],
    "damaged_item": [
        "[My|The] {p} [arrived|came|turned up] {broken}.",
        "I [received|got|opened] [my|the] {p} from order {o} [and|but] it [is|was] {broken}.",
        "The {p} [in|from] order {o} [has {damage}|is {broken}|came with {damage}].",
        "[The box was crushed|The parcel was torn|The package was wet] and the {p} inside [is|was] [{broken}|damaged|ruined].",
        "Order {o} [came|arrived] {when} [but|and] the {p} [is {broken}|was {broken}|has {damage}].",
        "[Unfortunately|Sadly], [my|the] {p} [is faulty|was no good after one day|fell apart when I opened the box|is {broken}].",
        "[There is damage to|There is {damage} in] [my {p}|the {p} that came {when}|the {p} I got from you|the {p} you sent me].",
        "You sent me a [damaged|faulty|ruined] {p}[ in order {o}| with order {o}|].",
        "[I opened the box|I opened the parcel] {when} and [found|saw] that the {p} [was {broken}|was damaged|had {damage}].",
        "[The item in|Everything in] order {o} [arrived damaged|was damaged|is ruined].",
        "[Damaged|Faulty] [item|goods|product] in order {o}: {p}.",
        "[One side of|The bottom of|A part of] my {p} is {broken}[, order {o}|].",
    ],
    "wrong_item": [
        "I ordered {a} but [received|got|was sent|you sent me] [{q}|something else|a different item].",
        "You sent [the wrong item|the wrong product|me the wrong thing]. I [ordered|asked for|paid for] {a}[, order {o}|].",
        "[The wrong item|The wrong product|The wrong thing] [arrived|came|was delivered] [for|with] order {o}. [I wanted|It should be|I ordered] {a}.",
        "[There was|I found] {q} in [the box|the parcel|my package] [but|although] I ordered {a}.",
        "[My order|Order] {o} was for {a}, [not for {q}|but that is not what came|but something else was in the box].",
        "[Instead of|In place of] the {p} [I got|I received|you sent] [{q}|another product|something I did not order].",
        "[This is not what I ordered|This is the wrong item|I have the wrong product]. [I ordered|Order {o} was for|It should have been] {a}.",
        "[The parcel|The box|The package] {when} had [the wrong item|another item|a different product] in it. I was [waiting for|expecting] {a}.",
        "[There is a mix up with|Something got mixed up in] order {o}: [I ordered|I paid for] {a} and [got {q}|the wrong item came|something else came].",
        "[I think you mixed up|You must have mixed up] my order. I [asked for|ordered] {a}, [not {q}|but another item was in the box].",
        "[Wrong item|Wrong product] [in|sent for] order {o}, I [ordered|wanted|bought] {a}.",
        "The {p} I ordered came in the wrong [colour|size|model]. ",
    ],
    "cancel_order": [
        "[Please cancel|Cancel|Kindly cancel] [my order|order] {o} for [the|one] {p}.",
        "[I want to|I would like to|I'd like to|I need to] cancel [my order for|the order of|my order of] [the|a new] {p}.",
        "[Can|Could] you [please cancel|cancel|stop] order {o}[ before it ships|]? ",
        "I ordered {a} {when} [but I do not need it any more|but I no longer need it|by mistake]. [Please cancel the order|Please cancel it|Can you cancel it].",
        "[I no longer need|I do not need|I have no use for] the {p}, [so please cancel|please cancel|can you cancel] order {o}.",
        "[Is it possible|Is there a way] to cancel [order {o}|my order] for [the|one] {p}?",
        "[I placed|I made] order {o} by [mistake|accident] and [want to cancel it|would like it cancelled|it needs to be cancelled].",
        "I [clicked twice|pressed the button twice] and ordered the {p} [twice|two times]. [Please cancel one order|Cancel the second order].",
        "[Cancellation|Order cancellation|Cancel request] for [order {o}, {p}|order {o} ({p})].",
        "[Please do not send|Please do not ship|Do not send] the {p}, I [want to cancel|am cancelling|have to cancel] [the|my] order.",
        "[I found {a} in a shop near me|I already have {a}|My sister gave me {a}], so [please cancel my order|I want to cancel my order].",
        "[I have changed my mind about|I thought again about] the {p}. [Please cancel order {o}|Cancel order {o} please].",
    ],
    "change_address": [
        "[Please send|Please ship|Please deliver] [my|the] {p} to [{addr}|a new address, {addr}|{addr} instead].",
        "[I have moved to {city}|I moved to {city} {when}|We moved to {city} {when}]. [Please change|Can you change|Please update] the address for order {o}.",
        "[I need to|I want to|I would like to] [change|update|correct] the [address|delivery address|shipping address] [for|on|of] order {o}.",
        "[Can|Could] you [change|update] the [delivery address|address|shipping address] [for my {p}|of my {p}]? [The new one is|It is now|Please use] {addr}.",
        "[The address|The delivery address|The shipping address] on order {o} is [wrong|old|not right]. [It should be|The right one is|Please use] {addr}.",
        "[I gave|I typed|I entered] the wrong [address|house number|street] when I ordered {a}. [The right address is|It should be] {addr}.",
        "My [new address|address now|correct address] is {addr}. [Please use it for|Please change it on] [my {p}|order {o}|the {p}].",
        "[We are moving|I am moving|My family is moving] to {city}, so [my|the] {p} [should go|needs to go|must be sent] to [the new address|{addr}].",
        "[New address|Address change|Change of address] for order {o}: {addr}.",
        "[Is it possible|Is there a way] to [send|deliver] [my|the] {p} to [another address|a new address|my office]? [It is|The address is] {addr}.",
        "I ordered {a} {when} [and forgot to update|but did not change] my address. [I live in {city} now|The new one is {addr}].",
        "[Order {o} is going|You are sending order {o}] to my old [address|flat|house]. [Please send it to|The new address is] {addr}.",
    ],
}

RESERVED = {
    "refund": [
        "[I am writing to|I'm writing to] request a refund for the {p}, order number {o}.",
        "[After trying|After using] the {p} for a day I [have decided to return it|want to return it]. [Please pay me back|Please return my money].",
        "[Would it be possible|Is it possible] to be refunded for [the|my] {p}?",
        "Money back please for the {p} in order {o}[, it is not what I was looking for|, I am not happy with it].",
        "[What do I need to do|Who do I talk to] to get my payment back for order {o}? ",
    ],
    "delivery_delay": [
        "[Still no sign of|There is still no sign of] [my|the] {p} [I bought|I ordered] {when}.",
        "[How long|How much longer] do I have to wait for [my|the] {p}? [It is late|It has not arrived].",
        "The courier [has not brought|did not bring] my {p}, and order {o} is now [late|overdue].",
        "[Order {o} should have been delivered|You promised delivery of order {o}] {when}, [but I have received nothing|but it is still not here].",
        "I have been waiting for order {o} since {since} and [nothing has arrived|it has not come].",
    ],
    "damaged_item": [
        "[I was sad to see|I am sorry to say] that the {p} I received [is|was] {broken}.",
        "[When I took the {p} out of the box|When I unpacked the {p}], it was [already {broken}|{broken}].",
        "The {p} [did not survive the trip|was badly packed], it is {broken}.",
        "Order {o} was [delivered|handed over] in bad shape and [the contents are ruined|the item is damaged].",
        "[Something is wrong with|There is a problem with] my {p}: it [arrived {broken}|has {damage}].",
    ],
    "wrong_item": [
        "[I was expecting|I was waiting for] {a}, but [in the box was|the parcel contained] {q}.",
        "[Your warehouse|Your team] [packed|sent] the wrong item, [I ordered|I paid for] {a}.",
        "[What came is not|The thing you sent is not] the {p} I ordered.",
        "[Somebody else's|Another customer's] item came with order {o}, [mine was|I ordered] {a}.",
        "Order {o} [contains|came with] the wrong product. ",
    ],
    "cancel_order": [
        "[I'm writing to|I am writing to] cancel the {p} I ordered {when}.",
        "[Would you|Will you] cancel order {o} for me? ",
        "[Stop|Please stop] order {o}, I [do not want|no longer want] the {p}.",
        "My plans have changed and I [need to|must] cancel the {p}.",
        "[I should not have ordered|I did not mean to order] the {p}, please cancel it.",
    ],
    "change_address": [
        "[I am at a new address now|We live somewhere else now]: {addr}. [Send|Please send] the {p} there.",
        "[Could|Can] order {o} go to {addr} and not to my old [address|home]?",
        "[I made a mistake in|There is a mistake in] my address for the {p}, the [right|correct] one is {addr}.",
        "[Since I ordered|After I ordered] the {p} I have moved to {city}. [Please change the address|Please update my address].",
        "Please [correct|fix] the delivery address of order {o} to {addr}.",
    ],
}

ORDER = [
    "[The order number is|My order number is|Order number|The number is|Order no.] {o}.",
    "[It is order|This is order|That is order|Order] {o}.",
    "[This is about|It concerns|I am writing about] order {o}.",
    "[Order|My order|Reference|Order ref]: {o}.",
    "[You can find it under|It is filed under|The reference is|The order ID is] {o}.",
    "[My receipt says|The email says|The invoice shows] order {o}.",
]
ORDER_BEFORE = ["[Order|Re: order|About order|Regarding order] {o}[.|:|,]", "[My order number is|Order number:|Ref] {o}."]
PRODUCT = [
    "[It is for|It was for|The order is for|That is] {a}.",
    "[The item is|The product is] [the|a new] {p}.",
    "[Item|Product]: {p}.",
    "I [ordered|bought|paid for] {a}.",
]
PRODUCT_BEFORE = ["I [ordered|bought] {a} {when}.", "[It is about|This is about] the {p}."]

DETAIL = {
    "refund": ["I paid by card.", "It is still in the box.", "I have not used it.", "I still have the receipt.",
               "Please put the money back on my card.", "I can post it back to you."],
    "delivery_delay": ["The tracking says nothing.", "Nobody left a note.", "I was at home all week.",
                       "I checked with the neighbours.", "Can you check with the courier?", "Was it lost?"],
    "damaged_item": ["I can send photos.", "I would like a new one.", "The box looked fine.", "Can you replace it?",
                     "It cannot be used like this.", "I took some pictures."],
    "wrong_item": ["Please send the right one.", "How do I swap it?", "The label has my name on it.",
                   "I can send it back.", "Can you exchange it?", "I have not opened the bag."],
    "cancel_order": ["It has not shipped yet.", "I only placed it {recently}.", "I have not paid yet.", "Sorry for the trouble.",
                     "Please confirm by email.", "I hope it is not packed yet."],
    "change_address": ["Everything else stays the same.", "The phone number is the same.", "The name stays the same.",
                       "The old flat is empty.", "Please confirm the change.", "It has not shipped yet."],
}

# "normal" has no cue at all, or one that says nothing about time.
CUES = {
    "low": ["[There is no rush|No rush|No hurry|There is no hurry][ at all|].", "[It is|This is] not urgent.",
            "[Whenever you have time|Take your time|Whenever it suits you].", "It can wait[ a few days| a bit|].",
            "[Not urgent|No rush], [just whenever you can|any time is fine]."],
    "normal": ["", "", "", "", "", "Please let me know.", "Can you help?", "[What should I do|What is the next step]?"],
    "high": ["[This is urgent|It is urgent|Urgent][!|.]", "[Please hurry|Please act fast|Please be quick][!|.]",
             "[I need this sorted today|I need an answer today|Please sort this out today][!|.]",
             "Please [reply|answer|help me] [as soon as possible|right away|at once|immediately].",
             "[I need it|I need this] [for tomorrow|by tomorrow|very urgently]."],
}
RESERVED_CUES = {
    "low": ["[I am in no hurry|I am not in a hurry].", "[It is fine if this takes a while|This can wait]."],
    "normal": ["", "", "Could you look into it?"],
    "high": ["[This cannot wait|It cannot wait][!|.]", "Please treat this as urgent."],
}
URGENT_PREFIX = ["URGENT: ", "Urgent! ", "Urgent, please read. "]

GREETINGS = ["Hi, ", "Hello, ", "Hello! ", "Hi there, ", "Good morning, ", "Good evening, ", "Dear team, ", "Hey, ",
             "Dear support, ", "Hi team, ", "Good day, "]
INTRODUCTIONS = ["[my name is|I am|this is] {name}[ from {city}| and I live in {city}|]. ", "{name} here[ from {city}|]. "]
THANKS = ["Thanks[!|.]", "Thank you[!|.]", "Many thanks.", "Thanks in advance.", "Thank you for your help.", "Cheers."]
SIGNATURES = ["{name}", "{name}, {city}", "Regards, {name}", "Best, {name}", "Kind regards, {name} ({city})", "- {name}"]

# --------------------------------------------------------------------------
# Random choices and templates
# --------------------------------------------------------------------------


class Rng:
    """Seeded choices built on random.random() alone, the one method whose
    sequence Python promises to keep from version to version."""

    def __init__(self, *key):
        digest = hashlib.sha256("/".join([SEED, *map(str, key)]).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random

    def below(self, n):
        return int(self._random() * n)

    def between(self, low, high):
        return low + self.below(high - low + 1)

    def chance(self, p):
        return self._random() < p

    def pick(self, items):
        return items[self.below(len(items))]

    def weighted(self, pairs):
        x = self._random() * sum(weight for _, weight in pairs)
        for item, weight in pairs:
            x -= weight
            if x < 0:
                return item
        return pairs[-1][0]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, n):
        return self.shuffled(items)[:n]

    def digits(self, n):
        return str(1 + self.below(9)) + "".join(str(self.below(10)) for _ in range(n - 1))

    def letters(self, n, alphabet="ABCDEFGHJKLMNPQRSTUVWXYZ"):
        return "".join(self.pick(alphabet) for _ in range(n))

    def order_number(self):
        return self.weighted([
            (lambda: f"{self.letters(1)}-{self.digits(5)}", 6),
            (lambda: f"{self.letters(2)}-{self.digits(4)}", 4),
            (lambda: f"{self.digits(6)}", 4),
            (lambda: f"{self.letters(1)}{self.digits(5)}", 2),
            (lambda: f"{self.digits(3)}-{self.digits(4)}", 2),
            (lambda: f"ORD-{self.digits(5)}", 2),
        ])()


INNERMOST = re.compile(r"\[([^\[\]]*)\]")


def expand(rng, template):
    """Resolve every [a|b] from the inside out; {slots} are left in place."""
    while True:
        match = INNERMOST.search(template)
        if match is None:
            return template
        template = template[: match.start()] + rng.pick(match.group(1).split("|")) + template[match.end():]


def with_article(product):
    return ("an " if product[0] in "aeiou" else "a ") + product


def fill(text, slots):
    return re.sub(r"\{(\w+)\}", lambda m: slots[m.group(1)], text)


def say(rng, template, **slots):
    return fill(expand(rng, template), slots)


def outside_slots(text, change):
    """Apply change() to the parts of text that are not {slots}."""
    return "".join(part if part.startswith("{") else change(part) for part in re.split(r"(\{\w+\})", text))


def add_typo(rng, text):
    """Swap, drop or double one letter of one ordinary word."""
    words = [m for m in re.finditer(r"(?<![{\w'])[a-z]{5,}(?![}\w'])", text)]
    if not words:
        return text
    word = rng.pick(words)
    at = rng.between(word.start() + 1, word.end() - 3)
    kind = rng.below(3)
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2:]
    if kind == 1:
        return text[:at] + text[at + 1:]
    return text[:at] + text[at] + text[at:]


def uncapitalise(text):
    """Continue a sentence: lower the first letter, unless the word is "I"."""
    return text if re.match(r"I\b|\{", text) else text[0].lower() + text[1:]


# How a ticket names each intent, and which team takes it.
LABELS = {
    "refund": "refund", "cancel_order": "cancellation",
    "delivery_delay": "delay", "change_address": "address",
    "damaged_item": "damage", "wrong_item": "mix-up",
}
TEAMS = {
    "refund": "billing", "cancel_order": "billing",
    "delivery_delay": "shipping", "change_address": "shipping",
    "damaged_item": "returns", "wrong_item": "returns",
}


class Message:
    """One customer message and what is true about it."""

    def __init__(self, rng, intent, urgency, order, reserved=False):
        self.intent, self.urgency, self.order = intent, urgency, order
        self.product, other = rng.sample(PRODUCTS, 2)
        soft = self.product in SOFT
        self.name, self.city = rng.pick(NAMES), rng.pick(CITIES)
        self.address = f"{rng.between(1, 99)} {rng.pick(STREETS)}, {self.city}"
        slots = dict(o=order, p=self.product, a=with_article(self.product), q=with_article(other),
                     name=self.name, city=self.city, addr=self.address, when=rng.pick(WHEN), since=rng.pick(SINCE),
                     recently=rng.pick(RECENTLY), broken=rng.pick(DAMAGED[soft]), damage=rng.pick(DAMAGE[soft]))
        draft = self._draft(rng, reserved)
        self.text = fill(draft, slots)
        self.has_name, self.has_city = "{name}" in draft, "{city}" in draft or "{addr}" in draft
        self.has_address = "{addr}" in draft
        self.ok = MESSAGE_CHARS[0] <= len(self.text) <= MESSAGE_CHARS[1] and draft.count("{o}") == 1

    def _draft(self, rng, reserved):
        openings = RESERVED if reserved else SEEN
        body = [expand(rng, rng.pick(openings[self.intent])).strip()]
        if "{o}" not in body[0]:
            if rng.chance(0.35):
                body.insert(0, expand(rng, rng.pick(ORDER_BEFORE)))
            else:
                body.append(expand(rng, rng.pick(ORDER)))
        if not any(slot in part for part in body for slot in ("{p}", "{a}")):
            if rng.chance(0.3):
                body.insert(0, expand(rng, rng.pick(PRODUCT_BEFORE)))
            else:
                body.append(expand(rng, rng.pick(PRODUCT)))
        if rng.chance(0.4):
            body.append(expand(rng, rng.pick(DETAIL[self.intent])))
        cues = RESERVED_CUES if reserved and rng.chance(0.5) else CUES
        cue = expand(rng, rng.pick(cues[self.urgency]))
        prefix = ""
        if self.urgency == "high" and rng.chance(0.15):
            prefix, cue = rng.pick(URGENT_PREFIX), ""
        if cue:
            body.insert(rng.weighted([(len(body), 4), (0, 1)]), cue)
        text = body[0]
        for part in body[1:]:
            text += " " + (uncapitalise(part) if text.endswith(",") else part)
        text = re.sub(r"\b((?:Can|Could|Will|Would) you [^.?!]*)\.", r"\1?", text)

        signed = rng.chance(0.4)
        greeting = rng.pick(GREETINGS) if rng.chance(0.6) else ""
        intro = ""
        if not signed and rng.chance(0.25):
            intro = expand(rng, rng.pick(INTRODUCTIONS))
            intro = intro if greeting.endswith(", ") or intro.startswith("{") else intro[0].upper() + intro[1:]
        if greeting.endswith(", ") and not intro:
            text = uncapitalise(text)
        text = prefix + greeting + intro + text
        if rng.chance(0.4):
            text += " " + expand(rng, rng.pick(THANKS))
        if signed:
            text += rng.pick([" ", "\n"]) + expand(rng, rng.pick(SIGNATURES))

        if rng.chance(0.1):
            text = outside_slots(text, str.lower)
        if rng.chance(0.12):
            text = add_typo(rng, text)
        return text

    def completion(self):
        ticket = {
            "intent": LABELS[self.intent],
            "team": TEAMS[self.intent],
            "urgency": self.urgency,
            "escalate": self.urgency == "high",
        }
        return json.dumps(ticket, separators=(",", ":"))


def make_message(rng, intent=None, urgency=None, order=None, reserved=False):
    intent = intent or rng.pick(INTENTS)
    urgency = urgency or rng.weighted([("low", 3), ("normal", 4), ("high", 3)])
    order = order or rng.order_number()
    while True:
        message = Message(rng, intent, urgency, order, reserved)
        if message.ok:
            return message


# --------------------------------------------------------------------------
# The support task: message -> one line of JSON
# --------------------------------------------------------------------------

SYSTEM = "Turn the customer message into a ticket: one line of JSON with intent, team, urgency and escalate."


def support_messages(split, count, taken_orders, taken_texts):
    """A balanced, shuffled list of messages with order numbers used nowhere else."""
    rng = Rng("support", split)
    labels = [(INTENTS[i % 6], URGENCIES[(i // 6) % 3]) for i in range(count)]
    messages = []
    for i, (intent, urgency) in enumerate(rng.shuffled(labels)):
        while True:
            order = rng.order_number()
            if order in taken_orders:
                continue
            message = make_message(rng, intent, urgency, order, reserved=split == "heldout" and i % 2 == 1)
            if message.text not in taken_texts:
                break
        taken_orders.add(order)
        taken_texts.add(message.text)
        messages.append(message)
    return messages


def as_completion(message):
    return {"prompt": f"{message.text}\n\nTicket:\n", "completion": message.completion()}


def as_chat(message):
    return {"messages": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": message.text},
        {"role": "assistant", "content": message.completion()},
    ]}


# --------------------------------------------------------------------------
# The corpus: the same little world in other written forms
#
# It must never contain the ticket format.  It does teach what the task needs:
# quoting an order number or product exactly, and telling the requests apart.
# --------------------------------------------------------------------------

WANTS = {
    "refund": ["a refund", "their money back"],
    "delivery_delay": ["to know why the delivery is late", "news about a late delivery"],
    "damaged_item": ["help with a damaged item", "help because the item arrived damaged"],
    "wrong_item": ["help because the wrong item came", "the right item, the wrong item came"],
    "cancel_order": ["to cancel the order", "the order cancelled"],
    "change_address": ["to change the address", "the delivery address changed"],
}
REASON = {
    "refund": "refund", "delivery_delay": "late delivery", "damaged_item": "damaged item",
    "wrong_item": "wrong item", "cancel_order": "cancel the order", "change_address": "change of address",
}
HASTE = {
    "low": ["Not urgent.", "No rush.", "Low priority.", "It can wait."],
    "normal": ["", "Normal priority.", "Usual speed.", ""],
    "high": ["Urgent.", "High priority.", "Very urgent.", "It cannot wait."],
}
REPLIES = {
    "refund": ["We have refunded order {o}. The money for the {p} [will be on your card in a few days|is on its way].",
               "Your refund for the {p} (order {o}) [was approved|has been sent|is being processed]."],
    "delivery_delay": ["Sorry that order {o} is late. Your {p} [is at the depot now|has left our warehouse|is with the courier][| and should arrive soon].",
                       "We asked the courier about order {o}. The {p} [was delayed|got stuck] and will come [this week|in two days]."],
    "damaged_item": ["We are sorry the {p} in order {o} was damaged. [A new one is on its way|We will replace it|Please send us a photo].",
                     "That should not happen. We will replace the damaged {p} from order {o}."],
    "wrong_item": ["Sorry, we packed the wrong item for order {o}. The {p} [will be sent today|is on its way now].",
                   "That was our mistake. The right item, {a}, will be sent for order {o}."],
    "cancel_order": ["Order {o} has been cancelled. [You will not be charged for the {p}|The {p} will not be sent].",
                     "We cancelled the {p} in order {o}[, as you asked|]."],
    "change_address": ["We changed the address for order {o}. Your {p} will go to [{addr}|the new address].",
                       "Done, the new address for the {p} (order {o}) is [saved|in our system]."],
}


def wants(rng, m):
    return rng.pick(WANTS[m.intent])


def haste(rng, m):
    return rng.pick(HASTE[m.urgency])


def who(rng, m):
    if m.has_name and m.has_city and rng.chance(0.8):
        return f"{m.name} from {m.city}"
    return m.name if m.has_name else rng.pick(["The customer", "A customer", "The buyer"])


def tidy(text):
    return re.sub(r"  +", " ", text).strip()


def after_note(rng, m):
    form = rng.pick([
        "{who} wants {wants} for order {o} ({p}). {haste}",
        "{who} wants {wants}. Order {o}, {p}. {haste}",
        "{o}, {p}: {reason}. {haste}",
        "{haste} Order {o} for {a}: {reason}.",
        "{reason}, order {o}, item \"{p}\". {haste}",
        "About the {p} in order \"{o}\". {who} wants {wants}. {haste}",
    ])
    text = fill(form, dict(who=who(rng, m), wants=wants(rng, m), o=m.order, p=m.product, a=with_article(m.product),
                           haste=haste(rng, m), reason=REASON[m.intent]))
    head = rng.pick(["Note: ", "Note:\n", "Summary: ", "Summary:\n", "In short: ", "Desk note:\n"])
    return head + tidy(text)


def facts(rng, m):
    """(question, list key, answer) triples that hold for the message."""
    priority = {"low": "low", "normal": "normal", "high": "high"}[m.urgency]
    rows = [
        (["What is the order number?", "Which order is it?", "Order number?"], ["order", "ref", "number"], m.order),
        (["Which product is it about?", "What did they buy?", "Which item was ordered?"], ["product", "item"], m.product),
        (["What is the message about?", "What is the reason?", "Why did they write?"], ["reason", "about", "topic"], REASON[m.intent]),
        (["How urgent is it?", "What is the priority?"], ["priority", "haste"], priority),
    ]
    if m.has_name:
        rows.append((["Who wrote it?", "What is the name?"], ["name", "from"], m.name))
    if m.has_address:
        rows.append((["What is the new address?", "Where should it go?"], ["address"], m.address))
    elif m.has_city:
        rows.append((["Which city is named?", "Where does the customer live?"], ["city"], m.city))
    return rows


def after_questions(rng, m):
    rows = rng.shuffled(facts(rng, m))[: rng.between(2, 5)]
    q, a, sep = rng.pick([("Q: ", "A: ", "\n"), ("Q: ", "A: ", " "), ("", "", " "), ("Question: ", "Answer: ", "\n")])
    return "\n".join(f"{q}{rng.pick(questions)}{sep}{a}{answer}" for questions, _, answer in rows)


def after_list(rng, m):
    rows = [(rng.pick(keys), answer) for _, keys, answer in facts(rng, m)]
    rows = rng.shuffled(rows) if rng.chance(0.5) else rows
    rows = rows[: rng.between(3, len(rows))]
    equals, comma = rng.pick([(" = ", "; "), (": ", "\n"), ("=", ", "), (": ", "; "), (" is ", ", "), ("='", " ")])
    close = "'" if equals == "='" else ""
    head = rng.pick(["", "List:\n", "Details:\n", "Fields: "])
    return head + comma.join(f"{k}{equals}{v}{close}" for k, v in rows)


def after_bar(rng, m):
    cells = [m.order, m.product, REASON[m.intent], {"low": "no rush", "normal": "normal", "high": "urgent"}[m.urgency]]
    keep = rng.shuffled(range(4))[: rng.between(2, 4)] if rng.chance(0.3) else range(4)
    return rng.pick(["Row:\n", "Card:\n", "Index:\n", "> "]) + rng.pick([" | ", ", ", " / ", "; "]).join(cells[i] for i in keep)


def after_reply(rng, m):
    hello = rng.pick([f"Hello {m.name}! ", f"Dear {m.name},\n", f"Hi {m.name},\n"]) if m.has_name else rng.pick(["Hello! ", "", "Hi,\n"])
    body = say(rng, rng.pick(REPLIES[m.intent]), o=m.order, p=m.product, a=with_article(m.product), addr=m.address
               if m.has_address else "the new address")
    bye = rng.pick(["", "", " Kind regards, the support team", " Best wishes", " Have a nice day."])
    text = rng.pick(["Reply: ", "Reply:\n", "Agent: ", "Answer:\n"]) + hello + body + bye
    if rng.chance(0.3):
        text += "\n" + rng.pick(["Customer: Thank you!", "Customer: Great, thanks.", f"Customer: Is that order {m.order}?\nAgent: Yes, {m.order}.",
                                 f"Customer: You mean the {m.product}?\nAgent: Yes, the {m.product}."])
    return text


def support_text(rng):
    m = make_message(rng)
    head = rng.pick(["Message: ", "Message:\n", "", "", "Customer: ", "Email:\n"])
    makers = [after_note, after_questions, after_list, after_bar, after_reply]
    first = rng.weighted(list(zip(makers, [4, 4, 4, 2, 2])))
    parts = [head + m.text, first(rng, m)]
    if rng.chance(0.3):
        parts.append(rng.pick([maker for maker in makers if maker is not first])(rng, m))
    return rng.pick(["\n\n", "\n\n", "\n"]).join(parts)


def plain_message(rng):
    return make_message(rng).text


def several_orders(rng):
    """A small table and questions about it."""
    n = rng.between(2, 5)
    rows = list(zip([rng.order_number() for _ in range(n)], rng.sample(PRODUCTS, n), rng.sample(NAMES, n), rng.sample(CITIES, n)))
    form = rng.pick([
        "Order {o} is {a} for {name} in {city}.", "{o} | {p} | {name} | {city}", "{name} from {city} bought {a}, order {o}.",
        "{o}: {p}, {name}, {city}", "{name} ({city}): {p}, order {o}",
    ])
    lines = [fill(form, dict(o=o, p=p, a=with_article(p), name=name, city=city)) for o, p, name, city in rows]
    for _ in range(rng.between(2, 4)):
        o, p, name, city = rng.pick(rows)
        q, a = rng.pick([(f"Which item is order {o}?", p), (f"Who bought the {p}?", name), (f"What is the order number of {name}?", o),
                         (f"Where does {name} live?", city), (f"Which order has the {p}?", o), (f"What did {name} buy?", p)])
        lines.append(f"{q} {a}")
    return "\n".join(lines)


def random_string(rng):
    return rng.weighted([
        (lambda: rng.order_number(), 5),
        (lambda: rng.letters(rng.between(2, 4), "abcdefghijklmnopqrstuvwxyz") + rng.digits(rng.between(1, 4)), 2),
        (lambda: rng.digits(rng.between(2, 8)), 2),
        (lambda: rng.pick(PRODUCTS), 3),
        (lambda: rng.pick(COLOURS) + "-" + rng.digits(2), 1),
        (lambda: rng.pick(NAMES) + " " + rng.pick(CITIES), 1),
        (lambda: rng.letters(rng.between(3, 6)), 1),
    ])()


def copying(rng):
    lines = []
    style = rng.below(6)
    for _ in range(rng.between(3, 8)):
        x = random_string(rng)
        lines.append([
            f"repeat: {x}\n{x}", f"{x} -> {x}", f"Say {x}. \"{x}\"", f"({x}) \"{x}\" [{x}]", f"copy {x}: {x}", f"'{x}','{x}'",
        ][style])
    if rng.chance(0.3):
        words = [random_string(rng) for _ in range(rng.between(3, 8))]
        comma = rng.pick([", ", " ", "; ", "\n"])
        lines.append(comma.join(words))
        lines.append(comma.join(words))
    return "\n".join(lines)


def lookup(rng):
    n = rng.between(3, 7)
    keys = rng.sample([*COLOURS, *MATERIALS[False], *(k.lower() for k in NAMES)], n) if rng.chance(0.5) else [rng.letters(2).lower() + rng.digits(1) for _ in range(n)]
    pairs = list(dict(zip(keys, [random_string(rng) for _ in range(n)])).items())
    equals = rng.pick([" = ", ": ", " -> ", "="])
    lines = [f"{k}{equals}{v}" for k, v in pairs]
    lines.append(rng.pick(["", "---", "Now look up:", "Again:"]))
    lines += [f"{k}{equals}{v}" for k, v in rng.sample(pairs, rng.between(2, len(pairs)))]
    return "\n".join(lines)


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def objects(rng):
    """Sentences and the same facts as small objects.  No message here, no request,
    and none of the ticket keys."""
    lines = []
    for _ in range(rng.between(2, 4)):
        name, city, item, colour = rng.pick(NAMES), rng.pick(CITIES), rng.pick(PRODUCTS), rng.pick(COLOURS)
        code, number, material = rng.order_number(), rng.between(1, 99), rng.pick(MATERIALS[item in SOFT])
        sentence, value = rng.pick([
            (f"{name} lives in {city}.", {"name": name, "city": city}),
            (f"{name} from {city} is {number} years old.", {"name": name, "age": number, "city": city}),
            (f"The {item} is {colour} and made of {material}.", {"item": item, "colour": colour, "material": material}),
            (f"Shelf {number} holds the {item} with code {code}.", {"code": code, "item": item, "shelf": number}),
            (f"Code {code} is a {colour} {item}.", {"code": code, "item": item, "colour": colour}),
            (f"There are {number} of the {item} in {city}.", {"item": item, "stock": number, "place": city}),
            (f"A van with plate {code} drives to {city}.", {"plate": code, "to": city}),
            (f"{name} paid {number} for {with_article(item)}.", {"buyer": name, "item": item, "price": number}),
            (f"{name} likes {colour} and {material}.", {"name": name, "likes": [colour, material]}),
            (f"The {item} is sold out in {city}.", {"item": item, "city": city, "sold": True}),
            (f"Invoice {code} goes to {name}.", {"invoice": code, "to": name}),
        ])
        if rng.chance(0.25):
            value = dict(rng.shuffled(value.items()))
        lines.append(rng.pick([f"{sentence}\n{compact(value)}", f"{sentence} {compact(value)}", f"{compact(value)}\n{sentence}"]))
    return "\n".join(lines)


def small_story(rng):
    name, friend = rng.sample(NAMES, 2)
    city, item, other = rng.pick(CITIES), *rng.sample(PRODUCTS, 2)
    colour, material, n = rng.pick(COLOURS), rng.pick(MATERIALS[item in SOFT]), rng.between(2, 30)
    slots = dict(name=name, friend=friend, city=city, p=item, a=with_article(item), q=with_article(other), r=other, c=colour, m=material,
                 n=str(n), when=rng.pick(WHEN))
    sentences = [
        "{name} [lives|works|has a small flat] in {city}.", "{name} [bought|found|was given] {a} {when}.",
        "The {p} is [{c}|made of {m}|{c} and made of {m}].", "{friend} [likes|wants|has] {q}.",
        "It [costs|cost] {n} [euros|pounds|dollars].", "{friend} asked, \"[Is that a new {p}|Where did you get the {p}|Do you like the {p}]?\"",
        "\"[Yes|I do]\", said {name}, \"[it came from a shop in {city}|I got it {when}|it is better than the old one]\".",
        "[They walked|They drove|They took the train] to {city}.", "{name} put the {p} next to the {r}.",
        "[In the evening|In the morning|After lunch] {name} [wrote to|called|met] {friend}.",
        "The shop [in {city}|on the corner] [sells|no longer sells] the {p}.", "A good {p} should last [{n}|many] years.",
        "[Wash|Clean|Store] the {p} [with care|once a week|in a dry place].",
    ]
    first = rng.below(2)  # both of the first two introduce {name}
    body = [sentences[first]] + rng.sample(sentences[first + 1:], rng.between(3, 7))
    text = " ".join(say(rng, s, **slots) for s in body)
    if rng.chance(0.4):
        text += f"\nWho is the story about? {name}"
    return text


CORPUS_MIX = [
    (support_text, 58), (plain_message, 8), (several_orders, 8), (copying, 8), (lookup, 6), (objects, 7), (small_story, 5),
]


CODE = re.compile(r"[A-Z0-9-]{6,}")


def mentions(text, orders):
    """Whether any of the order numbers is anywhere in text, inside a longer code too."""
    return any(
        code[i:j] in orders
        for code in CODE.findall(text)
        for i in range(len(code) - 5)
        for j in range(i + 6, len(code) + 1)
    )


def corpus_records(split, forbidden, seen, records=None, chars=None):
    """Corpus texts without any order number in `forbidden` or text in `seen`."""
    rng = Rng("corpus", split)
    out, total = [], 0
    while (records and len(out) < records) or (chars and total < chars):
        text = rng.weighted(CORPUS_MIX)(rng)
        if text in seen or mentions(text, forbidden):
            continue
        seen.add(text)
        out.append({"text": text})
        total += len(text)
    return out


# --------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------


def jsonl(records):
    return "".join(json.dumps(r, ensure_ascii=True) + "\n" for r in records).encode()


def gz(data):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as f:
        f.write(data)
    return buffer.getvalue()


def build():
    """Every file as {relative path: records}."""
    orders, texts = set(), set()
    heldout = support_messages("heldout", HELDOUT_RECORDS, orders, texts)
    train = support_messages("train", TRAIN_RECORDS, orders, texts)
    chat = support_messages("chat", CHAT_RECORDS, orders, texts)
    files = {
        "support/train.jsonl": [as_completion(m) for m in train],
        "support/heldout.jsonl": [as_completion(m) for m in heldout],
        "support/chat.jsonl": [as_chat(m) for m in chat],
    }
    # No order number of the support files may appear in the corpus, hence no message either.
    seen = set()
    files["corpus/validation.jsonl"] = corpus_records("validation", orders, seen, records=VALIDATION_RECORDS)
    for i in range(SHARDS):
        files[f"corpus/part-{i}.jsonl.gz"] = corpus_records(i, orders, seen, chars=SHARD_CHARS)
    verify(files, heldout, train, chat)
    return files


def verify(files, heldout, train, chat):
    """The promises that README.md makes, checked on every run."""
    groups = [heldout, train, chat]
    everything = [m for group in groups for m in group]
    assert len({m.text for m in everything}) == len({m.order for m in everything}) == len(everything)
    for m in everything:
        assert m.text.count(m.order) == 1 and m.product in m.text, m.text
    others = "\n".join(m.text for m in train + chat)
    for m in heldout:
        assert m.text not in others and m.order not in others, m.order
    corpus_texts = [r["text"] for path, records in files.items() if path.startswith("corpus/") for r in records]
    assert len(corpus_texts) == len(set(corpus_texts))
    corpus = "\n".join(corpus_texts)
    for m in everything:
        assert m.text not in corpus and m.order not in corpus, m.order
    for key in ("intent", "team", "urgency", "escalate"):
        assert f'"{key}":' not in corpus, key
    for label in LABELS.values():
        assert f':"{label}"' not in corpus, label
    assert "Ticket" not in corpus and corpus.isascii()


def stats(files):
    for path, records in files.items():
        key = (lambda r: r["text"]) if path.startswith("corpus") else (lambda r: r["prompt"][:-10] if "prompt" in r else r["messages"][1]["content"])
        lengths = [len(key(r)) for r in records]
        print(f"{path}: {len(records)} records, {sum(lengths)} characters, {min(lengths)}-{max(lengths)} each")
        step = 50 if path.startswith("support") else 200
        for bucket, n in sorted(Counter(length // step * step for length in lengths).items()):
            print(f"  {bucket:5}-{bucket + step - 1:<5} {n}")
        if path.startswith("support"):
            tickets = [json.loads(r["completion"] if "completion" in r else r["messages"][2]["content"]) for r in records]
            for field in ("intent", "urgency"):
                print(f"  {field}: {dict(sorted(Counter(t[field] for t in tickets).items()))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files on disk and write nothing")
    parser.add_argument("--stats", action="store_true", help="print lengths and label balance")
    args = parser.parse_args()
    files = build()
    stale = []
    for path, records in files.items():
        data, target = jsonl(records), HERE / path
        packed = path.endswith(".gz")
        if args.check:
            # Compare what is inside: another zlib build may pack the same text differently.
            have = target.read_bytes() if target.exists() else b""
            if (gzip.decompress(have) if packed and have else have) != data:
                stale.append(path)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gz(data) if packed else data)
    if args.stats:
        stats(files)
    if stale:
        sys.exit("out of date: " + ", ".join(stale))


if __name__ == "__main__":
    main()
