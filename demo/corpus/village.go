package corpus

// class is a set of nouns with the adjectives that suit them.
type class struct{ nouns, adjectives []string }

var classesOfThings = map[string]class{
	"food": {
		[]string{"loaf", "cake", "pie", "egg", "apple", "pear", "cheese", "sausage", "bun", "turnip", "plum", "pancake", "potato", "herring"},
		[]string{"fresh", "warm", "sweet", "salty", "ripe", "sour", "golden", "tasty", "cold", "burnt"},
	},
	"tool": {
		[]string{"hammer", "knife", "spade", "saw", "rope", "bucket", "ladder", "needle", "brush", "rake", "axe", "pump", "wheel", "hook"},
		[]string{"old", "sharp", "heavy", "rusty", "broken", "new", "blunt", "long", "useful", "borrowed"},
	},
	"cloth": {
		[]string{"coat", "shirt", "scarf", "blanket", "hat", "curtain", "apron", "glove", "sail", "cushion"},
		[]string{"woollen", "thick", "soft", "torn", "striped", "blue", "grey", "warm", "clean", "faded"},
	},
	"plant": {
		[]string{"rose", "tree", "cabbage", "bean", "tulip", "leek", "hedge", "vine", "pumpkin", "bush", "oak", "herb"},
		[]string{"young", "green", "tall", "dry", "wild", "withered", "fine", "thorny", "strange", "healthy"},
	},
	"beast": {
		[]string{"dog", "horse", "cow", "goat", "hen", "sheep", "cat", "duck", "donkey", "pig", "goose"},
		[]string{"hungry", "brown", "lame", "stubborn", "friendly", "old", "young", "sleepy", "lost", "fat"},
	},
	"guest": {
		[]string{"child", "traveller", "neighbour", "stranger", "visitor", "widow", "soldier", "student", "beggar", "judge"},
		[]string{"tired", "polite", "sick", "rich", "poor", "kind", "proud", "foreign", "cheerful", "silent"},
	},
	"work": {
		[]string{"book", "letter", "picture", "map", "song", "list", "poem", "sign", "story", "drawing"},
		[]string{"long", "short", "funny", "strange", "sad", "famous", "unfinished", "secret", "beautiful", "careful"},
	},
	"craft": {
		[]string{"table", "chair", "box", "boat", "clock", "door", "shelf", "cart", "bell", "fence", "gate", "barrel"},
		[]string{"wooden", "solid", "heavy", "old", "painted", "small", "crooked", "new", "expensive", "plain"},
	},
}

// deed is something that is done to things of a class.
type deed struct{ past, present, class string }

var deeds = map[string][]deed{
	"baker":      {{"baked", "bakes", "food"}, {"sold", "sells", "food"}, {"counted", "counts", "food"}, {"cleaned", "cleans", "tool"}},
	"teacher":    {{"read", "reads", "work"}, {"wrote", "writes", "work"}, {"praised", "praises", "guest"}, {"explained", "explains", "work"}},
	"doctor":     {{"healed", "heals", "guest"}, {"visited", "visits", "guest"}, {"wrote", "writes", "work"}, {"washed", "washes", "cloth"}},
	"farmer":     {{"fed", "feeds", "beast"}, {"watered", "waters", "plant"}, {"sharpened", "sharpens", "tool"}, {"sold", "sells", "beast"}},
	"sailor":     {{"mended", "mends", "cloth"}, {"sang", "sings", "work"}, {"pulled", "pulls", "tool"}, {"painted", "paints", "craft"}},
	"painter":    {{"painted", "paints", "work"}, {"drew", "draws", "beast"}, {"drew", "draws", "guest"}, {"washed", "washes", "tool"}},
	"tailor":     {{"sewed", "sews", "cloth"}, {"mended", "mends", "cloth"}, {"measured", "measures", "guest"}, {"ironed", "irons", "cloth"}},
	"miller":     {{"repaired", "repairs", "tool"}, {"loaded", "loads", "craft"}, {"led", "leads", "beast"}, {"greeted", "greets", "guest"}},
	"gardener":   {{"planted", "plants", "plant"}, {"cut", "cuts", "plant"}, {"watered", "waters", "plant"}, {"oiled", "oils", "tool"}},
	"carpenter":  {{"built", "builds", "craft"}, {"repaired", "repairs", "craft"}, {"sharpened", "sharpens", "tool"}, {"measured", "measures", "craft"}},
	"nurse":      {{"washed", "washes", "cloth"}, {"comforted", "comforts", "guest"}, {"fed", "feeds", "guest"}, {"brought", "brings", "food"}},
	"postman":    {{"brought", "brings", "work"}, {"carried", "carries", "work"}, {"greeted", "greets", "guest"}, {"feared", "fears", "beast"}},
	"shepherd":   {{"counted", "counts", "beast"}, {"led", "leads", "beast"}, {"carved", "carves", "work"}, {"found", "finds", "beast"}},
	"fisherman":  {{"mended", "mends", "cloth"}, {"fried", "fries", "food"}, {"rowed", "rows", "guest"}, {"tied", "ties", "tool"}},
	"clockmaker": {{"repaired", "repairs", "craft"}, {"cleaned", "cleans", "tool"}, {"showed", "shows", "craft"}, {"drew", "draws", "work"}},
	"cook":       {{"fried", "fries", "food"}, {"tasted", "tastes", "food"}, {"peeled", "peels", "food"}, {"scolded", "scolds", "guest"}},
}

