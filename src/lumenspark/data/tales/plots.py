"""The plots of the stories: who wants what, what is in the way, and how it ends.

A plot is a function that draws the cast, changes the world and tells each event. Its beats depend
on what it has drawn: a trap decides which tool is needed, the tool decides who has one, and that
decides where to go.
"""

from collections.abc import Callable

from lumenspark.data.tales import tables
from lumenspark.data.tales.narrator import with_article
from lumenspark.data.tales.places import HOMES, INDOORS, OUTDOORS, PLACES
from lumenspark.data.tales.tables import ANIMALS, TRADES, Species, Trade
from lumenspark.data.tales.tale import CHILDREN, GROWN, YOUNG, Kind, Tale, place_of
from lumenspark.data.tales.world import EVENING, NIGHT, Character, Place, Thing

REMOTE = tuple(
    PLACES[noun] for noun in ("cottage", "cave", "toll house", "lighthouse", "boathouse", "tower")
)
STEEP = tuple(
    PLACES[noun] for noun in ("hill", "orchard", "forest", "quarry", "cliff", "waterfall")
)
HIGH = tuple(PLACES[noun] for noun in ("hill", "heath", "quarry", "graveyard", "tower", "pasture"))
WALKERS = tuple(species for species in ANIMALS if species.kind not in {"wing", "swim"})
BIG = tuple(
    species
    for species in ANIMALS
    if species.kind == "strong" or species.name in {"donkey", "mule", "wolf", "boar", "pig", "seal"}
)
THIEVES = tuple(
    species
    for species in WALKERS
    if species.kind in {"nose", "small", "dig"} and species.name not in {"crab", "lizard", "toad"}
)
HOLLOW = tuple(treasure for treasure in tables.TREASURES if treasure.is_hollow)
MADE = tuple(treasure for treasure in tables.TREASURES if treasure.is_made)
DIGGERS = ("spade", "trowel", "shovel", "coal scoop", "soup ladle", "frying pan", "garden fork")


def _hero(t: Tale, kinds: tuple[Kind, ...] = YOUNG) -> Character:
    """Slot A: a person with a home in slot P, introduced."""
    home = t.choices.pick_unseen(HOMES)
    hero = t.person("A", home, kinds)
    t.set(P=home)
    t.giver()
    t.begin()
    t.tell("lives")
    t.quirk()
    return hero


def _scene(t: Tale, winter: bool = True) -> None:
    """A new paragraph, perhaps with the weather."""
    t.paragraph()
    if t.choices.chance(1, 3):
        t.weather(winter)


def _friend(t: Tale) -> Character:
    """Slot B: a friend of A, introduced."""
    friend = t.person("B", None, YOUNG)
    t.tell("meet.friend", quirk=t.choices.later(tables.QUIRKS))
    return friend


def _elsewhere(*places: Place) -> tuple[Trade, ...]:
    """The trades that are done at none of ``places``."""
    return tuple(trade for trade in TRADES if place_of(trade) not in places)


def _owners(tool: str, *places: Place) -> tuple[Trade, ...]:
    """The trades that have ``tool`` and are done at none of ``places``."""
    return tuple(trade for trade in _elsewhere(*places) if tool in trade.tools)


def lost(t: Tale) -> None:
    """Something is lost, searched for, and found where an animal has taken it."""
    a = _hero(t)
    thing = t.treasure("T")
    t.world.take(a, thing)
    t.tell("treasure")
    species = t.choices.pick(ANIMALS)
    lair = PLACES[species.place]
    t.world.put(thing, lair)
    _scene(t)
    t.tell("lost")
    t.tell("upset")
    t.food()
    t.set(R=lair)
    looked = t.place("Q")
    t.world.go(looked, a)
    t.tell("search")
    t.tell("search.fail")
    t.paragraph()
    trade = t.choices.pick(_elsewhere(lair, looked))
    b = t.trader("B", trade)
    t.tell("meet.trade")
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    t.tell("ask.seen")
    t.set(Q=lair, species=species.name)
    t.world.learn(f"the {thing.noun} is {lair.at}", a, b)
    t.tell("clue")
    t.paragraph()
    t.later()
    t.go("A", "Q")
    t.tell("found")
    c = t.animal("C", species, lair)
    t.tell("meet.animal")
    t.tell("why.taken")
    t.set(food_a=with_article(species.food), food_bare=species.food)
    t.world.take(a, thing)
    t.tell("swap.food")
    c.mood = "content"
    if t.choices.chance(2, 3):
        t.tell("keep.safe")


