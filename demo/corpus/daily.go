package corpus

import "strconv"

// sky is a kind of weather: what comes with it, what to take along.
type sky struct{ noun, adjective, effect, advice string }

var skies = []sky{
	{"sunshine", "sunny", "the streets will be warm and dry", "a hat"},
	{"rain", "rainy", "the paths will be wet", "an umbrella"},
	{"snow", "snowy", "the roads will be white and slippery", "warm boots"},
	{"fog", "foggy", "drivers will see very little", "a lamp"},
	{"wind", "windy", "small boats should stay in the harbour", "a thick coat"},
	{"thunder", "stormy", "nobody should stand under a tree", "nothing made of iron"},
	{"frost", "frosty", "the puddles will be frozen", "gloves"},
	{"hail", "unsettled", "gardeners should cover their plants", "a strong hat"},
}

// weatherReport has a temperature that follows from the season and differences
// between day and night that are worked out.
func weatherReport(w *writer) {
	month := w.rng.IntN(12)
	base := []int{2, 3, 8, 12, 17, 22, 25, 24, 19, 13, 7, 3}[month]
	high := base + w.between(-2, 5)
	low := max(high-w.between(4, 9), 0)
	place := pick(w, towns)
	today, next := favour(w, skies), favour(w, skies)
	if base > 10 { // no snow or frost in summer
		today, next = skies[w.rng.IntN(2)], skies[[]int{0, 1, 3, 4, 5}[w.rng.IntN(5)]]
	}
	day := w.rng.IntN(7)
	w.set("town", place.name)
	w.set("side", place.side)
	w.set("water", place.water)
	w.set("month", months[month])
	w.set("season", seasons[month])
	w.set("day", days[day])
	w.set("tomorrow", days[(day+1)%7])
	w.set("date", strconv.Itoa(w.between(1, 28)))
	w.set("high", strconv.Itoa(high))
	w.set("low", strconv.Itoa(low))
	w.set("fall", words(high-low))
	w.set("sky", today.adjective)
	w.set("noun", today.noun)
	w.set("effect", today.effect)
	w.set("advice", today.advice)
	w.set("next", next.adjective)
	w.set("next.noun", next.noun)
	w.set("next.advice", next.advice)
	w.set("wind", pick(w, []string{"north", "east", "south", "west"}))
	w.expand("Weather for {town}, {day}, {date} {month}.\n")
	w.sayAll(
		"[Today will be|It will be] {a sky} {season} day [in the {side}|by {water}], [with {noun} [from morning to night|in the morning|until the evening]|and the {noun} will last until the evening], so {effect}.",
		"The temperature [rises|climbs] to {high} degrees [by noon|in the afternoon] and [falls|drops] by {fall} degrees to {low} at night.",
		"The wind [comes|blows] from the {wind}[| and is [weak|strong|fresh]].",
		"[If you go out, take|Those who go out should take] {advice}.",
		"[On {tomorrow}|Tomorrow, on {tomorrow},] it will be {next}[|, and the {next.noun} will [stay|be gone] [for a day|by evening]]. [Then take|For that day you will need] {next.advice}.",
	)
}

type dish struct {
	name, action, vessel string
	parts                []string
	minutes              []int
}

var dishes = []dish{
	{"soup", "Boil", "pot", []string{"carrot", "onion", "potato", "leek", "turnip", "cabbage", "tomato"}, []int{20, 30, 40}},
	{"stew", "Simmer", "pot", []string{"bean", "onion", "potato", "carrot", "pumpkin", "tomato"}, []int{45, 60, 90}},
	{"pie", "Bake", "oven", []string{"apple", "plum", "pear", "cherry", "peach", "leek"}, []int{35, 40, 50}},
	{"cake", "Bake", "oven", []string{"lemon", "cherry", "pear", "orange", "carrot"}, []int{40, 45, 55}},
	{"salad", "Chill", "bowl", []string{"tomato", "onion", "cabbage", "bean", "orange", "fig"}, []int{10, 15}},
	{"jam", "Cook", "pot", []string{"plum", "peach", "cherry", "fig", "grape"}, []int{25, 30, 45}},
}

