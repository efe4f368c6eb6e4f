"""The words of the stories: kinds of characters, names, trades, animals, food and things."""

from typing import NamedTuple

# A name is an onset, a vowel, perhaps an onset and a vowel again, an inner consonant and an ending.
# Onsets end in a consonant and endings begin with a vowel, so a name can be read in one way only.
ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "dr",
    "gr",
    "kr",
    "th",
    "sh",
    "tr",
)
VOWELS = ("a", "e", "i", "o")
INNER = ("k", "l", "m", "n", "r", "s", "t", "v")
LAST_VOWELS = ("a", "i", "o")
PLACE_ENDINGS = (
    "aford",
    "ewick",
    "aholm",
    "edale",
    "imouth",
    "instead",
    "eby",
    "acombe",
    "owell",
    "iness",
)

HER_KINDS = ("girl", "girl", "young woman", "woman", "old woman", "widow")
HIS_KINDS = ("boy", "boy", "young man", "man", "old man", "widower")


class Trade(NamedTuple):
    """A trade: where it is done, with what, and what comes of it."""

    name: str
    place: str
    tools: tuple[str, ...]
    products: tuple[str, ...]
    habit: str


def _words(cell: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in cell.split(","))


def _trades(table: str) -> tuple[Trade, ...]:
    rows = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return tuple(Trade(n, p, _words(t), _words(m), h) for n, p, t, m, h in rows)


TRADES = _trades("""
miller | mill | sieve, sack, hand cart | bag of flour, bag of bran | sneezed three times every morning
smith | smithy | hammer, crowbar, pair of tongs, file | hinge, horseshoe, poker | hummed one note while hammering
baker | bakery | rolling pin, long peel, basket | loaf, honey bun, seed cake | rose before the blackbirds did
farmer | barn | pitchfork, wheelbarrow, spade, rope | cheese, basket of eggs, pumpkin | talked to the weather as if it could answer
groom | stable | halter, lead rope, bucket, brush | saddle, bridle | knew every horse by its footstep
lighthouse keeper | lighthouse | lantern, telescope, whistle | bottle of lamp oil, chart | counted ships instead of sheep
librarian | library | ladder, magnifying glass, lamp | map, almanac, songbook | whispered even outdoors
teacher | schoolhouse | slate, bell, ruler | copybook, paper star | forgave easily and forgot nothing
cook | kitchen | ladle, kettle, long spoon | pot of soup, plum tart, jar of jam | tasted everything twice
carpenter | workshop | saw, hammer, plane, plank | stool, birdhouse, wooden sword | kept a pencil behind each ear
innkeeper | inn | tray, lantern, broom | bowl of stew, blanket, candle | remembered everyone's favourite chair
bell ringer | chapel | rope, oilcan, ladder | candle, brass bell | walked with a steady swing
gardener | greenhouse | spade, watering can, shears, trowel | lemon, bunch of violets, basket of pears | apologised to weeds before pulling them
boatman | boathouse | oar, rope, boat hook, bailer | net, cork float, small raft | could smell rain a day ahead
tailor | tailor's shop | needle, shears, measuring tape, thimble | waistcoat, silk ribbon, warm cloak | spoke with pins between the lips
clockmaker | clockmaker's shop | tweezers, tiny screwdriver, magnifying glass, oilcan | pocket watch, music box, weather glass | was always late
bookseller | bookshop | feather duster, ladder, lamp | atlas, book of riddles, almanac | read while walking
postmaster | post office | satchel, stamp, pair of scales | letter, parcel, postcard | knew every address and told none
milkmaid | dairy | pail, churn, stool | butter, cheese, jug of cream | sang to the cows by name
weaver | weaver's house | shuttle, shears, ball of twine | rug, shawl, blanket | dreamed in stripes
potter | pottery | kiln hook, sponge, clay knife | jug, blue bowl, clay whistle | had clay in every pocket
toll keeper | toll house | lantern, key, horn | ticket, purse of coppers | asked everyone the same riddle
beekeeper | meadow | smoker, veil, ladder | jar of honey, beeswax candle, honeycomb | moved slowly, even when late
fisher | jetty | net, rope, bait box, oar | herring, bucket of mussels, string of perch | never learned to swim
shepherd | pasture | crook, whistle, lantern, rope | fleece, ball of wool, cheese | could count to nineteen and no further
woodcutter | forest | axe, rope, sledge, wedge | bundle of firewood, walking stick, wooden spoon | said good night to the trees
ferryman | river | pole, rope, horn | raft, coil of rope | charged a song for the crossing
vintner | vineyard | shears, basket, barrel | bottle of grape juice, bunch of grapes, jar of raisins | believed in luck only in autumn
stonemason | quarry | chisel, crowbar, mallet, hand cart | whetstone, stone frog, millstone | tapped on every wall to hear it ring
charcoal burner | clearing | shovel, sooty lantern, rake | sack of charcoal, bundle of kindling | left black fingerprints on everything
herbalist | cottage | mortar, small knife, drying rack | pot of salve, bunch of thyme, peppermint tea | smelled faintly of sage
puppeteer | theatre | spool of wire, pot of glue, paintbrush | puppet, paper moon, painted mask | answered questions in other voices
cheesemonger | market | wire cutter, pair of scales, knife | wheel of cheese, round of goat cheese | judged people by how they chewed
fiddler | tavern | bow, tuning fork, lump of rosin | fiddle, songbook | tapped with one foot while asleep
cobbler | square | awl, small hammer, pot of glue | pair of boots, leather strap, pair of slippers | looked at shoes before faces
ropemaker | harbour | rope, hook, spool of twine | coil of rope, hammock, rope ladder | could tie eleven knots behind the back
net mender | beach | needle, ball of twine, knife | net, hammock | told the same story differently each time
lock keeper | canal | crank, pole, lantern | basket of watercress, goose egg | had never been in a hurry
apple grower | orchard | ladder, basket, pruning knife | basket of apples, jug of cider, apple pie | slept under the oldest tree
peat cutter | marsh | spade, plank, pair of tall boots | basket of peat, bundle of reeds | knew where the ground would hold
""")