def borrowed(t: Tale) -> None:
    """Something borrowed breaks, is hidden, and the truth comes out."""
    a = _hero(t)
    task, noun = t.choices.pick(tables.TASKS)
    tool = t.thing("U", noun)
    t.set(task=task)
    t.tell("needs.tool")
    trade = t.choices.pick(_owners(noun))
    b = t.trader("B", trade)
    t.world.take(b, tool)
    t.set(Q=place_of(trade))
    t.tell("meet.trade")
    t.go("A", "Q")
    t.tell("borrow.ask")
    t.world.take(a, tool)
    t.tell("borrow.give")
    _scene(t)
    t.later()
    t.tell("work")
    tool.broken = True
    t.tell("breaks")
    t.aside()
    hiding = t.place("Q", OUTDOORS)
    t.world.put(tool, hiding)
    t.world.learn(f"the {noun} is {hiding.at}", a)
    t.tell("hides")
    t.world.hour = NIGHT
    a.mood = "guilty"
    t.tell("guilt")
    t.paragraph()
    t.next_morning()
    t.tell("needed")
    t.world.learn(f"{a.name} broke the {noun}", b)
    t.tell("confess")
    t.tell("forgive")
    a.mood = "relieved"
    t.world.take(b, tool)
    tool.broken = False
    t.tell("mend")
    t.saying("saying.said")
    t.tell("mended.end")


def rescue(t: Tale) -> None:
    """An animal is in a trap; freeing it takes a tool that somebody else has."""
    a = _hero(t)
    trap, where, noun, catches = t.choices.pick(tables.TRAPS)
    place = PLACES[where]
    _scene(t)
    t.world.go(place, a)
    t.tell("passes", Q=place)
    t.see(place)
    species = t.choices.pick(_caught(catches))
    c = t.animal("C", species, place)
    c.mood = "frightened"
    t.tell("hears")
    t.tell("stuck", trap=trap)
    t.tell("try.hands")
    tool = t.thing("U", noun)
    trade = t.choices.pick(_owners(noun, place))
    b = t.trader("B", trade)
    t.world.take(b, tool)
    t.tell("idea.tool")
    t.paragraph()
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    _borrow_for_riddle(t, a, tool)
    t.set(Q=place)
    t.world.go(place, a)
    t.tell("return")
    c.mood = "happy"
    t.tell("free")
    t.tell("thanks.animal")
    t.aside()
    t.paragraph()
    t.world.take(b, tool)
    repays = [repay for repay in tables.REPAYS if repay.kind == species.kind]
    repay = t.choices.pick(repays)
    if "{Q" in repay.trouble:
        t.place("Q", INDOORS)
    t.world.hour = None
    t.line("repay.trouble", repay.trouble)
    t.tell("repay", inner=repay.deed)
    t.tell("friends")


def _caught(catches: str) -> tuple[Species, ...]:
    """The animals that a trap can catch."""
    return tuple(
        species
        for species in (WALKERS if "land" in catches else ANIMALS)
        if "little" not in catches or species not in BIG
    )


def _borrow_for_riddle(t: Tale, a: Character, tool: Thing) -> None:
    """A borrows the tool from B, in half of the stories for a riddle."""
    if not t.choices.chance(1, 2):
        t.tell("borrow.ask")
        t.world.take(a, tool)
        t.tell("borrow.give")
        return
    riddle, answer = t.choices.pick(tables.RIDDLES)
    t.set(riddle=riddle, answer=answer)
    asks = t.choices.below(2)
    t.tell(("riddle.asked", "riddle.offered")[asks])
    t.world.take(a, tool)
    t.tell(("riddle.solved", "riddle.unsolved")[asks])


