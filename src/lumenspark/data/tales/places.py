"""The places of the stories, each with sentences that are true of it."""

from lumenspark.data.tales.world import Place

_OUT = """
hill | on | The wind combed the long grass flat. | From up there the roofs looked like a handful of dropped buttons. | Thistles nodded along the path.
meadow | in | Bees went from clover to clover. | The grass was wet up to the knee. | A lark was singing too high up to be seen.
orchard | in | Apples lay bruised and sweet among the roots. | Wasps were busy with the fallen plums. | A ladder leaned forgotten against a pear tree.
well | at | The bucket was still dripping. | A stone dropped into it took a long while to splash. | Moss grew thick around the rim.
bridge | on | The planks creaked one after the other. | Trout hung in the shade below. | Somebody had carved a heart into the railing.
harbour | at | Gulls quarrelled over a scrap of herring. | Ropes slapped against the masts. | The water smelled of tar and salt.
beach | on | The tide had left a line of weed and broken shells. | Small crabs hurried sideways into their holes. | The sand squeaked underfoot.
forest | in | Ferns grew as high as a shoulder. | It was so quiet that a falling cone sounded like a footstep. | Light came down in thin green pieces.
clearing | in | A ring of mushrooms had come up overnight. | Three deer lifted their heads. | The stump in the middle was as wide as a table.
pond | at | Dragonflies stitched back and forth above the reeds. | A frog looked up and did not bother to jump. | Duckweed covered it like a green cloth.
river | at | The current carried a yellow leaf past, then another. | The stepping stones were slippery. | Willows trailed their fingers in the water.
waterfall | at | The spray made small rainbows. | One had to shout to be heard. | Every stone shone as if it had been polished.
garden | in | Beans climbed up their poles. | A snail was crossing the path without any hurry. | The lavender hummed with bees.
market | at | Somebody was shouting the price of turnips. | Cheeses stood stacked like millstones. | There was a smell of cinnamon and wet straw.
square | in | Pigeons strutted around the fountain. | Two old men were arguing over a game of draughts. | The cobbles were still shining from the rain.
crossroads | at | The signpost had lost one of its arms. | Cart tracks ran off in four directions. | A milestone leaned in the nettles.
quarry | in | Every sound came back twice. | Pale dust lay on everything. | Lizards sunned themselves on the ledges.
vineyard | in | The grapes were dusty and nearly black. | Strings with tin lids clattered to scare the starlings. | The rows ran down to the river like combed hair.
cornfield | in | The stalks rustled overhead. | A scarecrow held out its empty sleeves. | Partridges ran ahead along the furrow.
marsh | in | The ground sucked at every step. | A heron stood as still as a post. | Mist lay over the pools like milk in a saucer.
cliff | on | Puffins whirred in and out of their burrows. | Far below the waves broke without a sound. | Nothing grew there but thrift and thyme.
island | on | Goats had eaten it nearly bare. | One could walk around it in the time it takes to boil an egg. | Driftwood lay bleached like old bones.
pasture | in | The cows chewed and stared. | Swallows skimmed the backs of the sheep. | A gate stood open that should have been shut.
lane | in | Brambles reached over from both sides. | The ruts were full of sky. | A wren scolded from the hedge.
graveyard | in | Ivy had covered the oldest names. | The yew was older than the church. | A robin sat on the shoulder of a stone angel.
canal | at | A barge slid by, loaded with coal. | The towpath was white with hawthorn petals. | The lock gates dripped and groaned.
courtyard | in | Washing flapped between the windows. | A pump stood in one corner with a bucket under it. | Somebody upstairs was practising scales.
mountain pass | on | Snow lay in the shadows even now. | A cairn marked the highest point. | The air tasted of iron.
heath | on | The heather was purple as far as one could see. | Grouse burst up with a clatter. | There was not one tree to hide behind.
jetty | on | A rowing boat knocked against the posts. | The boards were warm under bare feet. | Nets hung there to dry.
""".strip()

