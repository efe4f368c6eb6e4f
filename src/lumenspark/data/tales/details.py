"""What stories are about: tasks, traps, fears, wishes and the like, and the voices that tell them."""

from typing import NamedTuple


def _rows(table: str) -> tuple[tuple[str, ...], ...]:
    lines = table.strip().splitlines()
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in lines)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


QUIRKS = _lines("""
could whistle two notes at once
collected buttons that had lost their coats
never stepped on a crack between two stones
had once ridden a pig through the church
knew the names of all the clouds
ate soup with a fork, to make it last
answered every question with another question
laughed at funerals and wept at weddings
kept a beetle in a matchbox
could not pass a puddle without jumping into it
talked in rhymes on Thursdays
always wore one red sock and one green one
slept with the window open, even in snow
had been to sea and been sick all the way
could hold a breath for two whole minutes
believed that the moon was hollow
wrote letters to the north wind
was never seen without a piece of string
could peel an apple in one long ribbon
counted stairs and never told the number
knew eleven words for rain
lost everything except at cards
gave names to chairs
never told a lie, except about fish
walked backwards when thinking
had a cough like a barking seal
saved the crusts for the ducks
knew more songs than the fiddler did
could draw a perfect circle with a stick
stayed in bed on windy days
was fond of thunder
blushed when anybody said good morning
carried a spoon, just in case
read the last page of every book first
could fall asleep standing up
wanted to know how everything worked
had been struck by lightning and only hiccuped
found four-leaved clovers without looking
could tell the time by the smell of the street
had never once been late and never once been early
argued with the church clock
tied knots while listening
sang to the bread so that it would rise
feared nothing but geese
kept a diary about the weather
knew where the wild strawberries grew and would not say
said goodbye three times and then stayed
took the stairs two at a time
was good at waiting
had a pocket with a hole and a plan for it
fed every stray cat in the street
could imitate any bird and most teachers
hated gloves
cried over onions, and over songs about onions
mended what others threw away
had a laugh that made dogs join in
always gave the bigger half away
planted a tree on every birthday
was learning to juggle eggs
could keep a secret as a well keeps a stone
""")

GIVERS = (
    "an aunt",
    "an uncle",
    "a grandmother",
    "a grandfather",
    "a sailor",
    "a travelling doctor",
    "a godmother",
    "a great-aunt",
    "an old neighbour",
    "a retired pirate",
    "a passing juggler",
    "a cousin overseas",
    "a kind nun",
    "a blind musician",
    "a circus rider",
    "a chimney sweep",
    "an older brother",
    "an older sister",
    "a night watchman",
    "a pedlar",
)

ADJECTIVES = (
    "proud",
    "shy",
    "clever",
    "lazy",
    "hungry",
    "grumpy",
    "cheerful",
    "young",
    "plump",
    "thin",
    "sleepy",
    "bold",
    "nervous",
    "silver-haired",
    "one-eared",
    "three-legged",
    "bright-eyed",
    "muddy",
    "vain",
    "gentle",
    "quarrelsome",
    "lonely",
    "polite",
    "fearless",
    "curious",
    "stubborn",
    "quick",
    "slow",
    "dignified",
    "mischievous",
    "soft-hearted",
    "sharp-nosed",
    "long-tailed",
    "big-footed",
)

# A task, and the tools that it needs.
TASKS = _rows("""
repair the henhouse roof | hammer
cut the hedge | shears
dig a ditch around the beans | spade
pull a cart out of the mud | rope
saw a door into the fence | saw
clean the chimney | ladder
fetch wood for the winter | sledge
split the fallen oak | axe
move a boulder | crowbar
carry stones to the new wall | hand cart
turn the compost | pitchfork
light the way for the midnight procession | lantern
hang the paper lamps in the plum tree | ladder
mix mortar for the garden wall | trowel
carve a name above the door | chisel
reach the highest pears | ladder
sew a sail for the raft | needle
take the carpet out and beat it | broom
cross the flooded field | oar
sort the good grain from the bad | sieve
""")