def storm(t: Tale) -> None:
    """An errand, a storm, and a house whose owner would rather be alone."""
    a = _hero(t)
    trade = t.choices.pick(TRADES)
    b = t.trader("B", trade)
    t.tell("meet.trade")
    goods = t.thing("T", t.choices.pick(trade.products))
    t.world.take(a, goods)
    goal = t.place("Q")
    t.tell("errand")
    _scene(t)
    t.tell("sky.turns")
    t.world.set_weather("storm")
    t.tell("storm")
    t.at_hour(NIGHT)
    t.aside()
    t.set(R=goal)
    shelter = t.place("Q", REMOTE)
    t.tell("light.seen")
    t.world.go(shelter, a, b)
    t.tell("knock")
    c = t.person("C", shelter, GROWN)
    c.mood = "grumpy"
    t.tell("gruff")
    t.tell("let.in")
    t.paragraph()
    t.food()
    t.tell("share.food")
    t.tell("warm.deed")
    c.mood = "friendly"
    t.tell("softened")
    t.paragraph()
    t.next_morning()
    t.world.set_weather("sun")
    t.tell("clear.morning")
    t.world.go(goal, a, b)
    t.world.put(goods, goal)
    t.tell("delivered", Q=goal)
    t.tell("visit.again")


def gift(t: Tale) -> None:
    """A present that must be made in secret."""
    a = _hero(t)
    home = a.place
    assert home is not None
    b = _friend(t)
    t.tell("birthday")
    trade = t.choices.pick(TRADES)
    present = t.treasure("T", MADE)
    t.tell("plan.gift")
    c = t.trader("C", trade)
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    t.world.learn(f"{a.name} makes a {present.noun}", c)
    t.tell("material")
    _scene(t)
    t.world.go(home, a)
    t.world.take(a, present)
    t.tell("make")
    t.tell("nearly.caught")
    t.tell("fib")
    hiding = t.place("Q")
    t.world.put(present, hiding)
    t.tell("hide.gift")
    t.aside()
    t.paragraph()
    t.next_morning()
    t.world.take(b, present)
    b.mood = "happy"
    t.tell("gift.given")
    t.tell("gift.joy")
    if t.choices.chance(1, 2):
        back = t.treasure("U")
        t.world.take(a, back)
        t.tell("gift.back")


def contest(t: Tale) -> None:
    """Two compete, and one of them stops."""
    a = _hero(t)
    prize = with_article(t.choices.pick(tables.PRIZES))
    t.set(contest=t.choices.pick(tables.CONTESTS), prize=prize)
    t.tell("contest")
    b = _friend(t)
    b.mood = "proud"
    t.tell("boast")
    t.tell("practise")
    t.aside()
    _scene(t, winter=False)
    t.tell("start")
    t.tell("lead")
    b.mood = "hurt"
    t.tell("mishap")
    t.tell("stop.help")
    t.world.learn(f"{a.name} stopped", b)
    t.tell("finish.both")
    t.paragraph()
    t.food()
    t.at_hour(EVENING)
    b.mood = "grateful"
    t.tell("prize.shared")
    t.saying("saying.said")


def promise(t: Tale) -> None:
    """A chore is promised and forgotten."""
    a = _hero(t)
    b = _friend(t)
    chore, distraction, damage, repair = t.choices.pick(tables.CHORES)
    t.set(chore=chore, distraction=distraction, damage=damage, repair=repair)
    t.tell("promise")
    _scene(t, winter=False)
    t.tell("first.day")
    t.tell("distracted")
    t.aside()
    t.at_hour(NIGHT)
    t.tell("remember")
    a.mood = "frightened"
    t.tell("consequence")
    c = t.trader("C", t.choices.pick(TRADES))
    t.tell("help.fix")
    t.world.learn(f"{a.name} forgot to {chore}", c)
    t.tell("fix")
    t.paragraph()
    t.next_morning()
    t.world.learn(f"{a.name} forgot to {chore}", b)
    t.tell("truth")
    a.mood = "relieved"
    t.tell("truth.answer")
    t.saying("saying.said")


def swaps(t: Tale) -> None:
    """From something small to something wanted, one exchange after the other."""
    a = _hero(t)
    wanted = t.treasure("T")
    trade = t.choices.pick(TRADES)
    b = t.trader("B", trade)
    t.world.take(b, wanted)
    t.tell("wants")
    price = t.thing("Z", t.choices.pick(tables.PRICES))
    t.tell("price")
    owned = t.thing("F", t.choices.pick(tables.FOODS))
    t.world.take(a, owned)
    t.tell("has.only")
    t.aside()
    _scene(t)
    met, nouns = [trade], [owned.noun]
    for _ in range(2 + t.choices.below(2)):
        other = t.choices.pick_other(TRADES, met)
        met.append(other)
        gain = t.thing("G", t.choices.pick_other(other.products, nouns))
        nouns.append(gain.noun)
        t.world.go(place_of(other), a)
        owned.holder = None
        t.world.take(a, gain)
        t.tell("swap", other=other.name, L=owned, G=gain, Q=place_of(other))
        owned = gain
    other = t.choices.pick_other(TRADES, met)
    t.world.go(place_of(other), a)
    owned.holder = None
    t.world.take(a, price)
    t.tell("swap.last", other=other.name, L=owned)
    t.paragraph()
    t.world.go(place_of(trade), a)
    t.world.take(b, price)
    t.world.take(a, wanted)
    t.tell("buys")
    if t.choices.chance(1, 2):
        t.tell("keeps")
        return
    c = t.person("C", None, GROWN)
    t.tell("gives.away")
    t.food()
    t.world.take(c, wanted)
    t.tell("gives.away.end")