_IN = """
mill | in | The great wheel turned slowly and the whole floor hummed. | Flour hung in the air like fog. | A fat grey cat slept on the sacks.
smithy | in | Sparks jumped from the anvil. | The bellows breathed like a sleeping bear. | Horseshoes hung in rows along the beam.
bakery | in | The first loaves were just coming out. | Flour had settled on every shelf. | It was the warmest room in the street.
barn | in | Swallows had nested under the roof. | Dust danced in the stripes of light. | It smelled of hay and leather.
stable | in | A horse blew softly through its nose. | Harness hung from wooden pegs. | Somebody had plaited straw into the mane of the old mare.
lighthouse | in | The stairs went round and round. | The great lamp threw its beam over the water. | A logbook lay open beside the telescope.
library | in | The shelves went up into the dark. | Somebody had left a pressed fern between two pages. | A clock ticked as though it were counting the books.
schoolhouse | in | Chalk dust lay along the sill. | A map of the world hung a little crooked. | Twelve coats hung from twelve hooks.
kitchen | in | A kettle was beginning to sing. | Onions hung in braids from the ceiling. | The table had been scrubbed until it was white.
cellar | in | Barrels stood along the wall. | It was cool and smelled of apples. | A spider had hung her web across the window.
attic | in | Trunks stood about under dusty sheets. | Rain could be heard on every slate. | A rocking horse stared at the wall.
workshop | in | Shavings curled on the floor. | Every tool had its outline painted on the wall. | A pot of glue stood warming on the stove.
tavern | in | A fiddle was being tuned in the corner. | The benches were worn as smooth as river stones. | A stuffed pike hung above the hearth.
chapel | in | Coloured light lay on the floor. | A bat slept behind the hymn board. | The bell rope was tied in a loop.
tower | in | Jackdaws had filled the chimney with twigs. | There were a hundred and twelve steps. | The wind found every crack.
greenhouse | in | The panes were misted over. | Lemons hung there as if it were never winter. | A watering can stood under a dripping tap.
boathouse | in | Light from the water wobbled on the ceiling. | Oars were stacked along the beams. | A half-painted hull lay on its trestles.
tailor's shop | in | Ribbons spilled out of a drawer. | A wooden dummy wore half a coat. | Pins glittered between the floorboards.
clockmaker's shop | in | Forty clocks disagreed about the time. | A tray of tiny wheels lay under the lamp. | A cuckoo hung out on its spring.
bookshop | in | The stairs were stacked with atlases. | A kettle stood among the poems. | It smelled of paper and peppermint.
post office | in | Parcels were piled up to the window. | A pair of scales waited on the counter. | Somebody was hammering a stamp.
inn | in | Boots stood in a row before the fire. | The stew had been simmering since dawn. | A sign with a painted swan swung outside.
dairy | in | Butter lay on slabs of slate. | The churn went up and down, up and down. | Wide pans of milk stood in the cool.
forge shed | in | Rusty ploughshares leaned in the corner. | The coals were still glowing. | A trough of black water steamed.
weaver's house | in | The shuttle flew from hand to hand. | Skeins of yarn hung like bright fruit. | The loom took up half the room.
pottery | in | Bowls stood drying on long boards. | The wheel was still spinning. | Clay handprints ran along the wall.
toll house | in | A lantern burned in the window day and night. | Coins lay sorted on the sill. | The barrier was painted in red and white.
cave | in | Water dripped somewhere in the dark. | The walls glittered when the light touched them. | Old charcoal drawings of horses ran along the rock.
cottage | in | Geraniums stood in the window. | The roof sagged like an old hat. | A cricket lived behind the stove.
theatre | in | Paper moons hung from wires. | The curtain had been mended more often than sewn. | A row of masks stared down.
""".strip()


def _places(table: str, outdoors: bool) -> tuple[Place, ...]:
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    return tuple(Place(noun, at, outdoors, tuple(rest)) for noun, at, *rest in rows)


OUTDOORS = _places(_OUT, outdoors=True)
INDOORS = _places(_IN, outdoors=False)
PLACES = {place.noun: place for place in OUTDOORS + INDOORS}
