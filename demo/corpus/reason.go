package corpus

// whereabouts moves people and a thing about and asks where they are.
func whereabouts(w *writer) {
	cast := sample(w, people, w.between(2, 3))
	at := make([]string, len(cast))
	visited := sample(w, rooms, len(cast))
	t := favour(w, things)
	w.set("thing", favour(w, colours)+" "+t.name)
	holder := w.rng.IntN(len(cast))
	for i, p := range cast {
		at[i] = visited[i]
		w.setPerson("p", p)
		w.set("room", at[i])
		w.expand("{P} [is|sits|stands] in the {room}. ")
	}
	w.setPerson("p", cast[holder])
	w.expand("{P} [has|holds|takes] the {thing}. ")
	thingAt, held := at[holder], true
	for range w.between(2, 5) {
		i := w.rng.IntN(len(cast))
		w.setPerson("p", cast[i])
		if i == holder && held && w.chance(35) {
			held = false
			w.set("room", at[i])
			w.expand("{P} [puts down|leaves] the {thing}[| in the {room}]. ")
			continue
		}
		room := pick(w, rooms)
		if room == at[i] {
			continue
		}
		at[i] = room
		if i == holder && held {
			thingAt = room
		}
		w.set("room", room)
		w.expand("{P} [goes|walks|runs] to the {room}. ")
	}
	for i, p := range cast {
		w.setPerson("p", p)
		w.set("room", at[i])
		w.expand("Where is {p}? [{P.he} is in the {room}|In the {room}]. ")
	}
	w.set("room", thingAt)
	w.expand("Where is the {thing}? [It is in the {room}|In the {room}].")
}

// reasoning draws a conclusion from what was said.
func reasoning(w *writer) {
	pick(w, []func(*writer){ifThen, order, allAre})(w)
}

type rule struct{ cause, effect, fact, result, opposite, nothing string }

var rules = []rule{
	{"it rains", "the street gets wet", "It rains", "the street gets wet", "The street is dry", "it does not rain"},
	{"the sun shines", "the snow melts", "The sun shines", "the snow melts", "The snow does not melt", "the sun does not shine"},
	{"the bell rings", "the children go home", "The bell rings", "the children go home", "The children do not go home", "the bell does not ring"},
	{"the lamp is on", "the room is bright", "The lamp is on", "the room is bright", "The room is dark", "the lamp is off"},
	{"the door is open", "the cat runs out", "The door is open", "the cat runs out", "The cat does not run out", "the door is closed"},
	{"the wind blows", "the mill turns", "The wind blows", "the mill turns", "The mill stands still", "the wind does not blow"},
	{"the fire burns", "the soup gets hot", "The fire burns", "the soup gets hot", "The soup stays cold", "the fire does not burn"},
	{"the bridge is closed", "the ferry runs", "The bridge is closed", "the ferry runs", "The ferry does not run", "the bridge is open"},
	{"the cow is hungry", "the farmer brings grass", "The cow is hungry", "the farmer brings grass", "The farmer brings no grass", "the cow is not hungry"},
	{"the glass falls", "it breaks", "The glass falls", "it breaks", "It does not break", "the glass does not fall"},
}

func ifThen(w *writer) {
	w.setPerson("who", pick(w, people))
	for i, r := range sample(w, rules, w.between(2, 4)) {
		if i > 0 {
			w.out.WriteByte(' ')
		}
		w.set("cause", r.cause)
		w.set("effect", r.effect)
		w.set("fact", r.fact)
		w.set("result", r.result)
		w.set("opposite", r.opposite)
		w.set("nothing", r.nothing)
		w.say(
			"If {cause}, then {effect}. {Fact}. [Therefore|So] {result}.",
			"If {cause}, then {effect}. {Opposite}. [Therefore|So] {nothing}.",
			"{Who} knows: if {cause}, then {effect}. {Who} [sees|says] that {nothing}. Then {who.he} cannot be sure.",
		)
	}
}

// order compares three or four people and says who comes first and last.
func order(w *writer) {
	cast := sample(w, people, w.between(3, 4))
	scale := pick(w, [][4]string{
		{"taller", "shorter", "tallest", "shortest"}, {"older", "younger", "oldest", "youngest"},
		{"faster", "slower", "fastest", "slowest"}, {"stronger", "weaker", "strongest", "weakest"},
		{"richer", "poorer", "richest", "poorest"},
	})
	for i := range len(cast) - 1 {
		w.set("a", cast[i].name)
		w.set("b", cast[i+1].name)
		w.set("more", scale[0])
		w.set("less", scale[1])
		w.say("{a} is {more} than {b}. ", "{b} is {less} than {a}. ")
	}
	w.set("a", cast[0].name)
	w.set("b", cast[len(cast)-1].name)
	w.set("most", scale[2])
	w.set("least", scale[3])
	w.say(
		"[Who is the {most}? {a}.|So {a} is the {most}.] [Who is the {least}? {b}.|And {b} is the {least}.]",
		"Is {a} {more} than {b}? Yes, {a} is {more} than {b}. [Who is the {least}? {b} is the {least}.|Who is the {most}? {a} is the {most}.]",
		"Is {b} {more} than {a}? No, {b} is {less} than {a}. [Who is the {most}? {a} is the {most}.|Who is the {least}? {b} is the {least}.]",
	)
}

// classes are made-up kinds with a property, so that only the text can tell.
var classes = []string{"blick", "dorp", "fenn", "grell", "mipple", "norb", "plim", "quaff", "snerd", "tork", "vask", "zindle"}

func allAre(w *writer) {
	kinds := sample(w, classes, 3)
	w.setPerson("who", pick(w, people))
	w.set("x", kinds[0])
	w.set("xs", plural(kinds[0]))
	w.set("ys", plural(kinds[1]))
	w.set("y", kinds[1])
	w.set("z", kinds[2])
	w.set("colour", favour(w, colours))
	other := favour(w, colours)
	for other == w.vars["colour"] {
		other = pick(w, colours)
	}
	w.set("other", other)
	w.set("size", favour(w, sizes))
	w.sayAll(
		"[All|Every one of the] {xs} are {colour}, and [all|the] {ys} are {other}.",
		"{Who} has {a x}, {a y} and {a size} {z}.",
		"[What colour is the {x}|Which colour has the {x} of {who}]? It is {colour}, because all {xs} are {colour}.",
		"[What colour is the {y}|And the {y}]? It is {other}.",
		"[What colour is the {z}? Nobody knows.|Is the {z} {size}? Yes, the {z} is {size}.]",
	)
}