def mystery(t: Tale) -> None:
    """Things vanish, a friend is suspected, and the thief has a reason."""
    a = _hero(t)
    home = a.place
    assert home is not None
    b = _friend(t)
    stolen: list[str] = []
    for key in ("food_a", "food2_a", "food3_a"):
        stolen.append(t.choices.pick_other(tables.FOODS, stolen))
        t.set(**{key: with_article(stolen[-1])})
    _scene(t)
    t.tell("vanish")
    t.tell("suspect")
    b.mood = "hurt"
    t.tell("accuse")
    t.tell("hurt")
    t.aside()
    t.paragraph()
    t.at_hour(NIGHT)
    t.tell("watch")
    t.tell("midnight")
    species = t.choices.pick(THIEVES)
    t.set(species=species.name)
    t.tell("culprit")
    t.set(Q=PLACES[species.place])
    t.world.go(PLACES[species.place], a)
    t.tell("follow")
    t.world.learn(f"the thief was a {species.name}", a)
    t.tell("reason")
    t.paragraph()
    t.next_morning()
    t.food()
    t.world.go(home, a)
    b.mood = "content"
    t.world.learn(f"the thief was a {species.name}", b)
    t.tell("sorry")
    t.tell("arrangement")


def message(t: Tale) -> None:
    """A letter, a long way, and what is in it."""
    a = _hero(t)
    b = t.trader("B", t.choices.pick(TRADES))
    t.tell("meet.trade")
    t.town("town2")
    c = t.person("C", None, GROWN)
    letter = t.thing("T", "letter")
    t.world.take(a, letter)
    t.tell("letter")
    t.tell("road")
    t.paragraph()
    _obstacles(t, 2)
    t.paragraph()
    t.set(C=c)
    t.world.hour = EVENING
    t.tell("arrive")
    t.world.take(c, letter)
    t.world.learn("what the letter says", c)
    t.tell("letter.read")
    t.food()
    t.tell("reply")
    t.world.learn("the answer", b)


def _obstacles(t: Tale, count: int) -> None:
    """What is in the way, ``count`` times. An animal that helps is slot C."""
    met: list[tables.Obstacle] = []
    for _ in range(count):
        obstacle = t.choices.pick_other(tables.OBSTACLES, met)
        met.append(obstacle)
        t.food()
        t.line("obstacle", obstacle.obstacle)
        if "{C" in obstacle.over:
            t.animal("C", t.choices.pick(WALKERS))
        t.line("obstacle.over", obstacle.over)
        t.aside()


def quarrel(t: Tale) -> None:
    """Two friends quarrel, and one of them needs the other."""
    a = _hero(t)
    b = _friend(t)
    thing = t.treasure("T")
    t.world.take(b, thing)
    _scene(t, winter=False)
    t.tell("quarrel")
    a.mood = b.mood = "angry"
    t.tell("harsh")
    t.tell("silence")
    t.aside()
    t.person("C", None, GROWN)
    t.tell("go.between")
    t.paragraph()
    place = t.place("Q", STEEP)
    t.world.go(place, a)
    a.mood = "frightened"
    t.tell("trouble")
    t.world.go(place, b)
    t.tell("rescue")
    a.mood = b.mood = "glad"
    t.tell("how.come")
    t.food()
    thing.holder = None
    t.tell("peace")


