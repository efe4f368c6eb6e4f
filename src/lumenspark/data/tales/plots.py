"""The plots of the stories: who wants what, what is in the way, and how it ends.

A plot is a function that draws the cast, changes the world and tells each event. Its beats depend
on what it has drawn: a trap decides which tool is needed, the tool decides who has one, and that
decides where to go.
"""

from collections.abc import Callable

from lumenspark.data.tales import tables
from lumenspark.data.tales.narrator import capitalised, with_article
from lumenspark.data.tales.places import INDOORS, OUTDOORS, PLACES
from lumenspark.data.tales.tables import ANIMALS, TRADES, Species, Trade
from lumenspark.data.tales.tale import GROWN, YOUNG, Kind, Tale, place_of
from lumenspark.data.tales.world import Character, Place, Thing

YOUNG_OR_NEARLY = YOUNG + tuple(kind for kind in GROWN if kind.noun.startswith("young"))
HOME = tuple(place for place in INDOORS if place.noun in {"cottage", "attic", "kitchen", "tower"})
REMOTE = tuple(
    PLACES[noun] for noun in ("cottage", "cave", "toll house", "lighthouse", "boathouse", "tower")
)
STEEP = tuple(
    PLACES[noun] for noun in ("hill", "orchard", "forest", "quarry", "cliff", "waterfall")
)
THIEVES = tuple(species for species in ANIMALS if species.name not in {"snail", "frog", "mole"})
TOOL_OWNERS: dict[str, tuple[Trade, ...]] = {
    tool: tuple(trade for trade in TRADES if tool in trade.tools + trade.products)
    for trade in TRADES
    for tool in trade.tools + trade.products
}


def _hero(t: Tale, kinds: tuple[Kind, ...] = ()) -> Character:
    """Slot A: a person with a home in slot P, introduced."""
    home = t.choices.pick_unseen(HOME)
    hero = t.person("A", home, kinds or YOUNG_OR_NEARLY)
    t.set(P=home)
    t.giver()
    t.begin()
    t.tell("lives")
    if t.choices.chance(2, 3):
        t.quirk()
    return hero


def _scene(t: Tale, winter: bool = True) -> None:
    """A new paragraph, perhaps with the weather."""
    t.paragraph()
    if t.choices.chance(1, 3):
        t.weather(winter)


def _friend(t: Tale) -> Character:
    """Slot B: a friend of A, introduced."""
    friend = t.person("B", None, YOUNG_OR_NEARLY)
    t.tell("meet.friend", quirk=t.choices.later(tables.QUIRKS))
    return friend


def _meet_trade(t: Tale, key: str, trade: Trade) -> Character:
    """Somebody grown-up at work, as slot ``key``; told by the caller."""
    t.set(trade=trade.name, habit=trade.habit)
    return t.person(key, place_of(trade), GROWN)


def _tool(t: Tale, key: str, noun: str) -> Thing:
    return t.thing(key, noun)


def _animal_at(t: Tale, place: Place, key: str = "C") -> Character:
    """An animal that lives at ``place`` or could."""
    locals_ = [species for species in ANIMALS if species.place == place.noun]
    species = t.choices.pick(locals_ or ANIMALS)
    return t.animal(key, species, place)


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
    looked = t.place("Q")
    t.world.go(looked, a)
    t.tell("search")
    t.tell("search.fail")
    t.aside()
    t.paragraph()
    trade = t.choices.pick(TRADES)
    b = _meet_trade(t, "B", trade)
    t.set(P2=place_of(trade))
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
    owners = TOOL_OWNERS[noun]
    tool = _tool(t, "U", noun)
    t.set(task=task)
    t.tell("needs.tool")
    trade = t.choices.pick(owners)
    b = _meet_trade(t, "B", trade)
    tool.owner = tool.holder = b
    t.set(P2=place_of(trade), Q=place_of(trade))
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
    if t.choices.chance(1, 3):
        t.saying("saying.said")
    t.tell("mended.end")