# A trap ("... had fallen into"), the place, the tools that help.
TRAPS = _rows("""
had fallen down the well | well | rope
sat at the bottom of an old pit | forest | ladder
was tangled in a torn net | beach | knife
was caught under a fallen branch | orchard | saw
was stuck in a hollow log | clearing | axe
had got one foot under a stone | quarry | crowbar
was sinking in the mud | marsh | plank
was trapped behind a locked gate | courtyard | key
had floated out on a broken crate | river | boat hook
hung by one leg from a snare | heath | shears
was wedged between two boards | bridge | hammer
had rolled into a barrel and could not turn | cellar | hand cart
was shut in under the bell | tower | ladder
had swum into a fish trap | canal | pole
lay under a heap of slipped earth | hill | spade
was tied to a post and forgotten | market | small knife
had climbed a mast and dared not come down | harbour | rope ladder
was frozen fast to the ice | pond | kettle
sat on a rock while the tide came in | cliff | rope
had a thorn deep in one foot | lane | tweezers
""")

RIDDLES = _rows("""
what goes up the chimney and has no legs? | Smoke
what has teeth and does not bite? | A comb
what gets wetter the more it dries? | A towel
what has a neck and no head? | A bottle
what runs all day and never gets tired? | The river
what do you break when you say its name? | Silence
what has one eye and cannot see? | A needle
what grows when you take from it? | A hole
what is full of holes and still holds water? | A sponge
what has hands and cannot clap? | A clock
what falls and never hurts itself? | Rain
what comes in through the keyhole and takes up the whole room? | Light
what has a bed and never sleeps? | The river bed
what can you catch and not throw? | A cold
what walks on its head all day? | A nail in a shoe
what has roots that nobody sees and is taller than trees? | A mountain
what is always coming and never arrives? | Tomorrow
what belongs to you and is used more by others? | Your name
""")

# A chore, what distracts from it, the damage, the repair.
CHORES = _rows("""
feed the hens | the geese flew over in a great arrow | the hens had broken out and gone | one hen after another was carried home
water the seedlings | the puppeteers came to town | the seedlings lay flat and grey | they carried water drop by drop until the seedlings stood up
keep the fire burning | a kite race began on the hill | the fire was out and the pipes had frozen | they thawed the pipes with hot towels and lit the stove again
wind the big clock | a whale was seen in the bay | the clock had stopped, and the whole town was late | they set the clock by the stars and wound it to the top
shut the gate of the pasture | somebody began a ball game in the lane | the sheep had strolled away into the cornfield | they led the sheep back one by one with a lantern
stir the jam every hour | a balloon landed behind the church | the jam had burned as black as boots | they scrubbed the pot and boiled new jam from the last plums
close the windows before dark | the circus passed with two camels | the rain had come in and soaked the books | they hung up every page on a line to dry
turn the cheeses | the river froze and everyone went skating | the cheeses had gone flat on one side | they turned the cheeses every hour and rubbed them with salt
light the harbour lamp | a band was playing in the square | the lamp was dark and a boat had run onto the sand | they lit the lamp and pulled the boat free with the tide
rock the cradle | the first snow fell | the baby had crept off under the sofa | they found the baby asleep among the boots
cover the roses at night | shooting stars fell by the dozen | the frost had bitten every bud | they cut the roses back and wrapped them in straw
milk the goat | a fair had opened by the river | the goat had eaten the washing | they milked the goat and sewed new shirts from old curtains
ring the bell at six | the cherries were ripe behind the wall | nobody had rung, and the bakers had slept | they baked all night so that there was bread after all
guard the drying herrings | two tumblers stood on each other's shoulders | the cats had come, all nineteen of them | they caught new herrings before the sun was up
feed the silkworms | a rainbow stood over the quarry, with both feet on the ground | the silkworms had crawled up the walls | they picked the silkworms off the wallpaper with a feather
""")

# A contest, and what is done.
CONTESTS = (
    "the great sack race",
    "the race around the lake",
    "the wheelbarrow race",
    "a race on stilts",
    "the pancake run",
    "the barrel rolling",
    "the swimming race across the river",
    "the race up the church hill",
    "the sledge race",
    "the boat race",
    "the egg and spoon race",
    "the three-legged race to the mill",
    "the donkey race",
    "the run with full buckets",
    "the snail-slow bicycle race",
    "the torch relay",
)