// recipe lists two or three parts with their numbers, and uses just these.
func recipe(w *writer) {
	d := pick(w, dishes)
	parts := sample(w, d.parts, w.between(2, 3))
	persons := w.between(2, 8)
	minutes := strconv.Itoa(pick(w, d.minutes))
	w.set("dish", d.name)
	w.set("first", parts[0])
	w.set("firsts", plural(parts[0]))
	w.set("second", plural(parts[1]))
	w.set("vessel", d.vessel)
	w.set("minutes", minutes)
	w.setNumber("persons", persons)
	w.set("spice", pick(w, []string{"salt", "pepper", "sugar", "mint", "parsley", "cinnamon", "vinegar", "butter"}))
	w.set("action", d.action)
	w.expand("{First} {dish} for {persons}\nYou need:\n")
	var names []string
	for _, p := range parts {
		n := w.between(1, 4) * persons / 2
		w.out.WriteString("- " + count(max(n, 1), p) + "\n")
		names = append(names, plural(p))
	}
	w.expand("- [a little|a spoon of|a pinch of] {spice}\n")
	w.set("all", list(names))
	w.expand("1. [Wash|Wash and peel|Clean] the {firsts} and cut them into [small pieces|slices|cubes].\n")
	w.expand("2. [Chop|Slice|Cut up] the {second}[| as well] and [mix them with|add them to] the {firsts}.\n")
	if len(parts) == 3 {
		w.set("third", plural(parts[2]))
		w.expand("3. [Add|Stir in] the {third} [last|too|with a little water].\n4. ")
	} else {
		w.expand("3. ")
	}
	w.expand("{Action} the {all} in the {vessel} for {minutes} minutes, then add the {spice}.\n")
	w.expand("[Serve|Let it stand for a while and serve] the {first} {dish} [warm|cold|with bread]. It is enough for {persons} people.")
}

type task struct {
	name, need string
	steps      []string
}

var tasks = []task{
	{"plant a tree", "a spade, a young tree and a bucket of water", []string{
		"Dig a hole that is [twice as wide as|a little deeper than] the roots.", "Put the tree into the hole and hold it straight.",
		"Fill the hole with earth and press it down with your foot.", "Pour the whole bucket of water around the trunk."}},
	{"make tea", "a kettle, a cup and [some leaves|a spoon of leaves]", []string{
		"Fill the kettle with [fresh|cold] water and boil it.", "Put the leaves into the cup.",
		"Pour the hot water over the leaves.", "Wait for [three|four|five] minutes before you drink."}},
	{"mend a coat", "a needle, some thread and a button", []string{
		"Choose thread of the same colour as the coat.", "Pull the thread through the eye of the needle.",
		"Sew the button on with [six|eight|ten] stitches.", "Tie a knot and cut the thread."}},
	{"light a fire", "dry wood, paper and a match", []string{
		"[Clear the ground|Take the old ashes away] first.", "Lay the paper under the small wood.",
		"Strike the match and light the paper at [both ends|the bottom].", "Add the big wood when the small wood burns."}},
	{"wash a dog", "warm water, soap and two towels", []string{
		"Call the dog in a friendly voice.", "Make the fur wet with the warm water.",
		"Rub in the soap, but not near the eyes.", "Rinse the soap out and dry the dog with the towels."}},
	{"paint a door", "a brush, a pot of paint and sandpaper", []string{
		"Take off the handle and rub the door with the sandpaper.", "Stir the paint [slowly|well].",
		"Paint from the top to the bottom.", "Let the paint dry for [one day|two days] before you close the door."}},
	{"write a letter", "paper, a pen and a stamp", []string{
		"Write the place and the day at the top of the paper.", "Greet the person and say what you want to say.",
		"Sign the letter with your name and fold it.", "Put the stamp on the letter and take it to the post."}},
	{"bake bread", "flour, water, salt and yeast", []string{
		"Mix the flour with the salt and the yeast.", "Add the water and knead the dough for ten minutes.",
		"Let the dough rest until it is twice as big.", "Bake the bread until the crust is brown."}},
	{"catch a fish", "a rod, a hook and a worm", []string{
		"Find a quiet place by the water.", "Put the worm on the hook.",
		"Throw the line and keep still.", "Pull the rod up when the line moves."}},
	{"hang a picture", "a nail, a hammer and the picture", []string{
		"Hold the picture against the wall and mark the place.", "Drive the nail in with the hammer.",
		"Hang the picture on the nail.", "Step back and see whether it hangs straight."}},
}