def fear(t: Tale) -> None:
    """Somebody has to pass by what is feared most."""
    a = _hero(t)
    b = _friend(t)
    what, reason, way, event, truth = t.choices.pick(tables.FEARS)
    t.set(fear=what, fear_reason=reason, fear_way=way, fear_event=event, fear_truth=truth)
    a.mood = "afraid"
    t.tell("afraid")
    t.tell("why.afraid")
    _scene(t, winter=False)
    b.mood = "ill"
    t.tell("need")
    t.tell("go.anyway")
    t.tell("trick")
    t.aside()
    t.tell("worst")
    t.world.learn(truth, a)
    t.tell("harmless")
    medicine = t.thing("M", "medicine")
    t.world.take(a, medicine)
    t.tell("medicine")
    a.mood = "proud"
    b.mood = "well"
    t.world.take(b, medicine)
    t.tell("after.fear")
    t.saying("saying.said")


def stranger(t: Tale) -> None:
    """A stranger whom people distrust solves a problem of the town."""
    a = _hero(t, CHILDREN)
    problem, solution = t.choices.pick(tables.PROBLEMS)
    t.set(problem=problem, solution=solution)
    t.tell("problem")
    t.tell("tried")
    _scene(t)
    thing = t.treasure("T")
    c = t.person("C", PLACES["square"], GROWN)
    t.world.take(c, thing)
    t.tell("stranger")
    t.tell("distrust")
    t.food()
    t.world.go(PLACES["square"], a)
    t.tell("kindness")
    t.aside()
    t.paragraph()
    t.tell("offer")
    t.world.learn(solution, a, c)
    t.tell("solve")
    t.tell("thanked")
    t.world.take(a, thing)
    t.tell("leaves")


def fable(t: Tale) -> None:
    """One animal tricks another, and is tricked."""
    t.giver()
    t.begin()
    first = t.choices.pick(ANIMALS)
    place = PLACES[first.place]
    t.set(Q=place)
    second = t.choices.pick_other(ANIMALS, [first])
    d = t.animal("D", second, place)
    t.set(species2=second.name)
    c = t.animal("C", first, place)
    t.set(food_a=with_article(first.food))
    t.tell("fable.food")
    t.see(place)
    t.tell("fable.other")
    flattery, fall = t.choices.pick(tables.TRICKS)
    t.line("flatter", flattery)
    c.mood, d.mood = "proud", "hungry"
    t.line("fall", fall)
    c.mood, d.mood = "angry", "full"
    t.aside()
    t.paragraph()
    t.world.learn(f"{d.name} is not to be trusted", c)
    t.next_morning()
    t.tell("fable.back", inner=t.choices.pick(tables.REVENGES))
    d.mood = "sorry"
    t.tell("fable.end")
    t.saying("saying.remembered")


def growing(t: Tale) -> None:
    """A seed, a neighbour who laughs, and a danger."""
    a = _hero(t)
    t.set(plant=t.choices.pick(tables.SEEDS))
    t.tell("seed")
    b = t.person("B", None, GROWN)
    b.mood = "scornful"
    t.tell("laughed.at")
    t.paragraph()
    t.tell("waits")
    t.tell("sprout")
    a.mood = "glad"
    t.aside()
    danger, saving = t.choices.pick(tables.DANGERS)
    t.line("danger", danger)
    t.line("saved", f"{saving}.")
    t.paragraph()
    t.tell("harvest")
    b.mood = "ashamed"
    t.tell("shares.harvest")
    t.tell("new.seed")


def buried(t: Tale) -> None:
    """A note, a riddle and a box."""
    a = _hero(t)
    b = _friend(t)
    old = t.treasure("T", HOLLOW)
    t.world.take(a, old)
    hint, where = t.choices.pick(tables.HINTS)
    goal = PLACES[where]
    t.set(hint=hint, R=goal)
    start = t.place("Q")
    _scene(t, winter=False)
    t.tell("finds.note")
    t.tell("note.text")
    t.world.learn(f"the note names {start.phrase}", a, b)
    t.tell("reads.with")
    t.world.go(start, a, b)
    t.tell("go.both")
    t.see(start)
    t.world.learn(f"the hint means {goal.phrase}", a, b)
    t.tell("hint.solved")
    t.world.go(goal, a, b)
    t.aside()
    t.paragraph()
    t.later()
    t.world.take(a, t.thing("U", t.choices.pick(DIGGERS)))
    t.tell("dig")
    treasure = t.treasure("V")
    t.world.take(a, treasure)
    t.tell("box")
    t.tell("box.meaning")


