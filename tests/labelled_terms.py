"""What WordNet names beside topics whose words have several meanings, and what of it drifted.

Labelled by hand before any score was looked at. *Drifted*: another meaning of the topic's word
(*bass part* of *bass guitar*), or a class so wide that a picture of it says nothing of the topic
(*device*). *Unclear* ones count for neither side. All others are good. ``CHOSEN`` may be looked at
to choose how drift is judged; ``HELD`` was looked at once, with all chosen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """Of one topic's terms; all others are good."""

    drifted: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()


def _labels(drifted: str = "", unclear: str = "") -> Labels:
    return Labels(*(frozenset(filter(None, text.split("; "))) for text in (drifted, unclear)))


_FACTORIES = (
    "works; factory; sewage disposal plant; foundry; bottling plant; brewery; distillery; "
    "industrial plant; mint; packinghouse; recycling plant; refinery; saltworks; smelter; "
    "assembly plant"
)
_PIPES = (
    "tobacco pipe; briar; calabash; calumet; clay pipe; hookah; meerschaum; pipage; manifold; "
    "pipeline; dudeen; sewer; trap; sewer main; bowl"
)
_BODY = (
    "eye; lip; muscle; ear; thyroid gland; lung; nose; heart; stomach; tongue; liver; nucleus; "
    "kidney; wing; pectoral; pituitary"
)

CHOSEN = {
    "crane birds": _labels("davit; derrick; transporter; lifting device"),
    "jaguar cars": _labels("panther; Panthera onca; Panthera; big cat"),
    "bass guitar": _labels("bass part; figured bass; ground bass; basso; pitch; part; singer"),
    "seal pups on ice": _labels(
        "sparkler; crystal; object; diamond; puppy; young person; sealing wax; stamp; bulla; "
        "cachet; lac; great seal; handstamp; signet; fastener; device",
        "whelp; fur; water",
    ),
    "bat caves": _labels("floor; roof; wall"),
    "mercury planet": _labels("quicksilver; hydrargyrum; metallic element; temperature"),
    "bark of trees": _labels("barque; tree diagram; cladogram"),
    "mouse pads and keyboards": _labels(
        "piano keyboard; organ; piano; holder; device; pad of paper; message pad; notepad; "
        "tablet; scratch pad; lily pad; inkpad; inking pad; aquatic plant; paper; leaf; block; "
        "house mouse; harvest mouse; field mouse; wood mouse; shiner; European wood mouse; "
        "white-footed mouse; deer mouse; cactus mouse; black eye; cotton mouse; pygmy mouse; "
        "rodent; bruise; person",
        "action",
    ),
    "spring flowers": _labels(
        "bedspring; coil spring; leaf spring; mainspring; spiral spring; fountain; "
        "Fountain of Youth; box spring; hairspring; geyser; outflow; hot spring; Old Faithful"
    ),
    "pitcher plants": _labels(
        f"{_FACTORIES}; hurler; left-handed pitcher; right-handed pitcher; starting pitcher; "
        "twirler; reliever; screwballer; closer; ewer; cream pitcher; slammer; pitcherful; "
        "ballplayer; thrower; vessel; containerful"
    ),
    "organ pipes in churches": _labels(
        f"{_PIPES}; {_BODY}",
        "Roman Catholic; Unification Church; Uniat Church; Pentecostal religion",
    ),
    "python snakes": _labels("spirit"),
    "woodcut birds": _labels(),
    "steam locomotives": _labels(
        unclear="vapor; diesel locomotive; electric locomotive; "
        "diesel-electric locomotive; diesel-hydraulic locomotive"
    ),
    "temple bells": _labels("head; feature"),
    "bow and arrow": _labels(
        "bowknot; fiddlestick; fore; prow; knot; vessel; front; stick; pointer; mark"
    ),
}

HELD = {
    "palm trees": _labels("tree diagram; cladogram; thenar"),
    "rock climbing": _labels(
        "calculus; crystallite; achondrite; chondrite; rise",
        "crystal; stepping stone; clastic rock; intrusion; petrifaction; marble; sill",
    ),
    "bow ties": _labels(
        "affiliation; association; deuce; relationship; equality; fiddlestick; fore; prow; "
        "vessel; stick; front"
    ),
    "orange fruit": _labels(
        "yield; orangeness; reddish orange", "seed; nut; corn; pod; orangewood"
    ),
    "ring jewellery": _labels(
        "halo; fairy ring; annulus; tire; carabiner; collar; curtain ring; napkin ring; rim; "
        "towel ring; car tire; felloe; pneumatic tire",
        "hoop; key ring",
    ),
    "nail art": _labels(
        "brad; clout nail; doornail; eightpenny nail; fourpenny nail; hobnail; sixpenny nail; "
        "spike; staple; stub nail; matrix; dance",
        "ingrown toenail; modernism; landscape; scene; canvas; sculpture; statue; gem; mosaic; "
        "watercolor; abstractionism",
    ),
    "kite surfing": _labels("check", "plaything"),
    "swallow birds": _labels("sup; drink; gulp; sip; deglutition; aerophagia; taste; consumption"),
    "pool billiards": _labels(
        "swimming pool; cistern; wading pool; pond; water jump; cesspool; millpond; rain barrel; "
        "swimming hole; fishpond; horsepond; mere; typing pool; water hole; excavation; lake"
    ),
    "plant pots": _labels(
        f"{_FACTORIES}; coffeepot; kettle; percolator; teakettle; caldron; dixie; Dutch oven; "
        "toilet; marmite; pottle; saucepot; stockpot; teapot; can",
        "urn",
    ),
    "chess pieces": _labels(
        "beam; rag; handkerchief; towel; shard; patch; swatch; timber; two-by-four; snip; "
        "cantilever; rafter; ridge; sail; tie; cheat; Bromus secalinus; brome",
        "man",
    ),
    "mint leaves": _labels(
        "batch; deal; flood; flock; haymow; large indefinite quantity", "pitcher; scale; blade"
    ),
    "crown jewels": _labels(
        "person; enamel; tooth; top", "ice; British Crown; crown of thorns; symbol; wreath"
    ),
    "horn instruments": _labels(
        "rifle; gun; bullet; weapon; shot; pistol; clock; radar; sword; missile; thermometer; "
        "firearm; watch; tool; musket; antler; bone; bull; goat; ram; process",
        "alarm",
    ),
    "deck of cards": _labels(
        "hurricane deck; afterdeck; flight deck; foredeck; gun deck; lido deck; lower deck; "
        "main deck; orlop deck; quarterdeck; upper deck; boat deck; bridge; dime bag; "
        "freeboard deck; weather deck"
    ),
    "coral reef fish": _labels("pink; roe; sail; strip", "stockfish; opaque gem; key"),
    "watercolor castles": _labels("rook; chessman"),
    "light bulbs": _labels(
        "onion; shallot; squill; bulbil; stalk; mercury thermometer; syringe; part",
        "autofluorescence; counterglow; fluorescence",
    ),
    "fan blades": _labels(
        "leaf blade; leaf; young person; ribbon; sports fan; aficionado; rooter; railbird; buff; "
        "amorist; aerophile; devotee; bacchant; groupie; metalhead"
    ),
    "mole animals": _labels(
        "gram molecule; mol; counterspy; metric weight unit; spy; sauce",
        "female; head; queen; homo",
    ),
}