PRICES = _rows("""
one silver coin | silver coin
a pair of red boots | red boots
a lamb with a bell | lamb
a good warm coat | warm coat
three white pigeons | white pigeons
a cartload of wood | wood
a barrel of cider | cider
a goose that lays | goose
six silver spoons | silver spoons
a fine saddle | saddle
""")

# What is feared, the reason, the way, what happens, what it was.
FEARS = _rows("""
the dark | a night in a cupboard | through the long tunnel | the lantern went out | it was only dark, and the dark did nothing at all
thunder | a barn that burned | over the bare ridge | it thundered right overhead | it was as loud as a giant moving furniture, and then it was past
deep water | a boat that tipped over | across the ferry in the flood | the boat began to rock | a fat seal was scratching its back on the keel
dogs | a bite in the calf | past the house with the chained dog | the dog came running without its chain | it laid a stick down and waited, wagging
heights | a fall from a plum tree | over the rope bridge | a plank broke and fell without a sound | the next plank held, and so did the one after it
geese | a gander with a red eye | past the pond with the geese | the gander spread its wings and hissed | it was guarding a nest, and bowed as soon as it saw that nobody wanted eggs
the old mill | a story about a ghost | past the ruined mill | something white came out of the door | it was a goat with a sheet around its horns
strangers | a man who shouted | through the camp of the travellers | a hand took hold of a sleeve | it was a child who wanted to give back a lost glove
spiders | a web in the face | through the cellar | something with eight legs let itself down | it was smaller than a raisin, and much more frightened
fire | a scorched eyebrow | past the charcoal kilns | sparks flew up all around | they went out in the air, one by one, like tired stars
the bull | a torn pair of trousers | across the bull's meadow | the bull lowered its head | it lowered its head to eat a daisy, and then another
owls | a shriek at bedtime | through the wood at midnight | two yellow eyes opened on a branch | the owl blinked, said good evening in its own way, and went on looking for mice
the sea | a wave in the nose | along the beach at high tide | a wave took away one shoe | the next wave brought it back, with a crab in it
speaking in public | a forgotten poem | onto the stage in the square | everyone turned to look | they were only faces, and most of them smiled
the headmaster | a broken window | into his dark office | the chair turned around | he had a kitten on his lap and a thread on his chin
snakes | a hiss in the hay | through the tall grass | something long lay across the path | it was a belt with a buckle, and a rather good one
the forest | a day of being lost | right through the middle of the forest | a branch cracked close by | a deer stood there, with its fawn, and did not run away
""")

# A problem of the town, and its solution.
PROBLEMS = _rows("""
the well had run dry | a stone was stuck in the spring, and when it came out the water shot up as high as the church
the bell would not ring | there was a swarm of bees inside, and they were talked into a hive with a little smoke
the clock struck thirteen | a mouse had eaten one cog, and a slice of carrot, cut just right, took its place until a new one was made
the mill stood still | the stream had found another bed, and three willow fences led it home again
the bread would not rise | the flour was lonely, the stranger said, but what really helped was a window that closed
the cows gave no milk | someone had moved their salt stone, and when it lay in its old place the pails were full
rats had eaten half of the grain | a flute, a cheese and an open gate were enough, and the rats left in a long grey line
the bridge trembled under every cart | it needed one more stone, a wedge no bigger than a loaf, and just there
the children could not sleep | a loose board on the tower had been howling in the wind, and three nails made it quiet
all the apples had worms | forty nesting boxes were hung up, and the tits ate every worm by Easter
the lighthouse stayed dark | there was a wasp nest in the burner, and when it was gone the light reached to the islands
nobody could agree about anything | the stranger gave out slips of paper and a hat, and they voted for the first time in their lives
the river rose a little every day | a dam of fallen trees was holding it back, and when it was opened the water sank in an hour
the beer tasted of soap | a child had washed a dog in the spring, and was very sorry, and so was the dog
the echo in the quarry had gone | a hedge had grown across it, and when it was cut the echo came back and said everything twice
a smell hung over the square | a whole wheel of cheese had rolled under the stage, two summers ago
the ferry always drifted to the wrong bank | the rudder had been put on upside down, and nobody had ever looked underneath
""")