def apprentice(t: Tale) -> None:
    """Learning a trade goes wrong, and then less wrong."""
    a = _hero(t, CHILDREN)
    trade = t.choices.pick(TRADES)
    b = t.trader("B", trade)
    t.tell("apprentice")
    workplace = place_of(trade)
    t.world.go(workplace, a)
    t.see(workplace)
    t.set(U=lambda: t.thing("U", t.choices.pick(trade.tools)))
    _scene(t, winter=False)
    t.tell("mishap.first")
    t.tell("mishap.second")
    a.mood = "sad"
    t.tell("give.up")
    t.aside()
    t.tell("advice")
    t.paragraph()
    t.next_morning()
    t.tell("third.day")
    made = t.thing("T", t.choices.pick(trade.products))
    t.world.take(a, made)
    a.mood = "proud"
    t.tell("first.product")
    t.town("town2")
    c = t.person("C", workplace, GROWN)
    t.world.take(c, made)
    t.world.learn(f"{a.name} made the {made.noun}", b, c)
    t.tell("first.customer")
    t.tell("stays")


def wish(t: Tale) -> None:
    """A wish is granted, and taken back."""
    a = _hero(t)
    place = t.place("Q", OUTDOORS)
    t.set(spirit=t.choices.pick(tables.SPIRITS))
    _scene(t, winter=False)
    t.world.go(place, a)
    t.tell("kind.deed")
    t.tell("grants")
    wanted, good, bad = t.choices.pick(tables.WISHES)
    t.set(wish=wanted, wish_good=good, wish_bad=bad)
    t.tell("wish")
    a.mood = "happy"
    t.tell("wish.good")
    t.aside()
    t.paragraph()
    a.mood = "unhappy"
    t.tell("wish.bad")
    t.world.learn(bad, a)
    t.tell("wish.undone")
    t.food()
    a.mood = "calm"
    t.tell("wish.end")
    t.saying("saying.remembered")


def flood(t: Tale) -> None:
    """One knows of the flood, one believes it, and one does not."""
    a = _hero(t)
    trade = t.choices.pick(_elsewhere(*HIGH, PLACES["river"]))
    b = t.trader("B", trade)
    t.tell("meet.trade")
    t.paragraph()
    t.world.set_weather("rain")
    t.tell("flood.rain")
    a.place = PLACES["river"]
    t.world.learn("the river is coming", a)
    t.tell("flood.sign")
    refuge = t.choices.pick(HIGH)
    if t.choices.chance(1, 2):
        t.tell("flood.know", Q=refuge)
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    t.set(Q=refuge)
    t.world.learn("the river is coming", b)
    t.tell("flood.warn")
    t.aside()
    t.paragraph()
    c = t.person("C", None, GROWN)
    treasure = t.treasure("T")
    t.world.take(c, treasure)
    t.tell("flood.doubt")
    t.world.take(a, treasure)
    t.world.go(refuge, a, b, c)
    t.tell("flood.trick")
    t.world.learn("the river is coming", c)
    t.tell("flood.wave")
    t.world.hour = NIGHT
    t.food()
    t.tell("flood.night")
    t.paragraph()
    t.next_morning()
    t.world.take(c, treasure)
    t.tell("flood.thanks")
    if t.choices.chance(1, 2):
        t.tell("flood.end")


def homeward(t: Tale) -> None:
    """A long way home, to an empty house."""
    a = _hero(t)
    home = a.place
    assert home is not None
    b = _friend(t)
    t.town("town2")
    t.food()
    t.set(feast=t.choices.pick(tables.FEASTS))
    a.place, b.place = None, home
    t.world.learn(f"{a.name} is to be home on {t.slots['feast']}", a, b)
    t.tell("away")
    present = t.treasure("T")
    t.world.take(a, present)
    t.tell("set.out")
    t.paragraph()
    ride = t.choices.pick(tables.RIDES)
    t.line("ride", ride)
    _obstacles(t, 1)
    t.line("ride", t.choices.pick_other(tables.RIDES, [ride]))
    t.paragraph()
    t.world.hour = NIGHT
    t.tell("home.near")
    t.world.go(home, a)
    b.place = None
    t.tell("home.dark")
    t.world.learn(f"{b.name} is on the road", a)
    t.tell("home.why")
    t.tell("home.meet")
    t.world.take(b, present)
    t.world.go(home, a, b)
    t.tell("home.end")


