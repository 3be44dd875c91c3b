package corpus

// wares are what shops sell, by trade.
var wares = map[string][]string{
	"baker":      {"loaf", "cake", "bun", "pie"},
	"tailor":     {"coat", "shirt", "scarf", "hat"},
	"gardener":   {"rose", "tulip", "cabbage", "pumpkin"},
	"fisherman":  {"herring", "trout", "crab", "eel"},
	"clockmaker": {"clock", "watch", "bell", "compass"},
	"carpenter":  {"table", "chair", "shelf", "ladder"},
	"painter":    {"picture", "brush", "frame", "sketch"},
}

var sellers = []string{"baker", "tailor", "gardener", "fisherman", "clockmaker", "carpenter", "painter"}

// dialogue has two speakers who take turns.
func dialogue(w *writer) {
	cast := sample(w, people, 3)
	w.setPerson("a", cast[0])
	w.setPerson("b", cast[1])
	w.setPerson("c", cast[2])
	w.set("colour", favour(w, colours))
	t := favour(w, things)
	w.set("thing", t.name)
	w.set("use", t.use)
	w.set("place", favour(w, outside))
	w.set("room", favour(w, rooms))
	w.set("day", pick(w, days))
	w.set("fruit", plural(favour(w, fruits)))
	w.set("feeling", pick(w, feelings))
	w.set("trade", favour(w, trades))
	hour := w.rng.IntN(len(hours) - 1)
	w.set("hour", hours[hour])
	w.set("later", hours[hour+1])
	pick(w, []func(*writer){shopTalk, planTalk, searchTalk, gossip})(w)
}

func shopTalk(w *writer) {
	seller := pick(w, sellers)
	ware := pick(w, wares[seller])
	n, price := w.between(2, 6), w.between(2, 9)
	w.set("seller", seller)
	w.set("wares", plural(ware))
	w.set("count", count(n, ware))
	w.set("ware", ware)
	w.set("price", count(price, "coin"))
	w.set("sum", count(n*price, "coin"))
	w.expand("{Seller}: [Good morning|Good day|Hello], {a}. What [can I do for you|would you like] today?\n")
	w.expand("{a}: [I would like|I need] {count}, please. How much is one {ware}?\n")
	w.expand("{Seller}: One {ware} is {price}, so {count} [cost|are] {sum}.\n")
	w.say(
		"{a}: Here [are {sum}|you are: {sum}]. [Thank you.|Have a good day.]\n{Seller}: Thank you, {a}. [Enjoy the {wares}!|Come again on {day}.]",
		"{a}: {Sum}! That is too much for me.\n{Seller}: Then take one {ware} for {price}.\n{a}: [Very well|Good], one {ware} [it is|then].",
		"{a}: Are the {wares} [good|new|of this year]?\n{Seller}: The best in town, {a}. {b} bought some on {day}.\n{a}: Then I will take {count} for {sum}.",
	)
}

func planTalk(w *writer) {
	w.expand("{a}: [Shall we|Do you want to|Will you come and] meet at the {place} on {day}, {b}?\n")
	w.expand("{b}: [Yes, with pleasure|Gladly|Why not], {a}. At {hour} o'clock?\n")
	w.expand("{a}: [I cannot come at {hour}, I must help the {trade}|At {hour} I am still at the {trade}'s]. Is {later} [too late|all right]?\n")
	w.expand("{b}: {Later} is fine. [I will bring|May I bring] my {colour} {thing}[ {use}|]?\n")
	w.say(
		"{a}: [Good|Yes], bring the {colour} {thing}, and I will bring {fruit}.\n",
		"{a}: No, leave the {thing} at home. {c} has [one|a better one].\n",
	)
	w.expand("{b}: [So|Then it is settled]: on {day} at {later}, at the {place}. [Goodbye|See you there], {a}.")
}

func searchTalk(w *writer) {
	w.expand("{a}: [Have you seen|Where is|Do you know where I left] my {colour} {thing}, {b}?\n")
	w.expand("{b}: [Your {thing}|A {thing}]? Is it the one that {c} gave you {use}?\n")
	w.expand("{a}: Yes, the {colour} one. I had it in the {room} [this morning|on {day}|at {hour} o'clock].\n")
	w.say(
		"{b}: Then look in the {room} again.\n{a}: I did. [It is not there.|The {room} is empty.]\n{b}: Ask {c}. {C.he} was in the {room} after you.\n",
		"{b}: {C} took it to the {place}. {C.he} said that {c.he} needed {a thing} {use}.\n",
	)
	w.expand("{a}: [Thank you|I will ask {c.him}], {b}. I am [glad|sorry] that [you told me|I asked you]. Without my {colour} {thing} I am {feeling}.")
}

func gossip(w *writer) {
	w.setNumber("n", w.between(2, 12))
	w.expand("{a}: [Did you hear|Have you heard] about {c}?\n")
	w.expand("{b}: No. [What did {c.he} do|What happened to {c.him}]?\n")
	w.expand("{a}: {C.he} wants to become {a trade} and [move to|live near] the {place}.\n")
	w.expand("{b}: {A trade}! [But|And yet] {c} [never liked work|is only {n} years old|was always {feeling}].\n")
	w.say(
		"{a}: People change, {b}. {C} has changed [very much|too].\n{b}: [Then I wish {c.him} luck|I hope {c.he} is happy] at the {place}.",
		"{a}: It is true. {C.he} sold {c.his} {colour} {thing} for {n} coins.\n{b}: The {colour} {thing}? [I would have paid more than {n} coins for it.|{C.he} loved that {thing}.]",
	)
}

// letter asks for something and offers something, and comes back to both.
func letter(w *writer) {
	cast := sample(w, people, 3)
	w.setPerson("to", cast[0])
	w.setPerson("from", cast[1])
	w.setPerson("other", cast[2])
	home := sample(w, towns, 2)
	w.set("town", home[0].name)
	w.set("water", home[0].water)
	w.set("product", home[0].product)
	w.set("sight", home[0].sight)
	w.set("elsewhere", home[1].name)
	w.set("month", pick(w, months))
	w.set("kin", pick(w, []string{"uncle", "aunt", "cousin", "friend", "brother", "sister"}))
	w.set("colour", favour(w, colours))
	w.set("thing", favour(w, things).name)
	w.set("feeling", pick(w, feelings))
	w.set("trade", favour(w, trades))
	w.setNumber("n", w.between(2, 9))
	w.expand("Dear {to},\n")
	w.sayAll(
		"[I am writing to you from {town}|We are in {town} now|Greetings from {town}], [where I live with my {kin}|where I have been for {n} weeks|where my {kin} is {a trade}].",
		"[Yesterday|On my first day] I saw {sight}, and [in the evening|at noon] we [sat|walked] by {water}. Everyone here [sells|makes|talks about] {product}.",
		"[My {kin} is {feeling}|I was {feeling} at first], because {other} [has gone|has moved] to {elsewhere}[ and took {other.his} {colour} {thing} along|, and {other.he} writes so seldom].",
		"[Could you|Please, could you] send me [my|the] {colour} {thing}? I left it [with {other}|at your house|in {elsewhere}] {n} [days|weeks] ago.",
		"[In return|For it] I will send you [some {product}|a picture of {town}|{n} coins]. [Come and see us in {month}!|I will come home in {month}.]",
	)
	w.expand("\n[Yours|With love|Your friend], {from}")
	if w.chance(40) {
		w.expand("\nP.S. [Do not forget the {thing}!|Greet {other} from me, if you see {other.him}.|The {thing} is {colour}, as you know.]")
	}
}