# A wish, what is good about it, what is bad.
WISHES = _rows("""
I want to be as tall as a house | one could pick apples without a ladder and look into nests | there was no bed, no door and no friend of the right size
I want it to be Sunday every day | nobody had to work and the bells never stopped | nobody baked, and nobody milked, and the bells never stopped
I want everything I touch to turn to sugar | the gate tasted sweet and so did the cat's bowl | the bed crunched, the bees came, and there was nothing else to eat
I want to understand what animals say | the sparrows told jokes and the horse told the news | one heard what the chickens thought of supper
I want never to be tired again | there was time for every book and every game | the nights were long, and everyone else was asleep
I want all the money in the town | it filled two rooms and a bathtub | nobody could buy anything, and nobody came to visit
I want to be invisible | one could walk through the kitchen and take what one liked | nobody said good morning any more
I want to be always right | every bet was won and every quarrel too | nobody wanted to talk, or bet, or play
I want to fly | the chimneys went by below like mushrooms | the wind blew where it wanted, and it wanted to go north
I want summer all year round | there were strawberries in December | the river shrank to a thread and the frogs complained
I want a twin who does all my work | the wood was chopped and the floor shone | the twin was nicer, and everybody liked the twin better
I want to be king | there were six kinds of cake and a trumpet | there were six hundred letters a day, and everyone bowed and no one played
I want to hear what people think | the baker was thinking of a song | most people were thinking of their feet, all at once, all day long
I want my house to be the biggest | there were forty rooms, each with a chandelier | it took an hour to find the kitchen, and forty rooms had to be swept
I want never to lose again | every marble in the street was won by noon | by evening there was no one left to play with
""")

SPIRITS = (
    "a fish with golden gills",
    "a very small man with a very long beard",
    "a toad with a crown",
    "an old woman made of leaves",
    "a bottle with something green in it",
    "a hare with silver ears",
    "a lantern with a voice",
    "a talking stone",
    "a moth as large as a plate",
    "a crane with human eyes",
    "a snowman that had not melted",
    "a mirror with no glass",
)

# On the road: what is in the way, and how it is overcome. A line may use {A}, {ani}, {animal_skill}.
OBSTACLES = _rows("""
The bridge was down. | A {species} named {C.name} knew a ford, and {A} waded after it, up to the chest.
A fallen tree lay across the road. | {A} crawled underneath, and left a button there.
The ford was flooded. | {A} found an old door, sat down on it, and paddled with both hands.
Fog came down, so thick that {A} could not see {A.his} own boots. | {A} followed the sound of a bell, and it was a cow, and the cow was going home.
A flock of sheep filled the lane from hedge to hedge. | {A} bleated as well as {A} could, and they let {A.him} through.
The toll keeper wanted a penny, and {A} had none. | {A} paid with a riddle that took the toll keeper all day.
A gander stood in the way and hissed. | {A} bowed politely, and the gander, who had never been bowed to, stepped aside.
The path forked, and the signpost had fallen over. | {A} stood it up so that the arm for {town} pointed back the way {A} had come. Then the other arm was right.
The gate was locked. | A {species} named {C.name} fetched the key from under a stone, for half of {food_a}.
It began to snow, and the path was gone. | {A} walked where the telegraph poles walked.
Two men with dark hats were asking everyone for letters. | {A} put the letter into a loaf and ate very slowly until they had gone.
A landslide had covered the road. | {A} took off both shoes and climbed, and sent many small stones down behind.
The marsh began, and it was nearly dark. | A {species} named {C.name} hopped ahead from tuft to tuft, and {A} stepped where {C} had stepped.
A dog barked behind a low fence. | {A} threw it {food_a}, and then they were friends.
A wheel had come off a cart, and it blocked the narrow pass. | {A} helped to put it on again, and rode along for a mile.
The stepping stones were under water. | {A} cut a long stick and felt for them, one by one.
A swarm of bees hung in the gateway. | {A} hummed the lowest note there is, and walked through without haste.
The wind was so strong that {A} could hardly stand. | {A} put stones into both pockets and went on, heavier and slower.
""")

