package corpus

// story writes a tale with a hero, a friend and a thing that stay the same.
func story(w *writer) {
	cast := sample(w, people, 2)
	w.setPerson("hero", cast[0])
	w.setPerson("friend", cast[1])
	for _, k := range []string{"he", "him", "his"} {
		w.set(k, w.vars["hero."+k])
	}
	t := favour(w, things)
	w.set("thing", t.name)
	w.set("use", t.use)
	w.set("colour", favour(w, colours))
	w.set("place", favour(w, outside))
	w.set("trade", favour(w, trades))
	w.set("fruit", plural(favour(w, fruits)))
	w.setNumber("age", w.between(4, 12))
	beast := favour(w, animals[:19])
	w.set("animal", beast.name)
	w.set("animals", plural(beast.name))
	w.set("beast.colour", favour(w, colours[:8]))
	w.set("sound", beast.sound)
	w.set("food", beast.food)
	w.set("home", beast.home)
	opening(w)
	w.out.WriteByte(' ')
	if w.chance(40) {
		aside(w)
		w.out.WriteByte(' ')
	}
	pick(w, []func(*writer){lostThing, foundThing, hungryAnimal, theGift, theRace, theStorm, theTree, theSecret})(w)
	w.out.WriteByte(' ')
	ending(w)
}

func opening(w *writer) {
	w.say(
		"Once upon a time there was a [little|small|young] {hero.child} named {hero}. {He} was {age} years old and lived near the {place}.",
		"{Hero} was a [little|clever|quiet|brave] {hero.child} who lived [near|close to] the {place} with {his} [mother|father|grandmother|uncle], the {trade}.",
		"One [sunny|cold|windy|quiet|fine] [morning|day|afternoon|evening], {hero} went to the {place} with {his} friend {friend}.",
		"In a house by the {place} lived {hero}, {a hero.child} of {age}. {His} best friend was called {friend}.",
		"Long ago, when the {place} was [still wild|much bigger|far from any road], {a trade} had a [son|child] of {age} years. Everyone called the child {hero}.",
	)
}

func lostThing(w *writer) {
	w.sayAll(
		"[{Hero} had|What {he} loved most was] {a colour} {thing} [{use}|that {his} grandmother had given {him}].",
		"One day the {colour} {thing} was gone. {Hero} looked [under the bed|behind the door|in the garden|in every room], but it was not there.",
		"{He} was very [sad|worried|upset] and [began to cry|sat down on the stairs|did not want to eat].",
		"\"[What is wrong|Why are you so sad|What happened], {hero}?\" asked {friend}. \"I have lost my {colour} {thing},\" said {hero}.",
		"\"[Do not worry|Do not cry], I will help you,\" said {friend}. They went to the {place} and [looked|searched] for a long time.",
		"At last {friend} [saw|heard] {a beast.colour} {animal}. [It was sitting on|It was sleeping next to|It was playing with] the {colour} {thing}!",
		"{Hero} [laughed|smiled] and took the {thing} [home|back]. {He} thanked {friend} and gave the {animal} some {food}.",
	)
}

func foundThing(w *writer) {
	w.sayAll(
		"On the way to the {place}, {hero} [found|saw] {a colour} {thing} [in the grass|under a tree|beside the road|on a stone].",
		"\"Whose {thing} is this?\" {he} [asked|wondered]. {Friend} did not know.",
		"First they asked the {trade}, but the {trade} [shook his head|said no|had never seen it].",
		"Then they met an old [man|woman] with {a beast.colour} {animal}. \"[Oh|Ah], my {colour} {thing}!\" [cried|said] the old one. \"I need it {use}.\"",
		"{Hero} gave the {thing} back [at once|with a smile|gladly]. The old one was so [happy|glad|pleased] that {hero} and {friend} each got a basket of {fruit}.",
	)
}

func hungryAnimal(w *writer) {
	w.sayAll(
		"At the {place} {he} [met|saw|came across] {a beast.colour} {animal}. The {animal} was [thin|hungry|cold] and [alone|lost|hurt].",
		"\"[Poor|Dear] {animal},\" said {hero}, \"[are you hungry|where is your home|what do you need]?\"",
		"{He} remembered that {animals} like {food}, so {he} [ran home|went to the {trade}|asked {friend}] and [brought|fetched] some {food}.",
		"The {beast.colour} {animal} ate [all of it|every bit|until nothing was left]. Then it followed {hero} [home|everywhere|down the road].",
		"{Friend} [built|made] a {home} for it, and [from that day|from then on] the {animal} was never [hungry|alone] again.",
	)
}