def rescue(t: Tale) -> None:
    """An animal is in a trap; freeing it takes a tool that somebody else has."""
    a = _hero(t)
    trap, where, noun = t.choices.pick(tables.TRAPS)
    place = PLACES[where]
    _scene(t)
    t.tell("passes", Q=place)
    a.place = place
    t.see(place)
    c = t.animal("C", t.choices.pick(ANIMALS), place)
    c.mood = "frightened"
    t.tell("hears")
    t.tell("stuck", trap=trap)
    t.tell("try.hands")
    tool = _tool(t, "U", noun)
    trade = t.choices.pick(TOOL_OWNERS[noun])
    b = _meet_trade(t, "B", trade)
    tool.owner = tool.holder = b
    t.tell("idea.tool")
    t.paragraph()
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    if t.choices.chance(1, 2):
        riddle, answer = t.choices.pick(tables.RIDDLES)
        t.set(riddle=riddle, answer=answer)
        asks = t.choices.below(2)
        t.tell(("riddle.asked", "riddle.offered")[asks])
        t.world.take(a, tool)
        t.tell(("riddle.solved", "riddle.unsolved")[asks])
    else:
        t.tell("borrow.ask")
        t.world.take(a, tool)
        t.tell("borrow.give")
    t.set(Q=place)
    t.world.go(place, a)
    t.tell("return")
    c.mood = "happy"
    t.tell("free")
    t.tell("thanks.animal")
    t.aside()
    t.paragraph()
    t.place("Q", INDOORS)
    t.tell("repay.trouble")
    t.tell("repay")
    t.tell("friends")


def storm(t: Tale) -> None:
    """An errand, a storm, and a house whose owner would rather be alone."""
    a = _hero(t)
    trade = t.choices.pick(TRADES)
    b = _meet_trade(t, "B", trade)
    t.set(P2=place_of(trade))
    t.tell("meet.trade")
    goods = t.thing("T", t.choices.pick(trade.products))
    t.world.take(a, goods)
    goal = t.place("Q")
    t.tell("errand")
    t.later()
    _scene(t)
    t.tell("sky.turns")
    t.world.weather = "storm"
    t.tell("storm")
    t.aside()
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
    t.world.weather = "sun"
    t.tell("clear.morning")
    t.world.go(goal, a, b)
    t.world.put(goods, goal)
    t.tell("delivered")
    t.tell("visit.again")


def gift(t: Tale) -> None:
    """A present that must be made in secret."""
    a = _hero(t)
    b = _friend(t)
    t.tell("birthday")
    trade = t.choices.pick(TRADES)
    present = t.treasure("T")
    t.tell("plan.gift")
    c = _meet_trade(t, "C", trade)
    t.set(Q=place_of(trade))
    t.go("A", "Q")
    t.world.learn(f"{a.name} makes a {present.noun}", c)
    t.tell("material")
    _scene(t)
    t.later()
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
    t.set(contest=t.choices.pick(tables.CONTESTS), prize=_a(t.choices.pick(tables.PRIZES)))
    t.tell("contest")
    b = _friend(t)
    b.mood = "proud"
    t.tell("boast")
    t.tell("practise")
    t.aside()
    _scene(t)
    t.tell("start")
    t.tell("lead")
    b.mood = "hurt"
    t.tell("mishap")
    t.tell("stop.help")
    t.world.learn(f"{a.name} stopped", b)
    t.tell("finish.both")
    t.paragraph()
    t.food()
    t.later(2)
    b.mood = "grateful"
    t.tell("prize.shared")
    if t.choices.chance(1, 3):
        t.saying("saying.said")


def promise(t: Tale) -> None:
    """A chore is promised and forgotten."""
    a = _hero(t)
    b = _friend(t)
    chore, distraction, damage, repair = t.choices.pick(tables.CHORES)
    t.set(chore=chore, distraction=distraction)
    t.set(damage=damage, damage_capital=capitalised(damage))
    t.set(repair=repair, repair_capital=capitalised(repair))
    t.tell("promise")
    b.place = None
    _scene(t)
    t.tell("first.day")
    t.tell("distracted")
    t.aside()
    t.later(2)
    t.tell("remember")
    a.mood = "frightened"
    t.tell("consequence")
    c = _meet_trade(t, "C", t.choices.pick(TRADES))
    t.tell("help.fix")
    t.world.learn(f"{a.name} forgot to {chore}", c)
    t.tell("fix")
    t.paragraph()
    t.next_morning()
    t.world.learn(f"{a.name} forgot to {chore}", b)
    t.tell("truth")
    a.mood = "relieved"
    t.tell("truth.answer")
    if t.choices.chance(1, 3):
        t.saying("saying.said")


