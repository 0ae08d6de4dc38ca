"""Closed vocabularies of the mini world: kinds, colours, places, words."""

from __future__ import annotations


def _split(text: str) -> list[str]:
    """Words of a table below."""
    return text.split()


CLASSES: dict[str, dict[str, str]] = {
    "mammal": {
        "cat": "1f408",
        "dog": "1f415",
        "cow": "1f404",
        "pig": "1f416",
        "horse": "1f40e",
        "rabbit": "1f407",
        "monkey": "1f412",
        "elephant": "1f418",
        "tiger": "1f405",
        "sheep": "1f411",
    },
    "bird": {"owl": "1f989", "duck": "1f986", "penguin": "1f427", "parrot": "1f99c"},
    "fish": {"blowfish": "1f421", "shark": "1f988"},
    "reptile": {"snake": "1f40d", "turtle": "1f422", "crocodile": "1f40a"},
    "insect": {"bee": "1f41d", "ant": "1f41c", "butterfly": "1f98b"},
    "fruit": {
        "apple": "1f34e",
        "banana": "1f34c",
        "grapes": "1f347",
        "lemon": "1f34b",
        "pear": "1f350",
        "cherries": "1f352",
        "pineapple": "1f34d",
        "strawberry": "1f353",
    },
    "vegetable": {"carrot": "1f955", "corn": "1f33d", "broccoli": "1f966"},
    "vehicle": {
        "car": "1f697",
        "bus": "1f68c",
        "train": "1f682",
        "tractor": "1f69c",
        "bicycle": "1f6b2",
        "airplane": "2708-fe0f",
        "rocket": "1f680",
        "boat": "26f5",
    },
    "tool": {
        "hammer": "1f528",
        "wrench": "1f527",
        "axe": "1fa93",
        "saw": "1fa9a",
        "scissors": "2702-fe0f",
    },
    "instrument": {"guitar": "1f3b8", "drum": "1f941", "trumpet": "1f3ba", "violin": "1f3bb"},
}
"""class -> kind -> file stem of its picture in emoji-datasource-google."""

ANIMAL_CLASSES = ("mammal", "bird", "fish", "reptile", "insect")
KINDS: dict[str, str] = {k: s for kinds in CLASSES.values() for k, s in kinds.items()}
CLASS_OF: dict[str, str] = {k: c for c, kinds in CLASSES.items() for k in kinds}
GROUP_OF: dict[str, str] = {k: "animal" if c in ANIMAL_CLASSES else c for k, c in CLASS_OF.items()}
GROUPS = ("animal", "fruit", "vegetable", "vehicle", "tool", "instrument")
MEMBERS: dict[str, list[str]] = {g: [k for k in KINDS if GROUP_OF[k] == g] for g in GROUPS}
PLURAL = {
    "blowfish": "blowfish",
    "sheep": "sheep",
    "grapes": "grapes",
    "bus": "buses",
    "cherries": "cherries",
    "strawberry": "strawberries",
    "butterfly": "butterflies",
    "scissors": "scissors",
    "corn": "corn",
    "broccoli": "broccoli",
}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 135, 20),
    "yellow": (250, 220, 50),
    "green": (40, 150, 60),
    "blue": (40, 90, 210),
    "purple": (130, 60, 170),
    "pink": (250, 150, 190),
    "white": (250, 250, 250),
}

PLACES = (
    "top left corner",
    "top center",
    "top right corner",
    "middle left",
    "center",
    "middle right",
    "bottom left corner",
    "bottom center",
    "bottom right corner",
)
"""Names of the 3x3 cells, row by row."""

WORDS = sorted(
    set(
        _split("""
open closed exit stop sale fresh bakery hotel taxi school bank music coffee tea bread milk
market garden house road river lake beach forest park bridge station north south east west
left right slow fast free new old hot cold warm cool push pull enter danger caution welcome
hello thanks please danger quiet lucky happy sunny rainy windy storm winter summer spring
autumn monday friday sunday morning night today silver golden copper marble wooden paper
glass metal stone sugar salt pepper honey butter cheese soup salad dinner lunch menu daily
special price order ticket movie radio camera phone letter post stamp office doctor dentist
nurse clinic police fire rescue water power light energy engine motor garage tires repair
paint tools nails rope ladder basket bottle jacket shirt shoes socks hats books poems story
paris london berlin madrid oslo vienna dublin tokyo delhi cairo lima quebec soccer tennis
chess poker puzzle castle tower palace museum theater studio gallery harbor island valley
""")
    )
)

SHOPS = _split("""
Acorn Bloom Cedar Delta Ember Fable Grove Haven Indigo Jolly Kiosk Lotus Maple Nova Olive
Pixel Quartz Raven Sable Tulip Umber Velvet Willow Xenon Yonder Zephyr
""")
ITEMS = _split("""
bread milk eggs tea rice soap fish beans juice honey paper candle pasta cheese butter coffee
sugar flour nuts plums salt jam cake soup corn oil
""")
NAMES = _split("""
Anna Bruno Clara David Elena Felix Greta Hugo Irene Jonas Karla Liam Maria Nils Olga Peter
Quinn Rosa Simon Tina Ulla Victor Wendy Yusuf Zoe
""")
CITIES = _split("""
Paris London Berlin Madrid Oslo Vienna Dublin Tokyo Delhi Cairo Lima Quebec Boston Lagos
Milan Porto Seoul Dakar Perth Turin
""")
MONTHS = _split("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")


def article(noun: str) -> str:
    """`noun` with its indefinite article ("an owl"); plural-only nouns stay bare."""
    if noun in ("grapes", "cherries", "scissors", "corn", "broccoli"):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Plural of a kind or group name."""
    return PLURAL.get(noun, noun + "s")