class Species(NamedTuple):
    """An animal: where it lives, what it likes to eat, its call and its skill."""

    name: str
    place: str
    food: str
    call: str
    skill: str


def _species(table: str) -> tuple[Species, ...]:
    rows = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return tuple(Species(n, p, f, c, s) for n, p, f, c, s in rows)


ANIMALS = _species("""
fox | forest | plum | barked | walk without a sound
hare | meadow | lettuce | thumped | run uphill faster than down
badger | forest | bowl of porridge | grunted | dig through anything
hedgehog | garden | pear | snuffled | roll up tighter than a fist
otter | river | trout | whistled | open a shell with a pebble
crow | cornfield | crust of bread | cawed | untie knots
magpie | orchard | cherry | chattered | find anything that shines
owl | barn | slice of cheese | hooted | hear a mouse think
goose | pond | handful of barley | honked | scare a grown man
donkey | stable | carrot | brayed | carry twice its weight
goat | hill | cabbage | bleated | climb what nobody else could
squirrel | forest | hazelnut | scolded | remember a thousand hiding places
mouse | mill | crumb of cake | squeaked | slip through a keyhole
frog | pond | bowl of jelly | croaked | foretell rain
tortoise | garden | strawberry | hissed | wait longer than anyone
heron | marsh | eel | rasped | stand on one leg till noon
wolf | heath | bone | howled | follow a trail two days old
bear | clearing | jar of honey | growled | roll boulders like marbles
cat | kitchen | saucer of cream | mewed | land on any roof
dog | courtyard | sausage | barked | follow any scent
hen | barn | handful of corn | clucked | count her chicks in the dark
rooster | barn | handful of oats | crowed | wake the whole valley
duck | canal | bread roll | quacked | dive for dropped coins
pig | pasture | turnip | snorted | sniff out truffles
sheep | pasture | armful of clover | baaed | stand firm in any storm
seal | beach | herring | barked | balance a ball for an hour
gull | harbour | fish head | screamed | see a crumb from the clouds
raven | tower | piece of bacon | croaked | imitate any voice
jackdaw | tower | walnut | chacked | pick small locks
swallow | bridge | crumb of seed cake | twittered | find the way from far away
beaver | river | willow twig | slapped its tail | build a dam overnight
mole | vineyard | dumpling | squeaked | feel footsteps through the ground
bat | attic | fig | clicked | fly through a fence in the dark
weasel | quarry | egg | hissed | squeeze under any door
deer | clearing | apple | snorted | leap any hedge
pony | stable | lump of sugar | whinnied | find the road in fog
rat | cellar | rind of cheese | squealed | gnaw through a plank
snail | greenhouse | leaf of sorrel | said nothing | cross a knife's edge
puffin | cliff | sardine | growled | carry eleven things at once
lizard | quarry | ripe grape | flicked its tongue | grow back what it lost
""")