# What threatens the plant, and what saves it.
DANGERS = _rows("""
One night there was frost in the air. | {A} sat beside it all night with a lantern and a blanket
Slugs came, an army of them. | {A} scattered crushed eggshells in a circle, and not one slug crossed it
It did not rain for a month. | {A} carried water from the river, morning and evening, in a leaking bucket
A storm broke the fence and bent the stem. | {A} splinted the stem with two spoons and a ribbon
A goat got in and ate all leaves but one. | {A} built a cage around the last leaf, and it grew again
The crows sat in a row and waited. | {A} put {A.his} own hat and coat on a broom, and stood there without a coat
Greenfly covered it like dust. | {A} collected ladybirds in a jar, forty of them, and let them go there
Children kicked a ball right over it. | {A} told them its name, and after that they played around it
The wall shaded it from noon on. | {A} hung up a mirror that sent the sun around the corner
A mole dug straight towards it. | {A} stuck a bottle into the ground so that the wind hummed in it, and the mole turned away
""")

# A hint and the place that it means.
HINTS = _rows("""
always Sunday | chapel
never dry and never deep | waterfall
loudest at night | pond
white in summer | mill
warm without sun | bakery
higher than the bell | tower
full of words and silent | library
wet on both sides | bridge
green under glass | greenhouse
where every word comes back | quarry
dark at noon | cave
where four ways meet | crossroads
purple in August | heath
where ships are counted | lighthouse
where the dead have the best view | graveyard
fire in the house all year | smithy
where horses dream | stable
where boats go to bed | boathouse
""")

SAYINGS = _lines("""
A closed hand catches no rain.
Whoever asks the way is half there.
A small key opens a big gate.
The wind does not read signposts.
Late bread is still bread.
Even a snail arrives.
Two candles make one shadow less.
A crooked nail holds too.
One cannot hide smoke in a pocket.
The kettle sings before it boils.
Deep snow shows every footstep.
A good neighbour is better than a long spoon.
Every river was once a drop.
Better a patched sail than none.
Who feeds the crow knows the news.
The slow ox knows the field.
An empty sack cannot stand.
Kind words cost nothing and weigh nothing.
A friend is a roof in the rain.
Borrowed boots walk carefully.
The moon is patient.
Hunger is a loud guest.
What the frost spares, the sun ripens.
A song shortens the road.
Nobody is a stranger twice.
The bell does not ring itself.
Old wood burns best.
Truth swims.
A knot tied in anger is hard to undo.
Where there is a crumb there is a sparrow.
One hand washes the other.
Today's egg is tomorrow's hen.
""")

WEATHER = _rows("""
rain | It had rained for three days. ; Rain was running down the gutters. ; The roofs were dripping. ; Every puddle had rings in it.
wind | The wind rattled the shutters. ; Leaves were blowing up the street. ; Hats had to be held. ; The weathercock could not make up its mind.
sun | The sun lay on the walls like butter. ; There was not a cloud. ; The sky was as blue as a plate. ; It was so warm that the dogs lay in the shade.
snow | It had snowed in the night. ; Snow lay on every fence post like a cap. ; The world was white and silent. ; Icicles hung from the gutters.
fog | Fog stood in the streets. ; One could not see the church from the well. ; Everything looked as though it were painted on wet paper. ; The lamps had halos.
frost | Frost flowers grew on the windows. ; The ground was as hard as iron. ; Every breath was a small cloud. ; The puddles had lids of ice.
thaw | The snow was melting, and the brooks were loud. ; It dripped from all the eaves. ; The first snowdrops were out. ; The road was nothing but mud.
heat | The air shivered above the stones. ; Even the flies were tired. ; The tar was soft between the planks. ; Everyone walked on the shady side.
""")