var whens = []string{"in the morning", "in the evening", "at noon", "before sunrise", "after dinner", "all day", "on Sundays",
	"in winter", "in summer", "every week", "now and then", "at night"}

var manners = []string{"slowly", "carefully", "quickly", "quietly", "gladly", "badly", "patiently", "proudly", "calmly", "secretly"}

// object returns a noun phrase of a class: one of them, several, or the one.
func (w *writer) object(name string) string {
	c := classesOfThings[name]
	noun := favour(w, c.nouns)
	adjective := favour(w, c.adjectives)
	switch w.rng.IntN(4) {
	case 0:
		return words(w.between(2, 9)) + " " + adjective + " " + plural(noun)
	case 1:
		return "the " + adjective + " " + noun
	case 2:
		return withArticle(noun)
	default:
		return withArticle(adjective + " " + noun)
	}
}

// act sets {does} and {object} to something that the trade does, and a few
// circumstances.
func (w *writer) act(trade string, past bool) {
	d := favour(w, deeds[trade])
	w.set("does", d.present)
	if past {
		w.set("does", d.past)
	}
	w.set("object", w.object(d.class))
	w.set("when", favour(w, whens))
	w.set("manner", favour(w, manners))
	w.set("spot", favour(w, outside))
	w.set("mood", favour(w, feelings))
}

// tenses are the verbs that all sentences of a document must agree on.
var tenses = [2]map[string]string{
	{"is": "is", "are": "are", "has": "has", "likes": "likes", "says": "says", "wants": "wants", "helps": "helps",
		"comes": "comes", "blows": "blows", "thinks": "thinks", "can": "can", "lives": "lives", "sits": "sits", "watches": "watches", "knows": "knows"},
	{"is": "was", "are": "were", "has": "had", "likes": "liked", "says": "said", "wants": "wanted", "helps": "helped",
		"comes": "came", "blows": "blew", "thinks": "thought", "can": "could", "lives": "lived", "sits": "sat", "watches": "watched", "knows": "knew"},
}

// village tells of two people at work, all of it in one tense.
func village(w *writer) {
	cast := sample(w, people, 2)
	trade := sample(w, trades, 2)
	tense := w.rng.IntN(2)
	for k, v := range tenses[tense] {
		w.set(k, v)
	}
	w.setPerson("p", cast[0])
	w.setPerson("q", cast[1])
	w.set("p.trade", trade[0])
	w.set("q.trade", trade[1])
	w.set("town", pick(w, towns).name)
	w.act(trade[0], tense == 1)
	w.say(
		"{P} {is} {a p.trade} in {town}. {P.he} {lives} near the {spot}[| with {p.his} [mother|brother|sister|family]]. ",
		"The {p.trade} of {town} {is} called {p}. ",
		"Everyone in {town} {knows} {p}, the {p.trade}. ",
	)
	main, other := "p", "q"
	for i := range w.between(3, 6) {
		if i > 0 && w.chance(25) {
			main, other = other, main
		}
		w.act(w.vars[main+".trade"], tense == 1)
		w.set("m", w.vars[main])
		w.set("m.he", w.vars[main+".he"])
		w.set("m.his", w.vars[main+".his"])
		w.set("m.trade", w.vars[main+".trade"])
		w.set("o", w.vars[other])
		w.set("o.he", w.vars[other+".he"])
		w.set("o.him", w.vars[other+".him"])
		w.set("o.trade", w.vars[other+".trade"])
		villageSentence(w)
		w.out.WriteByte(' ')
	}
	w.say(
		"\"It is [hard|good|honest] work to be {a p.trade},\" {says} {p}, and {q} {thinks} so too.",
		"In {town} people say: if you need {a p.trade}, [ask for|go to|call] {p}.",
		"But {p} and {q} {are} friends, [though one {is} {a p.trade} and the other {a q.trade}|and that {is} what {helps} them both].",
	)
}

func villageSentence(w *writer) {
	w.say(
		"{When}, {m} {does} {object}.",
		"{When}, {m} {does} {object}, and {o}, the {o.trade}, [{helps} {m.his} friend|{watches}|{sits} by the {spot}].",
		"{M.he} {manner} {does} {object} [at|near|by] the {spot}.",
		"{M} {does} {object} {manner}, because {m.he} {is} {mood}.",
		"When the wind {blows}, {m} {does} {object}.",
		"{Manner}, the {m.trade} {does} {object}[ for {o}| for [the judge|the children|{m.his} neighbours]|].",
		"[Some days|Now and then] {m.he} {does} {object}, but {m.he} never {likes} it.",
		"If {o} {comes} by, {m} {does} {object} and {says}: \"[This is for you|Look at this|Not today], {o}.\"",
	)
}

// aside adds a sentence in the past tense about the trade of the document.
func aside(w *writer) {
	w.act(w.vars["trade"], true)
	w.say(
		"[Meanwhile|At that time|{When}], the {trade} {manner} {does} {object}.",
		"Not far away, the {trade} {does} {object}, {mood} as always.",
		"The {trade} only {does} {object} and said nothing.",
		"The sky was [blue|grey|clear|full of clouds], and at the {spot} the {trade} {does} {object}.",
	)
}