FOODS = (
    "loaf",
    "honey bun",
    "seed cake",
    "plum tart",
    "apple pie",
    "bowl of soup",
    "pot of stew",
    "cheese",
    "jar of jam",
    "basket of cherries",
    "bag of chestnuts",
    "gingerbread heart",
    "pear",
    "handful of raspberries",
    "pancake",
    "dumpling",
    "pickled cucumber",
    "sausage",
    "boiled egg",
    "bag of walnuts",
    "slice of ham",
    "bunch of radishes",
    "bowl of porridge",
    "jug of buttermilk",
    "oatcake",
    "blackberry pie",
    "baked potato",
    "stick of liquorice",
    "bag of toffee",
    "smoked herring",
    "bowl of custard",
    "raisin roll",
    "onion soup",
    "melon",
    "fig cake",
    "basket of apricots",
    "cinnamon twist",
    "bean pot",
    "mushroom pasty",
    "quince",
)

# How a thing may look.
LOOKS = (
    "brass",
    "copper",
    "wooden",
    "silver",
    "tin",
    "iron",
    "glass",
    "ivory",
    "red",
    "blue",
    "green",
    "yellow",
    "white",
    "black",
    "brown",
    "grey",
    "purple",
    "golden",
    "crimson",
    "striped",
    "spotted",
    "old",
    "small",
    "large",
    "heavy",
    "battered",
    "shiny",
    "plain",
    "crooked",
    "dusty",
    "patched",
    "polished",
    "rusty",
    "painted",
    "carved",
    "chipped",
    "dented",
    "faded",
    "worn",
    "lopsided",
    "tarnished",
    "handsome",
    "odd",
    "slender",
    "sturdy",
    "scratched",
    "enamelled",
)

# Things that a person may treasure, with the adjectives that suit them.
TREASURES = (
    "lantern",
    "compass",
    "fiddle",
    "flute",
    "kite",
    "whistle",
    "music box",
    "pocket watch",
    "key",
    "locket",
    "brooch",
    "ring",
    "teapot",
    "drum",
    "spinning top",
    "puppet",
    "marble",
    "medal",
    "bell",
    "telescope",
    "umbrella",
    "hat",
    "scarf",
    "cloak",
    "cap",
    "mirror",
    "comb",
    "paintbrush",
    "inkwell",
    "penknife",
    "thimble",
    "button",
    "horseshoe",
    "coin",
    "feather",
    "seashell",
    "mitten",
    "slipper",
    "boot",
    "blanket",
    "quilt",
    "harmonica",
    "accordion",
    "music stand",
    "globe",
    "chess piece",
    "candlestick",
    "snow globe",
    "wind-up bird",
    "toy boat",
    "rag doll",
    "rocking chair",
    "birdcage",
    "walking stick",
    "satchel",
    "purse",
    "notebook",
    "songbook",
    "map",
    "hourglass",
    "sundial",
    "weathercock",
    "barometer",
    "magnet",
    "lucky bean",
    "acorn cup",
    "nutcracker",
    "pepper mill",
    "tambourine",
    "triangle",
    "bugle",
)

SEEDS = (
    "sunflower",
    "pumpkin",
    "bean",
    "poppy",
    "apple tree",
    "cherry tree",
    "melon",
    "hollyhock",
    "marrow",
    "sweet pea",
    "rose bush",
    "walnut tree",
    "fig tree",
    "lavender bush",
    "tomato plant",
    "foxglove",
)
PRIZES = (
    "ham as big as a pillow",
    "silver cup",
    "barrel of apples",
    "goose with a ribbon",
    "bolt of blue cloth",
    "wheel of cheese",
    "new saddle",
    "crown of oak leaves",
    "sack of sugar",
    "painted wagon",
    "pair of dancing shoes",
    "bag of forty coppers",
    "cask of cider",
    "clock with a moon on it",
    "feather bed",
    "pony with a white star",
)