TIMES = {
    "morning": _lines("""
        It was early in the morning.
        The sun had only just come up.
        Somewhere a rooster crowed.
        The milk cans were clattering in the street.
        The dew was still on the grass.
        """),
    "noon": _lines("""
        By then it was noon.
        The bell rang for midday.
        The shadows had grown short.
        It was time for lunch.
        From all the chimneys came the smell of soup.
        """),
    "afternoon": _lines("""
        The afternoon went by.
        The shadows began to grow longer.
        School was out, and the streets were full of noise.
        It was that hour of the afternoon when nothing happens.
        The sun moved over to the other side of the street.
        """),
    "evening": _lines("""
        Then it was evening.
        The lamps were being lit.
        The swallows flew low.
        The sun went down red behind the hill.
        In the windows the first candles appeared.
        """),
    "night": _lines("""
        Night fell.
        The moon rose over the roofs.
        All the windows were dark.
        The owls had begun to call.
        The stars were out, every one of them.
        """),
}


class Voice(NamedTuple):
    """A narrator: what is said before a story, in between, and at its end."""

    name: str
    before: tuple[str, ...]
    asides: tuple[str, ...]
    endings: tuple[str, ...]


VOICES = (
    Voice(
        "plain",
        _lines("""
        Here is a story.
        This is how it happened.
        It was an ordinary week, until it was not.
        """),
        _lines("""
        Nobody had expected that.
        It was very quiet for a moment.
        Somewhere a door banged.
        A sparrow hopped closer to see.
        """),
        _lines("""
        That was the end of it.
        And then they went home.
        Nothing more happened that day.
        It is a small story, but it is true.
        """),
    ),
    Voice(
        "fairy tale",
        _lines("""
        Long ago, when wishing still helped, this happened.
        Once upon a time, and a good time it was, there was a town by the water.
        In the days when animals were asked for advice, it was said to be so.
        Seven hills from here, and seven more, there is a town.
        """),
        _lines("""
        So it was in those days.
        For three times is the law in such matters.
        And who knows whether the moon had a hand in it?
        The trees heard it, and told nobody.
        """),
        _lines("""
        And if they have not died, they are living there still.
        And they lived well, and so may we.
        And there was a feast, and I was there, and all I got was a crumb.
        That is how it was, and the well is still there.
        """),
    ),
    Voice(
        "bedtime",
        _lines("""
        Are you lying comfortably? Then I will begin.
        Close your eyes and listen.
        This one is short, and after it you will sleep.
        You asked for the story with the names in it. Here it is.
        """),
        _lines("""
        Can you guess what came next?
        No, do not get up, it will be all right.
        You would have done the same, I think.
        Listen now, for this is the important part.
        Are you still awake? Good.
        """),
        _lines("""
        And now it is time to sleep.
        That is all. Good night.
        Tomorrow I will tell you another.
        And when you wake up, it will be morning there too.
        """),
    ),
    Voice(
        "dry",
        _lines("""
        Nothing ever happened here, with one exception.
        This is what is known about the matter.
        The following was told at the inn, and most of it can be proved.
        """),
        _lines("""
        It was not a good plan.
        One has heard of better ideas.
        This surprised nobody but those concerned.
        It could have been worse, and soon it was.
        """),
        _lines("""
        The matter was considered closed.
        There is a plaque now, a small one.
        Nobody was fined.
        The records say no more.
        """),
    ),
    Voice(
        "witness",
        _lines("""
        I saw it myself, from my window.
        I was small then, but I remember all of it.
        My mother told me this, and she never lied.
        I knew them both, so you can believe me.
        """),
        _lines("""
        I was standing right beside them.
        I can still see it before me.
        I would not have dared to do it.
        I must have been seven at the time.
        """),
        _lines("""
        I am old now, but I still think of it.
        I still walk past there now and then.
        I asked them about it later, and they only smiled.
        And I, who tell it, had the last piece of the cake.
        """),
    ),
    Voice(
        "innkeeper",
        _lines("""
        Sit down, have something warm, and I will tell you.
        Stop me if you know this one.
        It goes like this, and it costs you nothing.
        """),
        _lines("""
        Another cup? Then I will go on.
        Now, pay attention.
        And that, my friends, was only the beginning.
        You may laugh, but wait.
        """),
        _lines("""
        And now you know why we say: {saying_low}
        As they say around here: {saying_low}
        There is a saying about it. {saying}
        Make of it what you like. I always say: {saying_low}
        """),
    ),
)
