package corpus

// person is someone with a name and the pronouns that go with it.
type person struct {
	name   string
	female bool
}

var people = []person{
	{"Anna", true}, {"Tom", false}, {"Mia", true}, {"Ben", false}, {"Nora", true}, {"Sam", false},
	{"Lily", true}, {"Jack", false}, {"Ella", true}, {"Max", false}, {"Rosa", true}, {"Paul", false},
	{"Clara", true}, {"Hugo", false}, {"Ida", true}, {"Oscar", false}, {"Greta", true}, {"Felix", false},
	{"Maya", true}, {"Leo", false}, {"Sofia", true}, {"Adam", false}, {"Tessa", true}, {"Victor", false},
	{"Wanda", true}, {"Simon", false}, {"Zara", true}, {"Martin", false}, {"Olive", true}, {"Edgar", false},
	{"Hanna", true}, {"Peter", false}, {"Lucy", true}, {"Karl", false}, {"Nina", true}, {"David", false},
	{"Vera", true}, {"Ralph", false}, {"June", true}, {"Otto", false},
}

// animal is a kind of animal with what holds for every one of its kind.
type animal struct {
	name, young, sound, home, food string
	legs                           int
	moves                          string // how it gets about: "it runs"
}

var animals = []animal{
	{"dog", "puppy", "barks", "kennel", "meat", 4, "runs"},
	{"cat", "kitten", "purrs", "house", "fish", 4, "creeps"},
	{"horse", "foal", "neighs", "stable", "hay", 4, "gallops"},
	{"cow", "calf", "moos", "barn", "grass", 4, "walks"},
	{"sheep", "lamb", "bleats", "fold", "grass", 4, "walks"},
	{"hen", "chick", "clucks", "coop", "corn", 2, "struts"},
	{"duck", "duckling", "quacks", "pond", "weeds", 2, "swims"},
	{"pig", "piglet", "grunts", "sty", "turnips", 4, "trots"},
	{"goat", "kid", "bleats", "shed", "leaves", 4, "climbs"},
	{"owl", "owlet", "hoots", "hollow tree", "mice", 2, "flies"},
	{"frog", "tadpole", "croaks", "marsh", "flies", 4, "jumps"},
	{"bear", "cub", "growls", "cave", "honey", 4, "lumbers"},
	{"fox", "cub", "yelps", "den", "rabbits", 4, "sneaks"},
	{"wolf", "pup", "howls", "forest", "deer", 4, "runs"},
	{"lion", "cub", "roars", "grassland", "antelopes", 4, "prowls"},
	{"bee", "larva", "buzzes", "hive", "nectar", 6, "flies"},
	{"crow", "chick", "caws", "nest", "seeds", 2, "flies"},
	{"mouse", "pup", "squeaks", "hole in the wall", "cheese", 4, "scurries"},
	{"snake", "hatchling", "hisses", "burrow", "mice", 0, "slides"},
	{"donkey", "foal", "brays", "stable", "thistles", 4, "plods"},
	{"goose", "gosling", "honks", "farmyard", "grain", 2, "waddles"},
	{"spider", "spiderling", "makes no sound", "web", "flies", 8, "crawls"},
	{"seal", "pup", "barks", "rocky shore", "fish", 0, "swims"},
	{"elephant", "calf", "trumpets", "savanna", "bark", 4, "marches"},
}

var irregular = map[string]string{
	"sheep": "sheep", "goose": "geese", "mouse": "mice", "wolf": "wolves", "calf": "calves", "fish": "fish",
	"shelf": "shelves", "knife": "knives", "loaf": "loaves", "leaf": "leaves", "scarf": "scarves",
	"foot": "feet", "child": "children", "tomato": "tomatoes", "potato": "potatoes",
}

var colours = []string{"red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "purple", "silver", "golden"}

// thing is something that a person can carry, and what it is for.
type thing struct{ name, use string }

var things = []thing{
	{"ball", "to play with"}, {"book", "to read"}, {"key", "to open the door"}, {"lamp", "to see in the dark"},
	{"hat", "to keep off the sun"}, {"cup", "to drink from"}, {"kite", "to fly in the wind"}, {"basket", "to carry apples in"},
	{"drum", "to make music"}, {"rope", "to tie the boat"}, {"box", "to keep letters in"}, {"bell", "to call the others"},
	{"coat", "to stay warm"}, {"map", "to find the way"}, {"spade", "to dig the garden"}, {"brush", "to paint with"},
	{"bucket", "to fetch water"}, {"ring", "to wear on a finger"}, {"umbrella", "to keep off the rain"}, {"whistle", "to call the dog"},
	{"scarf", "to stay warm"}, {"pencil", "to draw with"}, {"ladder", "to reach the roof"}, {"clock", "to tell the time"},
	{"mirror", "to look into"}, {"bottle", "to keep milk in"}, {"hammer", "to drive in nails"}, {"blanket", "to sleep under"},
	{"candle", "to light the room"}, {"wagon", "to pull along"}, {"flute", "to make music"}, {"compass", "to find the way"},
}

var sizes = []string{"small", "big", "tiny", "large", "long", "heavy", "light", "round", "old", "new"}

var fruits = []string{"apple", "pear", "plum", "cherry", "lemon", "orange", "melon", "fig", "peach", "grape"}

var rooms = []string{"kitchen", "garden", "bedroom", "hall", "attic", "cellar", "library", "bathroom", "garage", "office"}

var outside = []string{"forest", "river", "hill", "meadow", "beach", "market", "harbour", "park", "village", "field", "lake", "bridge", "mill", "orchard", "station"}

var trades = []string{"baker", "teacher", "doctor", "farmer", "sailor", "painter", "tailor", "miller", "gardener", "carpenter", "nurse", "postman", "shepherd", "fisherman", "clockmaker", "cook"}

var feelings = []string{"happy", "sad", "tired", "proud", "afraid", "angry", "curious", "hungry", "calm", "lonely"}

var days = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}

var months = []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}

// seasons has, for every month, the season of the north.
var seasons = []string{"winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn", "autumn", "autumn", "winter"}

// town is a made-up town with facts that never change.
type town struct {
	name, side, water, product, sight string
	founded                           int
}

var towns = []town{
	{"Alderby", "north", "the river Wend", "glass", "an old stone bridge", 1204},
	{"Port Hollin", "east", "the Grey Sea", "salted fish", "a white lighthouse", 1388},
	{"Marrow Hill", "south", "Lake Ister", "honey", "a windmill with six sails", 1561},
	{"Fenwick Cross", "west", "the river Tarn", "wool", "a market hall of oak", 1127},
	{"Oakham Ferry", "south", "the river Wend", "boats", "a ferry that runs on a rope", 1439},
	{"Larkstead", "west", "Lake Ister", "paper", "a tower with a blue clock", 1672},
	{"Stonemouth", "north", "the Grey Sea", "salt", "a castle on a rock", 1093},
	{"Brindle", "east", "the river Tarn", "cheese", "a round church", 1315},
	{"Quarry End", "north", "Lake Mirren", "slate", "a tunnel through the hill", 1748},
	{"Saint Orrin", "south", "the river Sable", "wine", "a garden of roses", 1256},
	{"Thistleford", "west", "the river Sable", "cloth", "a well that never dries", 1502},
	{"Ember Bay", "east", "Lake Mirren", "pots", "a beach of black sand", 1620},
}