def lie(t: Tale) -> None:
    """A lie that is bigger each time it is told."""
    a = _hero(t, CHILDREN)
    b = _friend(t)
    _scene(t)
    deed, first, second, third, panic = t.choices.pick(tables.LIES)
    t.set(lie1=first, lie2=second, lie3=third, panic=panic)
    t.tell("lie.deed", inner=deed)
    t.world.learn("the truth", a)
    t.world.learn(first, b)
    t.tell("lie.first")
    c = t.trader("C", t.choices.pick(TRADES))
    t.world.learn(second, c)
    t.tell("lie.second")
    t.aside()
    d = t.person("D", None, GROWN)
    t.world.learn(third, d)
    t.tell("lie.third")
    t.paragraph()
    t.tell("lie.panic")
    t.world.go(PLACES["square"], a, b, c, d)
    t.tell("lie.compare")
    a.mood = "ashamed"
    t.world.learn("the truth", b, c, d)
    t.tell("lie.truth")
    a.mood = "relieved"
    t.tell("lie.answer")
    t.saying("saying.said")
    t.tell("lie.end")


def debt(t: Tale) -> None:
    """One debt pays another, all the way around."""
    a = _hero(t)
    home = a.place
    assert home is not None
    trade, *others = _different(t, 3)
    owed = t.thing("T", t.choices.pick(tables.DEBTS))
    b = t.trader("B", trade)
    t.tell("debt.owe")
    t.tell("debt.shame")
    t.aside()
    _scene(t)
    t.world.take(a, owed)
    t.tell("debt.find")
    t.set(Q=place_of(trade))
    t.world.go(place_of(trade), a)
    t.world.take(b, owed)
    t.tell("debt.pay")
    t.see(place_of(trade))
    t.set(trade2=others[0].name, trade3=others[1].name)
    c = t.person("C", place_of(others[0]), GROWN)
    t.world.take(c, owed)
    t.tell("debt.second")
    d = t.person("D", place_of(others[1]), GROWN)
    t.world.take(d, owed)
    t.tell("debt.third")
    t.paragraph()
    t.world.go(home, a)
    t.world.take(a, owed)
    t.at_hour(EVENING)
    t.tell("debt.back")
    t.tell("debt.wonder")
    t.saying("saying.remembered")
    t.tell("debt.end")


def _different(t: Tale, count: int) -> list[Trade]:
    trades: list[Trade] = []
    for _ in range(count):
        trades.append(t.choices.pick_other(TRADES, trades))
    return trades


def waiting(t: Tale) -> None:
    """Two wait for each other, because each of them was told something else."""
    a = _hero(t)
    b = _friend(t)
    _scene(t, winter=False)
    c = t.person("C", None, GROWN)
    t.tell("wait.plan")
    here, there = t.place("Q", OUTDOORS), t.place("R", OUTDOORS)
    t.world.learn(f"{a.name} and {b.name} are to meet {here.at}", a, c)
    t.tell("wait.told.a")
    t.world.learn(f"{a.name} and {b.name} are to meet {there.at}", b)
    t.tell("wait.told.b")
    t.paragraph()
    t.world.hour = 1
    t.world.go(here, a)
    t.tell("wait.a")
    thing = t.treasure("T")
    t.world.take(b, thing)
    t.world.go(there, b)
    t.tell("wait.b")
    if t.choices.chance(1, 3):
        t.tell("wait.think")
    t.world.put(thing, there)
    t.world.go(there, a)
    t.world.go(here, b)
    t.tell("wait.cross")
    t.world.take(a, thing)
    t.world.learn(f"{b.name} was {there.at}", a)
    t.tell("wait.know")
    t.paragraph()
    t.world.go(there, b)
    t.tell("wait.meet")
    t.world.take(b, thing)
    t.tell("wait.back")
    if t.choices.chance(1, 3):
        t.tell("wait.explain")
    t.food()
    t.tell("wait.end")


PLOTS: dict[str, Callable[[Tale], None]] = {
    plot.__name__: plot
    for plot in (
        lost,
        borrowed,
        rescue,
        storm,
        gift,
        contest,
        promise,
        swaps,
        mystery,
        message,
        quarrel,
        fear,
        stranger,
        fable,
        growing,
        buried,
        apprentice,
        wish,
        flood,
        homeward,
        lie,
        debt,
        waiting,
    )
}
PLOT_NAMES = tuple(PLOTS)