func theGift(w *writer) {
	w.setNumber("coins", w.between(3, 15))
	w.sayAll(
		"Soon it would be the birthday of {friend}. {Hero} wanted to [buy|find] a gift, but {he} had only {coins} coins.",
		"In the shop of the {trade} there was {a colour} {thing}. It cost {coins} coins, [no more and no less|exactly what {he} had].",
		"{Hero} put the {coins} coins on the table and took the {colour} {thing}.",
		"On the [day of the party|birthday], {friend} opened the [box|paper|parcel]. \"{A colour} {thing}!\" [cried|said|shouted] {friend}. \"It is just what I wanted {use}.\"",
		"{Hero} was [glad|proud|happy] that {he} had spent {his} coins so well. They ate {fruit} and [danced|sang|played] until [night|it was dark].",
	)
}

func theRace(w *writer) {
	other := favour(w, animals[:15]).name
	for other == w.vars["animal"] {
		other = pick(w, animals[:15]).name
	}
	w.set("other", other)
	w.sayAll(
		"Every [year|spring|summer] there was a race at the {place}. This time the {animal} and the {other} wanted to run against each other.",
		"\"I am faster than you,\" said the {other}. \"[We will see|Perhaps|I do not think so],\" said the {animal}.",
		"{Hero} [waved|held up] {a colour} [flag|scarf] and the race began. The {other} ran ahead and [laughed|did not look back].",
		"But the {other} grew [tired|lazy|hungry] and stopped to [sleep|rest|eat some {fruit}].",
		"The {animal} went on, step by step, and [passed|overtook] the {other}. {Friend} stood at the end and called: \"The {animal} has won!\"",
		"The {other} was [sorry|ashamed] and said: \"You were slow, {animal}, but you did not stop.\"",
	)
}

func theStorm(w *writer) {
	w.sayAll(
		"[In the afternoon|After lunch|Soon] the sky turned [dark|black|grey] and the wind began to [blow|howl]. \"We must go home,\" said {friend}.",
		"But the [road|path|way] was [full of water|hidden by the rain|blocked by a tree], and {hero} was afraid.",
		"Then {he} remembered the {colour} {thing} in {his} bag. \"We can use the {thing},\" said {hero}.",
		"With the {colour} {thing} they [came safely to|found|reached] the house of the {trade}, who [let them in|opened the door|gave them a place by the fire].",
		"They drank hot [milk|tea|soup] and listened to the [rain|storm|wind]. In the morning the sky was [blue|clear] again, and {hero} and {friend} walked home.",
	)
}

func theTree(w *writer) {
	w.setNumber("n", w.between(3, 12))
	w.setNumber("half", w.between(2, 9))
	w.sayAll(
		"{Hero} planted a [tiny|small] seed [in the garden|behind the house|next to the {place}]. \"What will it be?\" asked {friend}. \"Wait and see,\" said {hero}.",
		"Every day {he} gave it [water|a little water] and [talked to it|sang to it|kept the {animals} away].",
		"After {half} weeks there was a green [leaf|shoot]. After {half} years there was a [tall|fine|strong] tree.",
		"In [autumn|summer] {n} {fruit} hung on the tree. {Hero} counted them: there were {n}, no more and no less.",
		"{He} gave [some|half|the best] of the {fruit} to {friend}, because [{friend} had helped {him}|good things taste better when they are shared|there was enough for two].",
	)
}

func theSecret(w *writer) {
	w.sayAll(
		"[Behind|Under] the old {place} {hero} found a [little|hidden|narrow] door. It was {colour}, and it had no handle.",
		"\"[Do not|You should not] open it,\" said {friend}. But {hero} was too curious, and {he} pushed the {colour} door.",
		"Inside [sat|lived|slept] {a beast.colour} {animal}. \"[Welcome|Come in|Good day],\" said the {animal}. \"I have waited {age} years for a visitor.\"",
		"The {animal} showed them {a thing}, [made of silver|older than the hills|that shone like the moon]. \"Whoever holds this {thing} must tell the truth,\" it said.",
		"{Hero} took the {thing} and said: \"I was afraid of you.\" The {animal} smiled. \"And now?\" \"Now I am not,\" said {hero}, and it was true.",
	)
}

func ending(w *writer) {
	w.say(
		"[That night|In the evening|When {he} came home], {hero} told {his} [mother|father|grandmother] about the {animal}, and they [laughed|smiled|were glad].",
		"{Hero} and {friend} stayed friends [for ever|all their lives|for many years].",
		"[From that day on|After that|Since then], {hero} [always|often] went to the {place} with {friend}.",
		"And {hero} [learned|knew now] that [it is good to help others|a friend is worth more than gold|one should never give up|being kind is never a mistake].",
		"\"What a [day|strange day|good day]!\" said {friend}, and {hero} [nodded|agreed|thought so too]. The end.",
	)
}