def swaps(t: Tale) -> None:
    """From something small to something wanted, one exchange after the other."""
    a = _hero(t)
    wanted = t.treasure("T")
    trade = t.choices.pick(TRADES)
    b = _meet_trade(t, "B", trade)
    wanted.holder = b
    t.tell("wants")
    price, bare = t.choices.pick(tables.PRICES)
    t.set(price=price, price_bare=bare, price_capital=capitalised(price))
    t.tell("price")
    food = t.food()
    t.tell("has.only")
    t.aside()
    _scene(t)
    owned, met = food(), [trade]
    for _ in range(2 + t.choices.below(2)):
        other = t.choices.pick_other(TRADES, met)
        met.append(other)
        gain = t.choices.pick(other.products)
        t.world.go(place_of(other), a)
        t.tell("swap", **_swap(other, owned, gain), Q=place_of(other))
        owned = gain
    other = t.choices.pick_other(TRADES, met)
    t.tell("swap.last", **_swap(other, owned, ""))
    t.paragraph()
    t.world.take(a, wanted)
    t.tell("buys")
    if t.choices.chance(1, 2):
        t.tell("keeps")
        return
    c = t.person("C", None, GROWN)
    t.tell("gives.away")
    t.world.take(c, wanted)
    t.tell("gives.away.end")


def _swap(other: Trade, loss: str, gain: str) -> dict[str, str]:
    return {"other": other.name, "loss": f"the {loss}", "gain_a": _a(gain) if gain else ""}


def _a(words: str) -> str:
    return with_article(words)


def mystery(t: Tale) -> None:
    """Things vanish, a friend is suspected, and the thief has a reason."""
    a = _hero(t)
    b = _friend(t)
    t.food()
    t.food("food2")
    t.food("food3")
    _scene(t)
    t.tell("vanish")
    t.tell("suspect")
    b.mood = "hurt"
    t.tell("accuse")
    t.tell("hurt")
    t.aside()
    t.paragraph()
    t.world.hour = 4
    t.tell("watch")
    t.tell("midnight")
    species = t.choices.pick(THIEVES)
    t.set(species=species.name)
    t.tell("culprit")
    lair = t.place("Q", (PLACES[species.place],)) if _free(t, species) else t.place("Q")
    t.world.go(lair, a)
    t.tell("follow")
    t.world.learn(f"the thief was a {species.name}", a)
    t.tell("reason")
    t.paragraph()
    t.next_morning()
    t.food()
    b.mood = "content"
    t.tell("sorry")
    t.tell("arrangement")


def _free(t: Tale, species: Species) -> bool:
    """Whether no slot holds the place of ``species``."""
    return PLACES[species.place] not in t.slots.values()


def message(t: Tale) -> None:
    """A letter, a long way, and what is in it."""
    a = _hero(t)
    trade = t.choices.pick(TRADES)
    b = _meet_trade(t, "B", trade)
    t.set(P2=place_of(trade))
    t.tell("meet.trade")
    t.other_town()
    c = t.person("C", None, GROWN)
    letter = t.thing("T", "letter")
    t.world.take(a, letter)
    t.tell("letter")
    t.tell("road")
    _scene(t)
    done: list[tables.Obstacle] = []
    for _ in range(2):
        obstacle, way_over = row = t.choices.pick_other(tables.OBSTACLES, done)
        done.append(row)
        t.food()
        _tell_obstacle(t, "obstacle", obstacle)
        _tell_obstacle(t, "obstacle.over", way_over)
        t.aside()
        t.later()
    t.paragraph()
    t.set(C=c)
    t.tell("arrive")
    t.world.take(c, letter)
    t.world.learn("what the letter says", c)
    t.tell("letter.read")
    t.food()
    t.tell("reply")
    b.knows.append("the answer")


def _tell_obstacle(t: Tale, event: str, template: str) -> None:
    """Tell a line of :data:`.tables.OBSTACLES`, with an animal where it names one."""
    if "{C" in template:
        t.animal("C", t.choices.pick(ANIMALS))
    t.line(event, template)


def quarrel(t: Tale) -> None:
    """Two friends quarrel, and one of them needs the other."""
    a = _hero(t)
    b = _friend(t)
    thing = t.treasure("T")
    t.world.take(b, thing)
    _scene(t)
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
    t.tell("peace")


