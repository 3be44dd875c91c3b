package corpus

import "strconv"

// furniture is what rooms hold; the flag says that the noun is a plural.
var furniture = []struct {
	name   string
	plural bool
}{
	{"table", false}, {"chairs", true}, {"bed", false}, {"curtains", true}, {"carpet", false}, {"shelves", true},
	{"stove", false}, {"walls", true}, {"door", false}, {"windows", true}, {"mirror", false}, {"plates", true},
	{"clock", false}, {"books", true}, {"lamp", false}, {"boots", true},
}

var materials = []string{"wood", "stone", "iron", "glass", "wool", "paper", "clay", "leather"}

// room describes a place. Verbs and pronouns agree with their subjects.
func room(w *writer) {
	w.setPerson("owner", pick(w, people))
	w.set("room", favour(w, rooms))
	w.set("trade", favour(w, trades))
	w.set("size", favour(w, sizes[:4]))
	w.expand("The {room} of {owner}, the {trade}, is {size}[| and [bright|dark|warm|cold|tidy]]. ")
	pieces := sample(w, furniture, w.between(3, 5))
	for i, f := range pieces {
		w.set("piece", f.name)
		w.set("is", "is")
		w.set("stands", "stands")
		w.set("it", "it")
		w.set("has", "has")
		w.set("this", "this")
		if f.plural {
			w.set("is", "are")
			w.set("stands", "stand")
			w.set("it", "they")
			w.set("has", "have")
			w.set("this", "these")
		}
		w.set("colour", favour(w, colours))
		w.set("material", favour(w, materials))
		w.set("side", pick(w, []string{"left", "right"}))
		w.set("feature", pick(w, []string{"old", "new", "clean", "broken", "heavy", "beautiful"}))
		w.say(
			"The {piece} {is} {colour}, and {it} {is} {feature}. ",
			"On the {side} {stands} the {piece}, and {it} {is} made of {material}. ",
			"The {piece} {has} been {colour} for years, but {it} {is} still {feature}. ",
			"{Owner} likes the {piece} because {it} {is} {feature}. ",
		)
		if i == len(pieces)-1 {
			w.say(
				"\"[Do you like|What do you think of] {this} {piece}?\" asks {owner}. \"{It} {is} {feature},\" I say.",
				"When {owner} leaves the {room}, {owner.he} looks at the {piece} once more.",
				"Nobody but {owner} may touch the {piece}, for {it} {is} {owner.his} own.",
			)
		}
	}
}

// animalFacts says what the tables know about one or two kinds of animals.
func animalFacts(w *writer) {
	pair := sample(w, animals, 2)
	set := func(key string, a animal) {
		w.set(key, a.name)
		w.set(key+".young", a.young)
		w.set(key+".sound", a.sound)
		w.set(key+".home", a.home)
		w.set(key+".food", a.food)
		w.set(key+".moves", a.moves)
		w.set(key+".legs", count(a.legs, "leg"))
	}
	set("x", pair[0])
	set("y", pair[1])
	describe := []string{
		"{A x} has {x.legs}.", "[It|The {x}] {x.moves} and {x.sound}.", "It eats {x.food}.",
		"It lives in a {x.home}.", "A young {x} is called a {x.young}.",
	}
	if withArticle(pair[0].home) != "a "+pair[0].home {
		describe[3] = "It lives in an {x.home}."
	}
	if withArticle(pair[0].young) != "a "+pair[0].young {
		describe[4] = "A young {x} is called an {x.young}."
	}
	if w.chance(50) {
		w.expand("[About the {x}|The {x}]\n")
		w.sayAll(describe...)
		w.out.WriteByte(' ')
	} else {
		w.expand("[Quiz|Questions and answers]\n")
		questions := []string{
			"Q: What does {a x} eat? A: It eats {x.food}.\n", "Q: How many legs has {a x}? A: It has {x.legs}.\n",
			"Q: What is a young {x} called? A: It is called {a x.young}.\n", "Q: Where does {a x} live? A: In {a x.home}.\n",
			"Q: What does {a x} do when it wants to be heard? A: It {x.sound}.\n", "Q: How does {a x} get about? A: It {x.moves}.\n",
		}
		w.sayLines(sample(w, questions, w.between(3, 5)))
	}
	if pair[0].legs != pair[1].legs {
		more, fewer := "x", "y"
		if pair[0].legs < pair[1].legs {
			more, fewer = "y", "x"
		}
		w.expand("{A " + more + "} has more legs than {a " + fewer + "}: {" + more + ".legs}, not {" + fewer + ".legs}.")
	} else {
		w.expand("{A x} has as many legs as {a y}. Both have {x.legs}, but {a y} eats {y.food}.")
	}
}

func (w *writer) sayLines(templates []string) {
	for _, t := range templates {
		w.expand(t)
	}
}

// townFacts says what the table of towns knows, and computes with its years.
func townFacts(w *writer) {
	pair := sample(w, towns, 2)
	for i, key := range []string{"x", "y"} {
		t := pair[i]
		w.set(key, t.name)
		w.set(key+".side", t.side)
		w.set(key+".water", t.water)
		w.set(key+".product", t.product)
		w.set(key+".sight", t.sight)
		w.set(key+".founded", strconv.Itoa(t.founded))
	}
	w.setPerson("guide", pick(w, people))
	w.set("older", "older")
	if pair[0].founded > pair[1].founded {
		w.set("older", "younger")
	}
	w.set("season", pick(w, []string{"spring", "summer", "autumn", "winter"}))
	w.sayAll(
		"{x} is a [town|small town|place] in the {x.side} [of the country|of our land]. It lies [by|on] {x.water} and is known for {x.product}.",
		"[It was founded|People first settled there] in {x.founded}, so it is {older} than {y}, which was founded in {y.founded}.",
		"[Travellers|Visitors|Children] like {x.sight}[| best in {season}].",
		"\"[I was born in {x}|I have lived in {x} all my life],\" says {guide}, \"and [nowhere else do they make such {x.product}|I would not leave {x.water} for anything].\"",
	)
	if pair[0].water == pair[1].water {
		w.expand(" Both {x} and {y} lie by {x.water}.")
	} else {
		w.expand(" {y} lies by {y.water}, [far from|not by] {x.water}[|, and is known for {y.product}].")
	}
}
