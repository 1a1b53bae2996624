"""Sentences about the nouns of the embedded data set, from which their word vectors are learned."""

import numpy as np

# noun: (kind, place, what it has, what it is like); nouns that share words get related vectors
_FACTS = {
    "star": ("shape", "sky", "points tips centre", "pointed bright jagged"),
    "fish": ("animal", "sea", "fins tail eye", "smooth oval striped"),
    "house": ("building", "street", "roof door windows walls", "square large old"),
    "key": ("tool", "street", "hole teeth shaft", "thin long metal"),
    "umbrella": ("tool", "street", "handle canopy shaft", "round wide coloured"),
    "heart": ("shape", "card", "lobes point centre", "round smooth coloured"),
    "tree": ("plant", "garden", "trunk leaves crown", "large green tall"),
    "ladder": ("tool", "garden", "rungs rails", "thin long tall"),
    "mushroom": ("plant", "garden", "cap stem spots", "round spotted small"),
    "arrow": ("shape", "card", "tip shaft feathers", "pointed long thin"),
    "flower": ("plant", "garden", "petals stem centre leaves", "round bright coloured"),
    "bottle": ("vessel", "table", "neck label cap", "smooth tall narrow"),
    "ring": ("jewel", "table", "hole gem band", "round metal bright"),
    "butterfly": ("animal", "garden", "wings body spots", "spotted bright coloured"),
    "hammer": ("tool", "table", "handle head claw", "heavy metal long"),
    "moon": ("shape", "sky", "craters tips", "round bright curved"),
    "leaf": ("plant", "garden", "veins stem tip", "green smooth oval"),
    "gear": ("tool", "table", "teeth hole rim", "round metal jagged"),
    "anchor": ("tool", "sea", "arms ring tips shaft", "heavy metal curved"),
    "boat": ("vessel", "sea", "sail hull mast", "large wide old"),
}
_SENTENCES = (
    "the {noun} is a {kind} with {part} and {other_part}",
    "a {look} {noun} stands in the {place}",
    "every {kind} in the {place} is {look} like the {noun}",
    "the {noun} has {part} and it is {look} and {other_look}",
    "a {noun} and a {friend} lie in the {place}",
    "the {part} of the {noun} is {look}",
)


def corpus(sentences: int = 4000, seed: int = 0) -> list[list[str]]:
    """`sentences` lists of words, the nouns in turn; a pure function of the arguments."""
    rng = np.random.default_rng(seed)
    nouns = list(_FACTS)
    return [_sentence(rng, nouns[number % len(nouns)]).split() for number in range(sentences)]


def _sentence(rng: np.random.Generator, noun: str) -> str:
    kind, place, parts, looks = _FACTS[noun]
    part, other_part = rng.permutation(parts.split())[:2]
    look, other_look = rng.permutation(looks.split())[:2]
    friends = [other for other, facts in _FACTS.items() if other != noun and (facts[0] == kind or facts[1] == place)] or [noun]
    words = {"part": part, "other_part": other_part, "look": look, "other_look": other_look, "friend": rng.choice(friends)}
    return str(rng.choice(_SENTENCES)).format(noun=noun, kind=kind, place=place, **words)