def fear(t: Tale) -> None:
    """Somebody has to pass by what is feared most."""
    a = _hero(t)
    b = _friend(t)
    what, reason, where, event, truth = t.choices.pick(tables.FEARS)
    t.set(fear=what, fear_reason=reason, fear_place=where, fear_event=event)
    t.set(fear_truth_capital=capitalised(truth))
    a.mood = "afraid"
    t.tell("afraid")
    t.tell("why.afraid")
    _scene(t)
    b.mood = "ill"
    t.tell("need")
    t.tell("go.anyway")
    t.tell("trick")
    t.aside()
    t.tell("worst")
    t.world.learn(truth, a)
    t.tell("harmless")
    a.mood = "proud"
    b.mood = "well"
    t.tell("after.fear")
    if t.choices.chance(1, 3):
        t.saying("saying.said")


def stranger(t: Tale) -> None:
    """Somebody whom nobody trusts knows what nobody knew."""
    a = _hero(t, YOUNG)
    problem, solution = t.choices.pick(tables.PROBLEMS)
    t.set(problem=problem, problem_capital=capitalised(problem))
    t.set(solution=solution, solution_capital=capitalised(solution))
    t.tell("problem")
    t.tell("tried")
    _scene(t)
    thing = t.treasure("T")
    c = t.person("C", PLACES["square"], GROWN)
    t.world.take(c, thing)
    t.tell("stranger")
    t.tell("distrust")
    t.food()
    a.place = PLACES["square"]
    t.tell("kindness")
    t.aside()
    t.paragraph()
    t.later()
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
    place = t.place("Q", OUTDOORS)
    first = t.choices.pick(ANIMALS)
    second = t.choices.pick_other(ANIMALS, [first])
    d = t.animal("D", second, place)
    t.set(species2=second.name)
    c = t.animal("C", first, place)
    t.set(food_a=_a(first.food))
    t.tell("fable.food")
    t.see(place)
    t.tell("fable.other")
    t.tell("flatter")
    c.mood, d.mood = "proud", "hungry"
    t.tell("fable.fall")
    c.mood, d.mood = "angry", "full"
    t.aside()
    _scene(t)
    _tool(t, "U", t.choices.pick(("sack", "rope", "bucket", "basket", "jar of pepper", "drum")))
    t.tell("fable.plan")
    t.world.learn(f"{c.name} plans something", c)
    t.tell("fable.back")
    d.mood = "sorry"
    t.tell("fable.end")
    if t.choices.chance(1, 2):
        t.saying("saying.remembered")


def growing(t: Tale) -> None:
    """A seed, a neighbour who laughs, and a danger."""
    a = _hero(t)
    t.set(plant=t.choices.pick(tables.SEEDS))
    t.tell("seed")
    b = t.person("B", None, GROWN)
    b.mood = "scornful"
    t.tell("laughed.at")
    _scene(t, winter=False)
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
    old = t.treasure("T")
    t.world.take(a, old)
    start = t.place("Q")
    hint, where = t.choices.pick(tables.HINTS)
    goal = PLACES[where]
    t.set(hint=hint, hint_capital=capitalised(hint), R=goal)
    _scene(t)
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
    _tool(t, "U", t.choices.pick(("spade", "trowel", "shovel", "coal scoop", "soup ladle")))
    t.tell("dig")
    treasure = t.treasure("V")
    t.world.take(a, treasure)
    t.tell("box")
    t.tell("box.meaning")


def apprentice(t: Tale) -> None:
    """Learning a trade goes wrong, and then less wrong."""
    a = _hero(t, YOUNG)
    trade = t.choices.pick(TRADES)
    b = _meet_trade(t, "B", trade)
    t.tell("apprentice")
    workplace = place_of(trade)
    t.world.go(workplace, a)
    t.set(P=workplace)
    t.see(workplace)
    t.set(U=lambda: _tool(t, "U", t.choices.pick(trade.tools)))
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
    t.other_town()
    c = t.person("C", workplace, GROWN)
    t.world.take(c, made)
    t.tell("first.customer")
    t.world.learn(f"{a.name} made the {made.noun}", b, c)
    t.tell("stays")


def wish(t: Tale) -> None:
    """A wish is granted, and taken back."""
    a = _hero(t)
    place = t.place("Q", OUTDOORS)
    t.set(spirit=t.choices.pick(tables.SPIRITS))
    _scene(t)
    a.place = place
    t.tell("kind.deed")
    t.see(place)
    t.tell("grants")
    wanted, good, bad = t.choices.pick(tables.WISHES)
    t.set(wish=wanted, wish_good=good, wish_good_capital=capitalised(good))
    t.set(wish_bad=bad, wish_bad_capital=capitalised(bad))
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
    if t.choices.chance(1, 3):
        t.saying("saying.remembered")


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
    )
}
PLOT_NAMES = tuple(PLOTS)
