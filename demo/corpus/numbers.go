package corpus

import (
	"fmt"
	"strconv"
	"strings"
)

// sums writes lines of arithmetic that is right, in figures or in words.
func sums(w *writer) {
	inWords := w.chance(40)
	number := strconv.Itoa
	if inWords {
		number = words
	}
	switch w.rng.IntN(4) {
	case 0: // one table
		n := w.between(2, 10)
		w.setPerson("pupil", pick(w, people))
		w.set("day", pick(w, days))
		w.set("month", pick(w, months))
		w.set("date", strconv.Itoa(w.between(1, 28)))
		w.set("n", number(n))
		w.expand("The table of {n}, as {pupil} [learned|wrote] it on {day}, {date} {month}\n")
		var lines []string
		for i := 1; i <= 9; i++ {
			lines = append(lines, fmt.Sprintf("%s times %s is %s.", number(i), number(n), number(i*n)))
		}
		w.out.WriteString(strings.Join(lines, "\n"))
	case 1: // counting
		start, step := w.between(0, 20), pick(w, []int{1, 2, 2, 3, 5, 10})
		w.set("step", number(step))
		w.expand("[Count|Let us count] by {step}: ")
		var items []string
		for i := range 8 {
			items = append(items, number(start+step*i))
		}
		w.out.WriteString(strings.Join(items, ", ") + ".")
	default:
		w.say("[Sums|Some sums|Work out these sums|Arithmetic]\n")
		var lines []string
		for range w.between(5, 8) {
			lines = append(lines, sum(w, number))
		}
		w.out.WriteString(strings.Join(lines, "\n"))
	}
}

// sum returns one line of arithmetic below a hundred.
func sum(w *writer, number func(int) string) string {
	a, b := w.between(1, 20), w.between(1, 20)
	switch w.rng.IntN(4) {
	case 0:
		a, b = max(a, b), min(a, b)
		return fmt.Sprintf("%s minus %s is %s.", number(a), number(b), number(a-b))
	case 1:
		a, b = min(a, 9), min(b, 10)
		return fmt.Sprintf("%s times %s is %s.", number(a), number(b), number(a*b))
	case 2:
		if a == b {
			return fmt.Sprintf("%s is as much as %s.", number(a), number(b))
		}
		relation := "more"
		if a < b {
			relation = "less"
		}
		return fmt.Sprintf("%s is %s than %s.", number(a), relation, number(b))
	default:
		return fmt.Sprintf("%s plus %s is %s.", number(a), number(b), number(a+b))
	}
}

// wordProblem gives and takes things of two kinds and keeps both counts.
func wordProblem(w *writer) {
	cast := sample(w, people, 2)
	w.setPerson("hero", cast[0])
	w.setPerson("friend", cast[1])
	for _, k := range []string{"he", "him", "his"} {
		w.set(k, w.vars["hero."+k])
	}
	kinds := sample(w, fruits, 2)
	if w.chance(40) {
		kinds = []string{pick(w, things).name, pick(w, fruits)}
	}
	w.set("colour", favour(w, colours))
	have, other := w.between(3, 12), w.between(2, 9)
	own := func() { w.set("own", w.vars["colour"]+" "+kinds[0]) }
	own()
	amount := func(n int) string { return count(n, w.vars["own"]) }
	w.set("have", amount(have))
	w.set("other", count(other, kinds[1]))
	w.set("owns", plural(w.vars["own"]))
	w.expand("{Hero} has {have} and {other}. ")
	for range w.between(1, 3) {
		switch w.rng.IntN(3) {
		case 0:
			if have < 2 {
				continue
			}
			n := w.between(1, have-1)
			have -= n
			w.set("n", amount(n))
			w.expand("{He} [gives {n} to {friend}|loses {n} on the way|sells {n} [at the market|to {friend}]]. ")
		default:
			n := w.between(1, 8)
			have += n
			w.set("n", amount(n))
			w.expand("[{Friend} gives {him} {n}|{He} finds {n} [in the grass|at home]|{He} buys {n} [at the market|from {friend}]]. ")
		}
		w.set("have", amount(have))
		w.expand("[Now {he} has {have}|That leaves {him} with {have}|So {he} has {have} now]. ")
	}
	w.setNumber("total", have+other)
	w.set("others", plural(kinds[1]))
	w.say(
		"How many {owns} does {hero} have? [Answer: {have}.|{He} has {have}.] And how many {others}? Still {other}.",
		"[How many things is that in all|How many is that together]? {He} has {have} and {other}, so there are {total} [in all|together].",
		"How many {others} does {hero} have? {He} still has {other}, because nobody took any {others}.",
	)
}

// inventory lists counts and adds them up.
func inventory(w *writer) {
	w.setPerson("owner", pick(w, people))
	w.set("trade", favour(w, trades))
	w.set("place", favour(w, rooms))
	w.set("day", pick(w, days))
	w.expand("[List of things|What is] in the {place} of {owner}, the {trade}[|, on {day}]\n")
	total, most, mostName := 0, 0, ""
	type item struct {
		name string
		n    int
	}
	var items []item
	for _, t := range sample(w, things, w.between(3, 6)) {
		n := w.between(1, 9)
		name := favour(w, colours) + " " + t.name
		items = append(items, item{name, n})
		total += n
		if n > most {
			most, mostName = n, name
		}
		w.out.WriteString("- " + count(n, name) + "\n")
	}
	w.setNumber("total", total)
	w.set("most", plural(mostName))
	w.set("most.count", count(most, mostName))
	w.expand("[Total|In all]: {total} things.")
	w.say(
		" There are more {most} than anything else, namely {most.count}.",
		" {Owner} needs [more {most}|no more {most}], since {owner.he} has {most.count}.",
		"",
	)
	chosen := pick(w, items)
	w.set("chosen", plural(chosen.name))
	w.set("chosen.count", count(chosen.n, chosen.name))
	w.say(
		" [Question|Asked]: how many {chosen} are there? Answer: {chosen.count}.",
		" Of {chosen} the list [says|has]: {chosen.count}.",
	)
}