// howTo numbers steps that keep their order.
func howTo(w *writer) {
	t := pick(w, tasks)
	w.setPerson("expert", pick(w, people))
	w.set("trade", favour(w, trades))
	w.set("task", t.name)
	w.set("place", favour(w, outside))
	w.set("town", pick(w, towns).name)
	w.setNumber("years", w.between(2, 30))
	w.set("mood", pick(w, feelings))
	w.set("thing", favour(w, things).name)
	w.set("day", pick(w, days))
	w.setPerson("learner", pick(w, people))
	w.expand("How to {task}\n[As told by {expert}, {a trade} from {town}|{Expert}, the {trade} at the {place}, tells {learner} how to do it]. ")
	w.expand("[You need|For this you need|What you need:] " + t.need + ".\n")
	ordinals := []string{"First", "Second", "Third", "Fourth"}
	style := w.rng.IntN(3)
	for i, step := range t.steps {
		switch style {
		case 0:
			w.out.WriteString(strconv.Itoa(i+1) + ". ")
		case 1:
			w.out.WriteString(ordinals[i] + ": ")
		default:
			w.out.WriteString("Step " + words(i+1) + ". ")
		}
		w.expand(step + "\n")
	}
	w.say(
		"{Expert} says: \"It took me {years} [years|weeks|days] to learn how to {task}, so [be patient|take your time|do not give up].\"",
		"[Tip|Note]: never {task} [in a hurry|when you are {mood}|without {a thing}], says {expert}, who has done it for {years} years.",
		"Now you know how to {task}, just like {expert}. [Well done!|Try it again on {day}.|Show it to {learner}.]",
	)
}

var hours = []string{"six", "seven", "eight", "nine", "ten", "eleven", "twelve", "one", "two", "three", "four", "five"}

// diary tells a day whose hours go up.
func diary(w *writer) {
	w.setPerson("friend", pick(w, people))
	day := w.rng.IntN(7)
	w.set("day", days[day])
	w.set("tomorrow", days[(day+1)%7])
	w.set("yesterday", days[(day+6)%7])
	w.set("place", favour(w, outside))
	w.set("other", favour(w, outside))
	w.set("fruit", plural(favour(w, fruits)))
	w.set("feeling", pick(w, feelings))
	t := favour(w, things)
	w.set("thing", t.name)
	w.set("colour", favour(w, colours))
	w.set("sky", favour(w, skies).adjective)
	w.set("month", favour(w, months))
	w.set("date", strconv.Itoa(w.between(1, 28)))
	h := w.rng.IntN(3)
	next := func() {
		w.set("hour", hours[h])
		h += w.between(1, 3)
	}
	w.expand("{day}, {date} {month}. Dear diary, [today was|it was] {a sky} day and I am {feeling}. ")
	next()
	w.expand("I got up at {hour} and [ate|had] {fruit} [for breakfast|with milk]. ")
	next()
	w.expand("At {hour} I met {friend} at the {place}. {Friend.he} [had brought|showed me] {a colour} {thing} [that {friend.he} got on {yesterday}|from the market]. ")
	next()
	w.expand("At {hour} we [walked|went|rode] from the {place} to the {other}, where we [rested|played|talked|ate the rest of the {fruit}]. ")
	next()
	w.expand("I was back at {hour}. [I forgot the {colour} {thing} at the {other}, so|On the way {friend} gave me the {colour} {thing}, so] {friend} will [come by|visit me] on {tomorrow}. ")
	w.say("[Good night!|Now I am tired.|I will write more on {tomorrow}.]")
}
